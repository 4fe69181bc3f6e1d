"""The worker function of extraction: handles in, rows out, errors as rows. No Spark inside.

Reading and decoding run ahead in threads while the network computes, and batches are cut for the network, not
where Arrow's happened to end.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cxrfeat.backbones.encoder import Encoder
from cxrfeat.errors import ImageError
from cxrfeat.images import png_jpeg, preprocess
from cxrfeat.io import storage
from cxrfeat.io.schema import EMBEDDED, Augmentation, Reason, Status

MAX_FILE_BYTES = 512 * 1024**2
"""Bytes of one file; no film is as large, and a worker must not be filled by one."""

_AUGMENT: dict[Augmentation, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    Augmentation.NONE: lambda inputs: inputs,
    Augmentation.HFLIP: preprocess.hflip,
}


@dataclass(frozen=True)
class PreparedImage:
    """One file on its way: either a model input, or the reason for its quarantine.

    Attributes:
        image_path: relative to the images root.
        model_input: (224, 224) uint8, or None in quarantine.
    """

    image_path: str
    model_input: NDArray[np.uint8] | None = None
    pixel_format: str | None = None
    reason: str | None = None
    message: str | None = None
    sha256: str | None = None


def embed_batches(
    batches: Iterable[pa.RecordBatch],
    *,
    encoder: Encoder,
    root: str,
    augmentations: Sequence[Augmentation] = (Augmentation.NONE,),
    decode_threads: int = 1,
) -> Iterator[pa.RecordBatch]:
    """Embed every file that is named, in order.

    Args:
        batches: of :data:`cxrfeat.io.schema.HANDLE`, any number of rows each.
        encoder: the network.
        root: qualified images root; ``image_path`` is relative to it.
        augmentations: one row of each is made of every film.
        decode_threads: threads that read and decode ahead of the network.

    Yields:
        Batches of :data:`cxrfeat.io.schema.EMBEDDED`: for each film its augmentations, or one quarantined row.
    """
    uris = (uri for batch in batches for uri in batch.column("uri").to_pylist())
    for films in _group(_prepare_ahead(uris, root, decode_threads, 2 * encoder.batch_size), encoder.batch_size):
        yield _embed_images(films, encoder, augmentations)


def prepare(uri: str, root: str) -> PreparedImage:
    """Read, decode and resize one file; an error that belongs to the file becomes its quarantine.

    Raises:
        OSError: an error that does not belong to the file.
    """
    image_path = storage.relative_to(uri, root)
    data: bytes | None = None
    try:
        data = _read(uri)
        radiograph = png_jpeg.decode(data)
        return PreparedImage(image_path, preprocess.to_model_input(radiograph.pixels), radiograph.pixel_format)
    except ImageError as error:
        sha256 = None if data is None else hashlib.sha256(data).hexdigest()
        return PreparedImage(image_path, reason=error.reason, message=str(error), sha256=sha256)


def _read(uri: str) -> bytes:
    try:
        with storage.open_input(uri) as stream:
            if stream.size() > MAX_FILE_BYTES:
                raise ImageError(Reason.TOO_LARGE, f"{stream.size()} bytes; at most {MAX_FILE_BYTES} are read")
            return bytes(stream.read())
    except OSError as error:
        reason = storage.reason_of(error)
        if reason is None:
            raise
        raise ImageError(reason, str(error)) from error


def _prepare_ahead(uris: Iterator[str], root: str, threads: int, depth: int) -> Iterator[PreparedImage]:
    """Prepare films in threads, at most ``depth`` ahead of the consumer, and yield them in order."""
    pending: deque[Future[PreparedImage]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        try:
            for uri in uris:
                pending.append(pool.submit(prepare, uri, root))
                if len(pending) > depth:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _group(films: Iterator[PreparedImage], batch_size: int) -> Iterator[list[PreparedImage]]:
    """Cut groups with ``batch_size`` films that can be embedded each; those in quarantine ride along."""
    group: list[PreparedImage] = []
    embeddable = 0
    for film in films:
        group.append(film)
        embeddable += film.model_input is not None
        if embeddable == batch_size:
            yield group
            group, embeddable = [], 0
    if group:
        yield group


def _embed_images(
    films: Sequence[PreparedImage], encoder: Encoder, augmentations: Sequence[Augmentation]
) -> pa.RecordBatch:
    inputs = [film.model_input for film in films if film.model_input is not None]
    embeddings = np.empty((0, encoder.dim), dtype=np.float32)
    if inputs:
        stacked = np.stack(inputs)
        # (films, augmentations, H, W), so that the rows of a film stand together.
        augmented = np.stack([_AUGMENT[augmentation](stacked) for augmentation in augmentations], axis=1)
        embeddings = encoder.embed(augmented.reshape(-1, *stacked.shape[1:]))
    rows = [
        _row(film, augmentation, encoder)
        for film in films
        for augmentation in (augmentations if film.model_input is not None else [Augmentation.NONE])
    ]
    columns = {name: pa.array([row[name] for row in rows], EMBEDDED.field(name).type) for name in rows[0]}
    columns["embedding"] = _to_list_array([row["status"] == Status.OK for row in rows], embeddings)
    return pa.RecordBatch.from_arrays([columns[name] for name in EMBEDDED.names], schema=EMBEDDED)


def _row(film: PreparedImage, augmentation: Augmentation, encoder: Encoder) -> dict[str, str | None]:
    embedded = film.model_input is not None
    return {
        "image_index": film.image_path.rsplit("/", 1)[-1],
        "image_path": film.image_path,
        "status": (Status.OK if embedded else Status.QUARANTINED).value,
        "augmentation": augmentation.value,
        "extractor": encoder.fingerprint,
        "precision": encoder.precision if embedded else None,
        "pixel_format": film.pixel_format,
        "reason": film.reason,
        "message": film.message,
        "sha256": film.sha256,
    }


def _to_list_array(valid: Sequence[bool], vectors: NDArray[np.float32]) -> pa.ListArray:
    """Spread the rows of (K, D) over a list column: the next vector where ``valid``, null elsewhere."""
    present = np.asarray(valid)
    offsets = np.concatenate([[0], np.cumsum(present) * vectors.shape[1]]).astype(np.int32)
    return pa.ListArray.from_arrays(
        offsets, pa.array(vectors.reshape(-1)), type=EMBEDDED.field("embedding").type, mask=pa.array(~present)
    )
