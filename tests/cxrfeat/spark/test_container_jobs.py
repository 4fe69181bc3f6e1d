"""Jobs on containers: the rows of files, whatever the format and the number of tasks, each once after a kill."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pytest
from pyspark.sql import SparkSession

from cxrfeat.backbones.registry import get_backbone
from cxrfeat.backbones.weights import RANDOM, find_weights, fingerprint
from cxrfeat.errors import ConfigError
from cxrfeat.head.bundle import save_bundle
from cxrfeat.io.round_log import PlannedRound, RoundLog
from cxrfeat.io.schema import Augmentation
from cxrfeat.spark import embedding
from cxrfeat.spark.score import ScoreConfig, score
from tests import archives, fakes
from tests.cxrfeat.spark.samples import HEADER, rows_of, run

COUNT = 23


def contents(pytestconfig: pytest.Config) -> dict[str, bytes]:
    """Return small images with a broken one among them, or the 200 real ones if CXRFEAT_ALL_IMAGES is set."""
    if os.environ.get("CXRFEAT_ALL_IMAGES"):
        real = sorted((pytestconfig.rootpath.parent / "shared" / "nih").rglob("*.png"))
        return {path.name: path.read_bytes() for path in real}
    images = {f"{index:04d}.png": fakes.png(fakes.gray_image(seed=index)) for index in range(COUNT)}
    return {**images, "0007.png": b"not an image"}


def halves(images: archives.Contents) -> tuple[dict[str, bytes], dict[str, bytes]]:
    names = sorted(images)
    return {name: images[name] for name in names[::2]}, {name: images[name] for name in names[1::2]}


def in_folder(images: archives.Contents) -> dict[str, bytes]:
    return {f"images/{name}": data for name, data in images.items()}


def as_webdataset(images: archives.Contents) -> dict[str, bytes]:
    return {
        name: data
        for image, content in images.items()
        for name, data in {
            image: content,
            image.replace(".png", ".cls"): b"1",
            image.replace(".png", ".json"): json.dumps({"patient_id": image[:3]}).encode(),
        }.items()
    }


def write_tfrecords(folder: Path, images: archives.Contents) -> None:
    names = sorted(images)
    for shard in range(2):
        records = [archives.example_bytes({"image": images[name]}) for name in names[shard::2]]
        (folder / f"{shard}-2.tfrec").write_bytes(archives.tfrecord_bytes(records))


def write_halves(suffix: str, pack: Callable[[archives.Contents], bytes]) -> Callable[[Path, archives.Contents], None]:
    def write(folder: Path, images: archives.Contents) -> None:
        for number, half in enumerate(halves(images)):
            (folder / f"images_{number:03d}.{suffix}").write_bytes(pack(half))

    return write


FORMATS: dict[str, Callable[[Path, archives.Contents], None]] = {
    "tar": write_halves("tar", lambda images: archives.tar_bytes(in_folder(images))),
    "tar.gz": write_halves("tar.gz", lambda images: archives.tar_bytes(in_folder(images), "w:gz")),
    "zip": write_halves("zip", lambda images: archives.zip_bytes(in_folder(images))),
    "webdataset": write_halves("tar", lambda images: archives.tar_bytes(as_webdataset(images))),
    "tfrecord": write_tfrecords,
}


def write_metadata(path: Path, images: archives.Contents) -> str:
    lines = [f"{name},Mass,0,{name[:3]},{index % 90},F,PA\n" for index, name in enumerate(sorted(images))]
    path.write_text(HEADER + "".join(lines))
    return str(path)


def comparable(output: Path, images: archives.Contents) -> pa.Table:
    """Return the rows by file name; of TFRecord files, which have none, by the place of the record."""
    table = rows_of(output)
    names = []
    for row in table.select(["image_index", "image_path"]).to_pylist():
        shard, _, number = row["image_path"].partition("-2.tfrec/")
        names.append(sorted(images)[int(shard) + 2 * int(number)] if number else row["image_index"])
    table = table.set_column(table.column_names.index("image_index"), "image_index", pa.array(names))
    return table.drop_columns(["image_path", "round"]).sort_by("image_index")


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_has_the_rows_of_files(
    spark: SparkSession, tmp_path: Path, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Embeddings bit for bit, formats, reasons, checksums and metadata, under 1, 2 and 7 tasks."""
    images = contents(pytestconfig)
    metadata = write_metadata(tmp_path / "metadata.csv", images) if name != "tfrecord" else ()
    archives.write_files(tmp_path / "in", images)
    run(spark, tmp_path, metadata=metadata, round_size=1000)
    expected = comparable(tmp_path / "out", images)
    assert expected.num_rows == len(images)
    (tmp_path / "packed").mkdir()
    FORMATS[name](tmp_path / "packed", images)
    for tasks in (1, 2, 7):
        monkeypatch.setattr(embedding, "count_tasks", lambda *_, count=tasks: count)
        output = tmp_path / f"out-{tasks}"
        packed = {"images": str(tmp_path / "packed"), "output": str(output), "metadata": metadata}
        summary = run(spark, tmp_path, round_size=1000, **packed)
        assert comparable(output, images).equals(expected)
        assert summary["skipped"]["files"] == (2 * len(images) if name == "webdataset" else 0)
        assert summary["metadata"]["without_image"] == 0


