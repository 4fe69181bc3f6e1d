"""Any table of predictions, ours or another system's, joined with the truth: what an evaluation is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import csv

from cxrfeat.errors import PredictionsError
from cxrfeat.io.schema import Split
from cxrfeat.labels.findings import FINDINGS, to_multi_hot
from head_training.evaluation.ground_truth import GroundTruth

PREFIXES = ("probability_", "prob_", "score_", "")
"""Of the columns, in the order in which they are preferred; another prefix is taken where it is the only one."""

UNCALIBRATED = "score_"
"""Prefix that is measured too, as "before", where calibrated probabilities are beside it."""

NAMED = 5
"""Images that an error names."""


@dataclass(frozen=True)
class PredictionTable:
    """A table of predictions.

    Attributes:
        images: (N,) names, all different.
        findings: the findings it has, in canonical order.
        scales: prefix without its underscore → (N, F) float64 in [0, 1]; the first is the one to evaluate.
        split: (N,) what the table itself says of the split; None where it has no such column.
    """

    images: pa.Array
    findings: tuple[str, ...]
    scales: Mapping[str, NDArray[np.float64]]
    split: pa.Array | None


@dataclass(frozen=True)
class LabelledPredictions:
    """The rows of one split, with all that is known about them.

    Attributes:
        table: one row an image, the columns of :class:`head_training.evaluation.ground_truth.GroundTruth`.
        labels: (N, F) bool.
        scales: prefix → (N, F) float64.
        no_finding: (N,) bool: none of all 14 findings, whichever are predicted.
        without_prediction: images of the split that the predictions lack.
    """

    table: pa.Table
    labels: NDArray[np.bool_]
    scales: Mapping[str, NDArray[np.float64]]
    no_finding: NDArray[np.bool_]
    without_prediction: int

    @property
    def patients(self) -> NDArray[np.object_]:
        """(N,) patient of each image."""
        names: NDArray[np.object_] = self.table["patient_id"].to_numpy()
        return names


def read_predictions(path: Path, prefix: str | None = None) -> PredictionTable:
    """Read a Parquet or CSV table with one column a finding, in [0, 1], and ``image_index`` or ``Image Index``.

    Args:
        path: ``.parquet``, ``.csv`` or ``.csv.gz``.
        prefix: of the columns; None finds it, see :data:`PREFIXES`. ``Pleural Thickening`` and ``Pleural_Thickening``
            are the same.

    Raises:
        PredictionsError: a file that can't be read, no column of a finding, several prefixes to choose from, doubled
            images, values that are missing, NaN or outside [0, 1]; the message names images.
    """
    table = _read(path)
    name = next((name for name in ("image_index", "Image Index") if name in table.column_names), None)
    if name is None:
        raise PredictionsError(f"{path.name} has no column image_index; it has {table.column_names}")
    images = table[name].combine_chunks().cast(pa.string())
    _check_images(path, images)
    chosen = _choose_columns(path, table.column_names, prefix)
    findings = tuple(finding for finding in FINDINGS if finding in next(iter(chosen.values())))
    scales = {
        found.rstrip("_- ") or "score": _values(path, table, [columns[finding] for finding in findings], images)
        for found, columns in chosen.items()
    }
    split = table["split"].combine_chunks().cast(pa.string()) if "split" in table.column_names else None
    return PredictionTable(images, findings, scales, split)


def assign(images: pa.Array, lists: Mapping[Split, Sequence[str]]) -> pa.Array:
    """Return the split of each image by lists of names, null where it is in none.

    Raises:
        PredictionsError: an image in two lists.
    """
    split_of: dict[str, str] = {}
    for split, names in lists.items():
        both = [name for name in names if split_of.get(name, split.value) != split.value]
        if both:
            raise PredictionsError(f"{len(both)} images are in the lists of two splits; the first: {both[:NAMED]}")
        split_of.update(dict.fromkeys(names, split.value))
    return pa.array([split_of.get(name) for name in images.to_pylist()], pa.string())


def join(
    predictions: PredictionTable, truth: GroundTruth, splits: pa.Array, sizes: Mapping[Split, int]
) -> dict[Split, LabelledPredictions]:
    """Put each prediction of val and test beside its truth; a split without a prediction has no entry.

    Args:
        predictions: of N images.
        truth: of these images and any others.
        splits: (N,) split of each prediction; those of any other than val and test are left out.
        sizes: how many images each split should have, where that is known.

    Raises:
        PredictionsError: an image that the truth does not know, none in test.
    """
    places = pc.index_in(predictions.images, truth.table["image_index"].combine_chunks())
    unknown = predictions.images.filter(pc.is_null(places))
    if len(unknown):
        raise PredictionsError(
            f"{len(unknown)} of {len(predictions.images)} predicted images are not in the truth; "
            f"the first: {unknown[:NAMED].to_pylist()}"
        )
    labels = to_multi_hot(truth.table["findings"].to_pylist()).astype(bool)
    predicted = [FINDINGS.index(finding) for finding in predictions.findings]
    judged = {}
    for split in (Split.VAL, Split.TEST):
        rows = np.flatnonzero(
            pc.fill_null(pc.equal(splits, split.value), fill_value=False).to_numpy(zero_copy_only=False)
        )
        if not len(rows):
            continue
        lines = places.take(pa.array(rows)).to_numpy()
        judged[split] = LabelledPredictions(
            table=truth.table.take(lines),
            labels=labels[np.ix_(lines, predicted)],
            scales={scale: values[rows] for scale, values in predictions.scales.items()},
            no_finding=~labels[lines].any(axis=1),
            without_prediction=sizes.get(split, len(rows)) - len(rows),
        )
    if Split.TEST not in judged:
        raise PredictionsError(f"none of {len(predictions.images)} predictions is of an image of the test split")
    return judged


def _read(path: Path) -> pa.Table:
    if path.is_dir():
        one = f"pandas.read_parquet({str(path)!r}, filters=[('status', '==', 'ok')]).to_parquet('predictions.parquet')"
        raise PredictionsError(f"{path} is a folder; expected one file. Of an output of score.py, in Python: {one}")
    if not path.is_file():
        raise PredictionsError(f"{path} is no file")
    try:
        if path.suffix == ".parquet":
            return pq.read_table(path, partitioning=None)
        if path.name.endswith((".csv", ".csv.gz")):
            return csv.read_csv(path)
    except (OSError, pa.ArrowException) as error:
        raise PredictionsError(f"{path.name} can't be read: {error}") from error
    raise PredictionsError(f"{path.name} is neither .parquet nor .csv nor .csv.gz")


def _check_images(path: Path, images: pa.Array) -> None:
    if not len(images) or images.null_count:
        raise PredictionsError(f"{path.name}: {images.null_count} of {len(images)} rows have no image name")
    counts = pc.value_counts(images)
    doubled = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    if len(doubled):
        raise PredictionsError(
            f"{path.name}: {len(doubled)} images are there more than once; the first: {doubled[:NAMED].to_pylist()}"
        )


def _choose_columns(path: Path, names: Sequence[str], prefix: str | None) -> dict[str, dict[str, str]]:
    """Return prefix → finding → column: the one to evaluate and, where that is calibrated, the one before."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        for finding in FINDINGS:
            if name.replace(" ", "_").endswith(finding):
                columns = found.setdefault(name[: len(name) - len(finding)], {})
                if finding in columns:
                    raise PredictionsError(
                        f"{path.name}: the columns {columns[finding]!r} and {name!r} are both {finding}"
                    )
                columns[finding] = name
    if prefix is not None:
        if prefix not in found:
            raise PredictionsError(f"{path.name} has no finding under the prefix {prefix!r}; it has {sorted(found)}")
        return {prefix: found[prefix]}
    if not found:
        raise PredictionsError(f"{path.name} has no column of a finding, such as {FINDINGS[0]}; it has {list(names)}")
    best = next((known for known in PREFIXES if known in found), None)
    if best is None and len(found) != 1:
        raise PredictionsError(f"{path.name} has findings under the prefixes {sorted(found)}; choose one with --prefix")
    best = next(iter(found)) if best is None else best
    if best == PREFIXES[0] and found.get(UNCALIBRATED, {}).keys() >= found[best].keys():
        return {best: found[best], UNCALIBRATED: found[UNCALIBRATED]}
    return {best: found[best]}


def _values(path: Path, table: pa.Table, columns: Sequence[str], images: pa.Array) -> NDArray[np.float64]:
    values = np.empty((len(table), len(columns)))
    for number, name in enumerate(columns):
        column = table[name].combine_chunks()
        if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
            raise PredictionsError(f"{path.name}: the column {name!r} is {column.type}; expected numbers")
        values[:, number] = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
        odd = np.flatnonzero(~((values[:, number] >= 0) & (values[:, number] <= 1)))
        if len(odd):
            first = ", ".join(f"{images[int(row)]}: {values[row, number]}" for row in odd[:NAMED])
            raise PredictionsError(
                f"{path.name}: {len(odd)} values of {name!r} are missing, NaN or outside [0, 1]; the first: {first}"
            )
    return values
