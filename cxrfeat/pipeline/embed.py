"""Worker function of the extraction: file handles → rows with embeddings or errors, without Spark.

Threads read and decode files ahead while the network computes. The network's batches do not depend on the boundaries of
the Arrow batches.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cxrfeat.backbones.encoder import Encoder
from cxrfeat.errors import ImageError
from cxrfeat.images import preprocess
from cxrfeat.images.containers import read_member, unwrap
from cxrfeat.images.decode import decode_image
from cxrfeat.images.decoded_image import DEFAULT_OPTIONS, MAX_FILE_BYTES, ReadOptions
from cxrfeat.images.header import NO_HEADER, Header
from cxrfeat.images.views import make_view
from cxrfeat.io import storage
from cxrfeat.io.refs import ImageRef, from_table, is_streamed
from cxrfeat.io.schema import EMBEDDED, HEADER, Augmentation, Reason, Status
from cxrfeat.labels.splits import split_by_hash
from cxrfeat.pipeline.container_stream import ContainerCount, ContainerStream


@dataclass(frozen=True)
class ViewPlan:
    """Rows of each image.

    Attributes:
        views: names of the views of an image, the plain row ``none`` first.
        seed: seed of the affine views.
        plain: paths of the images that get the plain row alone, relative to the images root.
    """

    views: tuple[str, ...] = (Augmentation.NONE.value,)
    seed: int = 0
    plain: Set[str] = frozenset()

    def list_views(self, image_path: str) -> tuple[str, ...]:
        """Return the views of one image."""
        return self.views[:1] if image_path in self.plain else self.views


@dataclass(frozen=True)
class PreparedImage:
    """A decoded and resized file, or the reason for its quarantine.

    Attributes:
        image_path: path relative to the images root.
        model_input: (size, size) uint8, or None in quarantine.
        header: facts of a DICOM header.
    """

    image_path: str
    model_input: NDArray[np.uint8] | None = None
    pixel_format: str | None = None
    reason: str | None = None
    message: str | None = None
    sha256: str | None = None
    header: Header = NO_HEADER


def embed_batches(
    batches: Iterable[pa.RecordBatch],
    *,
    encoder: Encoder,
    root: str,
    plan: ViewPlan | None = None,
    decode_threads: int = 1,
    options: ReadOptions = DEFAULT_OPTIONS,
    report: Callable[[ContainerCount], None] = lambda _: None,
) -> Iterator[pa.RecordBatch]:
    """Embed the listed files and members in order, and all images of the listed containers.

    Args:
        batches: batches of :data:`cxrfeat.io.schema.HANDLE` with any number of rows.
        encoder: the network.
        root: qualified images root; ``image_path`` is relative to it.
        plan: views of each image, each of which gives one row; None: the plain one.
        decode_threads: number of threads that read and decode ahead of the network.
        options: facts that the files do not say.
        report: function that receives the counts of each container that was read as a whole.

    Yields:
        Batches of :data:`cxrfeat.io.schema.EMBEDDED`: one row per image and view, or one quarantined row.
    """
    items = (item for batch in batches for item in from_table(batch))
    jobs = _list_jobs(items, root, encoder.input, options, report)
    for images in _group(_run_ahead(jobs, decode_threads, 2 * encoder.batch_size), encoder.batch_size):
        yield _embed_images(images, encoder, plan or ViewPlan())


def prepare(
    item: ImageRef,
    root: str,
    spec: preprocess.InputSpec = preprocess.DEFAULT_INPUT,
    options: ReadOptions = DEFAULT_OPTIONS,
    read: Callable[[], bytes] | None = None,
) -> PreparedImage:
    """Read, decode and resize one image; an error in the file itself puts it into quarantine.

    Args:
        item: the file or member.
        root: qualified images root.
        spec: input of the network.
        options: facts that the files do not say.
        read: function that returns the image's bytes; None reads them where the item says.

    Raises:
        OSError: the error is not caused by the file itself.
    """
    data: bytes | None = None
    try:
        data = read() if read is not None else _read(item, root, options)
        radiograph = decode_image(data, options)
        return PreparedImage(
            item.key,
            preprocess.to_model_input(radiograph.pixels, spec),
            radiograph.pixel_format,
            header=radiograph.header or NO_HEADER,
        )
    except ImageError as error:
        sha256 = None if data is None else hashlib.sha256(data).hexdigest()
        return PreparedImage(item.key, reason=error.reason, message=str(error), sha256=sha256)


def _read(item: ImageRef, root: str, options: ReadOptions) -> bytes:
    if item.reason is not None:
        raise ImageError(item.reason, item.message or "")
    try:
        if item.member is not None:
            return read_member(root, item, options.image_feature)
        with storage.open_input(storage.locate(root, item.path)) as stream:
            if stream.size() > MAX_FILE_BYTES:
                raise ImageError(Reason.TOO_LARGE, f"file of {stream.size()} bytes; the limit is {MAX_FILE_BYTES}")
            return bytes(stream.read())
    except OSError as error:
        reason = storage.quarantine_reason(error)
        if reason is None:
            raise
        raise ImageError(reason, str(error)) from error


_HEADER_COLUMNS = ("modality", "body_part", "laterality", "pixel_spacing", "series_id", "instance_id")

_Job = Callable[[], PreparedImage | None]


def _list_jobs(
    items: Iterator[ImageRef],
    root: str,
    spec: preprocess.InputSpec,
    options: ReadOptions,
    report: Callable[[ContainerCount], None],
) -> Iterator[_Job]:
    """Yield a job for each file and member, and for a container as many as it takes until its end is found."""
    prepare_one = functools.partial(prepare, root=root, spec=spec, options=options)
    for (path, in_stream), group in itertools.groupby(items, key=lambda item: (item.path, is_streamed(item))):
        if not in_stream:
            yield from (functools.partial(prepare_one, item) for item in group)
            continue
        members = [item.member for item in group]
        wanted = None if None in members else {member for member in members if member is not None}
        stream = ContainerStream(root, path, wanted)
        while not stream.ended:
            yield functools.partial(_prepare_next, stream, path, prepare_one, options.image_feature)
        if wanted is None:
            report(stream.count())


def _prepare_next(
    stream: ContainerStream, path: str, prepare_one: Callable[..., PreparedImage], image_feature: str | None
) -> PreparedImage | None:
    found = stream.read_next()
    if found is None:
        return None
    item, data = found

    def read() -> bytes:
        if isinstance(data, ImageError):
            raise data
        return unwrap(path, data, image_feature)

    return prepare_one(item, read=read)


def _run_ahead(jobs: Iterator[_Job], threads: int, depth: int) -> Iterator[PreparedImage]:
    """Run jobs in threads, at most ``depth`` ahead of the consumer, and yield their images in order."""
    pending: deque[Future[PreparedImage | None]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        try:
            for job in jobs:
                pending.append(pool.submit(job))
                if len(pending) > depth and (image := pending.popleft().result()) is not None:
                    yield image
            while pending:
                if (image := pending.popleft().result()) is not None:
                    yield image
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _group(images: Iterator[PreparedImage], batch_size: int) -> Iterator[list[PreparedImage]]:
    """Yield groups that contain ``batch_size`` embeddable images each, and any quarantined ones between them."""
    group: list[PreparedImage] = []
    embeddable = 0
    for image in images:
        group.append(image)
        embeddable += image.model_input is not None
        if embeddable == batch_size:
            yield group
            group, embeddable = [], 0
    if group:
        yield group


def _embed_images(images: Sequence[PreparedImage], encoder: Encoder, plan: ViewPlan) -> pa.RecordBatch:
    inputs: list[NDArray[np.uint8]] = []  # (size, size) each, in the order of the rows
    rows = []
    for image in images:
        if image.model_input is None:
            rows.append(_row(image, Augmentation.NONE, encoder))
            continue
        for view in plan.list_views(image.image_path):
            inputs.append(make_view(image.model_input, view, image_path=image.image_path, seed=plan.seed))
            rows.append(_row(image, view, encoder))
    embeddings = encoder.embed(np.stack(inputs)) if inputs else np.empty((0, encoder.dim), dtype=np.float32)
    columns = {name: pa.array([row[name] for row in rows], EMBEDDED.field(name).type) for name in rows[0]}
    columns["embedding"] = _to_list_array([row["status"] == Status.OK for row in rows], embeddings)
    return pa.RecordBatch.from_arrays([columns[name] for name in EMBEDDED.names], schema=EMBEDDED)


def _row(image: PreparedImage, view: str, encoder: Encoder) -> dict[str, object]:
    embedded = image.model_input is not None
    header = image.header
    from_header = {
        "patient_id": header.patient_id,
        "age_years": header.age_years,
        "sex": header.sex,
        "view_position": header.view_position,
        "split": split_by_hash(header.patient_id).value if header.patient_id else None,
    }
    return {
        "image_index": image.image_path.rsplit("/", 1)[-1],
        "image_path": image.image_path,
        "status": (Status.OK if embedded else Status.QUARANTINED).value,
        "augmentation": str(view),
        "extractor": encoder.fingerprint,
        "precision": encoder.precision if embedded else None,
        "pixel_format": image.pixel_format,
        "reason": image.reason,
        "message": image.message,
        "sha256": image.sha256,
        **{name: getattr(header, name) for name in _HEADER_COLUMNS},
        **{f"{HEADER}{name}": value for name, value in from_header.items()},
    }


def _to_list_array(valid: Sequence[bool], vectors: NDArray[np.float32]) -> pa.ListArray:
    """Return a list column of length N with the K rows of (K, D) where ``valid`` is True, and null elsewhere."""
    present = np.asarray(valid)  # (N,) bool with K True values
    offsets = np.concatenate([[0], np.cumsum(present) * vectors.shape[1]]).astype(np.int32)  # (N + 1,)
    return pa.ListArray.from_arrays(
        offsets, pa.array(vectors.reshape(-1)), type=EMBEDDED.field("embedding").type, mask=pa.array(~present)
    )