class KilledError(Exception): ...


@pytest.mark.parametrize("name", ["tar", "tar.gz", "tfrecord"])
def test_members_are_embedded_once_after_a_kill(
    spark: SparkSession, tmp_path: Path, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Killed between the table and the log of every round, and started again until it is done: each image once."""
    images = contents(pytestconfig)
    (tmp_path / "in").mkdir()
    FORMATS[name](tmp_path / "in", images)
    archives.write_files(tmp_path / "in", {"loose/z.png": next(iter(images.values()))})
    finish = RoundLog.finish
    killed: set[int] = set()

    def kill_once(self: RoundLog, planned: PlannedRound, notes: Mapping[str, Any]) -> None:
        if planned.number not in killed:
            killed.add(planned.number)
            raise KilledError
        finish(self, planned, notes)

    monkeypatch.setattr(RoundLog, "finish", kill_once)
    for _ in range(100):
        try:
            summary = run(spark, tmp_path, round_size=12)
            break
        except KilledError:
            continue
    assert len(killed) >= 2
    paths = rows_of(tmp_path / "out")["image_path"].to_pylist()
    assert len(paths) == len(set(paths)) == len(images) + 1
    assert summary["images"]["listed"] == len(images) + 1
    assert run(spark, tmp_path, round_size=12) == summary


def test_damaged_archives_are_replayed(spark: SparkSession, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """Cut archives give their good members and a row each; whole again, a replay adds the others and nothing twice."""
    images = dict(list(contents(pytestconfig).items())[:8])
    (tmp_path / "in").mkdir()
    whole = {
        "a.tar": archives.tar_bytes(images),
        "b.tar.gz": archives.tar_bytes(images, "w:gz"),
        "c.zip": archives.zip_bytes(images),
    }
    for name, data in whole.items():
        (tmp_path / "in" / name).write_bytes(data[: int(len(data) * 0.55)])
    cut = run(spark, tmp_path)
    assert cut["images"]["reasons"]["truncated-archive"] == 3
    assert 0 < cut["images"]["ok"] < 3 * 7
    messages = {row["image_path"]: row["message"] for row in rows_of(tmp_path / "out").to_pylist() if row["reason"]}
    assert messages.keys() >= whole.keys()
    for name, data in whole.items():
        (tmp_path / "in" / name).write_bytes(data)
    summary = run(spark, tmp_path, replay_quarantine=True)
    assert summary["images"]["reasons"] == {"not-png-or-jpeg": 3}
    paths = rows_of(tmp_path / "out")["image_path"].to_pylist()
    assert sorted(paths) == sorted(f"{name}/{image}" for name in whole for image in images)


def test_what_is_skipped_in_streams_is_counted_once(spark: SparkSession, tmp_path: Path) -> None:
    """Members that are not images are in the summary of later runs, too, and a folder that has mostly such."""
    (tmp_path / "in").mkdir()
    image = fakes.png(fakes.gray_image())
    for number in range(3):
        members = {"a.png": image, "b.csv": b"", "c.csv": b"", "d": b"no DICOM"}
        (tmp_path / "in" / f"{number}.tgz").write_bytes(archives.tar_bytes(members, "w:gz"))
    expected = {".csv": {"files": 6, "example": "0.tgz/b.csv"}, "no suffix": {"files": 3, "example": "0.tgz/d"}}
    for _ in range(2):
        summary = run(spark, tmp_path)
        assert summary["skipped"]["kinds"] == expected
        assert summary["skipped"]["mostly_skipped"][0] == {"folder": ".", "skipped": 9, "files": 12}
        assert summary["images"]["listed"] == 3


def test_views_are_of_training_images_alone(spark: SparkSession, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """Images in a stream, whose splits are unknown before it is read, get the rows that files get."""
    images = contents(pytestconfig)
    metadata = write_metadata(tmp_path / "metadata.csv", images)
    archives.write_files(tmp_path / "in", images)
    (tmp_path / "packed").mkdir()
    FORMATS["tar.gz"](tmp_path / "packed", images)
    views = {"metadata": metadata, "views": ("hflip",)}
    run(spark, tmp_path, **views)
    run(spark, tmp_path, images=str(tmp_path / "packed"), output=str(tmp_path / "out-packed"), **views)
    keys = ["image_index", "augmentation", "split", "embedding"]
    plain, packed = (
        rows_of(tmp_path / name).select(keys).sort_by([("image_index", "ascending"), ("augmentation", "ascending")])
        for name in ("out", "out-packed")
    )
    assert packed.equals(plain)
    mirrored = plain.filter(pc.equal(plain["augmentation"], Augmentation.HFLIP.value))
    assert 0 < mirrored.num_rows < len(images)


def test_scoring_reads_containers(spark: SparkSession, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """Predictions of a stream and an indexed archive are those of files, with age and sex of the table."""
    images = contents(pytestconfig)
    metadata = (write_metadata(tmp_path / "metadata.csv", images),)
    archives.write_files(tmp_path / "in", images)
    backbone = get_backbone("resnet50")
    extractor = fingerprint(backbone, find_weights(backbone, RANDOM))
    save_bundle(fakes.bundle(fakes.FAKE_DIM, extractor=extractor), tmp_path / "head")
    tables = []
    for name in ("in", "tar", "tar.gz"):
        if name != "in":
            (tmp_path / name).mkdir()
            FORMATS[name](tmp_path / name, images)
        source, output = str(tmp_path / name), str(tmp_path / f"scored-{name}")
        config = embedding.EmbeddingConfig(source, metadata=metadata, weights="random")
        summary = score(spark, ScoreConfig(source, str(tmp_path / "head"), output, embedding=config), fakes.make_fake)
        assert summary["files"]["listed"] == len(images)
        assert summary["reasons"] == {"not-png-or-jpeg": 1}
        tables.append(predictions_of(Path(output)))
    scores = [name for name in tables[0].column_names if name.startswith("probability_") or name == "any_finding"]
    for table in tables[1:]:
        assert table.drop_columns(scores).equals(tables[0].drop_columns(scores))
        for name in scores:  # a matrix product rounds by the size of its batch
            left, right = (part[name].to_numpy().astype(float) for part in (table, tables[0]))
            np.testing.assert_allclose(left, right, atol=1e-6)


LABELS = ("Atelectasis", "Effusion", "No Finding")


def test_labels_of_tfrecords_are_metadata(spark: SparkSession, tmp_path: Path) -> None:
    """Features of 0 and 1 are findings, other integers are not; each record is a patient of its own with a split."""
    images = [fakes.png(fakes.gray_image(seed=index)) for index in range(30)]
    features: list[dict[str, bytes | int]] = [
        {"scan": image, "width": 64 + index, **{name: int(index % 3 == place) for place, name in enumerate(LABELS)}}
        for index, image in enumerate(images)
    ]
    del features[4]["Effusion"]
    (tmp_path / "in").mkdir()
    for shard in range(2):
        data = archives.tfrecord_bytes([archives.example_bytes(found) for found in features[shard::2]])
        name, data = ("0-2.tfrec", data) if shard else ("1-2.tfrec.gz", gzip.compress(data))
        (tmp_path / "in" / name).write_bytes(data)
    summary = run(spark, tmp_path, image_feature="scan", round_size=9)
    rows = {row["image_path"]: row for row in rows_of(tmp_path / "out").to_pylist()}
    for index in range(30):
        row = rows[f"{'0-2.tfrec' if index % 2 else '1-2.tfrec.gz'}/{index // 2:06d}"]
        label = LABELS[index % 3]
        assert row["findings"] == ([] if index == 4 else [label])
        assert row["findings_unknown"] == (["Effusion"] if index == 4 else [])
        assert row["split"] in ("train", "val", "test")
        assert row["patient_id"] == row["image_path"]
    assert summary["metadata"]["rows"] == 30
    assert summary["images"]["metadata_status"] == {"matched": 30}
    assert summary["images"]["findings"] == {"No Finding": 11, "Atelectasis": 10, "Effusion": 9}
    assert run(spark, tmp_path, image_feature="scan", round_size=9) == summary
    wrong = run(spark, tmp_path, output=str(tmp_path / "wrong"))
    assert wrong["images"]["reasons"] == {"no-image-feature": 30}


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_neighbours_of_webdataset_images_are_metadata(spark: SparkSession, tmp_path: Path, suffix: str) -> None:
    """JSON fields by their usual names and flags; the class where no flag is; nothing unless asked."""
    members: dict[str, bytes] = {}
    for index in range(6):
        members[f"s/{index:03d}.png"] = fakes.png(fakes.gray_image(seed=index))
        fields = {"patient_id": f"p{index // 2}", "age": 40 + index, "sex": "F", "Mass": index % 2 == 0, "note": {}}
        members[f"s/{index:03d}.json"] = json.dumps(fields).encode() if index < 5 else b"[broken"
        members[f"s/{index:03d}.cls"] = b"7"
    (tmp_path / "in").mkdir()
    mode = "w:gz" if suffix == "tar.gz" else "w"
    (tmp_path / "in" / f"shard-0.{suffix}").write_bytes(archives.tar_bytes(members, mode))
    summary = run(spark, tmp_path, webdataset_metadata=True)
    rows = rows_of(tmp_path / "out").to_pylist()
    assert [row["patient_id"] for row in rows[:5]] == ["p0", "p0", "p1", "p1", "p2"]
    assert [row["age_years"] for row in rows[:5]] == [40, 41, 42, 43, 44]
    assert [row["findings"] for row in rows[:5]] == [["Mass"], [], ["Mass"], [], ["Mass"]]
    assert [row["metadata_status"] for row in rows] == ["matched"] * 5 + ["rejected-line"]
    assert summary["metadata"]["rejected"] == {"patient-id-missing": 1}
    plain = run(spark, tmp_path, output=str(tmp_path / "plain"))
    assert plain["images"]["without_metadata"] == 6
    with pytest.raises(ConfigError, match="--metadata and --webdataset-metadata cannot be combined"):
        run(spark, tmp_path, webdataset_metadata=True, metadata="m.csv")


def test_classes_are_findings_without_flags(spark: SparkSession, tmp_path: Path) -> None:
    """A shard with .cls alone: the class is the finding, as it is written."""
    members = {"a.png": fakes.png(fakes.gray_image()), "a.cls": b"Pneumonia\n", "b.png": b"bad", "b.cls": b"3"}
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "shard.tar").write_bytes(archives.tar_bytes(members))
    run(spark, tmp_path, webdataset_metadata=True)
    assert [row["findings"] for row in rows_of(tmp_path / "out").to_pylist()] == [["Pneumonia"], ["3"]]


def predictions_of(output: Path) -> pa.Table:
    table = pads.dataset(str(output / "predictions"), partitioning="hive").to_table()
    return table.drop_columns(["drop_file", "round"]).sort_by("image_index")
