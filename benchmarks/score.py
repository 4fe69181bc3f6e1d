"""Scoring of drops against the best bare program: rows/s after start-up, side by side in one run.

    python -m benchmarks.score [--rows N] [--repeats N] [--memory]

rounds   our job in one session that is warm, from the moment Spark plans the first round until it has committed the last
job      the same from call to return: the stream's start, the rounds, and the count of all that is there
bare     two threads with pyarrow and torch: read row groups, forward pass, write Parquet; no checks, no rounds
sklearn  a plain loop over files: pandas.read_parquet, scikit-learn's MLPClassifier, to_parquet
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from benchmarks import machine
from benchmarks.features import DIM, EXTRACTOR, SHAPE, make_head, write
from cxrfeat.head.bundle import Bundle, load_bundle
from cxrfeat.head.inputs import COVARIATES, SEX_CODES
from cxrfeat.labels.findings import FINDINGS
from cxrfeat.spark.score import ScoreConfig, score
from cxrfeat.spark.session import open_session

THREADS = 2


def score_bare(drops: Path, head: Path, output: Path) -> None:
    """Score every row group in a thread and write one file for each."""
    output.mkdir(parents=True)
    bundle = load_bundle(head)
    work = [
        (path, group)
        for path in sorted(drops.rglob("*.parquet"))
        for group in range(pq.ParquetFile(path).num_row_groups)
    ]
    with ThreadPoolExecutor(THREADS) as pool:
        names = (output / f"{number}.parquet" for number in range(len(work)))
        for _ in pool.map(lambda job, name: _score_row_group(job, bundle, name), work, names):
            pass


@torch.inference_mode()
def _score_row_group(job: tuple[Path, int], bundle: Bundle, output: Path) -> None:
    path, group = job
    columns = ["image_index", "patient_id", "augmentation", "extractor", "age_years", "sex", "embedding"]
    table = pq.ParquetFile(path).read_row_group(group, columns=columns, use_threads=False).combine_chunks()
    embeddings = table["embedding"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
    sex = table["sex"].to_pandas().map(SEX_CODES).to_numpy(np.float32)
    rows = np.concatenate([embeddings, table["age_years"].to_numpy()[:, None], sex[:, None]], axis=1)
    bundle.inputs.apply(rows)
    probabilities = bundle.calibration.apply(bundle.head(torch.from_numpy(rows))).numpy()
    kept = table.drop_columns(["embedding", "age_years", "sex"])
    for index, finding in enumerate(FINDINGS):
        kept = kept.append_column(f"probability_{finding}", pa.array(probabilities[:, index].copy()))
    pq.write_table(kept, output, compression="zstd")


def make_classifier(dim: int) -> MLPClassifier:
    """Return scikit-learn's network with the layers of :func:`make_head`; what it learned does not matter here."""
    inputs, labels = np.zeros((2, dim + len(COVARIATES)), np.float32), np.eye(2, len(FINDINGS), dtype=int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return MLPClassifier((128, 32), max_iter=1).fit(inputs, labels)


def score_sklearn(drops: Path, classifier: MLPClassifier, output: Path) -> None:
    """Score file by file, as a notebook would."""
    output.mkdir(parents=True)
    columns = ["image_index", "patient_id", "augmentation", "extractor"]
    for number, path in enumerate(sorted(drops.rglob("*.parquet"))):
        frame = pd.read_parquet(path)
        sex = frame["sex"].map(SEX_CODES)
        rows = np.column_stack([np.stack(frame["embedding"].to_numpy()), frame["age_years"], sex])
        scored = frame[columns].copy()
        scored[[f"probability_{finding}" for finding in FINDINGS]] = classifier.predict_proba(rows)
        scored.to_parquet(output / f"{number}.parquet", compression="zstd")


Rates = dict[str, list[float]]


def compare(rows: int, dim: int, repeats: int) -> Rates:
    """Run all in turn over the same drops, and print rates and their ratio run by run; return rows/s of every run."""
    torch.set_num_threads(1)
    spark = open_session("bench-score")
    rates: Rates = {"rounds": [], "job": [], "bare": [], "sklearn": []}
    classifier = make_classifier(dim)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        head = make_head(folder / "head", EXTRACTOR, dim)
        shape = {split: count * rows // sum(SHAPE.values()) for split, count in SHAPE.items()}
        write(folder / "warm", dict.fromkeys(SHAPE, 100), dim)
        write(folder / "drops", shape, dim)
        score(spark, ScoreConfig(str(folder / "warm"), str(head), str(folder / "out-warm")))
        for repeat in range(repeats):
            start = time.perf_counter()
            output = folder / f"spark-{repeat}"
            score(spark, ScoreConfig(str(folder / "drops"), str(head), str(output)))
            job = time.perf_counter() - start
            start = time.perf_counter()
            score_bare(folder / "drops", head, folder / f"bare-{repeat}")
            bare = time.perf_counter() - start
            start = time.perf_counter()
            score_sklearn(folder / "drops", classifier, folder / f"sklearn-{repeat}")
            sklearn = time.perf_counter() - start
            for name, seconds in zip(rates, (seconds_of_rounds(output), job, bare, sklearn), strict=True):
                rates[name].append(sum(shape.values()) / seconds)
                print(f"  {name:<8}{rates[name][-1]:10,.0f} rows/s", file=sys.stderr, flush=True)
    print(f"{machine.describe()}; {sum(shape.values())} x {dim}; medians of {repeats}")
    for name, values in rates.items():
        print(f"{name:<8}{statistics.median(values):10,.0f} rows/s")
    for name, other in (("rounds", "bare"), ("job", "bare"), ("job", "sklearn")):
        ratios = [ours / theirs for ours, theirs in zip(rates[name], rates[other], strict=True)]
        runs = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"{name:<7}/ {other:<8}{statistics.median(ratios):5.2f}   ({runs})")
    print("bar of rounds / bare: 0.6")
    return rates


def seconds_of_rounds(output: Path) -> float:
    """Return the time between Spark's own marks: the first round planned, the last one committed."""
    first = output / "_checkpoint" / "offsets" / "0"
    last = max((output / "_checkpoint" / "commits").glob("[0-9]*"), key=lambda path: int(path.name))
    return last.stat().st_mtime - first.stat().st_mtime


def memory(sizes: Sequence[int], dim: int) -> list[dict[str, float]]:
    """Run the job as a user does over more and more rows; print and return time and peak memory by process."""
    points = []
    print(f"{machine.describe()}; peak proportional set size, MiB")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        head = make_head(folder / "head", EXTRACTOR, dim)
        for size in sizes:
            drops = folder / f"drops-{size}"
            write(drops, {split: count * size // sum(SHAPE.values()) for split, count in SHAPE.items()}, dim)
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            submit = [shutil.which("spark-submit", path=path) or "spark-submit", "spark_jobs/score.py"]
            command = [*submit, "--drops", str(drops), "--head", str(head), "--output", str(folder / f"out-{size}")]
            start = time.perf_counter()
            peak = machine.run_and_watch(command, cwd=Path.cwd(), environment={"PATH": path})
            seconds = time.perf_counter() - start
            shutil.rmtree(drops)
            print(
                f"{size:>9,} rows  {seconds:6.1f} s   JVM {peak.jvm:6.0f}   driver {peak.driver:6.0f}   "
                f"largest worker {peak.worker:6.0f}   all {peak.tree:6.0f}",
                flush=True,
            )
            points.append({"rows": size, "seconds": seconds, **asdict(peak)})
    return points


def main(argv: Sequence[str] | None = None) -> int:
    """Compare rates, or measure memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=sum(SHAPE.values()))
    parser.add_argument("--dim", type=int, default=DIM)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write rows/s of every run, or the points of --memory, there too")
    parser.add_argument("--memory", type=int, nargs="+", metavar="ROWS", help="measure memory at these sizes instead")
    options = parser.parse_args(argv)
    answer: object
    if options.memory:
        answer = memory(options.memory, options.dim)
    else:
        answer = {"rows": options.rows, "rates": compare(options.rows, options.dim, options.repeats)}
    if options.json:
        options.json.write_text(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
