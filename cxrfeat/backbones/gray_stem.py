"""The network's first convolution, made to take gray levels as they are.

A film is one plane of 8 bits. Repeating it three times, scaling and standardising it is linear, so it can be folded
into the first convolution as a BatchNorm is. What that takes then is the gray level less 128, an integer that bf16 holds
exactly, and a plane of ones, which carries what standardisation subtracts and the bias. Both are padded with zeros, as the
standardised picture is, so nothing changes at its border.

Rounding in the first layer reaches every feature. In bf16 each weight is therefore the sum of two bf16 numbers, and the
planes stand twice: that costs nothing next to three planes, and is worth more than half of bf16's whole error; see
benchmarks/LOG.md.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from cxrfeat.images.preprocess import IMAGENET_MEAN, IMAGENET_STD

_CENTRE = 128
_PARTS = {torch.float32: 1, torch.bfloat16: 2}
"""Numbers that a weight is the sum of."""


def to_planes(gray: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Turn (N, H, W) uint8 gray levels into what the folded stem takes, (N, planes, H, W), channels last."""
    shape = (len(gray), count_planes(dtype), *gray.shape[1:])
    planes = torch.empty(shape, dtype=dtype, device=gray.device, memory_format=torch.channels_last).fill_(1)
    planes[:, 0::2] = (gray.to(dtype) - _CENTRE).unsqueeze(1)
    return planes


def count_planes(dtype: torch.dtype) -> int:
    """Return how many planes the stem takes: 2 in fp32, 4 in bf16."""
    return 2 * _PARTS[dtype]


@torch.no_grad()
def fold_standardisation(stem: nn.Conv2d, dtype: torch.dtype) -> nn.Conv2d:
    """Return a convolution without bias that makes of a film's planes what the stem makes of its standardised picture.

    Args:
        stem: of three channels and an odd kernel, padded by half of it: its middle is then never on padding.
        dtype: float32 or bfloat16, of the weights that are returned.

    Raises:
        ValueError: another kernel or padding.
    """
    height, width = stem.kernel_size
    middle = (height // 2, width // 2)
    if height % 2 == 0 or width % 2 == 0 or stem.padding != middle:
        raise ValueError(
            f"a kernel of {stem.kernel_size} padded by {stem.padding}; expected an odd one padded by half of it"
        )
    mean, std = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    weight = stem.weight.double()
    of_level = (weight / (255 * std)).sum(1)
    of_one = (weight * (_CENTRE / 255 - mean) / std).sum(1)
    if stem.bias is not None:
        of_one[:, *middle] += stem.bias.double()
    parts, rest = [], torch.stack([of_level, of_one], 1)
    for _ in range(_PARTS[dtype]):
        parts.append(rest.to(dtype))
        rest = rest - parts[-1].double()
    geometry: Any = {name: getattr(stem, name) for name in ("kernel_size", "stride", "padding")}
    folded = nn.Conv2d(count_planes(dtype), stem.out_channels, **geometry, bias=False)
    folded.weight = nn.Parameter(torch.cat(parts, 1), requires_grad=False)
    return folded
