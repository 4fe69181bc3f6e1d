"""An output folder of predictions: ``predictions/round=N/status=ok|quarantined/*.parquet`` and ``summary.json``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F  # noqa: N812

from cxrfeat import storage
from cxrfeat.errors import DatasetIntegrityError
from cxrfeat.findings import FINDINGS
from cxrfeat.inputs import EXTRAS
from cxrfeat.schema import PREDICTIONS, Reason, Status
from cxrfeat.spark.table import read_table, round_folder, write_partition

SUMMARY = "summary.json"


class Predictions:
    """The table of one output folder."""

    def __init__(self, spark: SparkSession, output: str) -> None:
        """Open an output folder, empty or not, by its qualified location."""
        self._spark = spark
        self._output = output
        self._location = storage.join(output, "predictions")

    def table(self) -> DataFrame:
        """Return all rows of all rounds: :data:`cxrfeat.schema.PREDICTIONS`."""
        return read_table(self._spark, self._location, PREDICTIONS)

    def write_round(self, rows: DataFrame, round_id: int) -> None:
        """Commit a round's rows of :data:`cxrfeat.score.SCORED`, in place of any earlier attempt at the round."""
        write_partition(rows, round_folder(self._location, round_id))

    def check(self, listed: Sequence[str]) -> None:
        """Check that each file that was listed is in exactly one round.

        Args:
            listed: files relative to their root.

        Raises:
            DatasetIntegrityError: a file without a row, or in two rounds.
        """
        rounds = self.table().groupBy("drop_file").agg(F.count_distinct("round").alias("rounds"))
        files = self._spark.createDataFrame(pa.table({"drop_file": pa.array(listed, pa.string())}))
        lost = files.join(rounds, "drop_file", "left_anti")
        for broken, promise in (
            (lost, "were listed and have no row"),
            (rounds.where("rounds > 1"), "are in two rounds"),
        ):
            first = [row.drop_file for row in broken.orderBy("drop_file").take(5)]
            if first:
                raise DatasetIntegrityError(f"{broken.count()} files {promise} in {self._location}; the first: {first}")

    def write_summary(self, head: str) -> PredictionSummary:
        """Count everything, write ``summary.json``, and return the counts."""
        summary = {"head": head, **self._count()}
        storage.write_text(storage.join(self._output, SUMMARY), json.dumps(summary, indent=2) + "\n")
        return summary

    def _count(self) -> dict[str, Any]:
        ok = F.col("status") == Status.OK.value
        table = self.table().withColumn(
            # What extraction had refused is known already: it is listed, but no new trouble of the drops.
            "trouble",
            ~ok & (F.col("reason") != Reason.QUARANTINED_BEFORE.value),
        )
        files = table.groupBy("drop_file").agg(F.max("trouble").alias("trouble"), F.max(ok).alias("scored"))
        of_files = files.agg(
            F.count("*").alias("listed"), F.count_if("scored").alias("scored"), F.count_if("trouble").alias("trouble")
        ).first()
        reasons = (
            table.where(~ok)
            .groupBy("reason")
            .agg(F.sum("rows").alias("rows"), F.count_if(F.col("rows").isNull()).alias("unknown"))
        ).collect()
        of_rows = (
            table.where(ok)
            .agg(
                F.count("*").alias("scored"),
                *(F.count_if(F.array_contains("imputed", name)).alias(name) for name in EXTRAS),
                *(F.count_if(F.array_contains("positives", finding)).alias(finding) for finding in FINDINGS),
            )
            .first()
        )
        assert of_files is not None  # an aggregate without groups has one row  # noqa: S101
        assert of_rows is not None  # noqa: S101
        quarantined = sum(row["rows"] or 0 for row in reasons)
        return {
            "files": {
                "listed": of_files["listed"],
                "scored": of_files["scored"],  # with at least one row
                "with_quarantine": of_files["trouble"],  # those of the extraction not counted
            },
            "rows": {
                "listed": of_rows["scored"] + quarantined,
                "scored": of_rows["scored"],
                "quarantined": quarantined,
                "files_of_unknown_length": sum(row["unknown"] for row in reasons),
            },
            "reasons": _by_reason(reasons),
            "imputed": {name: of_rows[name] for name in EXTRAS},
            "positives": {finding: of_rows[finding] for finding in FINDINGS},
        }


PredictionSummary = Mapping[str, Any]


def _by_reason(reasons: list[Row]) -> dict[str, int]:
    """Return rows by reason, the most frequent first; a file whose length nobody knows counts as none."""
    return dict(Counter({row["reason"]: row["rows"] or 0 for row in reasons}).most_common())


def quarantined_share(summary: PredictionSummary) -> float:
    """Return the share of listed files of which something went into quarantine here, 0 to 1."""
    files = summary["files"]
    return float(files["with_quarantine"] / files["listed"]) if files["listed"] else 0.0


def format_summary(summary: PredictionSummary) -> str:
    """Lay the summary out for a terminal."""
    return "\n".join(_lines(summary))


def _lines(summary: PredictionSummary) -> Iterator[str]:
    files, rows = summary["files"], summary["rows"]
    yield f"head        {summary['head']}"
    yield (
        f"files       {files['listed']:,} listed; {files['scored']:,} with scored rows"
        f"; {files['with_quarantine']:,} with something in quarantine"
    )
    yield f"rows        {rows['listed']:,} listed = {rows['scored']:,} scored + {rows['quarantined']:,} quarantined" + (
        f"; {rows['files_of_unknown_length']:,} files of unknown length" if rows["files_of_unknown_length"] else ""
    )
    if summary["reasons"]:
        yield "quarantine  " + ", ".join(f"{reason} {count:,}" for reason, count in summary["reasons"].items())
    imputed = {name: count for name, count in summary["imputed"].items() if count}
    if imputed:
        yield "imputed     " + ", ".join(f"{name} {count:,}" for name, count in imputed.items())
    yield "positives   at the thresholds of the head's operating point"
    for finding, count in sorted(summary["positives"].items(), key=lambda item: -item[1]):
        yield f"  {finding:<20}{count:>9,}"
