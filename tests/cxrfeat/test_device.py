"""What auto becomes, and that torch knows every precision by name."""

from __future__ import annotations

import pytest
import torch

from cxrfeat import device as device_module
from cxrfeat.device import Precision, has_native_bf16, resolve_precision, to_dtype


@pytest.mark.parametrize(
    ("capabilities", "native"),
    [
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"avx512": True, "avx512_bf16": False}, False),
        ({}, False),
    ],
)
def test_bf16_is_native_where_the_cpu_says_so(
    capabilities: dict[str, bool], native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either of the two instruction sets will do."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert has_native_bf16() is native


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_auto_asks_the_device_and_names_are_taken_as_asked(
    kind: str, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU is asked by torch, a CPU by its capabilities."""
    monkeypatch.setattr(device_module, "has_native_bf16", lambda: native if kind == "cpu" else not native)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: native if kind == "cuda" else not native)
    found = {asked: resolve_precision(asked, torch.device(kind)) for asked in Precision}
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
