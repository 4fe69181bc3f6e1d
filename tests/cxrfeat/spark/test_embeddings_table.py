"""An output folder keeps its invariants, and its quarantine can be replayed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from cxrfeat.errors import DatasetIntegrityError
from cxrfeat.images import preprocess
from cxrfeat.spark import embeddings_table
from cxrfeat.spark.embeddings_table import EmbeddingsTable
from tests import fakes
from tests.cxrfeat.spark.samples import rows_of, run, write_images, write_metadata


def test_replay_takes_back_what_has_been_fixed(spark: SparkSession, tmp_path: Path) -> None:
    """After a replay a fixed file has its embedding, a bad one stays, and good rows whose file is gone are kept."""
    write_images(tmp_path / "in", 9)
    bad = [
        tmp_path / "in" / "images_000" / "images" / "0000.png",
        tmp_path / "in" / "images_001" / "images" / "0001.png",
    ]
    for path in bad:
        path.write_bytes(b"")
    assert run(spark, tmp_path)["images"]["quarantined"] == 2
    write_images(tmp_path / "in", 1)
    (tmp_path / "in" / "images_002" / "images" / "0002.png").unlink()
    assert run(spark, tmp_path)["images"]["quarantined"] == 2  # only a replay tries again
    summary = run(spark, tmp_path, replay_quarantine=True)
    assert (summary["images"]["ok"], summary["images"]["quarantined"], summary["images"]["listed"]) == (8, 1, 9)
    table = rows_of(tmp_path / "out")
    assert table.num_rows == 9
    assert table.filter(pc.equal(table["status"], "quarantined"))["image_index"].to_pylist() == ["0001.png"]
    fixed = table.filter(pc.equal(table["image_index"], "0000.png")).to_pylist()[0]
    expected = fakes.fake_embedding(preprocess.to_model_input(fakes.gray_image(seed=0)))
    np.testing.assert_allclose(fixed["embedding"], np.array(expected, np.float32))


def test_files_stay_small(spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Extraction and replay both split a round into files of at most ROWS_PER_FILE rows."""
    monkeypatch.setattr(embeddings_table, "ROWS_PER_FILE", 3)
    write_images(tmp_path / "in", 7)
    bad = tmp_path / "in" / "images_000" / "images" / "0000.png"
    bad.write_bytes(b"")
    run(spark, tmp_path)
    written = tmp_path / "out" / "embeddings" / "round=0" / "status=ok"
    assert len(list(written.glob("*.parquet"))) == 3
    write_images(tmp_path / "in", 1)
    run(spark, tmp_path, replay_quarantine=True)
    assert len(list(written.glob("*.parquet"))) == 3


def test_a_killed_replay_is_finished_or_forgotten(spark: SparkSession, tmp_path: Path) -> None:
    """A round that a replay had completed is put in place by the next run, one that it had not is dropped."""
    write_images(tmp_path / "in", 9)
    run(spark, tmp_path)
    before = rows_of(tmp_path / "out")
    embeddings, replay = tmp_path / "out" / "embeddings", tmp_path / "out" / "_replay"
    replay.mkdir()
    (embeddings / "round=0").rename(replay / "round=0")  # killed between the old round's end and the new one's arrival
    (replay / "round=1" / "status=ok").mkdir(parents=True)  # killed while this one was being made
    run(spark, tmp_path)
    assert rows_of(tmp_path / "out").equals(before)
    assert not list(replay.iterdir())


def test_violations_are_found(spark: SparkSession, tmp_path: Path) -> None:
    """A lost image, a repeated row and a patient in two splits are each found and named."""
    write_images(tmp_path / "in", 6)
    metadata = write_metadata(tmp_path / "metadata.csv", [*range(6)])
    run(spark, tmp_path, metadata=metadata, round_size=3)
    dataset = EmbeddingsTable(spark, str(tmp_path / "out"))
    dataset.check([], by_patient=True)
    with pytest.raises(DatasetIntegrityError, match=r"1 listed images have no row in .*; the first: gone\.png$"):
        dataset.check(["gone.png"], by_patient=True)
    embeddings = tmp_path / "out" / "embeddings"
    part = next((embeddings / "round=0").rglob("*.parquet"))
    (embeddings / "round=9" / "status=ok").mkdir(parents=True)
    table = pq.read_table(part, partitioning=None)
    copy = embeddings / "round=9" / "status=ok" / "copy.parquet"
    pq.write_table(table, copy)
    with pytest.raises(DatasetIntegrityError, match="3 images have more than one row"):
        dataset.check([], by_patient=True)
    moved = pa.array(["another"] * 3)
    paths = pa.array([f"other/{index}.png" for index in range(3)])
    table = table.set_column(table.schema.get_field_index("split"), "split", moved)
    table = table.set_column(table.schema.get_field_index("image_path"), "image_path", paths)
    pq.write_table(table, copy)
    with pytest.raises(DatasetIntegrityError, match="patients are in more than one split"):
        dataset.check([], by_patient=True)
    dataset.check([], by_patient=False)
