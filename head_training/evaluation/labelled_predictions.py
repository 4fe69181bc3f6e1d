"""Predictions of this project or of any other system, joined with the ground truth."""

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
from cxrfeat.labels.label_set import LabelSet, fold
from head_training.evaluation.ground_truth import MAX_NAMED, GroundTruth
from head_training.evaluation.ranking import any_label

CALIBRATED, UNCALIBRATED = "probability_", "score_"
"""Column prefixes of a run's predictions after and before calibration: both are evaluated, the former in full."""


@dataclass(frozen=True)
class PredictionTable:
    """Predicted scores of N images.

    Attributes:
        images: (N,) image names, all different.
        findings: F predicted labels, in the order of the label set.
        scales: (N, F) float64 values in [0, 1] by prefix without underscore; the first scale is the evaluated one.
        split: (N,) column ``split`` of the table; None if the table lacks it.
        columns: names of the F columns of the first scale.
    """

    images: pa.Array
    findings: tuple[str, ...]
    scales: Mapping[str, NDArray[np.float64]]
    split: pa.Array | None
    columns: tuple[str, ...] = ()

    @property
    def hard_labels(self) -> list[str]:
        """Labels whose values on the first scale are all 0 or 1: decisions instead of scores."""
        values = next(iter(self.scales.values()))  # (N, F)
        return [label for label, column in zip(self.findings, values.T, strict=True) if np.isin(column, (0, 1)).all()]


@dataclass(frozen=True)
class LabelledPredictions:
    """Predictions, labels and metadata of N images of one split.

    Attributes:
        table: one row per image, with :data:`head_training.evaluation.ground_truth.COLUMNS`.
        labels: (N, F) bool, False where unknown.
        known: (N, F) bool, False where the label is unknown.
        scales: (N, F) float64 values by prefix.
        any_finding: (N,) float32: 1 if the image has a finding of the label set, 0 if it has none, NaN if unknown.
        without_prediction: number of further images of the split, without a prediction.
    """

    table: pa.Table
    labels: NDArray[np.bool_]
    known: NDArray[np.bool_]
    scales: Mapping[str, NDArray[np.float64]]
    any_finding: NDArray[np.float32]
    without_prediction: int

    @property
    def patients(self) -> NDArray[np.object_]:
        """(N,) patient of each image."""
        patients: NDArray[np.object_] = self.table["patient_id"].to_numpy()
        return patients


def read_predictions(path: Path, label_set: LabelSet, prefix: str | None = None) -> PredictionTable:
    """Read a table with a column ``image_index`` or ``Image Index`` and one column of predictions per label.

    Args:
        path: ``.parquet``, ``.csv`` or ``.csv.gz``.
        label_set: labels to look for; a column name ends with any spelling of a label that the set knows.
        prefix: start of the column names, before the label; None chooses the prefix with the most labels.

    Raises:
        PredictionsError: an unreadable file, no column of a label, an ambiguous prefix, repeated images, or values that
            are missing, NaN or outside [0, 1]; the message names the first images.
    """
    table = _read_table(path)
    name = next((name for name in ("image_index", "Image Index") if name in table.column_names), None)
    if name is None:
        raise PredictionsError(f"{path.name} has no column image_index; it has {', '.join(table.column_names)}")
    images = table[name].combine_chunks().cast(pa.string())
    _check_images(path, images)
    chosen = _choose_columns(path, table.column_names, label_set, prefix)
    findings = tuple(label for label in label_set.outputs if label in next(iter(chosen.values())))
    scales = {
        found.rstrip("_- ") or "score": _read_scale(path, table, [columns[finding] for finding in findings], images)
        for found, columns in chosen.items()
    }
    split = table["split"].combine_chunks().cast(pa.string()) if "split" in table.column_names else None
    evaluated = next(iter(chosen.values()))
    return PredictionTable(images, findings, scales, split, tuple(evaluated[finding] for finding in findings))


def splits_from_lists(images: pa.Array, lists: Mapping[Split, Sequence[str]]) -> pa.Array:
    """Return the (N,) split of each of N images, null for an image that is in no list.

    Args:
        images: (N,) image names.
        lists: image names of each split.

    Raises:
        PredictionsError: an image is in the lists of two splits.
    """
    split_of: dict[str, str] = {}
    for split, names in lists.items():
        in_both = [name for name in names if split_of.get(name, split.value) != split.value]
        if in_both:
            first = ", ".join(in_both[:MAX_NAMED])
            raise PredictionsError(f"{len(in_both)} images are in the lists of two splits; the first: {first}")
        split_of.update(dict.fromkeys(names, split.value))
    return pa.array([split_of.get(name) for name in images.to_pylist()], pa.string())


