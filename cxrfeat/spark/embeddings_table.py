"""Tables of an extraction's output folder: writing, replaying the quarantine, and integrity checks.

The tables are ``embeddings/round=N/status=ok|quarantined/*.parquet`` and ``metadata/status=ok|rejected/*.parquet``.
Beside them are ``dataset.json`` (see :mod:`cxrfeat.spark.manifest`), ``summary.json`` and ``_checkpoint``, the state of
the rounds.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812
from pyspark.sql.pandas.types import from_arrow_type
from pyspark.sql.types import DataType

from cxrfeat.errors import DatasetIntegrityError
from cxrfeat.io import storage
from cxrfeat.io.schema import EMBEDDINGS, HEADER, HEADER_FIELDS, METADATA, METADATA_LINES, Augmentation, Status
from cxrfeat.labels.matching import ImageMatcher
from cxrfeat.spark.table import read_columns, read_table, round_folder, write_partition

_FILE_COLUMNS = [name for name in EMBEDDINGS.names if name != "round"]
"""Columns stored in a round's files; ``round`` itself is in the folder name."""

_SMALL_COLUMNS = [name for name in EMBEDDINGS.names if name != "embedding"]

ROWS_PER_FILE = 2048
"""About 9 MB of 2048-d vectors. A default round has two such files, so that two cores can write."""


Embed = Callable[[Sequence[str]], AbstractContextManager[tuple[DataFrame, Sequence[str]]]]
"""Function that embeds images and gives the rows, and the paths in them, for the duration of a context."""


