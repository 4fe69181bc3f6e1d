"""Device and precision of computations: the same options in every command."""

from __future__ import annotations

from enum import StrEnum

import torch

from cxrfeat.errors import DeviceError


class Device(StrEnum):
    """Device option of a command; ``auto`` selects a GPU if one is available."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Engine(StrEnum):
    """Library that runs the network."""

    TORCH = "torch"
    OPENVINO = "openvino"


class Precision(StrEnum):
    """Precision of matrix products and convolutions; ``auto`` selects bf16 on devices with native support."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"


def find_device(requested: Device) -> torch.device:
    """Return the device of this process, the first GPU if the machine has several.

    Raises:
        DeviceError: a GPU is requested but none is available.
    """
    if requested == Device.CUDA and not torch.cuda.is_available():
        raise DeviceError("--device cuda needs a GPU, but no GPU is available on this machine")
    use_gpu = requested == Device.CUDA or (requested == Device.AUTO and torch.cuda.is_available())
    return torch.device("cuda" if use_gpu else "cpu")


def open_device(name: str) -> torch.device:
    """Return a device by its torch name, with TF32 disabled for fp32 convolutions.

    Raises:
        DeviceError: this machine does not have the named GPU.
    """
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"device {name!r} is not available: this machine has {torch.cuda.device_count()} usable GPUs")
    if device.type == "cuda":
        # cuDNN computes fp32 convolutions in TF32 by default, with a mantissa of 10 bits.
        torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
    return device


def has_native_bf16() -> bool:
    """Return True if this CPU computes bf16 in hardware (AVX512-BF16 or AMX); on others bf16 is slower than fp32."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def resolve_precision(requested: Precision, device: torch.device) -> Precision:
    """Return the requested precision, with ``auto`` resolved to bf16 if the device supports it natively, else fp32."""
    if requested != Precision.AUTO:
        return requested
    native = torch.cuda.is_bf16_supported() if device.type == "cuda" else has_native_bf16()
    return Precision.BF16 if native else Precision.FP32


def to_dtype(precision: Precision) -> torch.dtype:
    """Return the torch dtype of a resolved precision."""
    return {Precision.FP32: torch.float32, Precision.BF16: torch.bfloat16}[precision]
