"""Scoring of stored embeddings against a bare program: rows/s after start-up, side by side in one run.

    python -m benchmarks.score [--rows N]
    python -m benchmarks.score --memory 100000 1000000      # time and memory of the job over N rows

rounds  our job in a warm session, from the planning of its first round to the commit of the last one
job     the whole call: start of the stream, rounds, count of the table
bare    two threads with pyarrow and torch: read row groups, forward pass, write Parquet; no checks, no rounds
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks import machine, results
from benchmarks.workloads import DIM, NIH_ROWS, write_embeddings, write_head
from cxrfeat.head.bundle import Bundle, load_bundle
from cxrfeat.head.inputs import SEX_CODES
from cxrfeat.labels.findings import FINDINGS
from cxrfeat.spark.score import ScoreConfig, score
from cxrfeat.spark.session import open_session

_THREADS = 2
_WARM_UP_ROWS = 300


def score_bare(drops: Path, head: Path, output: Path) -> None:
    """Score every row group in a thread and write one file for each."""
    output.mkdir(parents=True)
    bundle = load_bundle(head)
    groups = [
        (path, group)
        for path in sorted(drops.rglob("*.parquet"))
        for group in range(pq.ParquetFile(path).num_row_groups)
    ]
    with ThreadPoolExecutor(_THREADS) as pool:
        futures = [
            pool.submit(_score_row_group, path, group, bundle, output / f"{number}.parquet")
            for number, (path, group) in enumerate(groups)
        ]
    for future in futures:
        future.result()  # raises the error of its thread


@torch.inference_mode()
def _score_row_group(path: Path, group: int, bundle: Bundle, output: Path) -> None:
    columns = ["image_index", "patient_id", "augmentation", "extractor", "age_years", "sex", "embedding"]
    table = pq.ParquetFile(path).read_row_group(group, columns=columns, use_threads=False).combine_chunks()
    embeddings = table["embedding"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)  # (N, dim)
    sex = table["sex"].to_pandas().map(SEX_CODES).to_numpy(np.float32)
    rows = np.concatenate([embeddings, table["age_years"].to_numpy()[:, None], sex[:, None]], axis=1)
    bundle.inputs.apply(rows)
    probabilities = bundle.calibration.apply(bundle.head(torch.from_numpy(rows))).numpy()  # (N, 14)
    kept = table.drop_columns(["embedding", "age_years", "sex"])
    for index, finding in enumerate(FINDINGS):
        kept = kept.append_column(f"probability_{finding}", pa.array(probabilities[:, index].copy()))
    pq.write_table(kept, output, compression="zstd")


def measure(rows: int, dim: int, repeats: int) -> dict[str, object]:
    """Score the same drops by our job and by the bare program, in turn; return rows/s of every run."""
    torch.set_num_threads(1)
    spark = open_session("bench-score")
    rates: dict[str, list[float]] = {"rounds": [], "job": [], "bare": []}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        head = write_head(folder / "head", dim)
        write_embeddings(folder / "warm", _WARM_UP_ROWS, dim)
        written = write_embeddings(folder / "drops", rows, dim)
        score(spark, ScoreConfig(str(folder / "warm"), str(head), str(folder / "out-warm")))
        for repeat in range(repeats):
            output = folder / f"spark-{repeat}"
            start = time.perf_counter()
            score(spark, ScoreConfig(str(folder / "drops"), str(head), str(output)))
            job = time.perf_counter() - start
            start = time.perf_counter()
            score_bare(folder / "drops", head, folder / f"bare-{repeat}")
            bare = time.perf_counter() - start
            for name, seconds in zip(rates, (seconds_of_rounds(output), job, bare), strict=True):
                rates[name].append(written / seconds)
                print(f"  {name:<8}{rates[name][-1]:10,.0f} rows/s", file=sys.stderr, flush=True)
    return {"rows": written, "rates": rates}


def seconds_of_rounds(output: Path) -> float:
    """Return the time from the first planned round to the last finished one, by the times of the log's files."""
    first = output / "_checkpoint" / "rounds" / "0.parquet"
    last = max((output / "_checkpoint" / "rounds").glob("*.done"), key=lambda path: int(path.stem))
    return last.stat().st_mtime - first.stat().st_mtime


def measure_memory(sizes: Sequence[int], dim: int) -> list[dict[str, object]]:
    """Run the job as a user types it over more and more rows; return time and peak memory of each run."""
    points: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        head = write_head(folder / "head", dim)
        for size in sizes:
            drops = folder / f"drops-{size}"
            written = write_embeddings(drops, size, dim)
            command = ["spark-submit", "spark_jobs/score.py", "--drops", str(drops), "--head", str(head)]
            start = time.perf_counter()
            peak = machine.run_and_watch([*command, "--output", str(folder / f"out-{size}")], {})
            points.append({"count": written, "seconds": time.perf_counter() - start, "peak": peak})
    return points


def main(argv: Sequence[str] | None = None) -> int:
    """Compare rates, or measure memory, and print the results."""
    parser = machine.option_parser(__doc__, part="score")
    parser.add_argument("--rows", type=int, default=sum(NIH_ROWS.values()))
    parser.add_argument("--dim", type=int, default=DIM)
    parser.add_argument(
        "--memory", type=int, nargs="+", metavar="N", help="measure the job's memory over N rows instead"
    )
    options = parser.parse_args(argv)
    if options.memory:
        results.report("score_memory", measure_memory(options.memory, options.dim), options.save)
    else:
        results.report("score", measure(options.rows, options.dim, options.repeats), options.save)
    return 0


if __name__ == "__main__":
    sys.exit(main())
