"""Where a command writes, and the tables of a run, next to its bundle."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cxrfeat.errors import ConfigError
from cxrfeat.io.schema import COHORT, HISTORY, Augmentation, grid_schema, head_predictions_schema
from cxrfeat.labels.findings import FINDINGS
from head_training.training.history import TrainingHistory
from head_training.training.selection import Ranking


def check_output(folder: Path) -> None:
    """Check that a folder can be written to, or made, before hours of work are lost on it; nothing of it stays.

    Raises:
        ConfigError: it is a file or below one, or may not be written to.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ConfigError(f"--output {folder}: {there} is a file; expected a folder, or nothing")
    try:
        tempfile.TemporaryDirectory(dir=there).cleanup()
    except OSError as error:  # no permission, a read-only disk, a file system that only looks like one
        raise ConfigError(f"--output {folder}: {there} can't be written to: {error.strerror}") from error


def write_grid(path: Path, courses: Sequence[TrainingHistory], rankings: Sequence[Ranking | None], chosen: int) -> None:
    """Write one row a configuration."""
    rows = [_grid_row(course, ranking, chosen) for course, ranking in zip(courses, rankings, strict=True)]
    pq.write_table(pa.Table.from_pylist(rows, grid_schema(FINDINGS)), path)


def _grid_row(course: TrainingHistory, ranking: Ranking | None, chosen: int) -> dict[str, Any]:
    row = {
        "index": course.index,
        "name": course.name,
        **asdict(course.configuration),
        "status": str(course.status),
        "epochs": len(course.history),
        "selected": course.index == chosen,
    }
    if course.best is not None:
        best = course.best.epoch
        row |= {"best_epoch": best.epoch, "train_loss": best.train_loss, "val_loss": best.val_loss}
    if ranking is not None:
        row |= {"val_auroc": ranking.mean, "val_auroc_findings": ranking.over}
        row |= {f"val_auroc_{entry.finding}": entry.auroc for entry in ranking.findings}
    return row


def write_history(path: Path, courses: Sequence[TrainingHistory]) -> None:
    """Write one row an epoch of each configuration."""
    rows = [
        {"index": course.index, "name": course.name, **asdict(epoch)} for course in courses for epoch in course.history
    ]
    pq.write_table(pa.Table.from_pylist(rows, HISTORY), path)


def write_predictions(
    path: Path, rows: pa.Table, scores: NDArray[np.float32], probabilities: NDArray[np.float32]
) -> None:
    """Write (N, 14) scores and probabilities beside the N rows that they belong to."""
    columns = {name: rows[name] for name in head_predictions_schema(FINDINGS).names if name in rows.column_names}
    for prefix, values in (("score", scores), ("probability", probabilities)):
        columns |= {f"{prefix}_{finding}": np.ascontiguousarray(values[:, i]) for i, finding in enumerate(FINDINGS)}
    pq.write_table(pa.table(columns, schema=head_predictions_schema(FINDINGS)), path)


def write_cohort(path: Path, rows: pa.Table) -> None:
    """Write who was in the run, one row an image: what an evaluation needs to know of training, val and test."""
    films = rows.filter(pc.equal(rows["augmentation"], Augmentation.NONE.value))
    pq.write_table(films.select(COHORT.names).cast(COHORT), path)
