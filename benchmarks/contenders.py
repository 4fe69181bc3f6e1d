"""Who takes part in the extraction benchmark: our job, the bare loop, the peers; what each is run with.

Every contender is a command that can be typed by hand; ``python -m benchmarks.extract --list`` prints them.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.steady import Mark, read_marks
from cxrfeat.spark.session import WORKER_ENVIRONMENT

JOB = "job"


@dataclass(frozen=True)
class Network:
    """The frozen network that all contenders run.

    Attributes:
        backbone, weights: as on the command line of the jobs.
    """

    backbone: str
    weights: str

    def words(self) -> list[str]:
        """Return the options of a command."""
        return ["--backbone", self.backbone, "--weights", self.weights]


class Kind(StrEnum):
    """What a row of the table stands for."""

    JOB = "our job"
    REFERENCE = "reference"
    DOCUMENTED = "documented"
    GIVEN = "given ours"
    GIVEN_MALLOC = "given ours + allocator"


_REFERENCES = ("bare", "naive", "openvino")


@dataclass(frozen=True)
class Contender:
    """One row of the extraction table.

    Attributes:
        name: the row's name.
        module: of :mod:`benchmarks.peers`.
        arguments: more words of its command.
        environment: added to the process's own.
        share: part of the films that it gets; the slow ones need no more for a steady rate.
    """

    name: str
    module: str
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    share: float = 1.0

    @property
    def kind(self) -> Kind:
        """What it stands for."""
        if self.module in _REFERENCES:
            return Kind.REFERENCE
        if not self.arguments:
            return Kind.DOCUMENTED
        return Kind.GIVEN_MALLOC if self.environment else Kind.GIVEN

    def command(self, images: Path, output: Path, marks: Path, network: Network) -> list[str]:
        """Return the command."""
        words = [sys.executable, "-m", f"benchmarks.peers.{self.module}", *self.arguments, *network.words()]
        return [*words, "--images", str(images), "--output", str(output), "--marks", str(marks)]

    def marks(self, output: Path, marks: Path) -> list[Mark]:
        """Return when films were finished, after a run."""
        del output
        return read_marks(marks)

    def rows(self, output: Path) -> int:
        """Count what it wrote: rows of Parquet files, or lines of text."""
        files = list(output.rglob("*.parquet"))
        if files:
            return sum(pq.read_metadata(file).num_rows for file in files)
        return sum(len(file.read_text().splitlines()) for file in output.glob("part-*"))


@dataclass(frozen=True)
class Job(Contender):
    """Our Spark job as a user types it, and its event log.

    Its marks are its tasks in that log, so the rate of a run of several rounds has their boundaries in it.

    Attributes:
        round_size: films of a round, or None for the job's default.
        master: Spark's master, or None for the job's default, all cores.
    """

    round_size: int | None = None
    master: str | None = None

    @property
    def kind(self) -> Kind:
        """What it stands for."""
        return Kind.JOB

    def command(self, images: Path, output: Path, marks: Path, network: Network) -> list[str]:
        """Return the command; Spark writes its log into the folder of ``marks``."""
        submit = shutil.which("spark-submit")
        if submit is None:
            raise SystemExit("spark-submit is not on the path; expected the environment of `make env`")
        log = {"enabled": "true", "dir": str(marks.parent), "compress": "false", "rolling.enabled": "false"}
        words = [submit, *(["--master", self.master] if self.master else [])]
        words += [word for name, value in log.items() for word in ("--conf", f"spark.eventLog.{name}={value}")]
        words += ["spark_jobs/extract.py", "--images", str(images), "--output", str(output), *network.words()]
        return [*words, *(["--round-size", str(self.round_size)] if self.round_size else []), *self.arguments]

    def marks(self, output: Path, marks: Path) -> list[Mark]:
        """Return a mark a film, its task's films spread evenly over the task's time.

        Not one at a task's end: while it is counted, half of another task would be done and not yet counted, on average.
        The first task of a worker starts it, too; that is within the fifth that is left out.
        """
        (log,) = marks.parent.glob("local-*")
        return [
            Mark(start + (end - start) * (film + 1) / share, 1)
            for films, tasks in zip(_films_of_rounds(output), _embedding_tasks(log), strict=True)
            for number, (start, end) in enumerate(sorted(tasks))
            for share in [films * (number + 1) // len(tasks) - films * number // len(tasks)]
            for film in range(share)
        ]

    def rows(self, output: Path) -> int:
        """Return the films that were embedded, by the job's own summary."""
        count: int = json.loads((output / "summary.json").read_text())["images"]["ok"]
        return count


def _films_of_rounds(output: Path) -> list[int]:
    """Return the films of each round, the first round first."""
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


_HALF = 0.5
_SLOW = 0.27
"""168 of 621 films: six of the partitions that Spark makes of such files, so that both cores end together."""

_SLOWEST = 0.1

OURS, ENCODER = ("--function", "ours"), ("--function", "encoder")
MALLOC = " + allocator settings"
BARE = "bare loop"

CONTENDERS: dict[str, Contender] = {
    contender.name: contender
    for contender in (
        Contender(BARE, "bare", environment=WORKER_ENVIRONMENT),
        Contender("bare loop, glibc's defaults", "bare", share=_HALF),
        Contender("OpenVINO in the bare loop", "openvino", environment=WORKER_ENVIRONMENT, share=_HALF),
        Contender("Daft", "daft", share=_SLOW),
        Contender("Daft, our function", "daft", OURS),
        Contender(f"Daft, our function{MALLOC}", "daft", OURS, WORKER_ENVIRONMENT, _HALF),
        Contender("Daft, its decoder, our encoder", "daft", ENCODER, share=_HALF),
        Contender("Ray Data", "ray_data", share=_SLOW),
        Contender("Ray Data, our function", "ray_data", OURS, share=_HALF),
        Contender("predict_batch_udf", "predict_batch_udf", share=_SLOW),
        Contender("predict_batch_udf, our function", "predict_batch_udf", OURS, share=_SLOW),
        Contender("mapInPandas", "map_in_pandas", share=_SLOW),
        Contender("mapInPandas, our function", "map_in_pandas", OURS, share=_SLOW),
        Contender("2018 recipe", "recipe_2018", share=_SLOW),
        Contender("2018 recipe, our function", "recipe_2018", OURS, share=_SLOWEST),
        *(Contender(f"naive, batch {size}", "naive", ("--batch-size", str(size)), share=_SLOW) for size in (1, 8, 32)),
    )
}
"""All but our job, by name; as written in its documentation where nothing else is said."""
