"""Index of the labelled embeddings: all columns except the embedding, read and checked before any vector.

An unusable data set is rejected before gigabytes are read, and the matrix is allocated once in its final size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cxrfeat.errors import DatasetIntegrityError, FeaturesError
from cxrfeat.head.inputs import SEX_CODES
from cxrfeat.io import listing, storage
from cxrfeat.io.schema import EMBEDDINGS, Augmentation, Split, Status, is_augmentation
from cxrfeat.labels.cells import MAX_AGE_YEARS
from cxrfeat.labels.label_set import LabelSet
from cxrfeat.labels.splits import check_patients_disjoint

MAX_NAMED = 5
"""Maximum number of rows named in an error message."""

_COLUMNS = (
    *("image_index", "image_path", "patient_id", "age_years", "sex", "view_position", "findings"),
    *("findings_unknown", "findings_uncertain", "split", "augmentation", "extractor", "status"),
)
_OPTIONAL = ("image_path", "findings_unknown", "findings_uncertain", "age_years", "sex", "view_position")
"""Columns that a file may lack; they are then null. A null ``findings_unknown`` makes every unnamed label negative."""

_SOURCE = "source"  # temporary column: row in the concatenated files
_ORDER = "order"  # temporary column: 0 for train, 1 for val, 2 for test


@dataclass(frozen=True)
class ParquetFile:
    """Parquet file with embeddings.

    Attributes:
        name: path relative to the features folder.
        filesystem, path: location of the file.
        footer: Parquet metadata of the file.
    """

    name: str
    filesystem: pafs.FileSystem
    path: str
    footer: pq.FileMetaData


@dataclass(frozen=True)
class FeatureIndex:
    """Rows for training, validation and test, sorted by split, image and augmentation.

    Attributes:
        files: Parquet files with the rows.
        table: (N rows) all columns of the embeddings table except the vector; ``image_index`` is the path where file
            names are not unique.
        labels: (N, F) float32 labels of the label set: 1, 0, or NaN where unknown.
        label_set: the F labels.
        matrix_rows: (rows of all files,) int64 row in ``table`` of each row of the concatenated files; -1 if it is
            left out.
        left_out: number of rows left out, by reason.
        impossible_ages: number of rows whose age is below 0 or above 123 years; it is missing in ``table``.
    """

    files: Sequence[ParquetFile]
    table: pa.Table
    labels: NDArray[np.float32] = field(repr=False)
    label_set: LabelSet
    matrix_rows: NDArray[np.int64] = field(repr=False)
    left_out: dict[str, int]
    impossible_ages: int = 0

    @property
    def extractor(self) -> str:
        """Fingerprint of the extractor, the same for all rows."""
        return str(self.table["extractor"][0])

    def rows(self, split: Split) -> slice:
        """Return the slice of a split's rows."""
        inside = np.flatnonzero(pc.equal(self.table["split"], split.value).to_numpy())
        return slice(int(inside[0]), int(inside[-1]) + 1)


def read_index(
    features: str, label_set: LabelSet, *, drop_empty: bool = False, as_written: bool = False
) -> FeatureIndex:
    """Read and check all columns except the embedding.

    Quarantined rows, rows without a known label or split, and augmented rows outside training are left out and counted.

    Args:
        features: folder or URI of Parquet files with the schema of ``OUT/embeddings``; ``status`` may be a column or,
            as written by Spark, a folder.
        label_set: labels to read.
        drop_empty: leave out labels without a positive in the training split, instead of raising an error.
        as_written: accept patients whose names differ in blanks or leading zeros alone.

    Raises:
        ConfigError: the folder does not exist.
        FeaturesError: no file, an unreadable file, no usable row, a missing column, several extractors, repeated rows,
            an unknown or missing value, a split without rows, a patient in two splits, a label without a positive in
            the training split.
    """
    files, tables = _read_files(features)
    rows = pa.concat_tables(tables)
    rows = rows.append_column(_SOURCE, pa.array(np.arange(len(rows))))
    targets = label_set.targets(*(rows[name] for name in ("findings", "findings_unknown", "findings_uncertain")))
    table, left_out = _leave_out(rows, np.any(targets.known, axis=1))
    if not len(table):
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise FeaturesError(f"none of the {len(rows)} rows below {features} is usable; left out: {reasons}")
    table, impossible = _clear_ages(_name_by_path(table))
    _check(table, as_written=as_written)
    table = table.append_column(_ORDER, pc.index_in(table["split"], pa.array([split.value for split in Split])))
    table = table.sort_by([(key, "ascending") for key in (_ORDER, "image_index", "augmentation")]).combine_chunks()
    sources = table[_SOURCE].to_numpy()  # (N,)
    matrix_rows = np.full(len(rows), -1, dtype=np.int64)  # (rows of all files,)
    matrix_rows[sources] = np.arange(len(table))
    labels, label_set = _drop_empty(targets.with_nan()[sources], label_set, table["split"], drop_empty=drop_empty)
    table = table.drop_columns([_ORDER, _SOURCE])
    return FeatureIndex(files, table, labels, label_set, matrix_rows, left_out, impossible)


