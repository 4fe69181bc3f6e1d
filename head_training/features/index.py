"""Which rows of the embeddings a head is trained on: every column but the embedding, read and checked first.

So a data set that can't be used is refused before its gigabytes are read, and the matrix is made in its final size.
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
from cxrfeat.io import storage
from cxrfeat.io.schema import EMBEDDINGS, Augmentation, Split, Status
from cxrfeat.labels.findings import FINDINGS
from cxrfeat.labels.splits import check_no_patient_in_two_splits

NAMED = 5
"""Rows that an error names: enough to find the cause, few enough to read."""

_COLUMNS = (
    *("image_index", "patient_id", "age_years", "sex", "view_position", "findings", "split"),
    *("augmentation", "extractor", "status"),
)
_SOURCE = "source"
_ORDER = "order"


@dataclass(frozen=True)
class ParquetFile:
    """A Parquet file that holds embeddings.

    Attributes:
        name: below the features folder.
        filesystem, path: where it is.
        footer: what it holds.
    """

    name: str
    filesystem: pafs.FileSystem
    path: str
    footer: pq.FileMetaData


@dataclass(frozen=True)
class FeatureIndex:
    """The rows to train, choose and test with, in order of split, image and augmentation.

    Attributes:
        files: where they come from.
        table: one row each: the columns of the embeddings but the vector.
        places: for each row of the files, one after the other, its row in ``table``; -1 where it is left out.
        left_out: how many rows are left out, by reason.
    """

    files: Sequence[ParquetFile]
    table: pa.Table
    places: NDArray[np.int64] = field(repr=False)
    left_out: dict[str, int]

    @property
    def extractor(self) -> str:
        """Fingerprint of all rows."""
        return str(self.table["extractor"][0])

    def rows(self, split: Split) -> slice:
        """Return where a split's rows are."""
        inside = np.flatnonzero(pc.equal(self.table["split"], split.value).to_numpy())
        return slice(int(inside[0]), int(inside[-1]) + 1)


def read_index(features: str) -> FeatureIndex:
    """Read and check everything but the embeddings.

    Rows in quarantine, without findings or split, and augmented rows outside training are left out, and counted.

    Args:
        features: folder or URI of Parquet files in the schema of ``OUT/embeddings``; ``status`` may be a column or,
            as Spark writes it, a folder.

    Raises:
        FeaturesError: no file, no row left, a column missing, several extractors, doubled rows, an unknown value,
            no row in a split, a patient in two splits.
    """
    files, tables = [], []
    filesystem, base = storage.open_filesystem(features)
    if storage.exists(storage.join(features, "embeddings")):
        raise FeaturesError(f"{features} is an output of the extraction; did you mean {features}/embeddings?")
    for name in sorted(storage.list_files(features, (".parquet",))):
        if storage.partition_value(name, "status") not in (None, Status.OK.value):
            continue
        path = storage.join(base, name)
        with filesystem.open_input_file(path) as stream:
            try:
                table = _read_columns(name, pq.ParquetFile(stream))
                footer = pq.read_metadata(stream)
            except pa.ArrowException as error:
                raise FeaturesError(f"{name} in {features} can't be read: {error}") from error
        files.append(ParquetFile(name, filesystem, path, footer))
        tables.append(table)
    if not tables:
        raise FeaturesError(f"no Parquet file with status=ok below {features}: run the extraction first")
    everything = pa.concat_tables(tables)
    table, left_out = _leave_out(everything.append_column(_SOURCE, pa.array(np.arange(len(everything)))))
    if not len(table):
        raise FeaturesError(f"none of the {len(everything)} rows below {features} can be used; left out are {left_out}")
    _check(table)
    table = table.append_column(_ORDER, pc.index_in(table["split"], pa.array([split.value for split in Split])))
    table = table.sort_by([(key, "ascending") for key in (_ORDER, "image_index", "augmentation")]).combine_chunks()
    places = np.full(len(everything), -1, dtype=np.int64)
    places[table[_SOURCE].to_numpy()] = np.arange(len(table))
    return FeatureIndex(files, table.drop_columns([_ORDER, _SOURCE]), places, left_out)


