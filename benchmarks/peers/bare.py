"""The bare loop: our embedding function in one process per core, without Spark: an upper bound for our job.

Each process embeds every n-th image and writes one Parquet file. Nothing is resumed, joined or checked.
"""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.machine import CORES
from benchmarks.peers.common import PeerTask, parse
from cxrfeat.io import storage
from cxrfeat.io.refs import ImageRef, to_table
from cxrfeat.io.schema import EMBEDDED
from cxrfeat.pipeline.embed import embed_batches


def run(task: PeerTask) -> None:
    """Embed all images."""
    Path(task.output).mkdir(parents=True)
    files = task.files()
    with multiprocessing.get_context("spawn").Pool(CORES) as pool:
        pool.starmap(_embed_share, [(task, files[core::CORES], core) for core in range(CORES)], chunksize=1)


def _embed_share(task: PeerTask, files: list[str], core: int) -> None:
    paths = (ImageRef(storage.relative_to(file, task.images)) for file in files)
    handles = to_table(paths).to_batches()
    with pq.ParquetWriter(Path(task.output, f"{core}.parquet"), EMBEDDED, compression="zstd") as writer:
        for batch in embed_batches(handles, encoder=task.encoder(), root=task.images):
            writer.write_batch(batch)
            task.mark(batch.num_rows)


if __name__ == "__main__":
    run(parse(__doc__))