def _clear_ages(table: pa.Table) -> tuple[pa.Table, int]:
    """Return the rows with impossible ages as missing, by the rule of scoring and of metadata, and their number."""
    ages = table["age_years"]
    possible = pc.and_(pc.greater_equal(ages, 0), pc.less_equal(ages, MAX_AGE_YEARS))  # False for NaN
    cleared = pc.if_else(pc.fill_null(possible, False), ages, pa.scalar(None, ages.type))
    known = len(ages) - ages.null_count - (pc.sum(pc.is_nan(ages)).as_py() or 0)
    impossible = known - (pc.sum(possible).as_py() or 0)
    return table.set_column(table.column_names.index("age_years"), "age_years", cleared), impossible


def _read_files(features: str) -> tuple[list[ParquetFile], list[pa.Table]]:
    """Return the Parquet files with ``status=ok`` below a folder, and their columns except the embedding."""
    files, tables = [], []
    filesystem, base = storage.open_filesystem(features)
    if storage.exists(storage.join(features, "embeddings")):
        raise FeaturesError(f"{features} is the output folder of an extraction; did you mean {features}/embeddings?")
    for name in sorted(listing.list_files(features, (".parquet",))):
        if storage.partition_value(name, "status") not in (None, Status.OK.value):
            continue
        path = storage.join(base, name)
        with filesystem.open_input_file(path) as stream:
            try:
                table = _read_columns(name, pq.ParquetFile(stream))
                footer = pq.read_metadata(stream)
            except pa.ArrowException as error:
                raise FeaturesError(f"cannot read {name} in {features}: {error}") from error
        files.append(ParquetFile(name, filesystem, path, footer))
        tables.append(table)
    if not tables:
        raise FeaturesError(f"no Parquet file with status=ok below {features}: run the extraction first")
    return files, tables


def _name_by_path(table: pa.Table) -> pa.Table:
    """Return the rows with the path as ``image_index`` if file names occur in several folders, as in CheXpert."""
    rows = _counts(table, ["image_index", "augmentation"])
    if table["image_path"].null_count or pc.max(rows["count_all"]).as_py() == 1:
        return table
    return table.set_column(table.column_names.index("image_index"), "image_index", table["image_path"])


def _drop_empty(
    labels: NDArray[np.float32], label_set: LabelSet, splits: pa.ChunkedArray, *, drop_empty: bool
) -> tuple[NDArray[np.float32], LabelSet]:
    """Return (N, F) labels and their set without the labels that lack a positive in train, or raise FeaturesError."""
    train = pc.equal(splits, Split.TRAIN.value).to_numpy()  # (N,)
    has_positive = np.nansum(labels[train], axis=0) > 0  # (F,)
    empty = [name for name, found in zip(label_set.outputs, has_positive, strict=True) if not found]
    if not empty:
        return labels, label_set
    if not drop_empty or len(empty) == len(label_set.outputs):
        raise FeaturesError(
            f"no image of the training split has the label {_join(empty[:MAX_NAMED])} ({len(empty)} of "
            f"{len(label_set.outputs)} labels of {label_set.name}); leave such labels out with --drop-empty, or choose "
            "other labels with --labels"
        )
    return np.ascontiguousarray(labels[:, has_positive]), label_set.without(empty)


def _read_columns(name: str, file: pq.ParquetFile) -> pa.Table:
    """Return all columns except the embedding with the types of the schema; the status may come from the folder."""
    status = storage.partition_value(name, "status")
    twice = sorted(column for column in set(_COLUMNS) if file.schema_arrow.names.count(column) > 1)
    if twice:
        raise FeaturesError(f"{name} has columns that occur more than once: {', '.join(twice)}")
    columns = [column for column in _COLUMNS if column != "status" or status is None]
    absent = [column for column in _OPTIONAL if column not in file.schema_arrow.names]
    columns = [column for column in columns if column not in absent]
    missing = sorted({*columns, "embedding"}.difference(file.schema_arrow.names))
    if missing:
        raise FeaturesError(
            f"{name} lacks the columns {', '.join(missing)}; it has {', '.join(file.schema_arrow.names)}"
        )
    table = file.read(columns=columns)
    table.validate(full=True)
    if not pa.types.is_nested(table.schema.field("findings").type):
        raise FeaturesError(
            f"{name}: findings are {table.schema.field('findings').type}; expected a list of names in each row, "
            "such as the result of str.split"
        )
    for column in absent:
        table = table.append_column(column, pa.nulls(len(table), EMBEDDINGS.field(column).type))
    if status is not None:
        table = table.append_column("status", pa.array([status] * len(table), pa.string()))
    return table.select(_COLUMNS).cast(pa.schema([EMBEDDINGS.field(column) for column in _COLUMNS]))


