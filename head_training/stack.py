"""Heads of one shape side by side: one GEMM feeds all their first layers, batched ones do the rest.

Weights lie as (C, out, in): together they are the one big matrix of the first layer, and each head's own part is
contiguous, so that torch's own Adam works on it as on any parameter. The gradients are written by hand into memory of
the same layout: autograd would make them anew in every step. Rows of the first layer are padded with zeros to whole cache
lines: a GEMM that writes rows of 2050 floats takes a third longer than one that writes rows of 2064. Zeros get no gradient and stay.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from cxrfeat.head import Head

_CACHE_LINE = 16
"""Floats."""


class Stack:
    """C heads with L layers each, and the gradients of a batch.

    Attributes:
        weights, biases: for each layer (C, out, in) and (C, out); the first layer's ``in`` is padded.
        members: for each head its parameters, layer by layer weight and bias: views into the stack, with ``grad``.
    """

    def __init__(
        self, heads: Sequence[Head], dropout: Sequence[float], device: torch.device, dtype: torch.dtype
    ) -> None:
        """Copy the heads' weights; ``dropout`` is each one's own share of dropped units."""
        same = zip(*(head.parameters() for head in heads), strict=True)
        stacked = [torch.stack([tensor.detach() for tensor in group]).to(device, dtype) for group in same]
        self.weights, self.biases = stacked[0::2], stacked[1::2]
        self._inputs = self.weights[0].shape[2]
        self.weights[0] = F.pad(self.weights[0], (0, -self._inputs % _CACHE_LINE))
        self._dropout = torch.tensor(dropout, device=device, dtype=dtype).view(-1, 1, 1)
        self.members = [[nn.Parameter(view) for view in self._views(number)] for number in range(len(heads))]
        self._bind()

    def __len__(self) -> int:
        """How many heads there are."""
        return len(self.members)

    def parameters(self, number: int) -> list[torch.Tensor]:
        """Return a head's parameters without padding, layer by layer weight and bias: views into the stack."""
        first, *others = self.members[number]
        return [first[:, : self._inputs], *others]

    def keep(self, numbers: Sequence[int]) -> None:
        """Drop all heads but these; their parameters stay the same objects, so their optimisers go on."""
        chosen = torch.tensor(numbers, device=self._dropout.device)
        self.weights = [tensor[chosen] for tensor in self.weights]
        self.biases = [tensor[chosen] for tensor in self.biases]
        self._dropout = self._dropout[chosen]
        self.members = [self.members[number] for number in numbers]
        self._bind()

    @torch.no_grad()
    def logits(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return (C, B, 14) logits of (B, inputs), without dropout."""
        return self._last(self._hidden(inputs, None)[-1])

    @torch.no_grad()
    def backward(
        self, inputs: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, noise: torch.Generator
    ) -> torch.Tensor:
        """Write every head's gradients of the mean weighted binary cross-entropy, and return the losses.

        Args:
            inputs: (B, inputs).
            labels: (B, 14) of 0 and 1.
            weights: (B, 14), what each label weighs.
            noise: decides what dropout drops: one draw for all heads, so that a head's course is its own.

        Returns:
            (C,) loss of each head.
        """
        hidden = self._hidden(inputs, noise)
        logits = self._last(hidden[-1])
        labels, weights = labels.expand_as(logits), weights / labels.numel()
        losses = F.binary_cross_entropy_with_logits(logits, labels, weights, reduction="none").sum((1, 2))
        delta = (logits.sigmoid_() - labels).mul_(weights)
        for layer in range(len(hidden), 0, -1):
            below = hidden[layer - 1]
            torch.bmm(delta.transpose(1, 2), below, out=self._weight_gradients[layer])
            torch.sum(delta, 1, out=self._bias_gradients[layer])
            delta = torch.bmm(delta, self.weights[layer]).mul_(below > 0)
            if self._drops:
                delta.mul_(self._rescale)
        flat = delta.transpose(0, 1).flatten(1)
        torch.mm(flat.T, inputs, out=self._as_one_layer(self._weight_gradients[0]))
        torch.sum(flat, 0, out=self._bias_gradients[0].flatten())
        return losses

    def _hidden(self, inputs: torch.Tensor, noise: torch.Generator | None) -> list[torch.Tensor]:
        """Return the (C, B, h) outputs of each hidden layer; dropout only where there is noise."""
        first = torch.addmm(self.biases[0].flatten(), inputs, self._as_one_layer(self.weights[0]).T).relu_()
        outputs = [self._drop(first.view(len(inputs), *self.biases[0].shape).transpose(0, 1), noise)]
        for weight, bias in zip(self.weights[1:-1], self.biases[1:-1], strict=True):
            above = torch.baddbmm(bias.unsqueeze(1), outputs[-1], weight.transpose(1, 2)).relu_()
            outputs.append(self._drop(above, noise))
        return outputs

    def _as_one_layer(self, first: torch.Tensor) -> torch.Tensor:
        """View the (C, h, in) of all first layers as one of C·h units, without padding."""
        return first.flatten(0, 1)[:, : self._inputs]

    def _last(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.baddbmm(self.biases[-1].unsqueeze(1), hidden, self.weights[-1].transpose(1, 2))

    def _drop(self, outputs: torch.Tensor, noise: torch.Generator | None) -> torch.Tensor:
        if noise is None or not self._drops:
            return outputs
        draw = torch.rand(outputs.shape[1:], generator=noise, device=outputs.device, dtype=outputs.dtype)
        return outputs.mul_(draw >= self._dropout).mul_(self._rescale)

    def _views(self, number: int) -> list[torch.Tensor]:
        return _interleave(
            [(weight[number], bias[number]) for weight, bias in zip(self.weights, self.biases, strict=True)]
        )

    def _bind(self) -> None:
        """Make gradients of the right size, and let every member's parameters view its part of the stack."""
        self._weight_gradients = [torch.zeros_like(tensor) for tensor in self.weights]
        self._bias_gradients = [torch.zeros_like(tensor) for tensor in self.biases]
        self._drops = bool((self._dropout > 0).any())
        self._rescale = 1 / (1 - self._dropout)
        for number, parameters in enumerate(self.members):
            gradients = zip(self._weight_gradients, self._bias_gradients, strict=True)
            views = zip(self._views(number), _interleave([(w[number], b[number]) for w, b in gradients]), strict=True)
            for parameter, (value, gradient) in zip(parameters, views, strict=True):
                parameter.data = value
                parameter.grad = gradient


def _interleave(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> list[torch.Tensor]:
    return [tensor for pair in pairs for tensor in pair]