def join_ground_truth(
    predictions: PredictionTable, ground_truth: GroundTruth, splits: pa.Array, sizes: Mapping[Split, int]
) -> dict[Split, LabelledPredictions]:
    """Join the predictions of val and test with their ground truth; a split without predictions has no entry.

    Args:
        predictions: predictions of N images.
        ground_truth: labels and metadata of these images and possibly others.
        splits: (N,) split of each prediction; predictions outside val and test are left out.
        sizes: expected number of images of each split, where it is known.

    Raises:
        PredictionsError: an image without ground truth, or no prediction of a test image.
    """
    keys = ground_truth.find(predictions.images.to_pylist(), "predicted images")
    ground_truth_rows = pc.index_in(pa.array(keys), ground_truth.table["image_index"].combine_chunks())  # (N,)
    label_set = ground_truth.label_set
    predicted = [label_set.outputs.index(finding) for finding in predictions.findings]  # F columns
    labels = ground_truth.labels  # (M, G): all M images and all G labels of the ground truth
    any_finding = any_label(labels[:, : label_set.findings_count])  # (M,)
    labelled = {}
    for split in (Split.VAL, Split.TEST):
        in_split = pc.fill_null(pc.equal(splits, split.value), fill_value=False)
        rows = np.flatnonzero(in_split.to_numpy(zero_copy_only=False))  # (K,) rows of the predictions
        if not len(rows):
            continue
        matches = ground_truth_rows.take(pa.array(rows)).to_numpy()  # (K,) their rows of the ground truth
        labels_of_split = labels[np.ix_(matches, predicted)]  # (K, F)
        labelled[split] = LabelledPredictions(
            table=ground_truth.table.take(matches),
            labels=labels_of_split == 1,
            known=~np.isnan(labels_of_split),
            scales={scale: values[rows] for scale, values in predictions.scales.items()},
            any_finding=any_finding[matches],
            without_prediction=sizes.get(split, len(rows)) - len(rows),
        )
    if Split.TEST not in labelled:
        raise PredictionsError(f"none of {len(predictions.images)} predictions is in the test split")
    return labelled


def _read_table(path: Path) -> pa.Table:
    if path.is_dir():
        code = f"pandas.read_parquet({str(path)!r}, filters=[('status', '==', 'ok')]).to_parquet('predictions.parquet')"
        raise PredictionsError(f"{path} is a folder; expected a file. Convert an output of score.py in Python: {code}")
    if not path.is_file():
        raise PredictionsError(f"{path} does not exist or is not a file")
    try:
        if path.suffix == ".parquet":
            return pq.read_table(path, partitioning=None)
        if path.name.endswith((".csv", ".csv.gz")):
            return csv.read_csv(path)
    except (OSError, pa.ArrowException) as error:
        raise PredictionsError(f"cannot read {path.name}: {error}") from error
    raise PredictionsError(f"{path.name} is neither .parquet nor .csv nor .csv.gz")


def _check_images(path: Path, images: pa.Array) -> None:
    if not len(images) or images.null_count:
        raise PredictionsError(f"{path.name}: {images.null_count} of {len(images)} rows have no image name")
    counts = pc.value_counts(images)
    repeated = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    if len(repeated):
        first = ", ".join(repeated[:MAX_NAMED].to_pylist())
        raise PredictionsError(f"{path.name}: {len(repeated)} images have several rows; the first: {first}")


def _choose_columns(
    path: Path, names: Sequence[str], label_set: LabelSet, prefix: str | None
) -> dict[str, dict[str, str]]:
    """Return the columns of each scale as prefix → label → column name.

    The first scale is the evaluated one; uncalibrated scores follow if it holds calibrated probabilities.
    """
    found: dict[str, dict[str, str]] = {}
    for name in names:
        split = _split_name(name, label_set)
        if split is not None:
            start, label = split
            columns = found.setdefault(start, {})
            if label in columns:
                raise PredictionsError(f"{path.name}: the columns {columns[label]!r} and {name!r} are both {label}")
            columns[label] = name
    prefixes = ", ".join(map(repr, sorted(found)))
    if prefix is not None:
        if prefix not in found:
            raise PredictionsError(f"{path.name} has no finding with the prefix {prefix!r}; found {prefixes or 'none'}")
        return {prefix: found[prefix]}
    if not found:
        raise PredictionsError(
            f"{path.name} has no column of a label, such as {label_set.outputs[0]}; it has {', '.join(names)}"
        )
    most = max(map(len, found.values()))
    complete = [start for start, columns in found.items() if len(columns) == most]
    if sorted(complete) == [CALIBRATED, UNCALIBRATED]:
        return {CALIBRATED: found[CALIBRATED], UNCALIBRATED: found[UNCALIBRATED]}
    if len(complete) > 1:
        shown = ", ".join(map(repr, sorted(complete)))
        raise PredictionsError(
            f"{path.name} has {most} labels with each of the prefixes {shown}; choose the predictions with --prefix"
        )
    return {complete[0]: found[complete[0]]}


def _split_name(name: str, label_set: LabelSet) -> tuple[str, str] | None:
    """Return prefix and label of a column by the longest spelling at the end of its name; None if no label matches."""
    spellings = sorted(label_set.spellings(), key=lambda pair: -len(pair[1]))
    for label, spelling in spellings:
        if label in label_set.outputs and fold(name[-len(spelling) :]) == fold(spelling):
            return name[: -len(spelling)], label
    return None


def _read_scale(path: Path, table: pa.Table, columns: Sequence[str], images: pa.Array) -> NDArray[np.float64]:
    """Return the (N, F) float64 values of F columns, checked to be in [0, 1]."""
    values = np.empty((len(table), len(columns)))  # (N, F)
    for index, name in enumerate(columns):
        column = table[name].combine_chunks()
        if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
            raise PredictionsError(f"{path.name}: the column {name!r} is {column.type}; expected numbers")
        values[:, index] = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
        invalid = np.flatnonzero(~((values[:, index] >= 0) & (values[:, index] <= 1)))
        if len(invalid):
            first = ", ".join(f"{images[int(row)]}: {values[row, index]}" for row in invalid[:MAX_NAMED])
            raise PredictionsError(
                f"{path.name}: {len(invalid)} values of {name!r} are missing, NaN or outside [0, 1]; the first: {first}"
            )
    return values
