"""Extraction on this machine's cores: our Spark job against the bare loop and the peers, interleaved in one run.

    python -m benchmarks.extract --images DIR --weights PATH --backbone resnet50-v1 [--count 2048] [--repeats 3]
    python -m benchmarks.extract --images DIR --list

``steady`` is the rate after start-up, as :mod:`benchmarks.steady` defines it; ``end to end`` is the process from its start to
its exit. Every contender's rows are counted, and a run that lost one fails. Ratios are taken run by run, because the
machine's speed drifts, and their median is the figure.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import machine
from benchmarks.contenders import BARE, CONTENDERS, JOB, Contender, Job, Network
from benchmarks.films import replicate
from benchmarks.steady import steady_rate

REPOSITORY = Path(__file__).resolve().parent.parent
DEFAULT = (BARE, "naive, batch 1", "naive, batch 8", "naive, batch 32")


@dataclass(frozen=True)
class Run:
    """One run of a contender.

    Attributes:
        contender: its name.
        films: how many it embedded.
        steady: films/s after start-up, or None where the run was too short to say.
        seconds: from the process's start to its exit.
        peak: highest memory of the process tree, MiB of proportional set size.
    """

    contender: str
    films: int
    steady: float | None
    seconds: float
    peak: machine.Peak


def run(contender: Contender, images: Path, count: int, network: Network) -> Run:
    """Run a contender over a folder of ``count`` films.

    Raises:
        subprocess.CalledProcessError: it failed.
        ValueError: it did not write a row for every film.
    """
    with tempfile.TemporaryDirectory() as scratch:
        output, marks = Path(scratch, "out"), Path(scratch, "marks")
        command = contender.command(images, output, marks, network)
        # Workers of every framework find this package, wherever they are started.
        path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
        start = time.perf_counter()
        environment = {**contender.environment, "PYTHONPATH": path}
        peak = machine.run_and_watch(command, cwd=REPOSITORY, environment=environment)
        seconds = time.perf_counter() - start
        rows, finished = contender.rows(output), contender.marks(output, marks)
    if rows != count:
        raise ValueError(f"{contender.name} wrote {rows} rows; expected one for each of {count} films")
    return Run(contender.name, count, steady_rate(finished) if len(finished) > 1 else None, seconds, peak)


def compare(entries: Sequence[tuple[Contender, int]], images: Path, network: Network, repeats: int) -> list[list[Run]]:
    """Run every contender over its number of films, in turn, ``repeats`` times; return the runs of each repeat."""
    with tempfile.TemporaryDirectory() as scratch:
        for count in {count for _, count in entries}:
            replicate(images, Path(scratch, str(count)), count)
        return [list(_round(entries, Path(scratch), network)) for _ in range(repeats)]


def _round(entries: Sequence[tuple[Contender, int]], scratch: Path, network: Network) -> Iterable[Run]:
    for contender, count in entries:
        done = run(contender, scratch / str(count), count, network)
        print(f"  {_row(done.contender, [done])}", file=sys.stderr, flush=True)
        yield done


def _row(name: str, runs: Sequence[Run]) -> str:
    steady = [run.steady for run in runs if run.steady is not None]
    rate = f"{statistics.median(steady):6.1f}" if steady else "     -"
    seconds, peak = statistics.median(run.seconds for run in runs), max(run.peak.tree for run in runs)
    return f"{name:<52}{rate} img/s steady   {seconds:6.1f} s for {runs[0].films} films   peak {peak / 1024:4.1f} GiB"


def summary(repeats: Sequence[Sequence[Run]]) -> str:
    """Write a table of medians, and our job's ratio to each contender, run by run."""
    columns = list(zip(*repeats, strict=True))
    lines = [_row(runs[0].contender, runs) for runs in columns]
    rates = {runs[0].contender: [run.steady for run in runs] for runs in columns}
    for name, theirs in rates.items():
        ratios = [ours / other for ours, other in zip(rates.get(JOB, ()), theirs, strict=False) if ours and other]
        if name != JOB and ratios:
            runs_text = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            lines.append(f"{JOB} / {name:<46}{statistics.median(ratios):5.2f}   (runs: {runs_text})")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="films, real ones or phantoms")
    parser.add_argument("--weights", default="random")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--count", type=int, default=2048, help="films to embed, linked from --images")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--contenders", nargs="+", default=DEFAULT, choices=CONTENDERS, metavar="NAME")
    parser.add_argument("--list", action="store_true", help="print the contenders and their commands, and run nothing")
    parser.add_argument("--json", type=Path, help="write all runs there too")
    options = parser.parse_args(argv)
    network = Network(options.backbone, options.weights)
    chosen = [CONTENDERS[name] for name in (CONTENDERS if options.list else options.contenders)]
    entries: list[tuple[Contender, int]] = [(Job(JOB, ""), options.count)]
    entries += [(contender, max(1, round(options.count * contender.share))) for contender in chosen]
    if options.list:
        for contender, _ in entries:
            command = contender.command(options.images, Path("OUTPUT"), Path("MARKS"), network)
            print(f"{contender.name}\n    {shlex.join([*_assignments(contender), *command])}")
        return 0
    repeats = compare(entries, options.images, network, options.repeats)
    print(f"{machine.describe()}; {options.count} films; medians of {options.repeats}")
    print(summary(repeats))
    if options.json:
        options.json.write_text(json.dumps([[asdict(run) for run in runs] for runs in repeats]))
    return 0


def _assignments(contender: Contender) -> list[str]:
    settings = [f"{name}={value}" for name, value in contender.environment.items()]
    return ["env", *settings] if settings else []


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error.cmd[0]} ended with {error.returncode}")