def _read_columns(name: str, file: pq.ParquetFile) -> pa.Table:
    """Read a file's small columns in the types of the schema; status comes from its folder if it has one."""
    status = storage.partition_value(name, "status")
    wanted = [column for column in _COLUMNS if column != "status" or status is None]
    missing = sorted({*wanted, "embedding"}.difference(file.schema_arrow.names))
    if missing:
        raise FeaturesError(f"{name} lacks the columns {missing}; it has {file.schema_arrow.names}")
    table = file.read(columns=wanted)
    if status is not None:
        table = table.append_column("status", pa.array([status] * len(table), pa.string()))
    return table.select(_COLUMNS).cast(pa.schema([EMBEDDINGS.field(column) for column in _COLUMNS]))


def _leave_out(table: pa.Table) -> tuple[pa.Table, dict[str, int]]:
    augmented = pc.not_equal(table["augmentation"], Augmentation.NONE.value)
    reasons = {
        "quarantined": pc.not_equal(table["status"], Status.OK.value),
        "unlabelled": pc.or_(pc.is_null(table["findings"]), pc.is_null(table["split"])),
        "augmented outside training": pc.and_(augmented, pc.not_equal(table["split"], Split.TRAIN.value)),
    }
    left_out, kept = {}, np.ones(len(table), dtype=bool)
    for reason, applies in reasons.items():
        found = kept & pc.fill_null(applies, fill_value=False).to_numpy()
        left_out[reason] = int(found.sum())
        kept &= ~found
    return table.filter(pa.array(kept)), left_out


def _check(table: pa.Table) -> None:
    extractors = _counts(table, ["extractor"])
    if len(extractors) > 1 or extractors["extractor"].null_count:
        found = ", ".join(f"{row['extractor']!r} ({row['count_all']} rows)" for row in extractors.to_pylist())
        raise FeaturesError(f"embeddings of several extractors can't be mixed; found {found}")
    known: dict[str, Sequence[str | None]] = {
        "split": list(Split),
        "augmentation": list(Augmentation),
        "sex": [None, *SEX_CODES],
        "findings": FINDINGS,
    }
    for column, allowed in known.items():
        values = pc.list_flatten(table[column]) if column == "findings" else table[column]
        unknown = sorted(set(pc.unique(values).to_pylist()).difference(allowed), key=str)
        if unknown:
            raise FeaturesError(f"column {column} holds {unknown[:NAMED]}; known are {[str(name) for name in allowed]}")
    for column in ("image_index", "patient_id"):
        if table[column].null_count:
            raise FeaturesError(f"{table[column].null_count} labelled rows have no {column}")
    age = table["age_years"]
    odd = table.filter(pc.fill_null(pc.invert(pc.is_finite(age)), fill_value=False))
    if len(odd):
        raise FeaturesError(f"{len(odd)} rows have an age that is not finite; the first: {_names(odd)}")
    rows = _counts(table, ["image_index", "augmentation"])
    doubled = rows.filter(pc.greater(rows["count_all"], 1))
    if len(doubled):
        raise FeaturesError(
            f"{len(doubled)} images are there more than once in the same augmentation; the first: {_names(doubled)}"
        )
    _check_splits(table)


def _check_splits(table: pa.Table) -> None:
    pairs = _counts(table, ["patient_id", "split"])
    try:
        check_no_patient_in_two_splits(zip(pairs["patient_id"].to_pylist(), pairs["split"].to_pylist(), strict=True))
    except DatasetIntegrityError as error:
        raise FeaturesError(f"a head can't be judged on patients it was trained on: {error}") from error
    images = {row["split"]: row["count_all"] for row in _counts(table, ["split"]).to_pylist()}
    empty = [split.value for split in Split if split.value not in images]
    if empty:
        raise FeaturesError(f"no labelled row in {empty}; rows by split: {images}")


def _counts(table: pa.Table, keys: list[str]) -> pa.Table:
    return table.group_by(keys).aggregate([([], "count_all")]).sort_by([(key, "ascending") for key in keys])


def _names(table: pa.Table) -> str:
    return ", ".join(table["image_index"].slice(0, NAMED).to_pylist())
