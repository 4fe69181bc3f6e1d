"""Check the installation: Java, Spark, torch, GPU, memory, optional extras, and cached weights."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch

from cxrfeat import __version__, exits
from cxrfeat.backbones.registry import get_backbone
from cxrfeat.backbones.weights import cached_weights
from cxrfeat.device import has_native_bf16
from cxrfeat.errors import JavaError
from cxrfeat.spark.java import MINIMUM, find_java

EXTRAS: Mapping[str, tuple[str, ...]] = {
    "web": ("fastapi", "uvicorn"),
    "timm": ("timm",),
    "xrv": ("torchxrayvision",),
    "dicom": ("pydicom", "imagecodecs"),
    "openvino": ("openvino",),
    "quantize": ("nncf",),
}
"""Optional extras of the package and the modules that they install."""

HINTS = {"openvino": ": --engine openvino is faster on a CPU from a few thousand images on"}
"""What an extra is good for, where the measurement is not obvious."""

MIN_MEMORY_GIB = 4
"""Spark's JVM takes 1 GiB, each Python worker with ResNet50 about 0.7 GiB."""


class Verdict(StrEnum):
    """Outcome of one check."""

    OK = "ok"
    NOTE = "note"
    MISSING = "missing"


@dataclass(frozen=True)
class Check:
    """Result of one check.

    Attributes:
        verdict: ``missing`` if the pipeline does not run without it, ``note`` if it runs slower or with less.
        name: what was checked.
        text: what was found and, unless the verdict is ``ok``, how to get what is missing.
    """

    verdict: Verdict
    name: str
    text: str


def run_checks() -> Iterator[Check]:
    """Yield the result of every check."""
    yield Check(Verdict.OK, "cxrfeat", __version__)
    yield _check_java()
    yield _check_spark()
    yield Check(Verdict.OK, "torch", torch.__version__)
    yield _check_bf16()
    yield _check_gpu()
    yield _check_memory()
    yield from (_check_extra(extra, modules) for extra, modules in EXTRAS.items())
    yield _check_weights()


def main(argv: Sequence[str] | None = None, *, prog: str = "cxrfeat doctor") -> int:
    """Print one line per check and return the exit code: 1 if something required is missing."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Check the installation, one line per check. A line that starts with 'missing' names the fix.",
        epilog=exits.epilog({exits.DONE: "nothing required is missing", exits.FAILED: "something required is missing"}),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.parse_args(argv)

    def check() -> int:
        failed = False
        for found in run_checks():
            print(f"{found.verdict:<8} {found.name:<20} {found.text}", flush=True)
            failed |= found.verdict == Verdict.MISSING
        return exits.FAILED if failed else exits.DONE

    return exits.run(check, interrupted="not all checks were run")


def _check_java() -> Check:
    try:
        return Check(Verdict.OK, "Java", str(find_java()))
    except JavaError as error:
        return Check(Verdict.MISSING, f"Java {MINIMUM}", str(error))


def _check_spark() -> Check:
    try:
        return Check(Verdict.OK, "Spark", importlib.metadata.version("pyspark"))
    except importlib.metadata.PackageNotFoundError:
        return Check(Verdict.MISSING, "Spark", "pip install pyspark")


def _check_bf16() -> Check:
    if has_native_bf16():
        return Check(Verdict.OK, "bf16 on the CPU", "native (AVX512-BF16 or AMX): about twice as fast as fp32")
    return Check(Verdict.NOTE, "bf16 on the CPU", "not native: the network runs in fp32")


def _check_gpu() -> Check:
    count = torch.cuda.device_count()
    if count:
        return Check(Verdict.OK, "GPU", ", ".join(torch.cuda.get_device_name(index) for index in range(count)))
    return Check(Verdict.NOTE, "GPU", "none: the network runs on the CPU. With an NVIDIA GPU, check its driver")


def _check_memory() -> Check:
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    if gib >= MIN_MEMORY_GIB:
        return Check(Verdict.OK, "memory", f"{gib:.0f} GiB")
    return Check(Verdict.MISSING, "memory", f"{gib:.1f} GiB; local jobs need at least {MIN_MEMORY_GIB} GiB")


def _check_extra(extra: str, modules: Sequence[str]) -> Check:
    absent = [module for module in modules if importlib.util.find_spec(module) is None]
    if not absent:
        return Check(Verdict.OK, f"extra {extra!r}", ", ".join(modules) + HINTS.get(extra, ""))
    return Check(Verdict.NOTE, f"extra {extra!r}", f"without {', '.join(absent)}: pip install 'cxrfeat[{extra}]'")


def _check_weights() -> Check:
    path = cached_weights(get_backbone("resnet50"))
    if path.is_file():
        return Check(Verdict.OK, "weights resnet50", f"{path}; cxrfeat backbones lists other networks")
    return Check(
        Verdict.NOTE,
        "weights resnet50",
        f"not in the cache: the first job downloads them, or put {path.name} into {path.parent}, or give a file with "
        "--weights; cxrfeat backbones lists other networks",
    )
