"""Time and memory of the extraction job over more films and over more cores: growth must be linear or better.

    python -m benchmarks.scaling --images DIR --weights PATH --backbone resnet50-v1 [--counts 200 2000] [--cores 1]

Rounds of one size make counts comparable. Memory is the peak of each kind of process: proportional set size, so shared
pages count once; driver and workers must stay flat.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import machine
from benchmarks.contenders import JOB, Job, Network
from benchmarks.extract import Run, run
from benchmarks.films import replicate
from benchmarks.peers.common import CORES


@dataclass(frozen=True)
class Point:
    """One run of the job on so many cores."""

    cores: int
    run: Run


def measure(
    images: Path, network: Network, counts: Sequence[int], cores: Sequence[int], round_size: int
) -> Iterator[Point]:
    """Run the job over each count on all cores, then over the first count on fewer."""
    for number, count in [*((CORES, count) for count in counts), *((number, counts[0]) for number in cores)]:
        with tempfile.TemporaryDirectory() as scratch:
            films = Path(scratch, "images")
            replicate(images, films, count)
            contender = Job(JOB, "", round_size=round_size, master=f"local[{number}]")
            yield Point(number, run(contender, films, count, network))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job for each count and print time and peaks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="films, real ones or phantoms")
    parser.add_argument("--weights", default="random")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--counts", type=int, nargs="+", default=[200, 2000])
    parser.add_argument("--cores", type=int, nargs="*", default=[], help="also over the first count on so many cores")
    parser.add_argument("--round-size", type=int, default=100)
    parser.add_argument("--json", type=Path, help="write the runs there too")
    options = parser.parse_args(argv)
    print(f"{machine.describe()}; rounds of {options.round_size}; peak MiB")
    print(
        f"{'films':>8}{'cores':>7}{'s':>8}{'img/s':>8}{'JVM':>8}{'driver':>8}{'largest worker':>16}{'whole tree':>12}"
    )
    points = []
    network = Network(options.backbone, options.weights)
    for point in measure(options.images, network, options.counts, options.cores, options.round_size):
        points.append(asdict(point))
        rate, peak = point.run.steady, point.run.peak
        print(
            f"{point.run.films:>8}{point.cores:>7}{point.run.seconds:>8.1f}{rate or float('nan'):>8.1f}"
            f"{peak.jvm:>8.0f}{peak.driver:>8.0f}{peak.worker:>16.0f}{peak.tree:>12.0f}",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(points))
    return 0


if __name__ == "__main__":
    sys.exit(main())
