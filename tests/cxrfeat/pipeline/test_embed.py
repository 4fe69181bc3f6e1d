"""Tests of the worker function: every handle gives its rows, in order, for any batching of the input."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cxrfeat.io.schema import EMBEDDED, HANDLE, Augmentation
from cxrfeat.pipeline.embed import ViewPlan, embed_batches
from tests import fakes

BOTH = (Augmentation.NONE, Augmentation.HFLIP)

Row = dict[str, Any]

FILES: dict[str, bytes | None] = {
    "a.png": fakes.png(fakes.gray_image(64, 80, seed=1)),
    "cut.png": fakes.png(fakes.gray_image(64, 64, seed=2))[:400],
    "sub/b.jpg": fakes.LEGAL["gray8 jpeg"][1](fakes.gray_image(70, 64, seed=3)),
    "empty.png": b"",
    "sub/deeper/c d#%20.png": fakes.LEGAL["rgba8 png"][1](fakes.gray_image(64, 64, seed=4)),
    "gone.png": None,
    "e.png": fakes.LEGAL["gray16 png"][1](fakes.gray_image(64, 64, seed=5)),
    "text.png": b"not an image\n",
    "f.png": fakes.png(fakes.gray_image(99, 64, seed=6)),
    "same name/f.png": fakes.png(fakes.gray_image(99, 64, seed=7)),
    "tiny.png": fakes.png(fakes.gray_image(8, 8)),
}
"""Path below the root → content; a file with None does not exist."""

REASONS = {"cut.png": "corrupt", "empty.png": "empty", "gone.png": "missing", "text.png": "not-png-or-jpeg"} | {
    "tiny.png": "too-small"
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("images")
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if content is not None:
            (folder / name).write_bytes(content)
    return str(folder)


def table(
    batches: Iterable[pa.RecordBatch],
    root: str,
    encoder: fakes.FakeEncoder | None = None,
    augmentations: Sequence[Augmentation] = BOTH,
    decode_threads: int = 1,
) -> pa.Table:
    made = embed_batches(
        batches,
        encoder=encoder or fakes.FakeEncoder(),
        root=root,
        plan=ViewPlan(tuple(augmentations)),
        decode_threads=decode_threads,
    )
    return pa.Table.from_batches(made, schema=EMBEDDED)


def rows_of(name: str, root: str) -> list[Row]:
    """Return the expected rows of one file, computed with Pillow and NumPy."""
    content = FILES[name]
    common = {"image_index": name.rsplit("/", 1)[-1], "image_path": name, "extractor": "fake:0:fake"}
    if name in REASONS:
        sha256 = None if content is None else hashlib.sha256(content).hexdigest()
        return [{**common, "status": "quarantined", "augmentation": "none", "reason": REASONS[name], "sha256": sha256}]
    with Image.open(Path(root) / name) as image:
        deep = image.mode == "I;16"
        gray = (
            Image.fromarray((np.asarray(image) // 257).astype(np.uint8)) if deep else image.convert("RGB").convert("L")
        )
    plane = np.asarray(gray.resize((224, 224), Image.Resampling.BILINEAR))
    return [
        {**common, "status": "ok", "augmentation": augmentation, "embedding": fakes.fake_embedding(view)}
        for augmentation, view in (("none", plane), ("hflip", plane[:, ::-1]))
    ]


@pytest.fixture(scope="module")
def whole(root: str) -> pa.Table:
    """Return the table of all files, embedded one by one."""
    return table(fakes.handles(FILES, 1), root, fakes.FakeEncoder(batch_size=1))


def test_every_file_gives_the_expected_rows(root: str, whole: pa.Table) -> None:
    """Rows, embedded or in quarantine, agree in order with those computed with Pillow and hashlib."""
    expected = [row for name in FILES for row in rows_of(name, root)]
    actual = whole.to_pylist()
    assert len(actual) == len(expected)
    for made, row in zip(actual, expected, strict=True):
        vector = row.pop("embedding", None)
        assert {column: made[column] for column in row} == row
        if vector is None:
            assert (made["embedding"], made["precision"], made["pixel_format"]) == (None, None, None)
            assert made["message"]
        else:
            # A 16-bit image is rounded after the resize, not before: within one level.
            np.testing.assert_allclose(made["embedding"], vector, atol=1 if made["pixel_format"] == "gray16" else 1e-4)
            assert (made["precision"], made["reason"], made["message"], made["sha256"]) == ("fp32", None, None, None)


def test_the_mirrored_rows_are_mirrored(whole: pa.Table) -> None:
    """An image and its mirror image have equal brightness, and centres of mass mirrored along x only."""
    rows = [row for row in whole.to_pylist() if row["status"] == "ok"]
    assert [row["augmentation"] for row in rows] == ["none", "hflip"] * (len(FILES) - len(REASONS))
    for plain, mirrored in zip(rows[::2], rows[1::2], strict=True):
        assert plain["image_path"] == mirrored["image_path"]
        mean, std, x, y = plain["embedding"]
        assert abs(x - 111.5) > 1, "an image that is its own mirror image proves nothing"
        np.testing.assert_allclose(mirrored["embedding"], [mean, std, 223 - x, y], rtol=1e-5)


def test_the_pixel_format_is_kept(whole: pa.Table) -> None:
    """Each embedded row has the pixel format of its file."""
    formats = {row["image_path"]: row["pixel_format"] for row in whole.to_pylist() if row["status"] == "ok"}
    assert formats == {
        **dict.fromkeys(("a.png", "sub/b.jpg", "f.png", "same name/f.png"), "gray8"),
        "sub/deeper/c d#%20.png": "rgba8",
        "e.png": "gray16",
    }


@given(
    order=st.lists(st.sampled_from(list(FILES)), max_size=12),
    cut=st.integers(1, 13),
    batch_size=st.integers(1, 5),
    decode_threads=st.integers(1, 3),
    augmentations=st.sampled_from([BOTH, BOTH[:1], BOTH[::-1]]),
)
def test_batching_does_not_change_the_table(
    root: str,
    whole: pa.Table,
    order: list[str],
    cut: int,
    batch_size: int,
    decode_threads: int,
    augmentations: tuple[Augmentation, ...],
) -> None:
    """For any order, Arrow batches, network batches and threads, a handle gives the same rows as alone, bit for bit."""
    alone: dict[str, dict[str, Row]] = {}
    for row in whole.to_pylist():
        alone.setdefault(row["image_path"], {})[row["augmentation"]] = row
    made = table(
        fakes.handles(order, cut), root, fakes.FakeEncoder(batch_size=batch_size), augmentations, decode_threads
    )
    assert made.to_pylist() == [
        alone[name][augmentation]
        for name in order
        for augmentation in (augmentations if name not in REASONS else BOTH[:1])
    ]


def test_the_network_gets_full_batches(root: str) -> None:
    """Arrow batches and quarantined images do not split the network's batches: only the last one is partial."""
    encoder = fakes.FakeEncoder(batch_size=4)
    table(fakes.handles(FILES, 2), root, encoder, augmentations=BOTH[:1])
    assert encoder.calls == [4, 2]


@pytest.mark.parametrize("names", [[], list(REASONS), list(FILES)])
def test_the_schema_is_that_of_the_table(root: str, names: list[str]) -> None:
    """Every batch has exactly the schema EMBEDDED, also if all rows are in quarantine."""
    made = list(embed_batches(fakes.handles(names), encoder=fakes.FakeEncoder(), root=root))
    assert [batch.schema for batch in made if not batch.schema.equals(EMBEDDED, check_metadata=True)] == []
    for batch in made:
        batch.validate(full=True)


@pytest.mark.parametrize("batches", [[], [pa.RecordBatch.from_pylist([], HANDLE)] * 2])
def test_no_handles_give_nothing(batches: list[pa.RecordBatch]) -> None:
    """An empty partition, or one of empty batches, yields no batch and never calls the network."""
    encoder = fakes.FakeEncoder()
    assert list(embed_batches(batches, encoder=encoder, root="/data")) == []
    assert encoder.calls == []
