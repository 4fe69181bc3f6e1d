"""Features of the shape of NIH ChestX-ray14, made of seeded noise that says something about each finding; and a head."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cxrfeat.backbones.encoder import round_to_bits
from cxrfeat.head.bundle import Bundle, save_bundle
from cxrfeat.head.calibration import identity
from cxrfeat.head.inputs import COVARIATES, Inputs
from cxrfeat.head.mlp import Head
from cxrfeat.head.thresholds import DEFAULT_RULE
from cxrfeat.io.schema import EMBEDDINGS, Split
from cxrfeat.labels.findings import ANY_FINDING, FINDINGS, from_multi_hot
from head_training.training.grid import Configuration

SHAPE = {Split.TRAIN: 78_484, Split.VAL: 11_212, Split.TEST: 22_424}
"""Rows of a 70/10/20 split of the 112,120 films."""

DIM = 2048
EXTRACTOR = "noise"
_ROWS_AT_ONCE = 2048


def make_head(folder: Path, extractor: str, dim: int) -> Path:
    """Write a bundle of an untrained head of the default shape."""
    inputs = Inputs(np.zeros(dim, np.float32), np.ones(dim, np.float32), dict.fromkeys(COVARIATES, 0.5))
    thresholds = {DEFAULT_RULE: dict.fromkeys((*FINDINGS, ANY_FINDING), 0.5)}
    hidden = Configuration().hidden
    head = Head(dim + len(COVARIATES), hidden).eval()
    save_bundle(Bundle(head, inputs, hidden, extractor, identity(), thresholds, {}), folder)
    return folder


def make(count: int, dim: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return (count, dim) float32 standard embeddings and (count, 14) labels that they say something about."""
    truth = np.random.default_rng(0).normal(size=(dim, len(FINDINGS))).astype(np.float32) / np.sqrt(dim)
    random = np.random.default_rng([1, seed])
    embeddings = random.standard_normal((count, dim), dtype=np.float32)
    threshold = np.linspace(1.5, 3.5, len(FINDINGS), dtype=np.float32)
    noise = random.standard_normal((count, len(FINDINGS)), dtype=np.float32)
    return embeddings, (embeddings @ truth + noise > threshold).astype(np.float32)


def write(folder: Path, shape: dict[Split, int], dim: int, *, rows_per_file: int = _ROWS_AT_ONCE) -> None:
    """Write ``round=N/status=ok`` files of bf16 embeddings, encoded as the extraction's, in as many rows as ``shape`` says."""
    done = 0
    for split, count in shape.items():
        for start in range(0, count, rows_per_file):
            rows = min(rows_per_file, count - start)
            path = folder / f"round={done // rows_per_file}" / "status=ok" / f"{split}-{start}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(
                _table(split, done, rows, dim),
                path,
                compression="zstd",
                use_dictionary=[name for name in EMBEDDINGS.names if name not in ("embedding", "age_years")],
                use_byte_stream_split=["embedding.list.element"],
            )
            done += rows


def _table(split: Split, first: int, count: int, dim: int) -> pa.Table:
    embeddings, labels = make(count, dim, seed=first)
    embeddings = round_to_bits(embeddings)
    numbers = range(first, first + count)
    columns = {
        "image_index": [f"{number:08}.png" for number in numbers],
        "patient_id": [str(number) for number in numbers],
        "age_years": [20.0 + number % 60 for number in numbers],
        "sex": ["MF"[number % 2] for number in numbers],
        "view_position": ["PA"] * count,
        "findings": from_multi_hot(labels),
        "split": [split.value] * count,
        "augmentation": ["none"] * count,
        "extractor": [EXTRACTOR] * count,
    }
    arrays = {name: pa.array(values, EMBEDDINGS.field(name).type) for name, values in columns.items()}
    offsets = pa.array(np.arange(0, (count + 1) * dim, dim, dtype=np.int32))
    return pa.table({**arrays, "embedding": pa.ListArray.from_arrays(offsets, pa.array(embeddings.ravel()))})


def main(argv: Sequence[str] | None = None) -> int:
    """Write features to a folder."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.features", description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=sum(SHAPE.values()), help="in all (default: as NIH)")
    parser.add_argument("--dim", type=int, default=DIM)
    options = parser.parse_args(argv)
    shape = {split: count * options.rows // sum(SHAPE.values()) for split, count in SHAPE.items()}
    write(options.output, shape, options.dim)
    return 0


if __name__ == "__main__":
    sys.exit(main())
