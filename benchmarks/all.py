"""Everything in one run: us and the peers on the same films → ``results.json``, ``results.md``, ``results.svg``.

    make bench-all                                               # phantoms, an environment of its own
    python -m benchmarks.all --images DIR --weights PATH --backbone resnet50-v1 [--parts extraction stages …] [--long]
    python -m benchmarks.all --render                            # page and figure anew from the stored results.json

Parts that are left out keep what ``results.json`` holds of them. A row alone: ``python -m benchmarks.extract --list``
prints the command of each.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import extract, figure, machine, results
from benchmarks.contenders import BARE, CONTENDERS, JOB, Contender, Job, Network

FOLDER = Path(__file__).resolve().parent


def extraction(options: argparse.Namespace) -> object:
    """Interleave all contenders; the job and the bare loop also run over more films, for start-up to fade."""
    long, short = options.long_count, options.count
    entries: list[tuple[Contender, int]] = [(Job(JOB, ""), long), (CONTENDERS[BARE], long), (Job(JOB, ""), short)]
    peers = [contender for contender in CONTENDERS.values() if contender.name != BARE and contender.module != "naive"]
    entries += [(contender, max(1, round(short * contender.share))) for contender in peers]
    network = Network(options.backbone, options.weights)
    repeats = extract.compare(entries, options.images, network, options.repeats)
    return [[asdict(run) for run in runs] for runs in repeats]


def command(module: str, *arguments: str, films: bool = False) -> Callable[[argparse.Namespace], object]:
    """Return a part that is a benchmark of its own, in a process of its own."""

    def measure(options: argparse.Namespace) -> object:
        network = ["--images", str(options.images), *Network(options.backbone, options.weights).words()]
        with tempfile.NamedTemporaryFile("r", suffix=".json") as answer:
            words = [sys.executable, "-m", f"benchmarks.{module}", "--json", answer.name, *arguments]
            subprocess.run([*words, *(network if films else [])], check=True, cwd=extract.REPOSITORY)
            return json.load(answer)

    return measure


def scaling(options: argparse.Namespace) -> object:
    """Run the job over more films and on one core."""
    counts = ["200", "2000", *(["20000"] if options.long else [])]
    return command("scaling", "--counts", *counts, "--cores", "1", films=True)(options)


PARTS: dict[str, Callable[[argparse.Namespace], object]] = {
    "extraction": extraction,
    "stages": command("stages", films=True),
    "fit": command("fit", "--rows", "20000"),
    "load": command("load", "--rows", "40000", "--repeats", "5"),
    "score": command("score"),
    "scaling": scaling,
    "score_scaling": command("score", "--memory", "100000", "1000000"),
}
"""The keys are those of ``results.json``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the parts that are asked for, and write all that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=Path, help="films, real ones or phantoms of 1024 x 1024")
    parser.add_argument("--weights", default="random")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument(
        "--count", type=int, default=621, help="films of the job and the fastest peer; others get fewer"
    )
    parser.add_argument("--long-count", type=int, default=2000, help="films of the job and the bare loop")
    parser.add_argument("--repeats", type=int, default=3, help="of the extraction")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--long", action="store_true", help="scaling goes on to 20,000 films: ten minutes more")
    parser.add_argument("--render", action="store_true", help="measure nothing")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder of results.*")
    options = parser.parse_args(argv)
    if options.images is None and not options.render:
        parser.error("--images is needed to measure anything")
    stored = options.output / "results.json"
    found: dict[str, Any] = json.loads(stored.read_text()) if stored.exists() else {}
    if not options.render:
        words = sys.argv[1:] if argv is None else argv
        measure(options, found, stored, shlex.join(["python", "-m", "benchmarks.all", *words]))
    (options.output / "results.md").write_text(results.render(found))
    figure.draw(found, options.output / "results.svg")
    return 0


def measure(options: argparse.Namespace, found: dict[str, Any], stored: Path, typed: str) -> None:
    """Run the parts; what is measured is stored part by part, so that a failure loses nothing."""
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    run = {"command": typed, "machine": machine.describe(), "versions": machine.versions(), "date": date}
    for part in options.parts:
        print(part, file=sys.stderr, flush=True)
        start = time.perf_counter()
        found[part] = PARTS[part](options)
        minutes = (time.perf_counter() - start) / 60
        found.setdefault("runs", {})[part] = {**run, "minutes": minutes}
        stored.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(f"{shlex.join(map(str, error.cmd))} ended with {error.returncode}")
