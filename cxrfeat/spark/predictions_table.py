"""Output folder of a scoring job: ``predictions/round=N/status=ok|quarantined/*.parquet`` and ``summary.json``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812

from cxrfeat.errors import DatasetIntegrityError
from cxrfeat.head.inputs import COVARIATES
from cxrfeat.io import storage
from cxrfeat.io.schema import Reason, predictions_schema
from cxrfeat.io.skipped import Skipped
from cxrfeat.spark.embeddings_table import find_incomplete
from cxrfeat.spark.summary import list_counts, list_findings, list_skipped, summarise_skipped
from cxrfeat.spark.table import read_table, round_folder, write_partition

SUMMARY = "summary.json"

_POSITIVE = "positive_"


class PredictionsTable:
    """Predictions of one output folder."""

    def __init__(self, spark: SparkSession, output: str, labels: Sequence[str]) -> None:
        """Use the output folder at a qualified location; it may be empty.

        Args:
            spark: session that reads and writes the table.
            output: location of the folder.
            labels: names of the head's outputs.
        """
        self._spark = spark
        self._labels = labels
        self._output = output
        self._location = storage.join(output, "predictions")

    def table(self) -> DataFrame:
        """Return all rows of all rounds: :func:`cxrfeat.io.schema.predictions_schema`."""
        return read_table(self._spark, self._location, predictions_schema(self._labels))

    def write_round(self, rows: DataFrame, round_id: int) -> None:
        """Commit a round, replacing any earlier attempt; rows are :func:`cxrfeat.io.schema.scored_schema`."""
        write_partition(rows, round_folder(self._location, round_id))

    def count(self) -> pd.DataFrame:
        """Count the rows of each file in one pass over the table, for :func:`check` and :func:`summarise`.

        Returns:
            One row per ``drop_file`` and ``reason`` (None for scored rows): ``lines, rows, first_round, last_round``,
            and how many rows have each input imputed and each label positive (``positive_LABEL``).
        """
        return (
            self.table()
            .groupBy("drop_file", "reason")
            .agg(
                F.count("*").alias("lines"),
                F.sum("rows").alias("rows"),  # null if the length of the file is unknown
                F.min("round").alias("first_round"),
                F.max("round").alias("last_round"),
                *(F.count_if(F.array_contains("imputed", name)).alias(name) for name in COVARIATES),
                *(F.count_if(F.array_contains("positives", name)).alias(f"{_POSITIVE}{name}") for name in self._labels),
            )
            .toArrow()
            .to_pandas()
        )

    def count_files(self) -> int:
        """Return the number of files in the table."""
        if not storage.exists(self._location):
            return 0  # saves the half second that Spark needs to plan an empty table
        return self.table().select("drop_file").distinct().count()

    def write_summary(self, summary: ScoringSummary) -> None:
        """Write ``summary.json``."""
        storage.write_text(storage.join(self._output, SUMMARY), json.dumps(summary, indent=2) + "\n")


ScoringSummary = Mapping[str, Any]


def check(counts: pd.DataFrame, listed: Sequence[str], containers: Mapping[str, int] | None = None) -> None:
    """Check that each listed file is in exactly one round.

    Args:
        counts: result of :meth:`PredictionsTable.count`.
        listed: files relative to their root.
        containers: least number of images of each container that was read as a whole.

    Raises:
        DatasetIntegrityError: a file has no row, or rows in several rounds.
    """
    rounds = counts.groupby("drop_file").agg(first=("first_round", "min"), last=("last_round", "max"))
    lost = sorted(set(listed).difference(rounds.index))
    repeated = sorted(rounds.index[rounds["first"] != rounds["last"]])
    torn = find_incomplete(rounds.index, containers or {})
    for files, problem in (
        (lost, "listed files have no row"),
        (repeated, "files are in more than one round"),
        (torn, "containers have too few rows"),
    ):
        if files:
            raise DatasetIntegrityError(f"{len(files)} {problem}; the first: {', '.join(files[:5])}")


def summarise(counts: pd.DataFrame, head: str, skipped: Skipped) -> ScoringSummary:
    """Return the totals of :meth:`PredictionsTable.count`.

    Args:
        counts: the counts.
        head: the head's fingerprint.
        skipped: files that are not images, or not drops.
    """
    scored = counts[counts["reason"].isna()]
    quarantined = counts[counts["reason"].notna()]
    # Rows that the extraction quarantined are listed, but they are not an error of the drops.
    quarantined_here = quarantined[quarantined["reason"] != Reason.QUARANTINED_BEFORE]
    # A file with no rows or an unknown number of them counts as one row, so that no reason has the count 0.
    by_reason = quarantined[["rows", "lines"]].max(axis="columns").groupby(quarantined["reason"]).sum()
    return {
        "head": head,
        "files": {
            "listed": counts["drop_file"].nunique(),
            "scored": scored["drop_file"].nunique(),  # files with at least one scored row
            "with_quarantine": quarantined_here["drop_file"].nunique(),
        },
        "rows": {
            "listed": int(counts["rows"].sum()),
            "scored": int(scored["lines"].sum()),
            "quarantined": int(quarantined["rows"].sum()),
            "files_of_unknown_length": int(quarantined["rows"].isna().sum()),
        },
        "skipped": summarise_skipped(skipped),
        "reasons": {str(reason): int(rows) for reason, rows in by_reason.sort_values(ascending=False).items()},
        "imputed": {name: int(scored[name].sum()) for name in COVARIATES},
        "positives": {
            name.removeprefix(_POSITIVE): int(scored[name].sum())
            for name in counts.columns
            if name.startswith(_POSITIVE)
        },
    }


def quarantined_share(summary: ScoringSummary) -> float:
    """Return the share of listed files with rows that scoring quarantined, 0 to 1."""
    files = summary["files"]
    return float(files["with_quarantine"] / files["listed"]) if files["listed"] else 0.0


def format_summary(summary: ScoringSummary) -> str:
    """Format the summary for a terminal."""
    return "\n".join(_lines(summary))


def _lines(summary: ScoringSummary) -> Iterator[str]:
    files, rows = summary["files"], summary["rows"]
    yield f"head        {summary['head']}"
    yield (
        f"files       {files['listed']:,} listed; {files['scored']:,} with scored rows"
        f"; {files['with_quarantine']:,} with quarantined rows"
    )
    yield f"rows        {rows['listed']:,} listed = {rows['scored']:,} scored + {rows['quarantined']:,} quarantined" + (
        f"; {rows['files_of_unknown_length']:,} files of unknown length" if rows["files_of_unknown_length"] else ""
    )
    yield from list_counts("quarantine", summary["reasons"])
    yield from list_skipped(summary["skipped"])
    yield from list_counts("imputed", {name: count for name, count in summary["imputed"].items() if count})
    yield "positives   per label, at the thresholds of the operating point"
    yield from list_findings(summary["positives"])
