"""Fixtures of the training tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.head_training.samples import change, two_gaussians, write


@pytest.fixture(scope="session")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 400 rows, three without age."""
    rows = two_gaussians(400, seed=3)
    for row in (0, 7, 8):
        rows = change(rows, "age_years", row, None)
    return write(rows, tmp_path_factory.mktemp("features"))
