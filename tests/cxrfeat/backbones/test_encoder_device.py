"""Tests of the encoder on its device: precision, memory and threads, and the spec on another machine."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from cxrfeat import device as device_module
from cxrfeat.backbones.encoder import EncoderSpec, FrozenEncoder, open_encoder, round_to_bits
from cxrfeat.backbones.registry import BACKBONES, get_backbone
from cxrfeat.backbones.weights import Weights, fingerprint
from cxrfeat.device import Precision
from cxrfeat.errors import ConfigError, DeviceError
from tests import fakes
from tests.cxrfeat.backbones.test_encoder import IMAGES, RANDOM, build_small, needs_bf16


@pytest.fixture(scope="module")
def small() -> Iterator[FrozenEncoder]:
    """Return a small fp32 encoder, and keep its backbone in the registry."""
    BACKBONES["small"] = fakes.SMALL
    yield build_small()
    del BACKBONES["small"]


@pytest.mark.usefixtures("small")
def test_out_of_memory_halves_the_batch(
    small: FrozenEncoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After failures at 8 and 4 images the batch size stays 2, with one warning each, and no image is lost or moved."""
    expected = small.embed(IMAGES)
    made = build_small(batch_size=8)
    sizes: list[int] = []
    forward = made._forward

    def cramped(batch: NDArray[np.uint8]) -> torch.Tensor:
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(batch)

    monkeypatch.setattr(made, "_forward", cramped)
    for _ in range(2):
        np.testing.assert_allclose(made.embed(IMAGES), expected, atol=1e-4 * float(np.abs(expected).max()))
    assert sizes == [8, 4, 2, 2, 2, 2]
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [f"cpu: out of memory at batch size {size}; continuing with {size // 2}" for size in (8, 4)]


@pytest.mark.usefixtures("small")
def test_no_memory_for_one_image_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of one cannot be halved."""
    made = build_small(batch_size=2)

    def full(_: NDArray[np.uint8]) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(made, "_forward", full)
    with pytest.raises(torch.OutOfMemoryError):
        made.embed(IMAGES)
    assert made.batch_size == 1


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("native", "precision"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bf16_where_the_cpu_has_it(native: bool, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Auto chooses bf16 only where it is faster; an explicit precision is used as given."""
    monkeypatch.setattr(device_module, "has_native_bf16", lambda: native)
    made = {precision: build_small(precision).precision for precision in Precision}
    assert made == {Precision.AUTO: precision, Precision.FP32: "fp32", Precision.BF16: "bf16"}


@needs_bf16
@pytest.mark.usefixtures("small")
def test_bf16_embeddings_have_sixteen_bits() -> None:
    """In bf16 the last eight bits are zeros, which compress; fp32 keeps all bits. Maps make no difference."""
    found = {}
    for precision in (Precision.FP32, Precision.BF16):
        made = build_small(precision)
        found[precision] = made.embed(IMAGES)
        np.testing.assert_array_equal(made.embed_with_maps(IMAGES)[0], found[precision])
    assert not (found[Precision.BF16].view(np.uint32) & 0xFF).any()
    assert (found[Precision.FP32].view(np.uint32) & 0xFF).any()


@given(arrays(np.float32, 20, elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_rounding_keeps_sixteen_bits(values: NDArray[np.float32]) -> None:
    """Rounding is to nearest, within 2⁻¹⁶ of the value; it keeps sign and order and is idempotent."""
    normal = np.where(np.abs(values) < np.finfo(np.float32).tiny, np.float32(0), values)
    rounded = round_to_bits(normal)
    assert rounded.dtype == np.float32
    assert not (rounded.view(np.uint32) & 0xFF).any()
    assert (np.abs(rounded.astype(np.float64) - normal) <= 2.0**-16 * np.abs(normal.astype(np.float64))).all()
    np.testing.assert_array_equal(round_to_bits(rounded), rounded)
    order = np.argsort(normal)
    assert (np.diff(rounded[order]) >= 0).all()


@pytest.mark.usefixtures("small")
def test_the_encoder_has_the_attributes_of_its_spec() -> None:
    """Dimension, fingerprint, precision and batch size are those of the spec, and 16 images by default on a CPU."""
    spec = EncoderSpec("small", RANDOM, Precision.FP32)
    made = FrozenEncoder(spec)
    assert (made.dim, made.precision, made.batch_size) == (2048, "fp32", 16)
    assert made.fingerprint == spec.fingerprint == fingerprint(get_backbone("small"), RANDOM)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "resnet51"}, "resnet51"),
        ({"precision": "fp8"}, "'fp8'.*auto, fp32, bf16"),
        ({"batch_size": 0}, "batch size 0"),
        ({"batch_size": -1}, "batch size -1"),
    ],
)
def test_a_spec_that_cannot_be_built_is_refused(options: dict[str, Any], message: str) -> None:
    """An invalid option fails on the driver, before any worker starts, and the message contains the value."""
    with pytest.raises(ConfigError, match=message):
        EncoderSpec(**{"backbone": "resnet50", "weights": RANDOM, **options})


def test_a_spec_survives_pickling() -> None:
    """A spec that is pickled for a worker is equal and has the same hash there."""
    spec = EncoderSpec("resnet50-v1", Weights(Path("x.pth"), "ab" * 32), Precision.BF16, 4)
    copy = pickle.loads(pickle.dumps(spec))
    assert copy == spec
    assert hash(copy) == hash(spec)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:7"])
def test_a_gpu_that_is_not_there_is_refused(device: str) -> None:
    """A missing GPU is an error instead of a silent fallback to the CPU; the message counts the GPUs."""
    with pytest.raises(DeviceError, match=f"'{device}'.* 0 usable GPUs"):
        FrozenEncoder(EncoderSpec("resnet50", RANDOM), device)


@pytest.mark.usefixtures("small")
def test_a_process_builds_an_encoder_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reused worker returns the cached encoder; another spec is built anew, with the requested threads."""
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    open_encoder.cache_clear()
    first = open_encoder(EncoderSpec("small", RANDOM, Precision.FP32, 2), "cpu", 3)
    assert open_encoder(EncoderSpec("small", RANDOM, Precision.FP32, 2), "cpu", 3) is first
    assert open_encoder(EncoderSpec("small", RANDOM, Precision.FP32, 4), "cpu", 3).batch_size == 4
    assert threads == [3, 3]
    open_encoder.cache_clear()
