"""Tests of the encoder on a GPU: the CPU's features, the same bits in every batch, and recovery from lack of memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from cxrfeat.backbones.encoder import EncoderSpec, FrozenEncoder
from cxrfeat.backbones.weights import Weights
from cxrfeat.device import Precision
from tests import fakes
from tests.gpu import needs_gpu

pytestmark = needs_gpu

IMAGES = np.stack([fakes.gray_image(224, 224, seed=seed) // (1 + seed % 3) for seed in range(11)])


def build(path: Path, precision: Precision, batch_size: int, device: str = "cuda") -> FrozenEncoder:
    return FrozenEncoder(EncoderSpec("resnet50", Weights(path, "0" * 64), precision, batch_size), device)


@pytest.mark.parametrize(("precision", "least"), [(Precision.FP32, 0.99999), (Precision.BF16, 0.999)])
def test_the_features_are_those_of_the_cpu(trained_file: Path, precision: Precision, least: float) -> None:
    """fp32 is IEEE fp32 on both; bf16 embeddings have the direction of fp32 ones."""
    expected = build(trained_file, Precision.FP32, 4, "cpu").embed(IMAGES)
    made = build(trained_file, precision, 4).embed(IMAGES)
    cosines = (made * expected).sum(1) / np.linalg.norm(made, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() >= least
    if precision == Precision.FP32:
        np.testing.assert_allclose(made, expected, rtol=1e-3, atol=1e-4 * float(np.abs(expected).max()))


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
def test_neighbours_do_not_matter(trained_file: Path, precision: Precision) -> None:
    """An embedding has the same bits alone, in a partial batch and anywhere else, with and without maps."""
    made = build(trained_file, precision, 4)
    embeddings = made.embed(IMAGES)
    np.testing.assert_array_equal(made.embed(IMAGES[::-1])[::-1], embeddings)
    np.testing.assert_array_equal(np.concatenate([made.embed(image[None]) for image in IMAGES]), embeddings)
    np.testing.assert_array_equal(made.embed_with_maps(IMAGES)[0], embeddings)


def test_the_default_precision_is_bf16(trained_file: Path) -> None:
    """The default is bf16 on every GPU that supports it according to torch."""
    expected = "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    assert build(trained_file, Precision.AUTO, 1).precision == expected


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Allow this process a gigabyte of the GPU's memory."""
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(2**30 / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


@pytest.mark.usefixtures("little_memory")
def test_out_of_memory_halves_the_batch(trained_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A batch that exceeds GPU memory is split, with a warning, and every image gets its features."""
    made = build(trained_file, Precision.FP32, 1024)
    embeddings = made.embed(IMAGES)
    assert made.batch_size < 1024
    assert f"continuing with {made.batch_size}" in caplog.text
    expected = build(trained_file, Precision.FP32, 4, "cpu").embed(IMAGES)
    np.testing.assert_allclose(embeddings, expected, rtol=1e-3, atol=1e-4 * float(np.abs(expected).max()))
