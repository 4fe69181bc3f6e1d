"""What the report is made of: a run's tables and an evaluation's numbers, read and checked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cxrfeat.errors import ReportError
from cxrfeat.schema import GRID, HISTORY

METRICS_FORMAT = 1

_METRICS_KEYS = (
    *("predictions", "labels", "protocol", "settings", "splits", "thresholds", "numbers", "curves", "reliability"),
    *("baselines", "literature"),
)


@dataclass(frozen=True)
class Run:
    """What ``python -m head_training.fit`` left.

    Attributes:
        grid: one row a configuration; see :data:`cxrfeat.schema.GRID`.
        history: one row an epoch of each; see :data:`cxrfeat.schema.HISTORY`.
        config: everything resolved.
        extractor: fingerprint of the embeddings.
    """

    grid: pd.DataFrame
    history: pd.DataFrame
    config: dict[str, Any]
    extractor: str

    @property
    def selected(self) -> pd.Series:
        """Row of the chosen configuration."""
        return self.grid[self.grid["selected"]].iloc[0]


@dataclass(frozen=True)
class Metrics:
    """What ``python -m head_training.evaluation`` left; its docstring says what is in it.

    Attributes:
        content: all of metrics.json but the numbers.
        numbers: one row a number.
    """

    content: dict[str, Any]
    numbers: pd.DataFrame

    @property
    def scale(self) -> str:
        """Prefix of the predictions that were evaluated: probability, or score where nothing was calibrated."""
        return str(self.content["predictions"]["scale"])

    def select(self, metric: str, **where: str | None) -> pd.DataFrame:
        """Return the rows of a metric of the predictions on all of test, unless ``where`` says otherwise.

        Rows of the evaluated scale, at no operating point; None stands for null.
        """
        wanted: dict[str, str | None] = {"split": "test", "group": "all", "model": "predictions", "point": None}
        wanted |= {"metric": metric, **where}
        if wanted["model"] == "predictions":
            wanted.setdefault("scale", self.scale)
        kept = pd.Series(data=True, index=self.numbers.index)
        for column, value in wanted.items():
            kept &= self.numbers[column].isna() if value is None else self.numbers[column] == value
        return self.numbers[kept]

    def one(self, metric: str, scope: str, **where: str | None) -> pd.Series | None:
        """Return the one row of a scope, or None where it was not computed.

        Raises:
            ReportError: there are several.
        """
        found = self.select(metric, scope=scope, **where)
        if len(found) > 1:
            raise ReportError(f"metrics.json has {len(found)} rows of {metric}, {scope}, {where}; expected one")
        return None if found.empty else found.iloc[0]


def read_run(folder: Path) -> Run:
    """Read a run.

    Raises:
        ReportError: a file is missing or damaged, or no configuration was selected.
    """
    config, bundle = _read_json(folder / "config.json"), _read_json(folder / "head" / "bundle.json")
    grid, history = _read_table(folder / "grid.parquet", GRID), _read_table(folder / "history.parquet", HISTORY)
    if int(grid["selected"].sum()) != 1:
        raise ReportError(f"{folder / 'grid.parquet'} has {grid['selected'].sum()} selected rows; expected one")
    _check_keys(folder / "config.json", config, ("settings", "configuration", "rows", "patients"))
    _check_keys(folder / "head" / "bundle.json", bundle, ("extractor",))
    return Run(grid, history, config, str(bundle["extractor"]))


def read_metrics(path: Path) -> Metrics:
    """Read metrics.json.

    Raises:
        ReportError: it is missing, damaged, or of another format.
    """
    content = _read_json(path)
    if content.get("format") != METRICS_FORMAT:
        raise ReportError(f"{path} has format {content.get('format')!r}; this version reads {METRICS_FORMAT}")
    _check_keys(path, content, _METRICS_KEYS)
    return Metrics(
        {key: value for key, value in content.items() if key != "numbers"}, _numbers(path, content["numbers"])
    )


def _numbers(path: Path, rows: list[dict[str, Any]]) -> pd.DataFrame:
    names = ("split", "group", "model", "scope", "point", "scale", "metric")
    numbers = ("value", "low", "high", "threshold", "images", "patients", "positives")
    table = pd.DataFrame(rows)
    missing = {*names, *numbers}.difference(table.columns)
    if missing:
        raise ReportError(f"{path}: the rows of numbers lack {sorted(missing)}")
    return table.astype(dict.fromkeys(numbers, "float64") | dict.fromkeys(names, "object"))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ReportError(f"{path} can't be read: {error}") from error
    if not isinstance(content, dict):
        raise ReportError(f"{path} holds a {type(content).__name__}; expected an object")
    return content


def _read_table(path: Path, schema: pa.Schema) -> pd.DataFrame:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise ReportError(f"{path} can't be read: {error}") from error
    missing = sorted(set(schema.names).difference(table.column_names))
    if missing:
        raise ReportError(f"{path} lacks the columns {missing}; it has {table.column_names}")
    return table.to_pandas()


def _check_keys(path: Path, content: dict[str, Any], keys: tuple[str, ...]) -> None:
    missing = [key for key in keys if key not in content]
    if missing:
        raise ReportError(f"{path} lacks {missing}; it has {sorted(content)}")
