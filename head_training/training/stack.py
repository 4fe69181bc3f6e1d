"""Heads of one shape side by side: one GEMM feeds all their first layers, batched ones do the rest.

Weights lie as (C, out, in): together they are the one big matrix of the first layer. Activations lie as (C, units, B), the batch last:
every product then reads and writes whole rows, and none has to be transposed. The gradients are written by hand into
memory of the weights' layout: autograd would make them anew in every step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F  # noqa: N812

from cxrfeat.head.mlp import Head

_CACHE_LINE = 16
"""Floats. Rows of inputs and first layer are padded with zeros to whole lines: a GEMM that writes rows of 2050 floats
takes half as long again as one that writes rows of 2064. Zeros get no gradient and stay."""


class HeadStack:
    """C heads with L layers each, and the gradients of a batch.

    Attributes:
        weights, biases: for each layer (C, out, in) and (C, out); the first layer's ``in`` is padded.
        gradients: of :attr:`values`.
    """

    def __init__(
        self,
        heads: Sequence[Head],
        dropout: Sequence[float],
        device: torch.device,
        dtype: torch.dtype,
        operands: torch.dtype,
    ) -> None:
        """Copy the heads' weights.

        Args:
            heads: of one shape.
            dropout: each one's own share of dropped units.
            device: where they are trained.
            dtype: of weights, gradients and activations.
            operands: what the first layer's products are rounded to on the way in, and on the way out.
        """
        same = zip(*(head.parameters() for head in heads), strict=True)
        stacked = [torch.stack([tensor.detach() for tensor in group]).to(device, dtype) for group in same]
        self.weights, self.biases = stacked[0::2], stacked[1::2]
        self._inputs = self.weights[0].shape[2]
        self._operands = operands
        self.weights[0] = F.pad(self.weights[0], (0, -self._inputs % _CACHE_LINE))
        self._padded = self.weights[0].new_zeros((0, self.weights[0].shape[2]), dtype=self._operands)
        self._dropout = torch.tensor(dropout, device=device, dtype=dtype).view(-1, 1, 1)
        self._make_room()

    def __len__(self) -> int:
        """How many heads there are."""
        return len(self.biases[0])

    @property
    def dtype(self) -> torch.dtype:
        """Of weights, gradients and activations."""
        return self.weights[0].dtype

    @property
    def device(self) -> torch.device:
        """Where the heads are."""
        return self.weights[0].device

    @property
    def values(self) -> list[torch.Tensor]:
        """All weights, then all biases."""
        return [*self.weights, *self.biases]

    def parameters(self, number: int) -> list[torch.Tensor]:
        """Return a head's parameters without padding, layer by layer weight and bias: views into the stack."""
        pairs = zip(self.weights, self.biases, strict=True)
        first, *others = (tensor[number] for pair in pairs for tensor in pair)
        return [first[:, : self._inputs], *others]

    def keep(self, numbers: Sequence[int]) -> None:
        """Drop all heads but these."""
        chosen = torch.tensor(numbers, device=self._dropout.device)
        self.weights = [tensor[chosen] for tensor in self.weights]
        self.biases = [tensor[chosen] for tensor in self.biases]
        self._dropout = self._dropout[chosen]
        self._make_room()

    @torch.no_grad()
    def logits(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return (C, B, 14) logits of (B, inputs), without dropout."""
        hidden, _ = self._hidden(self._to_operand(inputs), None)
        return self._last(hidden[-1]).transpose(1, 2)

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
        operand = self._to_operand(inputs)
        hidden, slopes = self._hidden(operand, noise)
        logits = self._last(hidden[-1])
        labels, weights = labels.T.expand_as(logits), weights.T / labels.numel()
        losses = F.binary_cross_entropy_with_logits(logits, labels, weights, reduction="none").sum((1, 2))
        delta = (logits.sigmoid_() - labels).mul_(weights)
        for layer in range(len(hidden), 0, -1):
            torch.bmm(delta, hidden[layer - 1].transpose(1, 2), out=self._weight_gradients[layer])
            torch.sum(delta, 2, out=self._bias_gradients[layer])
            delta = torch.bmm(self.weights[layer].transpose(1, 2), delta).mul_(slopes[layer - 1])
        gradient = self._weight_gradients[0].flatten(0, 1)
        if self._operands == gradient.dtype:
            torch.mm(delta.flatten(0, 1), operand, out=gradient)
        else:
            gradient.copy_(torch.mm(delta.flatten(0, 1).to(self._operands), operand))
        torch.sum(delta, 2, out=self._bias_gradients[0])
        return losses

    def _to_operand(self, inputs: torch.Tensor) -> torch.Tensor:
        """Copy (B, inputs) into kept memory as the first layer's products want it: padded, and rounded if asked."""
        if len(self._padded) < len(inputs):
            self._padded = self._padded.new_zeros(len(inputs), self._padded.shape[1])
        operand = self._padded[: len(inputs)]
        operand[:, : self._inputs].copy_(inputs)
        return operand

    def _hidden(
        self, operand: torch.Tensor, noise: torch.Generator | None
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return each hidden layer's (C, h, B) outputs, and their derivatives by what came before ReLU and dropout.

        Without noise there is no dropout.
        """
        first = torch.mm(self.weights[0].flatten(0, 1).to(self._operands), operand.T)
        before = first.to(self.weights[0].dtype).view(*self.biases[0].shape, -1).add_(self.biases[0].unsqueeze(2))
        outputs, slopes = [], []
        for layer in range(1, len(self.weights)):
            slope = self._slope(before, noise)
            outputs.append(before.mul_(slope))
            slopes.append(slope)
            if layer < len(self.weights) - 1:
                before = torch.baddbmm(self.biases[layer].unsqueeze(2), self.weights[layer], before)
        return outputs, slopes

    def _last(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.baddbmm(self.biases[-1].unsqueeze(2), self.weights[-1], hidden)

    def _slope(self, before: torch.Tensor, noise: torch.Generator | None) -> torch.Tensor:
        """Return what ReLU and dropout multiply (C, h, B) with: 0, or 1, or 1 / (1 - dropout)."""
        slope = (before > 0).to(before.dtype)
        if noise is None or not self._drops:
            return slope
        draw = torch.rand(before.shape[1:], generator=noise, device=before.device, dtype=before.dtype)
        return slope.mul_(draw >= self._dropout).mul_(self._rescale)

    def _make_room(self) -> None:
        """Make gradients of the right size, and what follows from the dropout."""
        self.gradients = [torch.zeros_like(value) for value in self.values]
        self._weight_gradients = self.gradients[: len(self.weights)]
        self._bias_gradients = self.gradients[len(self.weights) :]
        self._drops = bool((self._dropout > 0).any())
        self._rescale = 1 / (1 - self._dropout)
