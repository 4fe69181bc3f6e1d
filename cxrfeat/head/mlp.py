"""The head: a small MLP from embeddings to one logit per label."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn


class Head(nn.Module):
    """An MLP with ReLU after every hidden layer: (N, inputs) → (N, F) logits.

    Attributes:
        layers: linear layers, in order.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int) -> None:
        """Create a head with torch's initial weights.

        Args:
            inputs: length of an input vector.
            hidden: widths of the hidden layers.
            outputs: F, the number of labels.
        """
        super().__init__()
        widths = (inputs, *hidden, outputs)
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in itertools.pairwise(widths))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the (N, F) logits of (N, inputs) float inputs."""
        *hidden, last = self.layers
        for layer in hidden:
            inputs = torch.relu(layer(inputs))  # (N, width of the layer)
        logits: torch.Tensor = last(inputs)  # (N, F)
        return logits
