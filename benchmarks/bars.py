"""What is promised of the extraction, and whether measured runs keep it. Nothing is measured here."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from benchmarks.contenders import BARE, CONTENDERS, JOB, Kind

Run = Mapping[str, Any]
"""One run of a contender, as :class:`benchmarks.extract.Run` is stored."""


@dataclass(frozen=True)
class Bar:
    """A promise.

    Attributes:
        text: what is divided by what.
        ratios: of each repeat.
        minimum: the promise, or None where the row is only for information.
    """

    text: str
    ratios: tuple[float, ...]
    minimum: float | None = None

    @property
    def median(self) -> float:
        """The figure."""
        return statistics.median(self.ratios)

    @property
    def verdict(self) -> str:
        """Whether it is kept."""
        if self.minimum is None:
            return ""
        return "yes" if self.median >= self.minimum else "**no**"


@dataclass(frozen=True)
class Column:
    """All runs of one contender over one number of films: one for each repeat."""

    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        return str(self.runs[0]["contender"])

    @property
    def films(self) -> int:
        return int(self.runs[0]["films"])

    @property
    def steady(self) -> tuple[float, ...]:
        """Films/s after start-up of each run; empty where the runs were too short to say."""
        return tuple(run["steady"] for run in self.runs if run["steady"] is not None)

    @property
    def seconds(self) -> tuple[float, ...]:
        return tuple(run["seconds"] for run in self.runs)

    @property
    def peak(self) -> float:
        """MiB."""
        return float(max(run["peak"]["tree"] for run in self.runs))

    @property
    def kind(self) -> Kind:
        return CONTENDERS[self.name].kind if self.name in CONTENDERS else Kind.JOB


def columns(repeats: Sequence[Sequence[Run]]) -> list[Column]:
    """Turn repeats of runs into contenders of runs."""
    return [Column(runs) for runs in zip(*repeats, strict=True)]


def ratios(over: Sequence[float], under: Sequence[float]) -> tuple[float, ...]:
    """Divide run by run: the machine's speed drifts, and runs of one repeat are neighbours."""
    return tuple(a / b for a, b in zip(over, under, strict=True))


def bars(found: Sequence[Column]) -> list[Bar]:
    """Return the promises about extraction that these contenders can answer."""
    return list(chain(_against_bare(found), _against_peers(found), _end_to_end(found), _allocator(found)))


def find(found: Sequence[Column], name: str, *, longest: bool = True) -> Column | None:
    """Return the contender's column over its largest, or its smallest, number of films; None where it did not run."""
    named = sorted((column for column in found if column.name == name), key=lambda column: column.films)
    return named[-1 if longest else 0] if named else None


def _fastest(found: Sequence[Column], kind: Kind, modules: Sequence[str] = ()) -> Column | None:
    chosen = [column for column in found if column.kind == kind and column.steady]
    if modules:
        chosen = [column for column in chosen if CONTENDERS[column.name].module in modules]
    return max(chosen, key=lambda column: statistics.median(column.steady), default=None)


def _against_bare(found: Sequence[Column]) -> Iterator[Bar]:
    job, bare = find(found, JOB), find(found, BARE)
    if job and bare and job.films == bare.films:
        yield Bar(f"steady rate: job / {BARE}", ratios(job.steady, bare.steady), 0.95)
        text = f"rate end to end, start-up included, {job.films:,} films: job / {BARE}"
        yield Bar(text, ratios(bare.seconds, job.seconds), 0.8)


def _against_peers(found: Sequence[Column]) -> Iterator[Bar]:
    job = find(found, JOB)
    spark = ("predict_batch_udf", "map_in_pandas")
    for text, kind, modules, minimum in (
        ("the fastest peer given our function ({})", Kind.GIVEN, (), 1.2),
        ("the fastest given our allocator settings as well ({})", Kind.GIVEN_MALLOC, (), None),
        ("the fastest peer as documented ({})", Kind.DOCUMENTED, (), 2.5),
        ("the faster Spark peer as documented ({})", Kind.DOCUMENTED, spark, 4.0),
        ("the 2018 recipe", Kind.DOCUMENTED, ("recipe_2018",), 2.5),
    ):
        peer = _fastest(found, kind, modules)
        if job and job.steady and peer:
            yield Bar(f"steady rate: job / {text.format(peer.name)}", ratios(job.steady, peer.steady), minimum)


def _end_to_end(found: Sequence[Column]) -> Iterator[Bar]:
    job, peer = find(found, JOB, longest=False), find(found, "Daft, our function")
    if job and peer and job.films == peer.films:
        text = f"rate end to end, {job.films:,} films: job / {peer.name}"
        yield Bar(text, ratios(peer.seconds, job.seconds), 1.0)


def _allocator(found: Sequence[Column]) -> Iterator[Bar]:
    tuned, plain = find(found, BARE), find(found, f"{BARE}, glibc's defaults")
    if tuned and plain:
        yield Bar("what allocator settings alone give the bare loop, steady", ratios(tuned.steady, plain.steady))
