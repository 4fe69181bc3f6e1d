"""First convolution of a network, folded so that it takes gray levels directly.

A radiograph is one plane of 8 bits. Repeating it three times, scaling and standardising it are linear operations, so
they can be folded into the first convolution, as a BatchNorm can. The folded stem takes two planes: the gray level
minus 128, an integer that bf16 represents exactly, and ones, whose weights carry the bias and the subtracted mean. Both
are padded with zeros, as the standardised image is, so results at the border do not change.

Rounding in the first layer affects every feature. In bf16 each weight is therefore the sum of two bf16 numbers, and
each plane occurs twice. This costs nothing compared with three planes and removes more than half of the total error of
bf16; see benchmarks/LOG.md.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from cxrfeat.images.preprocess import DEFAULT_INPUT, InputSpec

_CENTRE = 128
_TERMS = {torch.float32: 1, torch.bfloat16: 2}
"""Number of terms whose sum is one weight, by dtype."""


def to_planes(gray: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Turn (N, H, W) uint8 gray levels into the input of the folded stem: (N, planes, H, W), channels last."""
    shape = (len(gray), count_planes(dtype), *gray.shape[1:])
    planes = torch.empty(shape, dtype=dtype, device=gray.device, memory_format=torch.channels_last).fill_(1)
    planes[:, 0::2] = (gray.to(dtype) - _CENTRE).unsqueeze(1)  # even planes: gray levels; odd planes: ones
    return planes


def count_planes(dtype: torch.dtype) -> int:
    """Return the number of input planes of the folded stem: 2 in fp32, 4 in bf16."""
    return 2 * _TERMS[dtype]


@torch.no_grad()
def fold_standardisation(stem: nn.Conv2d, dtype: torch.dtype, spec: InputSpec = DEFAULT_INPUT) -> nn.Conv2d:
    """Return a convolution without bias that computes from gray planes what the stem computes from standardised RGB.

    Args:
        stem: convolution of three channels with an odd kernel of size k, padded by k // 2, so that the kernel's centre
            is never on padding.
        dtype: float32 or bfloat16, the dtype of the returned weights.
        spec: mean and standard deviation of the stem's input.

    Raises:
        ValueError: the kernel or the padding is different.
    """
    height, width = stem.kernel_size
    centre = (height // 2, width // 2)
    if height % 2 == 0 or width % 2 == 0 or stem.padding != centre:
        raise ValueError(
            f"kernel {height} x {width} with padding {stem.padding}; expected an odd kernel padded by half its size"
        )
    mean, std = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
    weight = stem.weight.double()  # (C, 3, kh, kw)
    # With g = level - 128: Σ_c w_c · ((g + 128) / 255 - mean_c) / std_c = gray_weight · g + ones_weight · 1.
    gray_weight = (weight / (255 * std)).sum(1)  # (C, kh, kw)
    ones_weight = (weight * (_CENTRE / 255 - mean) / std).sum(1)  # (C, kh, kw)
    if stem.bias is not None:
        ones_weight[:, *centre] += stem.bias.double()
    # Each term rounds what the previous ones left: w ≈ bf16(w) + bf16(w - bf16(w)).
    terms, remainder = [], torch.stack([gray_weight, ones_weight], 1)  # (C, 2, kh, kw)
    for _ in range(_TERMS[dtype]):
        terms.append(remainder.to(dtype))
        remainder = remainder - terms[-1].double()
    geometry: Any = {name: getattr(stem, name) for name in ("kernel_size", "stride", "padding")}
    folded = nn.Conv2d(count_planes(dtype), stem.out_channels, **geometry, bias=False)
    folded.weight = nn.Parameter(torch.cat(terms, 1), requires_grad=False)  # (C, planes, kh, kw)
    return folded