def _leave_out(table: pa.Table, labelled: NDArray[np.bool_]) -> tuple[pa.Table, dict[str, int]]:
    """Return the usable rows, and the number of the others by reason; ``labelled`` is (rows,)."""
    augmented = pc.not_equal(table["augmentation"], Augmentation.NONE.value)
    reasons = {
        "quarantined": pc.not_equal(table["status"], Status.OK.value),
        "unlabelled": pc.or_(pa.array(~labelled), pc.is_null(table["split"])),
        "augmented outside training": pc.and_(augmented, pc.not_equal(table["split"], Split.TRAIN.value)),
    }
    left_out, kept = {}, np.ones(len(table), dtype=bool)  # kept: (rows,)
    for reason, applies in reasons.items():
        found = kept & pc.fill_null(applies, fill_value=False).to_numpy()  # (rows,): the first reason counts
        left_out[reason] = int(found.sum())
        kept &= ~found
    return table.filter(pa.array(kept)), left_out


def _check(table: pa.Table, *, as_written: bool) -> None:
    """Raise FeaturesError for rows that contradict each other or have an unknown value."""
    extractors = _counts(table, ["extractor"])
    if len(extractors) > 1 or extractors["extractor"].null_count:
        found = ", ".join(f"{row['extractor']!r} ({row['count_all']} rows)" for row in extractors.to_pylist())
        raise FeaturesError(f"embeddings of several extractors cannot be mixed; found {found}")
    expected: dict[str, Sequence[str | None]] = {
        "split": list(Split),
        "sex": [None, *SEX_CODES],
    }
    for column, allowed in expected.items():
        unknown = sorted(set(pc.unique(table[column]).to_pylist()).difference(allowed), key=str)
        if unknown:
            first = _join(unknown[:MAX_NAMED])
            raise FeaturesError(f"column {column} has unknown values: {first}; expected one of {_join(allowed)}")
    unknown = sorted(str(name) for name in pc.unique(table["augmentation"]).to_pylist() if not is_augmentation(name))
    if unknown:
        raise FeaturesError(
            f"column augmentation has unknown values: {_join(unknown[:MAX_NAMED])}; expected none, hflip or affine-N"
        )
    for column in ("image_index", "patient_id"):
        if table[column].null_count:
            raise FeaturesError(f"{table[column].null_count} labelled rows have no {column}")
    rows = _counts(table, ["image_index", "augmentation"])
    repeated = rows.filter(pc.greater(rows["count_all"], 1))
    if len(repeated):
        raise FeaturesError(
            f"{len(repeated)} images have several rows with the same augmentation; the first: {_names(repeated)}"
        )
    if not as_written:
        _check_spellings(pc.unique(table["patient_id"]).to_pylist())
    _check_splits(table)


def _check_spellings(patients: Sequence[str]) -> None:
    """Raise FeaturesError for patients whose names differ in blanks or leading zeros alone: probably they are one."""
    spellings: dict[str, list[str]] = {}
    for patient in patients:
        spellings.setdefault(patient.strip().lstrip("0"), []).append(patient)
    several = sorted((found for found in spellings.values() if len(found) > 1), key=str)
    if several:
        shown = "; ".join(", ".join(map(repr, sorted(found))) for found in several[:MAX_NAMED])
        raise FeaturesError(
            f"{len(several)} patients are written in several ways, so that a patient could be in two splits: {shown}. "
            "Write them in one way, or accept them as different patients with --patients-as-written"
        )


def _check_splits(table: pa.Table) -> None:
    """Raise FeaturesError for a patient in two splits or an empty split."""
    pairs = _counts(table, ["patient_id", "split"])
    try:
        check_patients_disjoint(zip(pairs["patient_id"].to_pylist(), pairs["split"].to_pylist(), strict=True))
    except DatasetIntegrityError as error:
        raise FeaturesError(f"a patient must be in one split only: {error}") from error
    images = {row["split"]: row["count_all"] for row in _counts(table, ["split"]).to_pylist()}
    empty = [split.value for split in Split if split.value not in images]
    if empty:
        counts = ", ".join(f"{count} in {split}" for split, count in images.items())
        raise FeaturesError(f"no labelled row in {', '.join(empty)}; found {counts}")


def _counts(table: pa.Table, keys: list[str]) -> pa.Table:
    """Return the sorted groups of equal keys with their number of rows, ``count_all``."""
    return table.group_by(keys).aggregate([([], "count_all")]).sort_by([(key, "ascending") for key in keys])


def _names(table: pa.Table) -> str:
    """Return the first names of a table for an error message."""
    return _join(table["image_index"].slice(0, MAX_NAMED).to_pylist())


def _join(values: Sequence[str | None]) -> str:
    return ", ".join("null" if value is None else value for value in values)
