"""Contenders of the extraction benchmark: our job, the bare loop and the peers, each of them a command.

``python -m benchmarks.extract --images DIR --list`` prints the commands.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.steady import Mark, read_marks
from cxrfeat.spark.session import WORKER_ENVIRONMENT

JOB, BARE, NAIVE = "job", "bare loop", "naive loop"

_OURS = ("--ours",)
_SLOW = 0.27
"""Share of the images for slow contenders. 168 of 621 images are six of the partitions that Spark makes of such files,
so that both cores finish together."""


class Kind(StrEnum):
    """Role of a contender in the comparison."""

    JOB = "our job"
    REFERENCE = "reference"
    DOCUMENTED = "documented"
    GIVEN = "given ours"


@dataclass(frozen=True)
class Contender:
    """One row of the extraction table.

    Attributes:
        name: label of the row.
        module: module of :mod:`benchmarks.peers`.
        kind: role in the comparison.
        arguments: further words of the command.
        environment: variables added to the environment.
        share: share of the images it gets; slow contenders reach a steady rate with fewer.
    """

    name: str
    module: str
    kind: Kind = Kind.DOCUMENTED
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    share: float = 1.0

    def command(self, images: Path, output: Path, marks: Path, network: Sequence[str]) -> list[str]:
        """Return the command; ``network`` holds its options ``--backbone`` and ``--weights``."""
        words = [sys.executable, "-m", f"benchmarks.peers.{self.module}", *self.arguments, *network]
        return [*words, "--images", str(images), "--output", str(output), "--marks", str(marks)]

    def marks(self, output: Path, marks: Path) -> list[Mark]:
        """Return the marks of a finished run."""
        del output
        return read_marks(marks)

    def rows(self, output: Path) -> int:
        """Count the rows of the Parquet files, or the lines of text, that a run wrote."""
        files = list(output.rglob("*.parquet"))
        if files:
            return sum(pq.read_metadata(file).num_rows for file in files)
        return sum(len(file.read_text().splitlines()) for file in output.glob("part-*"))


@dataclass(frozen=True)
class JobContender(Contender):
    """Our Spark job as a user types it, timed by Spark's event log.

    Attributes:
        archives: number of gzipped tar archives that hold the images; 0 for files.
    """

    name: str = JOB
    module: str = ""
    kind: Kind = Kind.JOB
    archives: int = 0

    def command(self, images: Path, output: Path, marks: Path, network: Sequence[str]) -> list[str]:
        """Return the command; Spark writes its log into the folder of ``marks``."""
        log = {"enabled": "true", "dir": str(marks.parent), "compress": "false", "rolling.enabled": "false"}
        conf = [word for name, value in log.items() for word in ("--conf", f"spark.eventLog.{name}={value}")]
        folders = ["--images", str(images), "--output", str(output)]
        return ["spark-submit", *conf, "spark_jobs/extract.py", *folders, *network, *self.arguments]

    def marks(self, output: Path, marks: Path) -> list[Mark]:
        """Return one mark per image, the images of a task spread evenly over its time.

        Marks at the ends of tasks would flatter the job: at such an end, half of another task is done on average and
        not counted. The first task of a worker also starts it, within the fifth that the steady rate leaves out.
        """
        (log,) = marks.parent.glob("local-*")
        return [
            Mark(start + (end - start) * (image + 1) / share, 1)
            for images, tasks in zip(_images_of_rounds(output), _embedding_tasks(log), strict=True)
            for number, (start, end) in enumerate(sorted(tasks))
            for share in [images * (number + 1) // len(tasks) - images * number // len(tasks)]
            for image in range(share)
        ]

    def rows(self, output: Path) -> int:
        """Return the number of embedded images in the job's summary."""
        count: int = json.loads((output / "summary.json").read_text())["images"]["ok"]
        return count


def _images_of_rounds(output: Path) -> list[int]:
    """Return the number of images of each round, in order."""
    folders = sorted((output / "embeddings").glob("round=*"), key=lambda folder: int(folder.name.split("=")[1]))
    return [sum(pq.read_metadata(file).num_rows for file in folder.rglob("*.parquet")) for folder in folders]


def _embedding_tasks(log: Path) -> list[list[tuple[float, float]]]:
    """Return start and end of each embedding stage's tasks, in seconds since the epoch, from Spark's event log."""
    tasks: dict[int, list[tuple[float, float]]] = {}
    for event in map(json.loads, log.read_text().splitlines()):
        if event["Event"] == "SparkListenerStageSubmitted":
            scopes = [json.loads(rdd.get("Scope", "{}")).get("name") for rdd in event["Stage Info"]["RDD Info"]]
            if "MapInArrow" in scopes:
                tasks[event["Stage Info"]["Stage ID"]] = []
        elif event["Event"] == "SparkListenerTaskEnd" and event["Stage ID"] in tasks:
            info = event["Task Info"]
            tasks[event["Stage ID"]].append((info["Launch Time"] / 1000, info["Finish Time"] / 1000))
    return [tasks[stage] for stage in sorted(tasks)]


CONTENDERS: dict[str, Contender] = {
    contender.name: contender
    for contender in (
        Contender(BARE, "bare", Kind.REFERENCE, environment=WORKER_ENVIRONMENT),
        Contender(NAIVE, "naive", Kind.REFERENCE, share=_SLOW),
        Contender("Daft", "daft", share=_SLOW),
        Contender("Daft, our function", "daft", Kind.GIVEN, _OURS),
        Contender("Ray Data", "ray_data", share=_SLOW),
        Contender("Ray Data, our function", "ray_data", Kind.GIVEN, _OURS, share=0.5),
        Contender("predict_batch_udf", "predict_batch_udf", share=_SLOW),
        Contender("mapInPandas", "map_in_pandas", share=_SLOW),
        Contender("2018 recipe", "recipe_2018", share=_SLOW),
    )
}
"""All contenders but our job, by name; a peer runs as its documentation says unless the name says otherwise."""
