"""Memory of the extraction job over a growing number of films: driver and workers must stay flat.

    python -m benchmarks.memory --images DIR --weights PATH --backbone resnet50-v1 [--counts 200 2000]

Prints, for each count, the peak of each kind of process: proportional set size, so shared pages count once.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import machine
from benchmarks.extract import REPOSITORY, job_command, replicate


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job for each count and print the peaks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="films, real ones or phantoms")
    parser.add_argument("--weights", default="random")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--counts", type=int, nargs="+", default=[200, 2000])
    parser.add_argument("--round-size", type=int, default=100, help="rounds of one size make counts comparable")
    options = parser.parse_args(argv)
    print(f"{machine.describe()}; rounds of {options.round_size}; peak MiB")
    print(f"{'films':>8}{'JVM':>10}{'driver':>10}{'largest worker':>16}{'whole tree':>12}")
    for count in options.counts:
        with tempfile.TemporaryDirectory() as scratch:
            images = Path(scratch, "images")
            replicate(options.images, images, count)
            peak = machine.run_and_watch(job_command(images, Path(scratch, "out"), options), cwd=REPOSITORY)
            print(f"{count:>8}{peak.jvm:>10.0f}{peak.driver:>10.0f}{peak.worker:>16.0f}{peak.tree:>12.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
