"""Tables that a training run writes next to its bundle, and a check of the output folder."""

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
from head_training.training.history import TrainingHistory
from head_training.training.selection import Ranking


def check_output(folder: Path) -> None:
    """Check that a folder is writable or can be created, before hours of work are lost; leave no trace.

    Raises:
        ConfigError: the path is a file, is below a file, or is not writable.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise ConfigError(f"--output {folder}: {existing} is a file; expected a folder or a new path")
    try:
        tempfile.TemporaryDirectory(dir=existing).cleanup()
    except OSError as error:  # no permission, a read-only disk, or a virtual file system
        raise ConfigError(f"--output {folder}: cannot write to {existing}: {error.strerror}") from error


def write_grid(
    path: Path,
    histories: Sequence[TrainingHistory],
    rankings: Sequence[Ranking | None],
    chosen: int,
    labels: Sequence[str],
) -> None:
    """Write one row per configuration; ``labels`` are the F names of the outputs."""
    rows = [_grid_row(history, ranking, chosen) for history, ranking in zip(histories, rankings, strict=True)]
    pq.write_table(pa.Table.from_pylist(rows, grid_schema(labels)), path)


def _grid_row(history: TrainingHistory, ranking: Ranking | None, chosen: int) -> dict[str, Any]:
    row = {
        "index": history.index,
        "name": history.name,
        **asdict(history.configuration),
        "status": str(history.status),
        "epochs": len(history.epochs),
        "selected": history.index == chosen,
    }
    if history.best is not None:
        best = history.best.epoch
        row |= {"best_epoch": best.epoch, "train_loss": best.train_loss, "val_loss": best.val_loss}
    if ranking is not None:
        row |= {"val_auroc": ranking.mean, "val_auroc_findings": ranking.over}
        row |= {f"val_auroc_{entry.finding}": entry.auroc for entry in ranking.findings}
    return row


def write_history(path: Path, histories: Sequence[TrainingHistory]) -> None:
    """Write one row per configuration and epoch."""
    rows = [
        {"index": history.index, "name": history.name, **asdict(epoch)}
        for history in histories
        for epoch in history.epochs
    ]
    pq.write_table(pa.Table.from_pylist(rows, HISTORY), path)


def write_predictions(
    path: Path,
    rows: pa.Table,
    scores: NDArray[np.float32],
    probabilities: NDArray[np.float32],
    labels: Sequence[str],
) -> None:
    """Write (N, F) scores and probabilities of F labels next to the metadata of their N rows."""
    schema = head_predictions_schema(labels)
    columns = {name: rows[name] for name in schema.names if name in rows.column_names}
    for prefix, values in (("score", scores), ("probability", probabilities)):
        columns |= {f"{prefix}_{label}": np.ascontiguousarray(values[:, i]) for i, label in enumerate(labels)}
    pq.write_table(pa.table(columns, schema=schema), path)


def write_cohort(path: Path, rows: pa.Table) -> None:
    """Write one row per image of training, val and test, without augmented copies: input of an evaluation."""
    images = rows.filter(pc.equal(rows["augmentation"], Augmentation.NONE.value))
    pq.write_table(images.select(COHORT.names).cast(COHORT), path)
