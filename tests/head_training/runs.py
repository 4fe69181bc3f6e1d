"""Training runs in this process, and their outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from head_training.fit import main

FAST = ("--quiet", "--epochs", "3", "--batch-size", "32", "--hidden", "8", "4", "--lr", "0.01", "--device", "cpu")
"""Options of a run that takes about a second."""


def fit(features: Path, output: Path, *options: str, report: bool = False) -> int:
    return main([*([] if report else ["--no-report"]), "--features", str(features), "--output", str(output), *options])


def bundle_bytes(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (output / "head").iterdir()}


def record(output: Path) -> dict[str, Any]:
    training: dict[str, Any] = json.loads((output / "head" / "bundle.json").read_text())["training"]
    return training
