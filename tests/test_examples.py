"""The examples in docstrings run and give the documented output."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROMPT = re.compile(r"^ +>>> ", re.MULTILINE)
FILES = [path for package in ("cxrfeat", "head_training") for path in sorted((ROOT / package).rglob("*.py"))]
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES if PROMPT.search(path.read_text("utf-8"))
]


def test_the_examples_are_found() -> None:
    """The list of modules below is not empty."""
    assert {"cxrfeat.labels.findings", "cxrfeat.phantom.radiograph", "head_training.training.loss"} <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_docstrings_are_true(name: str) -> None:
    """Every line that starts with a prompt is executed."""
    module = importlib.import_module(name)
    results = doctest.testmod(module)
    assert results.attempted == len(PROMPT.findall(Path(str(module.__file__)).read_text("utf-8")))
    assert results.failed == 0
