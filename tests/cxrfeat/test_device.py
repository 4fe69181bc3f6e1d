"""Resolution of auto, and the torch dtype of every precision."""

from __future__ import annotations

import pytest
import torch

from cxrfeat import device as device_module
from cxrfeat.device import (
    Device,
    Precision,
    find_device,
    has_native_bf16,
    open_device,
    resolve_precision,
    to_dtype,
)
from cxrfeat.errors import DeviceError


@pytest.mark.parametrize(
    ("capabilities", "native"),
    [
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"avx512": True, "avx512_bf16": False}, False),
        ({}, False),
    ],
)
def test_bf16_is_native_if_the_cpu_supports_it(
    capabilities: dict[str, bool], native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either of the two instruction sets is enough."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert has_native_bf16() is native


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_auto_depends_on_the_device_and_names_do_not(kind: str, native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU is checked by torch, a CPU by its capabilities."""
    monkeypatch.setattr(device_module, "has_native_bf16", lambda: native if kind == "cpu" else not native)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: native if kind == "cuda" else not native)
    found = {requested: resolve_precision(requested, torch.device(kind)) for requested in Precision}
    auto = Precision.BF16 if native else Precision.FP32
    assert found == {Precision.AUTO: auto, Precision.FP32: Precision.FP32, Precision.BF16: Precision.BF16}


def test_every_resolved_precision_has_a_dtype() -> None:
    """Auto has none: it must be resolved first."""
    assert {precision: to_dtype(precision) for precision in (Precision.FP32, Precision.BF16)} == {
        Precision.FP32: torch.float32,
        Precision.BF16: torch.bfloat16,
    }
    with pytest.raises(KeyError):
        to_dtype(Precision.AUTO)


def test_fp32_is_fp32_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32, the default of cuDNN for fp32 convolutions, is switched off."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    convolutions = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = convolutions.fp32_precision
    convolutions.fp32_precision = "tf32"
    try:
        assert open_device("cuda:1") == torch.device("cuda", 1)
        assert convolutions.fp32_precision == "ieee"
    finally:
        convolutions.fp32_precision = before


@pytest.mark.parametrize(
    ("requested", "available", "found"),
    [
        ("auto", True, "cuda"),
        ("auto", False, "cpu"),
        ("cuda", True, "cuda"),
        ("cpu", True, "cpu"),
        ("cpu", False, "cpu"),
    ],
)
def test_auto_selects_a_gpu_if_one_is_available(
    requested: str, available: bool, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device requested by name is the one selected."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert find_device(Device(requested)) == torch.device(found)


def test_a_requested_gpu_must_be_available(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never a silent fallback to the CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="--device cuda needs a GPU, but no GPU is available"):
        find_device(Device.CUDA)
