"""Extraction on this machine's cores: our Spark job against the bare loop and the peers, interleaved in one run.

    python -m benchmarks.extract --images DIR [--weights PATH --backbone resnet50-v1] [--count 2048]
    python -m benchmarks.extract --images DIR --contenders all --count 621 --long-count 2000
    python -m benchmarks.extract --images DIR --count 64 --contenders --metadata CSV [--lists TRAIN_VAL TEST]
    python -m benchmarks.extract --images DIR --contenders --count 1000 --openvino --int8 FILE
    python -m benchmarks.extract --images DIR --contenders --count 600 --archives 2
    python -m benchmarks.extract --images DIR --list        # each contender's command

``steady`` is the rate after start-up, as :mod:`benchmarks.steady` defines it; ``end to end`` is the time from the start
of the process to its exit. A run that loses an image fails. Ratios are taken run by run, because the machine's speed
drifts, and their median is reported.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine, results
from benchmarks.contenders import BARE, CONTENDERS, NAIVE, Contender, JobContender
from benchmarks.steady import steady_rate
from benchmarks.workloads import link_images, pack_images

Entry = tuple[Contender, int]
"""A contender and its number of images."""

Run = dict[str, Any]
"""Results of one run of a contender: its name, images, steady images/s (None if too short), seconds, peak MiB."""


def run(contender: Contender, images: Path, count: int, network: Sequence[str]) -> Run:
    """Run a contender over a folder of ``count`` images.

    Raises:
        subprocess.CalledProcessError: the command failed.
        ValueError: the number of rows written is not ``count``.
    """
    with tempfile.TemporaryDirectory() as scratch:
        output, marks = Path(scratch, "out"), Path(scratch, "marks")
        command = contender.command(images, output, marks, network)
        # Workers of every framework must find this package, wherever they are started.
        path = os.pathsep.join(filter(None, [str(machine.REPOSITORY), os.environ.get("PYTHONPATH")]))
        start = time.perf_counter()
        peak = machine.run_and_watch(command, {**contender.environment, "PYTHONPATH": path})
        seconds = time.perf_counter() - start
        rows, marked = contender.rows(output), contender.marks(output, marks)
    if rows != count:
        raise ValueError(f"{contender.name} wrote {rows} rows; expected one for each of {count} images")
    steady = steady_rate(marked) if len(marked) > 1 else None
    return {"contender": contender.name, "images": count, "steady": steady, "seconds": seconds, "peak": peak}


def run_all(entries: Sequence[Entry], images: Path, network: Sequence[str], repeats: int) -> list[list[Run]]:
    """Run the contenders in turn, ``repeats`` times; return the runs of each repeat."""

    def run_in_turn(folder: Path) -> Iterator[Run]:
        for contender, count in entries:
            archives = getattr(contender, "archives", 0)
            done = run(contender, folder / _name_folder(count, archives), count, network)
            print(f"  {contender.name}, {count} images: {done['seconds']:.1f} s", file=sys.stderr, flush=True)
            yield done

    with tempfile.TemporaryDirectory() as scratch:
        for count in {count for _, count in entries}:
            link_images(images, Path(scratch, _name_folder(count)), count)
        for count, archives in {(count, getattr(contender, "archives", 0)) for contender, count in entries}:
            if archives:
                pack_images(Path(scratch, _name_folder(count)), Path(scratch, _name_folder(count, archives)), archives)
        return [list(run_in_turn(Path(scratch))) for _ in range(repeats)]


def _name_folder(count: int, archives: int = 0) -> str:
    return f"{count}-in-{archives}" if archives else str(count)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison and print it."""
    parser = machine.option_parser(__doc__, images=2048, part="extract", engines=True)
    names = ["all", *CONTENDERS]
    parser.add_argument("--contenders", nargs="*", default=[BARE, NAIVE], choices=names, metavar="NAME")
    parser.add_argument("--long-count", type=int, metavar="N", help="run the job and the bare loop over N images too")
    parser.add_argument(
        "--metadata", type=Path, metavar="CSV", help="run the job with this metadata too; every image once"
    )
    parser.add_argument(
        "--lists", type=Path, nargs=2, metavar="TXT", help="official lists for --metadata: train_val, test"
    )
    parser.add_argument(
        "--archives", type=int, metavar="N", help="run the job on the same images in N gzipped tar archives too"
    )
    parser.add_argument("--list", action="store_true", help="print the commands and run nothing")
    options = parser.parse_args(argv)
    chosen = CONTENDERS if options.list or "all" in options.contenders else options.contenders
    entries: list[Entry] = [(JobContender(), options.count)]
    entries += [(CONTENDERS[name], max(1, round(options.count * CONTENDERS[name].share))) for name in chosen]
    if options.metadata:
        words = ["--metadata", str(options.metadata.resolve())]
        if options.lists:
            train_val, test = (str(path.resolve()) for path in options.lists)
            words += ["--train-val-list", train_val, "--test-list", test]
        entries.append((JobContender(name="job with metadata", arguments=tuple(words)), options.count))
    if options.archives:
        entries.append((JobContender(name="job, tar.gz", archives=options.archives), options.count))
    if options.openvino:
        entries.append((JobContender(name="job, openvino", arguments=("--engine", "openvino")), options.count))
    if options.int8:
        int8 = ("--weights", str(options.int8.resolve()))  # the last --weights of a command counts
        entries.append((JobContender(name="job, int8", arguments=int8), options.count))
    if options.long_count:
        entries = [(JobContender(), options.long_count), (CONTENDERS[BARE], options.long_count), *entries]
    network = ["--backbone", options.backbone, "--weights", options.weights]
    if options.list:
        for contender, _ in entries:
            command = contender.command(options.images, Path("OUTPUT"), Path("MARKS"), network)
            settings = [f"{name}={value}" for name, value in contender.environment.items()]
            print(f"{contender.name}\n    {shlex.join([*(['env', *settings] if settings else []), *command])}")
        return 0
    results.report("extract", run_all(entries, options.images, network, options.repeats), options.save)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error.cmd[0]} exited with {error.returncode}")
