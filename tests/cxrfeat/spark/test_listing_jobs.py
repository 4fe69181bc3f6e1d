"""Jobs over folders with names, links, times and kinds of files of every sort, and over outputs of older versions."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path
from urllib.parse import quote

import pyarrow.dataset as pads
import pytest
from pyspark.sql import SparkSession

from cxrfeat.head.bundle import save_bundle
from cxrfeat.io.file_names import to_text
from cxrfeat.spark.score import ScoreConfig, score
from tests import fakes
from tests.cxrfeat.pipeline.drops import DIM, rows, write
from tests.cxrfeat.spark.samples import rows_of, run

ROOT = "C: x [1]{a}*?#% ü"
NAMES = [
    b"plain.png",
    b"R\xc3\xb6ntgen.png",
    b"R\xf6ntgen.png",
    b"sub \xff/100%20.png",
    b"a:b*[1]{x}.png",
    b"new\nline.png",
]
TIMES = [0, 1, -400 * 86400, 6_974_000_000, 10**9, 2**31]
"""1970, before it, and 2191."""


def test_any_folder_is_embedded(spark: SparkSession, tmp_path: Path) -> None:
    """Odd names, links to parents and file times; what is not a file is quarantined; a second run adds nothing."""
    root = tmp_path / ROOT / "in"
    for number, (name, time) in enumerate(zip(NAMES, TIMES, strict=True)):
        path = root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(fakes.png(fakes.gray_image(seed=number)))
        os.utime(path, (time, time))
    os.mkfifo(root / "fifo.png")
    (root / "dangling.png").symlink_to("gone")
    (root / "up").symlink_to("..")
    (root / "root").symlink_to(root)
    (root / "notes.txt").write_text("no image")
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(root)  # the path of a socket is short
        listener.bind("socket.png")
        summary = run(spark, tmp_path, images=str(root), output=str(tmp_path / "out"), round_size=4)
        table = rows_of(tmp_path / "out")
        assert run(spark, tmp_path, images=str(root), output=str(tmp_path / "out"), round_size=4) == summary
    found = {row["image_path"]: row["reason"] for row in table.to_pylist()}
    bad = {"fifo.png": "unreadable", "socket.png": "unreadable", "dangling.png": "missing"}
    assert found == {**dict.fromkeys(map(to_text, NAMES)), **bad}
    assert table.num_rows == len(NAMES) + 3
    assert summary["skipped"]["kinds"] == {".txt": {"files": 1, "example": "notes.txt"}}


@pytest.fixture(autouse=True)
def _same_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Return to the working folder after each test."""
    monkeypatch.chdir(Path.cwd())


def test_any_folder_of_drops_is_scored(spark: SparkSession, tmp_path: Path) -> None:
    """Odd names, a link to the folder itself, a FIFO and a dangling link; a second run adds nothing."""
    save_bundle(fakes.bundle(DIM), tmp_path / "head")
    root = tmp_path / ROOT
    names = [os.fsdecode(name.replace(b".png", b".parquet")) for name in NAMES]
    for number, name in enumerate(names):
        source = write(tmp_path / f"{number}.parquet", rows(5, seed=number))
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        source.rename(root / name)
    os.mkfifo(root / "fifo.parquet")
    (root / "dangling.parquet").symlink_to("gone")
    (root / "root").symlink_to(root)
    for _ in range(2):
        summary = score(spark, ScoreConfig(str(root), str(tmp_path / "head"), str(tmp_path / "out")))
        assert summary["files"] == {"listed": 8, "scored": 6, "with_quarantine": 2}
        assert summary["rows"]["scored"] == 30
        assert summary["reasons"] == {"unreadable": 1, "missing": 1}


def as_spark_checkpoint(output: Path, root: Path, names: list[str]) -> None:
    """Replace the log of a finished output by the one that Spark's file stream wrote."""
    shutil.rmtree(output / "_checkpoint")
    entries = [
        {"path": f"file://{root}/{quote(name)}", "timestamp": 1, "batchId": 0, "action": "add"} for name in names
    ]
    for name, lines in (("sources/0/0", entries), ("offsets/0", [{}, {"logOffset": 0}]), ("commits/0", [{}])):
        path = output / "_checkpoint" / name
        path.parent.mkdir(parents=True)
        path.write_text("\n".join(["v1", *map(json.dumps, lines)]))


def test_older_outputs_are_continued(spark: SparkSession, tmp_path: Path) -> None:
    """An output that Spark's stream has begun gets the new files alone, for images and for drops."""
    save_bundle(fakes.bundle(DIM), tmp_path / "head")
    images = [f"ward {number}/{number}.png" for number in range(3)]
    for number, name in enumerate(images):
        (tmp_path / "in" / name).parent.mkdir(parents=True)
        (tmp_path / "in" / name).write_bytes(fakes.png(fakes.gray_image(seed=number)))
    write(tmp_path / "drops" / "0.parquet", rows(5))
    scoring = ScoreConfig(str(tmp_path / "drops"), str(tmp_path / "head"), str(tmp_path / "scored"))
    run(spark, tmp_path)
    score(spark, scoring)
    as_spark_checkpoint(tmp_path / "out", tmp_path / "in", images)
    as_spark_checkpoint(tmp_path / "scored", tmp_path / "drops", ["0.parquet"])
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("round=0/*/*.parquet")}
    assert len(written) == 2
    (tmp_path / "in" / "new.png").write_bytes(fakes.png(fakes.gray_image(seed=9)))
    write(tmp_path / "drops" / "new.parquet", rows(7))
    assert run(spark, tmp_path)["images"]["ok"] == 4
    assert score(spark, scoring)["rows"]["scored"] == 12
    assert {path: path.stat().st_mtime_ns for path in written} == written
    table = rows_of(tmp_path / "out")
    assert dict(zip(table["image_path"].to_pylist(), table["round"].to_pylist(), strict=True)) == {
        **dict.fromkeys(images, 0),
        "new.png": 1,
    }
    predictions = pads.dataset(str(tmp_path / "scored" / "predictions"), partitioning="hive").to_table()
    assert predictions.num_rows == 12
