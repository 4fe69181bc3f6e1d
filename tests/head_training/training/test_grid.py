"""Grids: every combination once, names without collisions, and helpful errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cxrfeat.errors import ConfigError
from head_training.training.grid import DEFAULT_GRID, KEYS, Configuration, expand, read_grid


def test_a_grid_is_every_combination_in_order() -> None:
    """The last key varies fastest, and keys that are not in the grid come from the command line or the defaults."""
    grid = {"lr": [1e-3, 1e-4], "hidden": [[8], [4, 2]]}
    configurations = expand(grid, {"dropout": 0.1})
    assert configurations == [Configuration(hidden, 0.1, lr, 1e-5) for hidden in ((8,), (4, 2)) for lr in (1e-3, 1e-4)]


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        ({}, Configuration()),
        ({"lr": 1e-3}, Configuration(lr=1e-3)),
        ({"hidden": [16, 8]}, Configuration((16, 8))),
        ({"hidden": [[16, 8]]}, Configuration((16, 8))),
        ({"weight_decay": 0}, Configuration(weight_decay=0.0)),
    ],
)
def test_one_value_needs_no_list(grid: dict[str, Any], expected: Configuration) -> None:
    """A grid of one is a single fit."""
    assert expand(grid, {}) == [expected]


def test_the_defaults_are_those_of_2018_and_24_around_them() -> None:
    """The default configuration is in the default grid, whose configurations share one shape."""
    grid = expand(DEFAULT_GRID, {})
    assert len(grid) == 24
    assert {configuration.hidden for configuration in grid} == {(128, 32)}
    assert Configuration() in grid
    assert Configuration() == Configuration((128, 32), 0.0, 3e-4, 1e-5)


@pytest.mark.parametrize(
    ("grid", "given", "message"),
    [
        ({"learning_rate": 1}, {}, "unknown key 'learning_rate'"),
        ({"droput": 0.1}, {}, "did you mean 'dropout'"),
        ({"weight-decay": 0.1}, {}, "did you mean 'weight_decay'"),
        ({"LR": 0.1}, {}, "did you mean 'lr'"),
        ({"learning_rate": 0.1}, {}, "unknown key 'learning_rate' in the grid. Known keys: "),
        ({"zzz": 0.1}, {}, "unknown key 'zzz' in the grid. Known keys: hidden, dropout, lr, weight_decay"),
        ({"lr": [0.1]}, {"lr": 0.2}, "lr is 0.2 on the command line, but the grid sets it to 0.1"),
        ({"lr": [0.1, 0.2, 0.1]}, {}, "configurations 0 and 2 are equal"),
        ({"weight_decay": [0, 0.0]}, {}, "configurations 0 and 1 are equal"),
        ({"lr": []}, {}, "0 configurations"),
        ({"lr": [0.1 * n for n in range(1, 66)], "weight_decay": list(range(64))}, {}, "4160 configurations"),
        ({"lr": "fast"}, {}, "lr is 'fast'; expected a number above 0"),
        ({"lr": True}, {}, "lr is True"),
        ({"lr": 0}, {}, "lr is 0; expected a number above 0"),
        ({"lr": float("nan")}, {}, "lr is nan"),
        ({"dropout": 1}, {}, r"dropout is 1; expected a number in \[0, 1\)"),
        ({"weight_decay": -1}, {}, "weight_decay is -1; expected a number at least 0"),
        ({"hidden": []}, {}, "0 configurations"),
        ({"hidden": [[]]}, {}, r"hidden is \[\]; expected widths"),
        ({"hidden": [8, 0]}, {}, r"hidden is \[8, 0\]"),
        ({"hidden": [8.0]}, {}, r"hidden is \[8.0\]"),
        ({"hidden": 8}, {}, "hidden is 8"),
    ],
)
def test_a_bad_grid_is_refused(grid: dict[str, Any], given: dict[str, Any], message: str) -> None:
    """The error names key, value and the expected values."""
    with pytest.raises(ConfigError, match=message):
        expand(grid, given)


def test_names_tell_close_values_apart() -> None:
    """Rates that a rounded name would merge have different names, and a name never changes."""
    names = [Configuration(lr=1e-7 * n).name(0) for n in range(1, 14)]
    assert len(set(names)) == 13
    assert Configuration().name(7) == "007-" + Configuration().name(0).removeprefix("000-")
    assert Configuration((128, 32), 0, 3e-4, 1e-5).name(7) == Configuration([128, 32]).name(7)  # type: ignore[arg-type]
    assert Configuration().name(7) == "007-d55c6115"


def test_grid_files_are_toml(tmp_path: Path) -> None:
    """The documented example is read; a missing or empty file and one that is not TOML raise ConfigError."""
    path = tmp_path / "grid.toml"
    path.write_text("hidden = [[128, 32], [256]]\ndropout = 0.2\nlr = [3e-4, 1e-3]\n")
    assert len(expand(read_grid(path), {})) == 4
    assert set(read_grid(path)) < set(KEYS)
    path.write_text("lr = [")
    with pytest.raises(ConfigError, match="is not TOML"):
        read_grid(path)
    path.write_text("# nothing\n")
    with pytest.raises(ConfigError, match="has no keys; known keys: hidden"):
        read_grid(path)
    with pytest.raises(ConfigError, match="cannot read the grid file"):
        read_grid(tmp_path / "none.toml")
