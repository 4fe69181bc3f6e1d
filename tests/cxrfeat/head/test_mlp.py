"""Tests of the head's network."""

from __future__ import annotations

import torch

from cxrfeat.head.mlp import Head
from cxrfeat.labels.findings import FINDINGS


def test_the_head_is_an_mlp_with_relu() -> None:
    """The layers are linear, ReLU, linear, ReLU, linear."""
    head = Head(7, (4, 3), len(FINDINGS))
    first, second, last = head.layers
    inputs = torch.randn(6, 7)
    expected = last(torch.relu(second(torch.relu(first(inputs)))))
    torch.testing.assert_close(head(inputs), expected)
    assert head(inputs).shape == (6, len(FINDINGS))
