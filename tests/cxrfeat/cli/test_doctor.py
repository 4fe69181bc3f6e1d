"""The doctor gives every part of the installation a verdict, in one line each, and an exit code."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cxrfeat.backbones.registry import BACKBONES
from cxrfeat.backbones.weights import cached_weights
from cxrfeat.cli import doctor
from cxrfeat.errors import JavaError

NAMES = [
    "cxrfeat",
    "Java",
    "Spark",
    "torch",
    "bf16 on the CPU",
    "GPU",
    "memory",
    "extra 'web'",
    "extra 'timm'",
    "extra 'xrv'",
    "extra 'dicom'",
    "extra 'openvino'",
    "extra 'quantize'",
    "weights resnet50",
]

Break = Callable[[pytest.MonkeyPatch, Path], None]


def set_memory(patch: pytest.MonkeyPatch, gib: float) -> None:
    """Simulate a machine with so much memory."""
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": int(gib * 2**18)}
    patch.setattr(os, "sysconf", pages.__getitem__)


@pytest.fixture(autouse=True)
def complete(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Simulate a machine that has everything: Java 21, two GPUs, 16 GiB, the extra, and cached weights."""
    monkeypatch.setattr(doctor, "find_java", lambda: 21)
    monkeypatch.setattr(doctor, "has_native_bf16", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", "H{}".format)
    set_memory(monkeypatch, 16)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    weights = cached_weights(BACKBONES["resnet50"])
    weights.parent.mkdir(parents=True)
    weights.touch()


def check(name: str) -> tuple[str, str]:
    """Return verdict and text of the only check whose name starts with ``name``."""
    (found,) = [found for found in doctor.run_checks() if found.name.startswith(name)]
    return found.verdict.value, found.text


def break_java(patch: pytest.MonkeyPatch, _: Path) -> None:
    def fail() -> int:
        raise JavaError("Spark needs Java 17 or newer: install it")

    patch.setattr(doctor, "find_java", fail)


def break_spark(patch: pytest.MonkeyPatch, _: Path) -> None:
    def fail(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    patch.setattr(importlib.metadata, "version", fail)


BROKEN: list[tuple[str, Break, str, str]] = [
    ("Java 17", break_java, "missing", "Spark needs Java 17 or newer: install it"),
    ("Spark", break_spark, "missing", "pip install pyspark"),
    ("bf16 on the CPU", lambda patch, _: patch.setattr(doctor, "has_native_bf16", lambda: False), "note", "fp32"),
    ("GPU", lambda patch, _: patch.setattr(torch.cuda, "device_count", lambda: 0), "note", "on the CPU"),
    ("memory", lambda patch, _: set_memory(patch, 3.5), "missing", "3.5 GiB; local jobs need at least 4 GiB"),
    (
        "extra 'web'",
        lambda patch, _: patch.setattr(
            importlib.util, "find_spec", lambda name: None if name == "uvicorn" else object()
        ),
        "note",
        "without uvicorn: pip install 'cxrfeat[web]'",
    ),
    (
        "weights resnet50",
        lambda patch, folder: patch.setattr(torch.hub, "get_dir", lambda: str(folder / "empty")),
        "note",
        "not in the cache",
    ),
]


def test_a_complete_machine_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every check has one line, in a fixed order."""
    assert doctor.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[9:29].rstrip() for line in lines] == NAMES
    assert [line.split()[0] for line in lines] == ["ok"] * len(NAMES)
    assert lines[1].split() == ["ok", "Java", "21"]
    assert lines[5].split(maxsplit=2)[2] == "H0, H1"
    assert lines[6].split(maxsplit=2)[2] == "16 GiB"
    assert lines[7].endswith("fastapi, uvicorn")
    assert str(cached_weights(BACKBONES["resnet50"])) in lines[-1]
    assert str(tmp_path) in lines[-1]
    assert lines[-1].endswith("cxrfeat backbones lists other networks")


@pytest.mark.parametrize(("name", "damage", "verdict", "text"), BROKEN, ids=[name for name, *_ in BROKEN])
def test_a_missing_part_is_named_with_its_fix(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    damage: Break,
    verdict: str,
    text: str,
) -> None:
    """A required part is missing and the exit code is 1; an optional one is a note and the exit code is 0."""
    damage(monkeypatch, tmp_path)
    assert doctor.main([]) == (1 if verdict == "missing" else 0)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(NAMES)
    assert [line.split()[0] for line in lines].count("missing") == (verdict == "missing")
    (line,) = [line for line in lines if line[9:29].rstrip() == name]
    assert line.startswith(f"{verdict} ")
    assert text in line


@pytest.mark.parametrize(("gib", "verdict"), [(4, "ok"), (3.99, "missing"), (64, "ok")])
def test_memory_has_a_lower_limit(monkeypatch: pytest.MonkeyPatch, gib: float, verdict: str) -> None:
    """Local jobs need 4 GiB."""
    set_memory(monkeypatch, gib)
    assert check("memory")[0] == verdict


def test_all_modules_of_an_extra_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the note lists every missing module."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert check("extra 'web'") == ("note", "without fastapi, uvicorn: pip install 'cxrfeat[web]'")


def test_missing_weights_can_be_put_into_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The note names the file and the folder of torchvision's cache."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    found = next(found for found in doctor.run_checks() if found.name == "weights resnet50")
    assert f"put resnet50-0676ba61.pth into {tmp_path / 'hub' / 'checkpoints'}" in found.text


def test_an_interrupted_check_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C is exit code 130."""

    def interrupt() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "find_java", interrupt)
    assert doctor.main([]) == 130
    assert "not all checks were run" in capsys.readouterr().err


def test_options_are_refused() -> None:
    """The command has none."""
    with pytest.raises(SystemExit, match=r"^2$"):
        doctor.main(["--fix"])
