"""Configurations of a head, and grids of them: every combination of the values in a TOML file.

hidden = [[128, 32], [256]]
dropout = 0.2
lr = [3e-4, 1e-3]
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from cxrfeat.errors import ConfigError

_MAX_WIDTH = 1 << 16
_MAX_CONFIGURATIONS = 4096


@dataclass(frozen=True)
class Configuration:
    """Architecture and optimiser settings of one head. The defaults are the settings of 2018.

    Attributes:
        hidden: widths of the hidden layers, at least one.
        dropout: dropout rate of the hidden units, in [0, 1).
        lr: initial learning rate of Adam, above 0.
        weight_decay: coupled L2 penalty of Adam, at least 0.

    Raises ConfigError for invalid values.
    """

    hidden: tuple[int, ...] = (128, 32)
    dropout: float = 0.0
    lr: float = 3e-4
    weight_decay: float = 1e-5

    def __post_init__(self) -> None:
        """Check every value, and convert numbers to float: 0 and 0.0 are the same configuration."""
        widths = self.hidden if isinstance(self.hidden, tuple | list) else ()
        if not widths or not all(type(width) is int and 1 <= width <= _MAX_WIDTH for width in widths):
            raise ConfigError(f"hidden is {self.hidden!r}; expected widths from 1 to {_MAX_WIDTH}, such as [128, 32]")
        object.__setattr__(self, "hidden", tuple(widths))
        self._check("dropout", "in [0, 1)", lambda value: 0 <= value < 1)
        self._check("lr", "above 0", lambda value: value > 0)
        self._check("weight_decay", "at least 0", lambda value: value >= 0)

    def _check(self, name: str, expected: str, is_valid: Callable[[float], bool]) -> None:
        value = getattr(self, name)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
            or not is_valid(value)
        ):
            raise ConfigError(f"{name} is {value!r}; expected a number {expected}")
        object.__setattr__(self, name, float(value))

    def name(self, index: int) -> str:
        """Return a name made of the position in the grid and a hash of all values; close values do not collide."""
        canonical = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return f"{index:03}-{hashlib.sha256(canonical.encode()).hexdigest()[:8]}"


KEYS = tuple(field.name for field in fields(Configuration))

DEFAULT_GRID: Mapping[str, Any] = {
    "dropout": [0.0, 0.3],
    "lr": [1e-4, 3e-4, 1e-3, 3e-3],
    "weight_decay": [1e-6, 1e-5, 1e-4],
}
"""24 configurations of one shape, around the settings of 2018."""


def read_grid(path: Path) -> Mapping[str, Any]:
    """Read a grid file.

    Raises:
        ConfigError: the file is missing, unreadable, empty or not TOML.
    """
    try:
        grid = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the grid file {path}: {error}") from error
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError
        raise ConfigError(f"the grid file {path} is not TOML: {error}") from error
    if not grid:
        raise ConfigError(f"the grid file {path} has no keys; known keys: {', '.join(KEYS)}")
    return grid


def expand(grid: Mapping[str, Any], given: Mapping[str, Any]) -> list[Configuration]:
    """Return every combination of the values of a grid; the last key varies fastest.

    Args:
        grid: value or list of values by key; ``hidden`` is one list of widths or a list of such lists.
        given: values of keys that are not in the grid.

    Raises:
        ConfigError: an unknown key, an invalid value, a key in both arguments, or two equal configurations.

    Example:
        >>> [configuration.hidden for configuration in expand({"hidden": [[128, 32], [256]]}, {"lr": 1e-3})]
        [(128, 32), (256,)]
    """
    for key in grid:
        if key not in KEYS:
            close = difflib.get_close_matches(str(key).lower(), KEYS, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ConfigError(f"unknown key {key!r} in the grid{hint}. Known keys: {', '.join(KEYS)}")
        if key in given:
            values = ", ".join(map(str, _values(key, grid[key])))
            raise ConfigError(f"{key} is {given[key]!r} on the command line, but the grid sets it to {values}")
    keys = [key for key in KEYS if key in grid or key in given]
    axes = [_values(key, grid[key]) if key in grid else [given[key]] for key in keys]
    size = math.prod(len(axis) for axis in axes)
    if not 1 <= size <= _MAX_CONFIGURATIONS:
        raise ConfigError(f"the grid has {size} configurations; expected 1 to {_MAX_CONFIGURATIONS}")
    configurations = [Configuration(**dict(zip(keys, values, strict=True))) for values in itertools.product(*axes)]
    seen: dict[Configuration, int] = {}
    for index, configuration in enumerate(configurations):
        if seen.setdefault(configuration, index) != index:
            raise ConfigError(f"configurations {seen[configuration]} and {index} are equal: {configuration}")
    return configurations


def _values(key: str, value: Any) -> Sequence[Any]:
    """Return the values of a key: the items of a list, or a single value, which for ``hidden`` is a list of widths."""
    if not isinstance(value, list):
        return [value]
    if key == "hidden" and value and not isinstance(value[0], list):
        return [value]
    return value
