"""One name stands for one thing in the whole project."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

PACKAGES = ("cxrfeat", "head_training", "spark_jobs", "benchmarks")

MIRRORS = {
    "__init__": "every package has one",
    "__main__": "python -m PACKAGE",
    "extract": "script, command line, function on Spark, and the benchmark of them",
    "score": "script, command line, function on Spark, worker function, and the benchmark of them",
    "fit": "command and its benchmark",
}
"""Module names that may exist more than once, with the reason."""


@pytest.fixture(scope="module")
def sources(pytestconfig: pytest.Config) -> list[Path]:
    found = [path for package in PACKAGES for path in sorted((pytestconfig.rootpath / package).rglob("*.py"))]
    assert len(found) > 100, "this test looks in the wrong place"
    return found


def test_no_two_modules_share_a_name(sources: list[Path]) -> None:
    """A file name says which module is meant, without its folder."""
    places = defaultdict(list)
    for source in sources:
        places[source.stem].append(source.as_posix())
    doubled = {name: found for name, found in places.items() if len(found) > 1}
    assert {name: found for name, found in doubled.items() if name not in MIRRORS} == {}
    assert set(MIRRORS) <= set(doubled), "an exception that is not needed any more"


def test_no_two_public_classes_share_a_name(sources: list[Path]) -> None:
    """A class is found by its name alone."""
    places = defaultdict(list)
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(source.as_posix())
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
