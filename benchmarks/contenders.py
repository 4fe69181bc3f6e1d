"""What our Spark job is measured against, each as a command of its own that writes its rate to ``--answer``.

bare     our embedding function in one process a core, no Spark: the most that Spark could leave over
naive-N  Pillow RGB → Resize → ToTensor → Normalize → torchvision ResNet50 as it comes, fp32, batches of N
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import nn
from torchvision import transforms

from cxrfeat import imaging, preprocess, storage
from cxrfeat.backbone import find_weights, get_backbone, load_network
from cxrfeat.embed import embed_batches
from cxrfeat.encoder import EncoderSpec, load_encoder
from cxrfeat.schema import EMBEDDED, HANDLE
from cxrfeat.spark.session import WORKER_ENVIRONMENT

ENVIRONMENT = {"bare": WORKER_ENVIRONMENT, "naive-1": {}, "naive-8": {}, "naive-32": {}}
"""The bare loop gets the allocator settings of our workers; the naive one is what people write."""


def bare(images: str, backbone: str, weights: str) -> float:
    """Embed everything in one process a core; return the summed steady rates in images/s."""
    files = [storage.join(images, name) for name in sorted(storage.list_files(images, imaging.SUFFIXES))]
    cores = os.cpu_count() or 1
    shares = [(files[core::cores], images, backbone, weights) for core in range(cores)]
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        return sum(pool.starmap(_bare_share, shares, chunksize=1))


def _bare_share(files: list[str], images: str, backbone: str, weights: str) -> float:
    spec = EncoderSpec(backbone, find_weights(get_backbone(backbone), weights))
    encoder = load_encoder(spec, "cpu", 1)
    with tempfile.TemporaryFile() as sink, pq.ParquetWriter(sink, EMBEDDED, compression="zstd") as writer:
        start, done = 0.0, 0
        for batch in embed_batches([pa.record_batch({"uri": files}, HANDLE)], encoder=encoder, root=images):
            if start == 0.0:
                start = time.perf_counter()  # the first batch has paid for warming up
            else:
                done += batch.num_rows
            writer.write_batch(batch)
    return done / (time.perf_counter() - start)


def naive(images: str, backbone: str, weights: str, batch_size: int) -> float:
    """Embed as a first script would, with torch's own threads; return the steady rate in images/s."""
    entry = get_backbone(backbone)
    network = load_network(entry, find_weights(entry, weights))
    network.fc = nn.Identity()
    to_input = transforms.Compose(
        [
            transforms.Resize((preprocess.SIDE, preprocess.SIDE)),
            transforms.ToTensor(),
            transforms.Normalize(preprocess.IMAGENET_MEAN, preprocess.IMAGENET_STD),
        ]
    )
    files = [storage.join(images, name) for name in sorted(storage.list_files(images, imaging.SUFFIXES))]
    embeddings: list[np.ndarray] = []
    start = 0.0
    with torch.no_grad():
        for at in range(0, len(files) - batch_size + 1, batch_size):
            inputs = [to_input(Image.open(file).convert("RGB")) for file in files[at : at + batch_size]]
            embeddings.append(network(torch.stack(inputs)).numpy())
            if at == 0:
                start = time.perf_counter()
    return (len(embeddings) - 1) * batch_size / (time.perf_counter() - start)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one contender."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("name", choices=sorted(ENVIRONMENT))
    parser.add_argument("--images", required=True)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--answer", type=Path, required=True)
    options = parser.parse_args(argv)
    arguments = (options.images, options.backbone, options.weights)
    rate = bare(*arguments) if options.name == "bare" else naive(*arguments, int(options.name.split("-")[1]))
    options.answer.write_text(json.dumps({"rate": rate}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
