"""Inputs of the benchmarks: folders of linked images, and embeddings with the shape of NIH ChestX-ray14."""

from __future__ import annotations

import tarfile
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
from cxrfeat.images.candidates import SUFFIXES
from cxrfeat.io import listing
from cxrfeat.io.schema import EMBEDDINGS, Split
from cxrfeat.labels.findings import ANY_FINDING, FINDINGS, from_multi_hot
from head_training.training.grid import Configuration

NIH_ROWS = {Split.TRAIN: 78_484, Split.VAL: 11_212, Split.TEST: 22_424}
"""Rows of a 70/10/20 split of the 112,120 images."""

DIM = 2048
EXTRACTOR = "noise"
_ROWS_PER_FILE = 2048


def link_images(source: Path, target: Path, count: int) -> None:
    """Fill a folder with ``count`` links to the images of another, each image as often as needed.

    Raises:
        SystemExit: ``source`` holds no image.
    """
    files = sorted(listing.list_files(str(source), SUFFIXES))
    if not files:
        raise SystemExit(f"no image found below {source}")
    for index in range(count):
        name = Path(files[index % len(files)])
        folder = target / f"copy_{index // len(files):04d}" / name.parent
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name.name).symlink_to((source / name).resolve())


def pack_images(source: Path, target: Path, archives: int) -> None:
    """Pack the images of a folder into gzipped tar archives of neighbours, as NIH distributes them."""
    files = sorted(listing.list_files(str(source), SUFFIXES))
    target.mkdir(parents=True)
    for number in range(archives):
        with tarfile.open(target / f"images_{number + 1:03d}.tar.gz", "w:gz", compresslevel=6) as archive:
            for name in files[len(files) * number // archives : len(files) * (number + 1) // archives]:
                archive.add((source / name).resolve(), arcname=name)


def write_head(folder: Path, dim: int) -> Path:
    """Write the bundle of an untrained head of the default shape and return its folder."""
    inputs = Inputs(np.zeros(dim, np.float32), np.ones(dim, np.float32), dict.fromkeys(COVARIATES, 0.5))
    thresholds = {DEFAULT_RULE: dict.fromkeys((*FINDINGS, ANY_FINDING), 0.5)}
    hidden = Configuration().hidden
    head = Head(dim + len(COVARIATES), hidden, len(FINDINGS)).eval()
    save_bundle(Bundle(head, inputs, hidden, EXTRACTOR, identity(len(FINDINGS)), thresholds, {}), folder)
    return folder


def draw_embeddings(count: int, dim: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return (count, dim) float32 normal embeddings and (count, 14) labels of 0 and 1 that depend on them linearly."""
    directions = np.random.default_rng(0).normal(size=(dim, len(FINDINGS))).astype(np.float32) / np.sqrt(dim)
    random = np.random.default_rng([1, seed])
    embeddings = random.standard_normal((count, dim), dtype=np.float32)
    thresholds = np.linspace(1.5, 3.5, len(FINDINGS), dtype=np.float32)  # from frequent to rare findings
    noise = random.standard_normal((count, len(FINDINGS)), dtype=np.float32)
    return embeddings, (embeddings @ directions + noise > thresholds).astype(np.float32)


def write_embeddings(folder: Path, rows: int, dim: int) -> int:
    """Write bf16 embeddings as the extraction encodes them, in NIH's shares of the splits; return the rows written."""
    done = 0
    for split, share in NIH_ROWS.items():
        left = share * rows // sum(NIH_ROWS.values())
        while left:
            count = min(left, _ROWS_PER_FILE)
            path = folder / f"round={done // _ROWS_PER_FILE}" / "status=ok" / f"{split}-{done}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(
                _table(split, done, count, dim),
                path,
                compression="zstd",
                use_dictionary=[name for name in EMBEDDINGS.names if name not in ("embedding", "age_years")],
                use_byte_stream_split=["embedding.list.element"],
            )
            done, left = done + count, left - count
    return done


def _table(split: Split, first: int, count: int, dim: int) -> pa.Table:
    embeddings, labels = draw_embeddings(count, dim, seed=first)
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
    vectors = pa.array(round_to_bits(embeddings).ravel())
    return pa.table({**arrays, "embedding": pa.ListArray.from_arrays(offsets, vectors)})
