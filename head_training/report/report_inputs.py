"""What the report is made of: a run's tables and an evaluation's numbers, read and checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cxrfeat.errors import ReportError
from cxrfeat.io.schema import HISTORY, METRICS_FORMAT, grid_schema
from cxrfeat.labels.findings import FINDINGS
from head_training.report.style import with_interval

PREDICTIONS = "predictions"
"""The model that was evaluated; the others are baselines."""

Key = tuple[str | None, ...]
_KEY = ("split", "group", "model", "scope", "point", "scale", "metric")

_METRICS_KEYS = (
    *("predictions", "labels", "protocol", "settings", "splits", "thresholds", "numbers", "curves", "reliability"),
    *("baselines", "literature"),
)


@dataclass(frozen=True)
class TrainingRun:
    """What ``python -m head_training.fit`` left.

    Attributes:
        grid: one row a configuration; see :func:`cxrfeat.io.schema.grid_schema`.
        history: one row an epoch of each; see :data:`cxrfeat.io.schema.HISTORY`.
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
class MetricValue:
    """One row of ``numbers`` in metrics.json; NaN where it has null."""

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    threshold: float = math.nan
    images: float = math.nan
    patients: float = math.nan
    positives: float = math.nan

    @property
    def defined(self) -> bool:
        """Whether there is a value."""
        return math.isfinite(self.value)

    def text(self, digits: int = 3) -> str:
        """Write the value with its interval."""
        return with_interval(self.value, self.low, self.high, digits)


ABSENT = MetricValue()
"""What was not computed."""


@dataclass(frozen=True)
class EvaluationMetrics:
    """What ``python -m head_training.evaluate`` left; :mod:`head_training.evaluation.measurement` says what is in it.

    Attributes:
        content: all of metrics.json but the numbers.
        numbers: by split, group, model, scope, point, scale and metric.
    """

    content: dict[str, Any]
    numbers: Mapping[Key, MetricValue]

    @property
    def scale(self) -> str:
        """Prefix of the predictions that were evaluated: probability, or score where nothing was calibrated."""
        return str(self.content["predictions"]["scale"])

    def number(
        self,
        metric: str,
        scope: str,
        *,
        group: str = "all",
        model: str = PREDICTIONS,
        point: str | None = None,
        scale: str | None = None,
    ) -> MetricValue:
        """Return a number of the test split, :data:`ABSENT` where it was not computed.

        Args:
            metric: such as auroc.
            scope: a finding, an average, or any finding.
            group: of patients or films.
            model: the predictions, or a baseline.
            point: operating point; None for numbers without a threshold.
            scale: prefix of the predictions; by default the evaluated one.
        """
        scale = (scale or self.scale) if model == PREDICTIONS else None
        return self.numbers.get(("test", group, model, scope, point, scale, metric), ABSENT)

    def values(self, column: str) -> list[str]:
        """Return the values of a column of the numbers on test that are not null, each once, in their order."""
        place = _KEY.index(column)
        found = (key[place] for key in self.numbers if key[0] == "test")
        return list(dict.fromkeys(value for value in found if value is not None))


def read_run(folder: Path) -> TrainingRun:
    """Read a run.

    Raises:
        ReportError: a file is missing or damaged, or no configuration was selected.
    """
    config, bundle = _read_json(folder / "config.json"), _read_json(folder / "head" / "bundle.json")
    grid, history = (
        read_table(folder / "grid.parquet", grid_schema(FINDINGS)),
        read_table(folder / "history.parquet", HISTORY),
    )
    if int(grid["selected"].sum()) != 1:
        raise ReportError(f"{folder / 'grid.parquet'} has {grid['selected'].sum()} selected rows; expected one")
    _check_keys(folder / "config.json", config, ("settings", "configuration", "rows", "patients"))
    _check_keys(folder / "head" / "bundle.json", bundle, ("extractor",))
    return TrainingRun(grid, history, config, str(bundle["extractor"]))


def read_metrics(path: Path) -> EvaluationMetrics:
    """Read metrics.json.

    Raises:
        ReportError: it is missing, damaged, or of another format.
    """
    content = _read_json(path)
    if content.get("format") != METRICS_FORMAT:
        raise ReportError(f"{path} has format {content.get('format')!r}; this version reads {METRICS_FORMAT}")
    _check_keys(path, content, _METRICS_KEYS)
    return EvaluationMetrics(
        {key: value for key, value in content.items() if key != "numbers"}, _numbers(path, content["numbers"])
    )


def _numbers(path: Path, rows: list[dict[str, Any]]) -> dict[Key, MetricValue]:
    numbers: dict[Key, MetricValue] = {}
    names = [field.name for field in fields(MetricValue)]
    for place, row in enumerate(rows):
        _check_keys(path, row, (*_KEY, *names))
        key = tuple(row[name] for name in _KEY)
        if key in numbers:
            raise ReportError(f"{path}: row {place} of numbers is there twice: {dict(zip(_KEY, key, strict=True))}")
        numbers[key] = MetricValue(*(math.nan if row[name] is None else float(row[name]) for name in names))
    return numbers


def _read_json(path: Path) -> dict[str, Any]:
    _check_there(path)
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ReportError(f"{path} can't be read: {error}") from error
    if not isinstance(content, dict):
        raise ReportError(f"{path} holds a {type(content).__name__}; expected an object")
    return content


def read_table(path: Path, schema: pa.Schema) -> pd.DataFrame:
    """Read a Parquet file that must have the columns of a schema.

    Raises:
        ReportError: it is missing or damaged, or lacks a column.
    """
    _check_there(path)
    try:
        table = pq.read_table(path, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise ReportError(f"{path} can't be read: {error}") from error
    missing = sorted(set(schema.names).difference(table.column_names))
    if missing:
        raise ReportError(f"{path} lacks the columns {missing}; it has {table.column_names}")
    return table.to_pandas()


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise ReportError(
            f"{path} is not there; expected a whole folder of head_training.fit or head_training.evaluate"
        )


def _check_keys(path: Path, content: dict[str, Any], keys: tuple[str, ...]) -> None:
    missing = [key for key in keys if key not in content]
    if missing:
        raise ReportError(f"{path} lacks {missing}; it has {sorted(content)}")
