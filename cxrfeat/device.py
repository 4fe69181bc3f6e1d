"""Where numbers are computed, and in what arithmetic: options that every program here spells alike."""

from __future__ import annotations

from enum import StrEnum

import torch


class Device(StrEnum):
    """Where a network runs: ``auto`` takes a GPU where there is one."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Precision(StrEnum):
    """Arithmetic of the big products: ``auto`` takes bf16 where the device computes it natively."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"


def has_native_bf16() -> bool:
    """Say whether this CPU computes bf16 in hardware (AVX512-BF16 or AMX); elsewhere bf16 is slower than fp32."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def resolve_precision(asked: Precision, device: torch.device) -> Precision:
    """Turn ``auto`` into the best that the device computes natively."""
    if asked != Precision.AUTO:
        return asked
    native = torch.cuda.is_bf16_supported() if device.type == "cuda" else has_native_bf16()
    return Precision.BF16 if native else Precision.FP32


def to_dtype(precision: Precision) -> torch.dtype:
    """Return torch's name of a resolved precision."""
    return {Precision.FP32: torch.float32, Precision.BF16: torch.bfloat16}[precision]
