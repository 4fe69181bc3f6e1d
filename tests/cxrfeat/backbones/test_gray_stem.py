"""Tests of the folded stem: its output for gray levels equals the published stem's for standardised RGB."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import v2

from cxrfeat.backbones.gray_stem import count_planes, fold_standardisation, to_planes
from cxrfeat.images.preprocess import IMAGENET_MEAN, IMAGENET_STD

GRAY = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 40, 36), dtype=np.uint8))


def make_stem(*, bias: bool = True, kernel: int | tuple[int, int] = 7, padding: int | tuple[int, int] = 3) -> nn.Conv2d:
    torch.manual_seed(1)
    return nn.Conv2d(3, 64, kernel, 2, padding, bias=bias)


def reference(stem: nn.Conv2d) -> torch.Tensor:
    """Standardise and repeat as torchvision does, and convolve in fp64."""
    images = v2.functional.to_dtype(GRAY.unsqueeze(1).expand(-1, 3, -1, -1), torch.float64, scale=True)
    standardised = v2.functional.normalize(images, list(IMAGENET_MEAN), list(IMAGENET_STD))
    with torch.no_grad():
        result: torch.Tensor = stem.double()(standardised)
    return result


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("kernel", "padding"), [(7, 3), ((3, 5), (1, 2)), (1, 0)])
def test_fp32_is_the_stem_of_the_standardised_image(
    bias: bool, kernel: int | tuple[int, int], padding: int | tuple[int, int]
) -> None:
    """The results agree to rounding, also at the border, where zeros pad the standardised image."""
    stem = make_stem(bias=bias, kernel=kernel, padding=padding)
    with torch.no_grad():
        found = fold_standardisation(stem, torch.float32)(to_planes(GRAY, torch.float32))
    expected = reference(stem)
    assert found.shape == expected.shape
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-6 * float(expected.abs().max()))


def test_bf16_weights_have_sixteen_bits() -> None:
    """With exact planes and products and fp64 sums, only the rounding of weights remains, far below that of bf16."""
    stem = make_stem()
    folded = fold_standardisation(stem, torch.bfloat16)
    assert folded.weight.dtype == torch.bfloat16
    with torch.no_grad():
        found = folded.double()(to_planes(GRAY, torch.bfloat16).double())
    expected = reference(stem)
    error = float((found - expected).abs().max() / expected.abs().max())
    assert error < 2**-14
    folded.weight.data[:, 2:] = 0  # without the second halves
    with torch.no_grad():
        halves = folded(to_planes(GRAY, torch.bfloat16).double())
    assert float((halves - expected).abs().max() / expected.abs().max()) > 8 * error


@pytest.mark.parametrize(("dtype", "planes"), [(torch.float32, 2), (torch.bfloat16, 4)])
def test_planes_are_exact(dtype: torch.dtype, planes: int) -> None:
    """Planes hold every gray level minus 128, and ones; channels last."""
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    found = to_planes(levels, dtype)
    assert found.shape == (1, planes, 16, 16)
    assert count_planes(dtype) == planes
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    for plane in range(0, planes, 2):
        assert torch.equal(found[0, plane].flatten().int(), torch.arange(-128, 128, dtype=torch.int32))
        assert bool((found[0, plane + 1] == 1).all())


@pytest.mark.parametrize(("kernel", "padding"), [(4, 2), (7, 2), ((3, 4), (1, 2)), (3, 0)])
def test_a_kernel_whose_middle_meets_padding_is_refused(
    kernel: int | tuple[int, int], padding: int | tuple[int, int]
) -> None:
    """If the kernel's centre can be on padding, it cannot carry the bias."""
    with pytest.raises(ValueError, match="expected an odd kernel padded by half its size"):
        fold_standardisation(make_stem(kernel=kernel, padding=padding), torch.float32)
