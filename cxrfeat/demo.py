"""``make demo``: the whole way on phantom X-rays, each step as the command that a user would type.

Phantoms and, where no ImageNet weights can be had, an untrained network: it shows how things work, not how well.
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

from cxrfeat.backbones.registry import BACKBONES
from cxrfeat.backbones.weights import RANDOM, find_weights
from cxrfeat.errors import WeightsError

PROG = "python -m cxrfeat.demo"

_NO_WEIGHTS = """
********************************************************************************
  NO IMAGENET WEIGHTS: {error}

  The demo goes on with a seeded RANDOM network. Its embeddings are fingerprinted
  "random" and can't be mixed with real ones. They are good for nothing else.
  With a file of weights: make demo DEMO_OPTIONS="--weights resnet50-0676ba61.pth"
********************************************************************************
"""


def main(arguments: Sequence[str] | None = None, *, prog: str = PROG) -> int:
    """Run the demo; return the exit code."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__, allow_abbrev=False)
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder for everything (default: demo)")
    parser.add_argument("--count", type=int, default=60, help="phantoms to draw (default: 60)")
    parser.add_argument("--weights", help="weights of resnet50 (default: ImageNet's, or random where there are none)")
    options = parser.parse_args(arguments)
    weights = options.weights or _weights()
    xrays, features, run = (options.output / name for name in ("xrays", "features", "run"))
    _step("draw phantom X-rays", ["phantom", "--count", options.count, "--output", xrays])
    extract: list[object] = ["extract", "--images", xrays, "--output", features]
    extract += ["--metadata", xrays / "Data_Entry_2017_v2020.csv", "--weights", weights]
    extract += ["--train-val-list", xrays / "train_val_list.txt", "--test-list", xrays / "test_list.txt"]
    _step("embed them", extract)
    _show(features / "embeddings")
    shutil.rmtree(run, ignore_errors=True)  # of an earlier demo: a run is never overwritten
    fit: list[object] = ["fit", "--features", features / "embeddings"]
    _step("train 24 heads at once, and keep the best", [*fit, "--output", run, "--grid"])
    _score_drops(features / "embeddings", run / "head", options.output)
    print(f"\n== what was trained on, and how good it is: open {run / 'report.html'}", flush=True)
    page = ["cxrfeat", "serve", "--head", str(run / "head"), "--weights", weights]
    print(
        f"\n== now drop an X-ray onto the page that this opens, or click on a phantom\n$ {shlex.join(page)}", flush=True
    )
    return 0


def _score_drops(embeddings: Path, head: Path, output: Path) -> None:
    """Let one drop arrive and be scored, and then another: the second run scores that one alone."""
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
        _step(
            f"score what is new: {path.name}",
            ["score", "--drops", drops, "--head", head, "--output", predictions],
        )
    scored = pd.read_parquet(predictions / "predictions")
    print(f"\n== read them\n>>> pandas.read_parquet({str(predictions / 'predictions')!r})", flush=True)
    columns = ["image_index", "drop_file", "round", "probability_Effusion", "any_finding", "positives"]
    print(scored[columns].groupby("drop_file").head(4).to_string(index=False, max_colwidth=48))


def _weights() -> str:
    try:
        weights = find_weights(BACKBONES["resnet50"], None)
    except WeightsError as error:
        print(_NO_WEIGHTS.format(error=error), flush=True)
        return RANDOM
    return str(weights.path)


def _step(title: str, command: Sequence[object]) -> None:
    """Show a subcommand of ``cxrfeat`` as a user types it, and run it in this interpreter."""
    words = [str(word) for word in command]
    print(f"\n== {title}\n$ {shlex.join(['cxrfeat', *words])}", flush=True)
    subprocess.run([sys.executable, "-m", "cxrfeat.cli", *words], check=True)


def _show(embeddings: Path) -> None:
    print(f"\n== read them\n>>> pandas.read_parquet({str(embeddings)!r})", flush=True)
    table = pd.read_parquet(embeddings)
    columns = ["image_index", "age_years", "sex", "view_position", "findings", "split", "embedding"]
    print(table[columns].sort_values("image_index").head(8).to_string(index=False, max_colwidth=32))
    print(f"{len(table)} rows x {len(table['embedding'].iloc[0])} dimensions, extractor {table['extractor'].iloc[0]}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
