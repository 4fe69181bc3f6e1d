"""An output folder of predictions: ``predictions/round=N/status=ok|quarantined/*.parquet`` and ``summary.json``."""

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
from cxrfeat.labels.findings import FINDINGS
from cxrfeat.spark.summary import list_counts, list_findings
from cxrfeat.spark.table import read_table, round_folder, write_partition

SUMMARY = "summary.json"


class PredictionsTable:
    """The table of one output folder."""

    def __init__(self, spark: SparkSession, output: str) -> None:
        """Open an output folder, empty or not, by its qualified location."""
        self._spark = spark
        self._output = output
        self._location = storage.join(output, "predictions")

    def table(self) -> DataFrame:
        """Return all rows of all rounds: :func:`cxrfeat.io.schema.predictions_schema`."""
        return read_table(self._spark, self._location, predictions_schema(FINDINGS))

    def write_round(self, rows: DataFrame, round_id: int) -> None:
        """Commit a round's rows of :func:`cxrfeat.io.schema.scored_schema`, in place of any earlier attempt at the round."""
        write_partition(rows, round_folder(self._location, round_id))

    def count(self) -> pd.DataFrame:
        """Count the rows of each file in one pass over the table: what :func:`check` and :func:`summarise` need.

        Returns:
            One line a ``drop_file`` and ``reason`` (None for what was scored): ``lines, rows, first_round,
            last_round``, and how often each input was imputed and each finding positive.
        """
        return (
            self.table()
            .groupBy("drop_file", "reason")
            .agg(
                F.count("*").alias("lines"),
                F.sum("rows").alias("rows"),  # null: a file of unknown length
                F.min("round").alias("first_round"),
                F.max("round").alias("last_round"),
                *(F.count_if(F.array_contains("imputed", name)).alias(name) for name in COVARIATES),
                *(F.count_if(F.array_contains("positives", finding)).alias(finding) for finding in FINDINGS),
            )
            .toArrow()
            .to_pandas()
        )

    def count_files(self) -> int:
        """Return how many files have a row."""
        if not storage.exists(self._location):
            return 0  # Spark would need half a second to say so
        return self.table().select("drop_file").distinct().count()

    def write_summary(self, summary: ScoringSummary) -> None:
        """Write ``summary.json``."""
        storage.write_text(storage.join(self._output, SUMMARY), json.dumps(summary, indent=2) + "\n")


ScoringSummary = Mapping[str, Any]


def check(counts: pd.DataFrame, listed: Sequence[str]) -> None:
    """Check that each file that was listed is in exactly one round.

    Args:
        counts: of :meth:`PredictionsTable.count`.
        listed: files relative to their root.

    Raises:
        DatasetIntegrityError: a file without a row, or in two rounds.
    """
    rounds = counts.groupby("drop_file").agg(first=("first_round", "min"), last=("last_round", "max"))
    lost = sorted(set(listed).difference(rounds.index))
    twice = sorted(rounds.index[rounds["first"] != rounds["last"]])
    for broken, promise in ((lost, "were listed and have no row"), (twice, "are in two rounds")):
        if broken:
            raise DatasetIntegrityError(f"{len(broken)} files {promise}; the first: {broken[:5]}")


def summarise(counts: pd.DataFrame, head: str) -> ScoringSummary:
    """Add up the counts of :meth:`PredictionsTable.count`; ``head`` is the fingerprint."""
    scored = counts[counts["reason"].isna()]
    quarantined = counts[counts["reason"].notna()]
    # What the extraction had refused is known already: it is listed, but no new trouble of the drops.
    trouble = quarantined[quarantined["reason"] != Reason.QUARANTINED_BEFORE]
    # A file without rows, or whose rows nobody could count, is one row here: nothing is in quarantine zero times.
    of_reason = quarantined[["rows", "lines"]].max(axis="columns").groupby(quarantined["reason"]).sum()
    return {
        "head": head,
        "files": {
            "listed": counts["drop_file"].nunique(),
            "scored": scored["drop_file"].nunique(),  # with at least one row
            "with_quarantine": trouble["drop_file"].nunique(),  # not by the extraction
        },
        "rows": {
            "listed": int(counts["rows"].sum()),
            "scored": int(scored["lines"].sum()),
            "quarantined": int(quarantined["rows"].sum()),
            "files_of_unknown_length": int(quarantined["rows"].isna().sum()),
        },
        "reasons": {str(reason): int(rows) for reason, rows in of_reason.sort_values(ascending=False).items()},
        "imputed": {name: int(scored[name].sum()) for name in COVARIATES},
        "positives": {finding: int(scored[finding].sum()) for finding in FINDINGS},
    }


def quarantined_share(summary: ScoringSummary) -> float:
    """Return the share of listed files of which something went into quarantine here, 0 to 1."""
    files = summary["files"]
    return float(files["with_quarantine"] / files["listed"]) if files["listed"] else 0.0


def format_summary(summary: ScoringSummary) -> str:
    """Lay the summary out for a terminal."""
    return "\n".join(_lines(summary))


def _lines(summary: ScoringSummary) -> Iterator[str]:
    files, rows = summary["files"], summary["rows"]
    yield f"head        {summary['head']}"
    yield (
        f"files       {files['listed']:,} listed; {files['scored']:,} with scored rows"
        f"; {files['with_quarantine']:,} with something in quarantine"
    )
    yield f"rows        {rows['listed']:,} listed = {rows['scored']:,} scored + {rows['quarantined']:,} quarantined" + (
        f"; {rows['files_of_unknown_length']:,} files of unknown length" if rows["files_of_unknown_length"] else ""
    )
    yield from list_counts("quarantine", summary["reasons"])
    yield from list_counts("imputed", {name: count for name, count in summary["imputed"].items() if count})
    yield "positives   at the thresholds of the head's operating point"
    yield from list_findings(summary["positives"])
