"""Readers for the inputs of the report: tables of a run and metrics of an evaluation."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cxrfeat.errors import ReportError
from cxrfeat.io.schema import HISTORY, METRICS_FORMAT, grid_schema
from cxrfeat.labels.label_set import LabelSet
from cxrfeat.labels.label_sets import NIH14, label_set_of_head
from head_training.report.style import with_interval

PREDICTIONS = "predictions"
"""Name of the evaluated model; all other models are baselines."""

Key = tuple[str | None, ...]
_KEY = ("split", "group", "model", "scope", "point", "scale", "metric")

_METRICS_KEYS = (
    *("predictions", "labels", "protocol", "settings", "splits", "thresholds", "numbers", "curves", "reliability"),
    *("baselines", "literature"),
)


@dataclass(frozen=True)
class TrainingRun:
    """Results of ``python -m head_training.fit``.

    Attributes:
        grid: one row per configuration; see :func:`cxrfeat.io.schema.grid_schema`.
        history: one row per epoch and configuration; see :data:`cxrfeat.io.schema.HISTORY`.
        config: resolved settings.
        extractor: fingerprint of the embeddings.
        label_set: labels of the selected head.
    """

    grid: pd.DataFrame
    history: pd.DataFrame
    config: dict[str, Any]
    extractor: str
    label_set: LabelSet

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the labels."""
        return self.label_set.outputs

    @property
    def selected(self) -> pd.Series:
        """Row of the selected configuration."""
        return self.grid[self.grid["selected"]].iloc[0]


@dataclass(frozen=True)
class MetricValue:
    """One row of ``numbers`` in metrics.json, with NaN for null."""

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    threshold: float = math.nan
    images: float = math.nan
    patients: float = math.nan
    positives: float = math.nan

    @property
    def defined(self) -> bool:
        """Return True if the value is finite."""
        return math.isfinite(self.value)

    def text(self, digits: int = 3) -> str:
        """Return the value with its interval as text."""
        return with_interval(self.value, self.low, self.high, digits)


ABSENT = MetricValue()
"""Placeholder for a metric that was not computed."""


@dataclass(frozen=True)
class EvaluationMetrics:
    """Results of ``python -m head_training.evaluate``; see :mod:`head_training.evaluation.measurement` for the format.

    Attributes:
        content: metrics.json without ``numbers``.
        numbers: values by split, group, model, scope, point, scale and metric.
    """

    content: dict[str, Any]
    numbers: Mapping[Key, MetricValue]

    @cached_property
    def label_set(self) -> LabelSet:
        """Labels of the evaluation; earlier versions had NIH's findings alone."""
        described = self.content["labels"].get("set")
        return NIH14 if described is None else LabelSet.from_json(described, "metrics.json")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the labels."""
        return self.label_set.outputs

    @property
    def scale(self) -> str:
        """Prefix of the evaluated predictions: probability, or score if they were not calibrated."""
        return str(self.content["predictions"]["scale"])

    def metric(
        self,
        name: str,
        scope: str,
        *,
        group: str = "all",
        model: str = PREDICTIONS,
        point: str | None = None,
        scale: str | None = None,
    ) -> MetricValue:
        """Return a metric of the test split, or :data:`ABSENT` if it was not computed.

        Args:
            name: name of the metric, such as auroc.
            scope: a finding, an average, or any finding.
            group: group of patients or images.
            model: the predictions, or a baseline.
            point: operating point; None for metrics without a threshold.
            scale: prefix of the predictions; by default the evaluated one.
        """
        scale = (scale or self.scale) if model == PREDICTIONS else None
        return self.numbers.get(("test", group, model, scope, point, scale, name), ABSENT)

    def values(self, column: str) -> list[str]:
        """Return the distinct non-null values of a column of the test numbers, in order of appearance."""
        index = _KEY.index(column)
        found = (key[index] for key in self.numbers if key[0] == "test")
        return list(dict.fromkeys(value for value in found if value is not None))


def read_run(folder: Path) -> TrainingRun:
    """Read the output folder of a run.

    Raises:
        ReportError: a file is missing or unreadable, or not exactly one configuration is selected.
    """
    config, bundle = _read_json(folder / "config.json"), _read_json(folder / "head" / "bundle.json")
    _check_keys(folder / "head" / "bundle.json", bundle, ("extractor", "labels", "format"))
    label_set = label_set_of_head(bundle, str(folder / "head" / "bundle.json"))
    grid = read_table(folder / "grid.parquet", grid_schema(label_set.outputs))
    history = read_table(folder / "history.parquet", HISTORY)
    if int(grid["selected"].sum()) != 1:
        raise ReportError(f"{folder / 'grid.parquet'} has {grid['selected'].sum()} selected rows; expected one")
    _check_keys(folder / "config.json", config, ("settings", "configuration", "rows", "patients"))
    return TrainingRun(grid, history, config, str(bundle["extractor"]), label_set)


def read_metrics(path: Path) -> EvaluationMetrics:
    """Read metrics.json.

    Raises:
        ReportError: the file is missing, unreadable, or has another format.
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
    for index, row in enumerate(rows):
        _check_keys(path, row, (*_KEY, *names))
        key = tuple(row[name] for name in _KEY)
        if key in numbers:
            described = ", ".join(f"{name} {value}" for name, value in zip(_KEY, key, strict=True) if value is not None)
            raise ReportError(f"{path}: row {index} of numbers repeats an earlier row ({described})")
        numbers[key] = MetricValue(*(math.nan if row[name] is None else float(row[name]) for name in names))
    return numbers


def _read_json(path: Path) -> dict[str, Any]:
    _check_exists(path)
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ReportError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise ReportError(f"{path} contains a {type(content).__name__}; expected a JSON object")
    return content


def read_table(path: Path, schema: pa.Schema) -> pd.DataFrame:
    """Read a Parquet file and check that it has the columns of a schema.

    Raises:
        ReportError: the file is missing or unreadable, or lacks a column.
    """
    _check_exists(path)
    try:
        table = pq.read_table(path, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise ReportError(f"cannot read {path}: {error}") from error
    missing = sorted(set(schema.names).difference(table.column_names))
    if missing:
        raise ReportError(f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(table.column_names)}")
    return table.to_pandas()


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise ReportError(
            f"{path} does not exist; expected a complete output folder of head_training.fit or head_training.evaluate"
        )


def _check_keys(path: Path, content: dict[str, Any], keys: tuple[str, ...]) -> None:
    missing = [key for key in keys if key not in content]
    if missing:
        raise ReportError(f"{path} lacks the keys {', '.join(missing)}; it has {', '.join(sorted(content))}")
