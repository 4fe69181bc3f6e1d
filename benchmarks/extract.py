"""Extraction on this machine's cores: our Spark job, the same function without Spark, and the naive loop.

    python -m benchmarks.extract --images DIR --weights PATH --backbone resnet50-v1 [--count 2048] [--repeats 3]

All three embed the same files in one run, in turn, and the medians of their steady rates are compared. Steady means:
from the end of the first round (Spark), or of the first batches (the loops), to the end.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import contenders, machine
from cxrfeat import imaging, storage

REPOSITORY = Path(__file__).resolve().parent.parent


def replicate(source: Path, target: Path, count: int) -> None:
    """Fill a folder with ``count`` films by linking those of another again and again."""
    files = sorted(storage.list_files(str(source), imaging.SUFFIXES))
    if not files:
        raise SystemExit(f"no image found below {source}")
    for index in range(count):
        name = Path(files[index % len(files)])
        folder = target / f"copy_{index // len(files):04d}" / name.parent
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name.name).symlink_to((source / name).resolve())


def job_command(images: Path, output: Path, options: argparse.Namespace) -> list[str]:
    """Return the job as a user would type it."""
    return [
        *("spark-submit", "spark_jobs/extract.py", "--images", str(images), "--output", str(output)),
        *("--backbone", options.backbone, "--weights", str(options.weights), "--round-size", str(options.round_size)),
    ]


def run_spark(images: Path, scratch: Path, options: argparse.Namespace) -> tuple[float, float]:
    """Run the job as a user would; return steady images/s and peak memory of the process tree in GiB."""
    output = Path(tempfile.mkdtemp(dir=scratch))
    peak = machine.run_and_watch(job_command(images, output, options), cwd=REPOSITORY)
    # Spark writes commits/N when round N is done.
    done = [path.stat().st_mtime for path in sorted((output / "_checkpoint" / "commits").glob("[0-9]*"), key=_number)]
    rows = json.loads((output / "summary.json").read_text())["images"]["ok"]
    return (rows - options.round_size) / (done[-1] - done[0]), peak.tree / 1024


def _number(path: Path) -> int:
    return int(path.name)


def run_loop(name: str, images: Path, options: argparse.Namespace) -> tuple[float, float]:
    """Run one of :mod:`benchmarks.contenders` in a process of its own; return as :func:`run_spark`."""
    with tempfile.NamedTemporaryFile("r", suffix=".json") as answer:
        command = [
            *(sys.executable, "-m", "benchmarks.contenders", name, "--images", str(images), "--answer", answer.name),
            *("--backbone", options.backbone, "--weights", str(options.weights)),
        ]
        peak = machine.run_and_watch(command, cwd=REPOSITORY, environment=contenders.ENVIRONMENT[name])
        return float(json.load(answer)["rate"]), peak.tree / 1024


def ratios_text(ratios: Sequence[float]) -> str:
    """Write every run's ratio."""
    return ", ".join(f"{ratio:.2f}" for ratio in ratios)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="films, real ones or phantoms")
    parser.add_argument("--weights", default="random")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--count", type=int, default=2048, help="films to embed, linked from --images")
    parser.add_argument("--round-size", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        many, few = Path(scratch, "many"), Path(scratch, "few")
        replicate(options.images, many, options.count)
        replicate(options.images, few, options.count // 8)
        contestants: dict[str, Callable[[], tuple[float, float]]] = {
            "spark job": lambda: run_spark(many, Path(scratch), options),
            "bare loop": lambda: run_loop("bare", many, options),
            "naive batch 1": lambda: run_loop("naive-1", few, options),
            "naive batch 8": lambda: run_loop("naive-8", few, options),
            "naive batch 32": lambda: run_loop("naive-32", few, options),
        }
        results: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
        for _ in range(options.repeats):
            for name, run in contestants.items():
                results[name].append(run())
                print(f"  {name:<16}{results[name][-1][0]:6.1f} img/s", file=sys.stderr, flush=True)
    rates = {name: [rate for rate, _ in runs] for name, runs in results.items()}
    print(f"{machine.describe()}; {options.count} films, rounds of {options.round_size}; medians of {options.repeats}")
    for name, runs in results.items():
        peak = max(peak for _, peak in runs)
        print(f"{name:<16}{statistics.median(rates[name]):6.1f} img/s   peak {peak:.1f} GiB")
    naive = max((name for name in rates if name.startswith("naive")), key=lambda name: statistics.median(rates[name]))
    for other, bar in (("bare loop", 0.9), (naive, 2.0)):
        # Run by run, since the machine's speed drifts; the median of these ratios is the figure.
        ratios = [ours / theirs for ours, theirs in zip(rates["spark job"], rates[other], strict=True)]
        print(f"spark job / {other:<16}{statistics.median(ratios):.2f}   (bar: {bar:.2f}; runs: {ratios_text(ratios)})")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error.cmd[0]} ended with {error.returncode}")
