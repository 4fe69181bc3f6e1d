"""Where numbers are computed, and in what arithmetic: options that every program here spells alike."""

from __future__ import annotations

from enum import StrEnum

import torch

from cxrfeat.errors import DeviceError


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


def find_device(asked: Device) -> torch.device:
    """Return the device of this process; of several GPUs the first.

    Raises:
        DeviceError: a GPU was asked for, and there is none.
    """
    if asked == Device.CUDA and not torch.cuda.is_available():
        raise DeviceError("--device cuda, but no GPU can be used on this machine")
    use_gpu = asked == Device.CUDA or (asked == Device.AUTO and torch.cuda.is_available())
    return torch.device("cuda" if use_gpu else "cpu")


def open_device(name: str) -> torch.device:
    """Return a device by its torch name, set to compute fp32 as fp32.

    Raises:
        DeviceError: this machine has no such GPU.
    """
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"device {name!r} was asked for, but this machine shows {torch.cuda.device_count()} GPUs")
    if device.type == "cuda":
        # By default fp32 convolutions are TF32 there, with 10 bits.
        torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
    return device


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
