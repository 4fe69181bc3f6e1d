"""The examples in docstrings give what they show."""

from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["cxrfeat.findings", "cxrfeat.metrics", "cxrfeat.splits", "head_training.loss"])
def test_docstrings_are_true(name: str) -> None:
    """And every module that is listed here has one."""
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted > 0
    assert results.failed == 0