class EmbeddingsTable:
    """Embeddings and metadata of one output folder."""

    def __init__(self, spark: SparkSession, output: str, matcher: ImageMatcher | None = None) -> None:
        """Use the output folder at a qualified location; it may be empty.

        Args:
            spark: session that writes the rounds.
            output: location of the folder.
            matcher: matcher that gives images their metadata; None leaves those columns null.
        """
        self._spark = spark
        self._matcher = matcher
        self.output = output
        self._embeddings = storage.join(output, "embeddings")
        self._metadata = storage.join(output, "metadata")
        self._replay = storage.join(output, "_replay")

    def embeddings(self) -> DataFrame:
        """Return all rows of all rounds: :data:`cxrfeat.io.schema.EMBEDDINGS`."""
        return read_table(self._spark, self._embeddings, EMBEDDINGS)

    def index(self) -> pa.Table:
        """Return all columns of all rows but the embedding, in the memory of the driver."""
        return read_columns(self._embeddings, EMBEDDINGS, _SMALL_COLUMNS)

    def count_images(self, status: Status | None = None) -> int:
        """Count the images in the table, or those with the given status."""
        index = read_columns(self._embeddings, EMBEDDINGS, ["augmentation", "status"])
        counted = pc.equal(index["augmentation"], Augmentation.NONE.value)
        if status is not None:
            counted = pc.and_(counted, pc.equal(index["status"], status.value))
        return int(pc.sum(counted).as_py() or 0)

    def metadata(self) -> pa.Table:
        """Return all lines of the metadata table: :data:`cxrfeat.io.schema.METADATA_LINES`."""
        return read_columns(self._metadata, METADATA_LINES, METADATA_LINES.names)

    def write_metadata(self, lines: pa.Table) -> None:
        """Replace the metadata table. Committed rounds keep the metadata that they were joined with.

        Args:
            lines: table of :data:`cxrfeat.io.schema.METADATA_LINES`.
        """
        filesystem, path = storage.open_filesystem(self._metadata)
        if storage.exists(self._metadata):
            storage.delete_folder(self._metadata)
        for status in (Status.OK, Status.REJECTED):
            rows = lines.filter(pc.equal(lines["status"], status.value)).drop_columns(["status"])
            if status == Status.OK or len(rows):
                folder = storage.join(path, f"status={status}")
                filesystem.create_dir(folder, recursive=True)
                pq.write_table(rows, f"{folder}/part-0.parquet", filesystem=filesystem, compression="zstd")

    def write_round(self, rows: DataFrame, round_id: int, images: Sequence[str], count: int) -> None:
        """Join a round's rows with their metadata and commit them, replacing any earlier attempt at the round.

        Args:
            rows: table of :data:`cxrfeat.io.schema.EMBEDDED`.
            round_id: number of the round.
            images: paths of the round's images, relative to the images root.
            count: upper limit of the rows, or an estimate of it.
        """
        self._write(self._with_metadata(rows, images), round_folder(self._embeddings, round_id), count)

    def replay_quarantine(self, embed: Embed) -> None:
        """Embed the quarantined files again, and replace each round that contains any.

        The good rows of a round are copied, not recomputed, because their files may no longer exist. The new round is
        complete in ``_replay`` before the old one is deleted, so a killed job leaves one complete copy; see
        :meth:`finish_replay`.

        Args:
            embed: function from image paths to a context with a table of :data:`cxrfeat.io.schema.EMBEDDED` and the
                paths in it; rows of images that the round already has are left out.
        """
        quarantined = F.col("status") == Status.QUARANTINED.value
        rows = self.embeddings().where(quarantined).select("round", "image_path").collect()
        for round_id in sorted({row["round"] for row in rows}):
            paths = [row.image_path for row in rows if row["round"] == round_id]
            kept = self.embeddings().where((F.col("round") == round_id) & ~quarantined).select(_FILE_COLUMNS)
            with embed(paths) as (again, images):
                # A container that is read again as a whole yields its good images again.
                new = again.join(F.broadcast(kept.select("image_path").distinct()), "image_path", "left_anti")
                replaced = kept.unionByName(self._with_metadata(new.select(again.columns), images))
                self._write(replaced, round_folder(self._replay, round_id), kept.count() + len(images))
            self.finish_replay()

    def finish_replay(self) -> None:
        """Finish an interrupted replay: move its complete rounds into the table and delete incomplete ones."""
        for folder in storage.list_folders(self._replay):
            staged = storage.join(self._replay, folder)
            if storage.exists(storage.join(staged, "_SUCCESS")):
                rows = read_table(self._spark, staged, EMBEDDINGS).select(_FILE_COLUMNS)
                self._write(rows, storage.join(self._embeddings, folder), rows.count())
            storage.delete_folder(staged)

    def _with_metadata(self, rows: DataFrame, images: Sequence[str]) -> DataFrame:
        return join_metadata(self._spark, rows, self._matcher, images).select(_FILE_COLUMNS)

    @staticmethod
    def _write(rows: DataFrame, folder: str, count: int) -> None:
        files = max(1, -(-count // ROWS_PER_FILE))
        write_partition(rows.repartition(files).sortWithinPartitions("image_path", "augmentation"), folder)

    def check(self, listed: Sequence[str], containers: Mapping[str, int] | None = None, *, by_patient: bool) -> None:
        """Check that every listed image has exactly one row and, with ``by_patient``, that no patient is in two splits.

        Args:
            listed: image paths that must have a row, relative to the images root.
            containers: least number of images of each container that was read as a whole.
            by_patient: check also that each patient is in one split only.

        Raises:
            DatasetIntegrityError: an image has no row or several, or a patient is in several splits.
        """
        index = self.index()
        rows = index.group_by(["image_path", "augmentation"]).aggregate([([], "count_all")])
        violations = {
            "listed images have no row": sorted(set(listed).difference(index["image_path"].to_pylist())),
            "containers have too few rows": find_incomplete(index["image_path"].to_pylist(), containers or {}),
            "images have more than one row": _names(rows.filter(pc.greater(rows["count_all"], 1)), "image_path"),
        }
        if by_patient:
            pairs = index.select(["patient_id", "split"]).filter(pc.is_valid(index["patient_id"]))
            splits = pairs.group_by("patient_id").aggregate([("split", "count_distinct")])
            torn = splits.filter(pc.greater(splits["split_count_distinct"], 1))
            violations["patients are in more than one split"] = _names(torn, "patient_id")
        for kind, names in violations.items():
            if names:
                first = ", ".join(names[:5])
                raise DatasetIntegrityError(f"{len(names)} {kind} in {self._embeddings}; the first: {first}")


def find_incomplete(paths: Iterable[str], containers: Mapping[str, int]) -> list[str]:
    """Return the containers with fewer images than expected.

    Args:
        paths: paths of all images in a table.
        containers: path of a container → number of images that were in it.
    """
    counts: Counter[str] = Counter()
    for path in set(paths) if containers else ():
        folders = itertools.accumulate(path.split("/"), "{}/{}".format)
        counts.update(folder for folder in folders if folder in containers)
    # A damaged container has a row of its own, which disappears when it is read again and is whole.
    return sorted(path for path, expected in containers.items() if counts[path] < expected - 1)


def _names(table: pa.Table, column: str) -> list[str]:
    return sorted(set(table[column].to_pylist()))


def join_metadata(
    spark: SparkSession, rows: DataFrame, matcher: ImageMatcher | None, images: Sequence[str]
) -> DataFrame:
    """Join rows of :data:`cxrfeat.io.schema.EMBEDDED` with the metadata of their images.

    Args:
        spark: session of the rows.
        rows: the rows.
        matcher: matcher of images and metadata; None gives null columns.
        images: paths of the images that may be among the rows, relative to the images root.
    """
    if matcher is None:
        names = [name for name in (*METADATA.names, "metadata_status") if name != "image_index"]
        joined = rows.select("*", *(F.lit(None).cast(_spark_type(name)).alias(name) for name in names))
        return _fill_from_headers(joined, HEADER_FIELDS)
    known = spark.createDataFrame(matcher.match(images))
    joined = rows.join(F.broadcast(known), "image_path", "left")
    return _fill_from_headers(joined, [name for name in HEADER_FIELDS if name != "split"], prefer=matcher.placeholders)


def _fill_from_headers(rows: DataFrame, names: Iterable[str], prefer: Iterable[str] = ()) -> DataFrame:
    """Fill metadata that is null from the columns of the images' headers.

    Args:
        rows: joined rows.
        names: columns to fill.
        prefer: columns whose value in the table is a placeholder, which the header replaces.
    """
    filled = {name: F.coalesce(F.col(name), F.col(f"{HEADER}{name}")) for name in names}
    filled |= {name: F.coalesce(F.col(f"{HEADER}{name}"), F.col(name)) for name in prefer}
    return rows.withColumns(filled)


def _spark_type(name: str) -> DataType:
    return from_arrow_type(EMBEDDINGS.field(name).type)
