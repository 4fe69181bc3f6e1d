"""The bare loop: our embedding function in one process a core, no Spark: the most that Spark could leave over.

python -m benchmarks.peers.bare --images DIR --output OUT [--weights PATH --backbone resnet50-v1]

Each process embeds every n-th film and writes one Parquet file. Nothing is resumed, joined or checked.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.peers.common import CORES, Function, Task, parse
from cxrfeat.backbones.encoder import Encoder
from cxrfeat.io.schema import EMBEDDED, HANDLE
from cxrfeat.pipeline.embed import embed_batches


def run(task: Task, build: Callable[[Task], Encoder] = Task.encoder) -> None:
    """Embed everything with the encoder that ``build`` makes in each process."""
    Path(task.output).mkdir(parents=True)
    files = task.files()
    shares = [(task, build, files[core::CORES], core) for core in range(CORES)]
    with multiprocessing.get_context("spawn").Pool(CORES) as pool:
        pool.starmap(_embed_share, shares, chunksize=1)


def _embed_share(task: Task, build: Callable[[Task], Encoder], files: list[str], core: int) -> None:
    handles = [pa.record_batch({"uri": files}, HANDLE)]
    with pq.ParquetWriter(Path(task.output, f"{core}.parquet"), EMBEDDED, compression="zstd") as writer:
        for batch in embed_batches(handles, encoder=build(task), root=task.images):
            writer.write_batch(batch)
            task.mark(batch.num_rows)


if __name__ == "__main__":
    run(parse(__doc__, [Function.OURS]))
