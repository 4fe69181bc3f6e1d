"""Extraction in one process with an exact fake encoder: rows, rounds, quarantine, resume, refusals."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from PIL import Image
from pyspark.sql import SparkSession

from cxrfeat.device import Device
from cxrfeat.errors import ConfigError, DatasetMismatchError, WorkerError
from cxrfeat.images import preprocess
from cxrfeat.images.views import make_view
from cxrfeat.io.schema import EMBEDDINGS, Augmentation
from cxrfeat.labels.splits import SplitLevel, SplitRule, split_by_hash
from cxrfeat.spark.extract import extract
from tests import fakes
from tests.cxrfeat.spark import samples
from tests.cxrfeat.spark.samples import rows_of, run, write_images, write_metadata


def test_every_image_becomes_a_row_joined_with_its_metadata(spark: SparkSession, tmp_path: Path) -> None:
    """Values, metadata, split, null columns without metadata, counts and lists in the summary are all right."""
    write_images(tmp_path / "in", 20)
    metadata = write_metadata(tmp_path / "metadata.csv", [*range(18), 90, 91])
    summary = run(spark, tmp_path, metadata=metadata)
    table = rows_of(tmp_path / "out")
    assert set(table.column_names) == set(EMBEDDINGS.names)
    assert table.num_rows == 20
    for row in table.to_pylist():
        index = int(row["image_index"][:4])
        expected = fakes.fake_embedding(preprocess.to_model_input(fakes.gray_image(seed=index)))
        np.testing.assert_allclose(row["embedding"], np.array(expected, np.float32))
        assert row["image_path"] == f"images_{index % 3:03d}/images/{index:04d}.png"
        if index < 18:
            assert (row["patient_id"], row["age_years"], row["sex"]) == (str(index // 2), 20 + index, "F")
            assert row["findings"] == (["Mass"] if index % 2 else [])
            assert row["split"] == split_by_hash(str(index // 2))
        else:
            assert {row[name] for name in ("patient_id", "age_years", "sex", "view_position", "findings", "split")} == {
                None
            }
    images, described = summary["images"], summary["metadata"]
    assert (images["listed"], images["ok"], images["quarantined"], images["without_metadata"]) == (20, 20, 0, 2)
    assert (described["rows"], described["patients"], described["without_image"]) == (20, 10, 2)
    known = [row for row in table.to_pylist() if row["split"] is not None]
    for split, counts in images["splits"].items():  # of the images, where the metadata's are of its lines
        inside = [row["patient_id"] for row in known if row["split"] == split]
        assert counts == {"images": len(inside), "patients": len(set(inside))}
    assert sum(counts["images"] for counts in images["splits"].values()) == len(known) == 18
    assert sum(counts["images"] for counts in described["splits"].values()) == 20
    assert (described["findings"]["Mass"], described["findings"]["No Finding"]) == (10, 10)
    assert (tmp_path / "out" / "metadata_without_image.txt").read_text() == "0090.png\n0091.png\n"
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary


def test_a_name_in_two_folders_gets_nobodys_metadata(spark: SparkSession, tmp_path: Path) -> None:
    """One line cannot say which of two images it describes; its image columns are null, with the reason."""
    for folder in ("a", "b"):
        (tmp_path / "in" / folder).mkdir(parents=True)
        (tmp_path / "in" / folder / "0000.png").write_bytes(fakes.png(fakes.gray_image(seed=1)))
    (tmp_path / "in" / "0001.png").write_bytes(fakes.png(fakes.gray_image(seed=2)))
    summary = run(spark, tmp_path, metadata=write_metadata(tmp_path / "metadata.csv", [0, 1]))
    rows = {row["image_path"]: row for row in rows_of(tmp_path / "out").to_pylist()}
    for path in ("a/0000.png", "b/0000.png"):
        assert rows[path]["metadata_status"] == "ambiguous-name"
        assert {rows[path][name] for name in ("patient_id", "age_years", "sex", "findings", "split")} == {None}
    assert (rows["0001.png"]["metadata_status"], rows["0001.png"]["patient_id"]) == ("matched", "0")
    assert summary["images"]["metadata_status"] == {"matched": 1, "ambiguous-name": 2}
    assert summary["images"]["without_metadata"] == 2


def test_images_of_chexpert_are_matched_by_path(spark: SparkSession, tmp_path: Path) -> None:
    """Studies with equal file names get their own labels, uncertain ones apart; the dialect is recorded."""
    labels = (
        *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema"),
        *("Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other"),
        *("Fracture", "Support Devices"),
    )
    header = f"Path,Sex,Age,Frontal/Lateral,AP/PA,{','.join(labels)}"
    lines = [header]
    for number in range(12):
        path = f"train/patient{number // 3:05d}/study{number % 3}/view1_frontal.jpg"
        (tmp_path / "in" / path).parent.mkdir(parents=True)
        (tmp_path / "in" / path).write_bytes(fakes.encode(Image.fromarray(fakes.gray_image(seed=number)), "JPEG"))
        flags = ["", "", str(float(number % 3 - 1)), *[""] * 11]
        lines.append(f"CheXpert-v1.0-small/{path},Female,{20 + number},Frontal,AP,{','.join(flags)}")
    (tmp_path / "train.csv").write_text("\n".join(lines))
    summary = run(spark, tmp_path, metadata=str(tmp_path / "train.csv"))
    assert summary["images"]["metadata_status"] == {"matched": 12}
    for row in rows_of(tmp_path / "out").to_pylist():
        number = int(row["age_years"]) - 20
        assert row["image_path"] == f"train/patient{number // 3:05d}/study{number % 3}/view1_frontal.jpg"
        assert row["patient_id"] == f"patient{number // 3:05d}"
        assert row["findings"] == (["Cardiomegaly"] if number % 3 == 2 else [])
        assert row["findings_uncertain"] == (["Cardiomegaly"] if number % 3 == 0 else [])
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["created_with"]["metadata_columns"] == "chexpert"


def test_new_images_alone_are_computed(spark: SparkSession, tmp_path: Path) -> None:
    """A second run adds ten new images as later rounds and leaves the files of the first untouched."""
    write_images(tmp_path / "in", 9)
    run(spark, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "embeddings").rglob("*.parquet")}
    write_images(tmp_path / "in", 10, start=9)
    summary = run(spark, tmp_path)
    table = rows_of(tmp_path / "out")
    assert summary["images"]["ok"] == table.num_rows == len(table["image_path"].unique()) == 19
    assert {path: path.stat().st_mtime_ns for path in before} == before
    late = table.filter(pc.greater_equal(table["image_index"], "0009.png"))
    assert set(late["round"].to_pylist()) == {2, 3}
    assert run(spark, tmp_path) == summary  # nothing new: nothing changes


def bad_files(folder: Path) -> dict[str, str]:
    """Write one file of each kind that cannot be a radiograph; return path → reason."""
    folder.mkdir(parents=True)
    good = fakes.png(fakes.gray_image(128, 128))
    contents = {
        "truncated.png": (good[: len(good) // 2], "corrupt"),
        "text.png": (b"Dear colleague, please find attached", "not-png-or-jpeg"),
        "zero.png": (b"", "empty"),
        "one.png": (fakes.png(np.zeros((1, 1), np.uint8)), "too-small"),
        "bomb.png": (fakes.raw_png(30_000, 30_000), "too-large"),
        "cmyk.jpg": (fakes.encode(Image.fromarray(fakes.gray_image()).convert("CMYK"), "JPEG"), "unsupported-mode"),
        "moving.png": (fakes.encode(Image.fromarray(fakes.gray_image()), "GIF"), "unsupported-format"),
        "colour.JPEG": (fakes.encode(Image.new("RGB", (64, 64), (200, 30, 30)), "JPEG"), "colour"),
    }
    for name, (data, _) in contents.items():
        (folder / name).write_bytes(data)
    (folder / "dangling.png").symlink_to(folder / "nowhere.png")
    return {f"{folder.name}/{name}": reason for name, (_, reason) in contents.items()}


def test_bad_files_are_quarantined_and_nothing_is_lost(spark: SparkSession, tmp_path: Path) -> None:
    """Each kind of bad file is a row with its reason and sha256; legal kinds are embedded; counts add up."""
    write_images(tmp_path / "in", 5)
    reasons = bad_files(tmp_path / "in" / "bad")
    for name, (_, write) in fakes.LEGAL.items():
        suffix = ".jpg" if "jpeg" in name else ".png"
        (tmp_path / "in" / f"{name.replace(' ', '_')}{suffix}").write_bytes(write(fakes.gray_image()))
    (tmp_path / "in" / "0000.png").write_bytes(fakes.png(fakes.gray_image(seed=77)))  # a name that occurs twice
    summary = run(spark, tmp_path)
    table = rows_of(tmp_path / "out")
    quarantined = table.filter(pc.equal(table["status"], "quarantined")).to_pylist()
    found = {row["image_path"]: row["reason"] for row in quarantined}
    assert {path: reason for path, reason in found.items() if "dangling" not in path} == reasons
    for row in quarantined:
        path = tmp_path / "in" / row["image_path"]
        assert row["embedding"] is None
        assert row["message"]
        if path.is_file():
            assert row["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    ok = 5 + len(fakes.LEGAL) + 1
    images = summary["images"]
    assert (images["ok"], images["quarantined"], images["listed"]) == (ok, len(found), ok + len(found))
    assert images["names_in_several_folders"] == 1
    assert sum(images["pixel_formats"].values()) == ok


def test_mirrored_images_are_rows_of_their_own(spark: SparkSession, tmp_path: Path) -> None:
    """``augment`` adds an hflip row per image, none for a quarantined one, and counts images once."""
    write_images(tmp_path / "in", 4)
    (tmp_path / "in" / "zero.png").write_bytes(b"")
    summary = run(spark, tmp_path, augment=(Augmentation.HFLIP,))
    table = rows_of(tmp_path / "out")
    rows = table.filter(pc.equal(table["status"], "ok")).to_pylist()
    assert [row["augmentation"] for row in rows] == ["none", "hflip"] * 4
    for plain, mirrored in zip(rows[::2], rows[1::2], strict=True):
        assert plain["image_path"] == mirrored["image_path"]
        np.testing.assert_allclose(plain["embedding"][2] + mirrored["embedding"][2], preprocess.SIDE - 1, rtol=1e-5)
    assert (summary["images"]["ok"], summary["images"]["rows"], summary["images"]["listed"]) == (4, 8, 5)


def test_training_images_get_views(spark: SparkSession, tmp_path: Path) -> None:
    """``views`` adds rows for images of the train split alone, the same for any rounds; another seed is refused."""
    write_images(tmp_path / "in", 12)
    metadata = write_metadata(tmp_path / "metadata.csv", [*range(11)])
    views = ("hflip", "affine-1", "affine-2")
    summary = run(spark, tmp_path, metadata=metadata, views=views)
    rows = rows_of(tmp_path / "out").to_pylist()
    for index in range(12):
        of_image = [row for row in rows if row["image_index"] == f"{index:04d}.png"]
        names = [row["augmentation"] for row in of_image]
        training = index < 11 and split_by_hash(str(index // 2)) == "train"
        assert names == (["none", "hflip", "affine-2", "affine-1"] if training else ["none"])
        model_input = preprocess.to_model_input(fakes.gray_image(seed=index))
        for row in of_image:
            view = make_view(model_input, row["augmentation"], image_path=row["image_path"], seed=0)
            np.testing.assert_allclose(row["embedding"], np.array(fakes.fake_embedding(view), np.float32))
    assert (summary["images"]["ok"], summary["images"]["rows"]) == (12, len(rows))
    assert len(rows) > 12
    run(spark, tmp_path, metadata=metadata, views=views, output=str(tmp_path / "small"), round_size=2)
    assert rows_of(tmp_path / "small").drop_columns(["round"]).equals(rows_of(tmp_path / "out").drop_columns(["round"]))
    with pytest.raises(DatasetMismatchError, match=r"view_seed: 0 in .*json, 1 in this run"):
        run(spark, tmp_path, metadata=metadata, views=views, view_seed=1)


def test_an_output_of_other_settings_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    """Settings that would mix two data sets in one folder are refused with both values, and nothing is written."""
    write_images(tmp_path / "in", 2)
    write_images(tmp_path / "elsewhere", 3)
    metadata = write_metadata(tmp_path / "metadata.csv", [0, 1])
    run(spark, tmp_path, metadata=metadata)
    changes: dict[str, dict[str, Any]] = {
        r"extractor: 'resnet50:random.*' in .*json, 'resnet50-v1:random.*' in this run": {"backbone": "resnet50-v1"},
        r"augmentations: 'none' in .*json, 'none, hflip' in this run": {"augment": (Augmentation.HFLIP,)},
        r"split.level: 'patient' in .*json, 'image' in this run": {"split": SplitRule(SplitLevel.IMAGE)},
        r"images: '.*/in' in .*json, '.*/elsewhere' in this run": {"images": str(tmp_path / "elsewhere")},
    }
    for message, change in changes.items():
        with pytest.raises(DatasetMismatchError, match=message):
            run(spark, tmp_path, **{"metadata": metadata, **change})
        assert rows_of(tmp_path / "out").num_rows == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": "nowhere"}, "'.*/nowhere' does not exist; expected a folder"),
        ({"images": "empty"}, "no image found in .*/empty; expected .png, .jpg, .* files at any depth; it has nothing"),
        ({"output": "in/out"}, "output '.*/in/out' is inside the images folder"),
        ({"round_size": 0}, "round size 0; expected at least 1"),
        ({"watch": -1.0}, "watch interval -1.0 s; expected more than 0"),
        ({"batch_size": 0}, "batch size 0; expected at least 1"),
        ({"split": SplitRule(SplitLevel.IMAGE)}, "split options need --metadata"),
        ({"metadata": "nowhere.csv"}, r"'nowhere.csv' does not exist; expected a file"),
        ({"metadata": ".", "split": SplitRule()}, r"'\.' is a folder; expected a file"),
        ({"metadata": "gopher://host/m.csv"}, "cannot open 'gopher://host'"),
        (
            {"metadata": "pyproject.toml", "split": SplitRule(SplitLevel.PATIENT, "a.txt", "b.txt")},
            "'a.txt' does not exist",
        ),
    ],
)
def test_unusable_options_are_refused(
    spark: SparkSession, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    """Invalid options are one clear error before any work."""
    write_images(tmp_path / "in", 1)
    (tmp_path / "empty").mkdir()
    options = {key: str(tmp_path / value) if key in ("images", "output") else value for key, value in options.items()}
    with pytest.raises(ConfigError, match=message):
        run(spark, tmp_path, **options)
    assert not (tmp_path / "out").exists()


def test_an_unknown_error_fails_the_job_in_one_line(spark: SparkSession, tmp_path: Path) -> None:
    """An error that is not a file's own stops the job with the worker's last line; the next run completes."""
    write_images(tmp_path / "in", 3)
    with pytest.raises(WorkerError, match="a task failed: RuntimeError: the GPU is on fire"):
        extract(spark, samples.config(tmp_path), fakes.make_failing)
    assert run(spark, tmp_path)["images"]["ok"] == 3


def test_a_gpu_that_is_not_there_is_one_line(spark: SparkSession, tmp_path: Path) -> None:
    """``--device cuda`` without a GPU fails in the first task with one line; it never falls back to the CPU."""
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    write_images(tmp_path / "in", 2)
    with pytest.raises(WorkerError, match=r"a task failed: cxrfeat\.errors\.DeviceError: device 'cuda:0'"):
        extract(spark, samples.config(tmp_path, device=Device.CUDA))
    assert not list((tmp_path / "out" / "embeddings").rglob("*.parquet"))
