"""Run the whole pipeline on phantom X-rays and print each step as the command that a user would type.

If ImageNet weights are unavailable, the network is untrained: the demo shows how the tools work, not how well.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cxrfeat.backbones.registry import DEFAULT_BACKBONE, get_backbone
from cxrfeat.backbones.weights import RANDOM, find_weights
from cxrfeat.errors import WeightsError

PROG = "python -m cxrfeat.demo"

_NO_WEIGHTS = """
********************************************************************************
  NO IMAGENET WEIGHTS: {error}

  The demo continues with a seeded RANDOM network. The fingerprint of its
  embeddings contains "random", so they cannot be mixed with real ones.
  To use a weights file: make demo DEMO_OPTIONS="--weights resnet50-0676ba61.pth"
********************************************************************************
"""


def main(arguments: Sequence[str] | None = None, *, prog: str = PROG) -> int:
    """Run the demo; return the exit code."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__, allow_abbrev=False)
    parser.add_argument("--output", type=Path, default=Path("demo"), help="output folder (default: demo)")
    parser.add_argument("--count", type=int, default=60, help="number of phantom X-rays (default: 60)")
    parser.add_argument("--weights", help="weights of resnet50 (default: ImageNet, or random if unavailable)")
    options = parser.parse_args(arguments)
    weights = options.weights or _find_weights()
    xrays, features, run = (options.output / name for name in ("xrays", "features", "run"))
    _run_step("draw phantom X-rays", ["phantom", "--count", options.count, "--output", xrays])
    extract: list[object] = ["extract", "--images", xrays, "--output", features]
    extract += ["--metadata", xrays / "Data_Entry_2017_v2020.csv", "--weights", weights]
    extract += ["--train-val-list", xrays / "train_val_list.txt", "--test-list", xrays / "test_list.txt"]
    _run_step("embed them", extract)
    _show_table(features / "embeddings")
    shutil.rmtree(run, ignore_errors=True)  # fit never overwrites the run of an earlier demo
    fit: list[object] = ["fit", "--features", features / "embeddings"]
    _run_step("train 24 heads together and keep the best", [*fit, "--output", run, "--grid", "--drop-empty"])
    _score_drops(features / "embeddings", run / "head", options.output)
    print(f"\n== training data and results: open {run / 'report.html'}", flush=True)
    serve = ["cxrfeat", "serve", "--head", str(run / "head"), "--weights", weights]
    print(f"\n== open the web page; drop an X-ray onto it or click a phantom\n$ {shlex.join(serve)}", flush=True)
    return 0


def _score_drops(embeddings: Path, head: Path, output: Path) -> None:
    """Write and score one drop, then another; the second run scores only the new drop."""
    drops, predictions = output / "drops", output / "predictions"
    for folder in (drops, predictions):
        shutil.rmtree(folder, ignore_errors=True)
    drops.mkdir(parents=True)
    table = pd.read_parquet(embeddings).sort_values("image_index")
    half = len(table) // 2
    for name, rows in (("monday", table[:half]), ("tuesday", table[half:])):
        path = drops / f"{name}.parquet"
        print(f"\n>>> table.to_parquet({str(path)!r})   # {len(rows)} rows", flush=True)
        rows.to_parquet(path, index=False)
        command = ["score", "--drops", drops, "--head", head, "--output", predictions]
        _run_step(f"score the new drop: {path.name}", command)
    scored = pd.read_parquet(predictions / "predictions")
    print(f"\n== read the predictions\n>>> pandas.read_parquet({str(predictions / 'predictions')!r})", flush=True)
    columns = ["image_index", "drop_file", "round", "probability_Effusion", "any_finding", "positives"]
    print(scored[columns].groupby("drop_file").head(4).to_string(index=False, max_colwidth=48))


def _find_weights() -> str:
    try:
        weights = find_weights(get_backbone(DEFAULT_BACKBONE), None)
    except WeightsError as error:
        print(_NO_WEIGHTS.format(error=error), flush=True)
        return RANDOM
    return str(weights.path)


def _run_step(title: str, command: Sequence[object]) -> None:
    """Print a ``cxrfeat`` subcommand as a user would type it, and run it with this interpreter."""
    words = [str(word) for word in command]
    print(f"\n== {title}\n$ {shlex.join(['cxrfeat', *words])}", flush=True)
    subprocess.run([sys.executable, "-m", "cxrfeat.cli", *words], check=True)


def _show_table(embeddings: Path) -> None:
    print(f"\n== read the embeddings\n>>> pandas.read_parquet({str(embeddings)!r})", flush=True)
    table = pd.read_parquet(embeddings)
    columns = ["image_index", "age_years", "sex", "view_position", "findings", "split", "embedding"]
    print(table[columns].sort_values("image_index").head(8).to_string(index=False, max_colwidth=32))
    print(f"{len(table)} rows x {len(table['embedding'].iloc[0])} dimensions, extractor {table['extractor'].iloc[0]}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
