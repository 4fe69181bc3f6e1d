"""The extraction job as a user runs it: spark-submit, real network, kill -9, exit codes."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pytest
import torch
from PIL import Image
from pyspark.sql import SparkSession
from torch import nn
from torchvision import transforms

from cxrfeat.backbones.encoder import EncoderSpec, FrozenEncoder
from cxrfeat.backbones.registry import BACKBONES
from cxrfeat.backbones.weights import find_weights, load_network
from cxrfeat.cli import extract as job
from cxrfeat.device import Precision, has_native_bf16
from cxrfeat.images import preprocess
from cxrfeat.images.candidates import SUFFIXES
from cxrfeat.images.preprocess import Fit
from cxrfeat.io import listing
from cxrfeat.labels.splits import SplitLevel, SplitRule
from cxrfeat.phantom.archive import write_archive
from cxrfeat.pipeline.embed import embed_batches
from cxrfeat.spark.extract import ExtractConfig
from tests import archives, fakes
from tests.spark_jobs import jobs


def start(images: Path, output: Path, *options: str) -> subprocess.Popen[str]:
    return jobs.start("extract", "--images", str(images), "--output", str(output), *options)


def run(images: Path, output: Path, *options: str, code: int = 0) -> str:
    return jobs.run("extract", "--images", str(images), "--output", str(output), *options, code=code)


def rows_of(output: Path) -> pa.Table:
    table = pads.dataset(str(output / "embeddings"), partitioning="hive").to_table()
    return table.sort_by([("image_path", "ascending"), ("augmentation", "descending")])


def vectors(table: pa.Table) -> np.ndarray[Any, np.dtype[np.float32]]:
    flat = table["embedding"].combine_chunks().values.to_numpy()
    return np.asarray(flat.reshape(table.num_rows, -1))


def cosines(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.asarray((left * right).sum(1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1))


def reference_embeddings(images: Path, names: Sequence[str], weights: Path) -> np.ndarray[Any, Any]:
    """Embed in the usual way: Pillow RGB → Resize → ToTensor → Normalize → fp32 network of the original layout."""
    network = load_network(BACKBONES["resnet50-v1"], find_weights(BACKBONES["resnet50-v1"], str(weights)))
    network.fc = nn.Identity()
    to_input = transforms.Compose(
        [
            transforms.Resize((224, 224)),
            transforms.ToTensor(),
            transforms.Normalize(preprocess.IMAGENET_MEAN, preprocess.IMAGENET_STD),
        ]
    )
    with torch.no_grad():
        return np.concatenate(
            [network(to_input(Image.open(images / name).convert("RGB"))[None]).numpy() for name in names]
        )


def embed(images: Path, names: Sequence[str], weights: Path) -> pa.Table:
    """Embed images in fp32 and in batches of five by the function that the job's tasks run."""
    spec = EncoderSpec("resnet50-v1", find_weights(BACKBONES["resnet50-v1"], str(weights)), Precision.FP32, 5)
    batches = embed_batches(fakes.handles(names), encoder=FrozenEncoder(spec), root=str(images))
    return pa.Table.from_batches(batches)


@pytest.mark.shared
def test_real_images_equal_the_reference(shared: Path, tmp_path: Path) -> None:
    """The job embeds all 200 real images; 40 and the RGBA ones are those of the plain fp32 path, in both precisions."""
    nih, weights = shared / "nih", next((shared / "weights").glob("resnet50_v1_imagenet-*.pth"))
    network = ["--backbone", "resnet50-v1", "--weights", str(weights)]
    metadata = ["--metadata", str(nih / "Data_Entry_2017_v2020.csv.gz")]
    lists = ["--train-val-list", str(nih / "train_val_list.txt"), "--test-list", str(nih / "test_list.txt")]
    printed = run(nih, tmp_path / "out", *network, *metadata, *lists)
    auto = rows_of(tmp_path / "out").sort_by("image_path")
    paths, formats = (auto[name].to_pylist() for name in ("image_path", "pixel_format"))
    assert paths == sorted(listing.list_files(str(nih), SUFFIXES))
    assert pc.unique(auto["status"]).to_pylist() == ["ok"]
    names = [path for number, path in enumerate(paths) if number % 5 == 0 or formats[number] == "rgba8"]
    expected = reference_embeddings(nih, names, weights)
    compared, fp32 = auto.filter(pc.is_in(auto["image_path"], pa.array(names))), embed(nih, names, weights)
    for table, precision, least in (
        (compared, "bf16" if has_native_bf16() else "fp32", 0.999),
        (fp32, "fp32", 0.9999),
    ):
        assert table.num_rows == len(expected) >= 40
        assert pc.unique(table["status"]).to_pylist() == ["ok"]
        assert pc.unique(table["precision"]).to_pylist() == [precision]
        assert cosines(vectors(table), expected).min() >= least
    assert formats.count("rgba8") == 3
    assert auto["patient_id"].null_count == 0
    listed_for_test = set((nih / "test_list.txt").read_text().split())
    assert all((row["image_index"] in listed_for_test) == (row["split"] == "test") for row in auto.to_pylist())
    assert "112,120 rows of 30,805 patients; 0 rejected; 111,920 without an image" in printed


@pytest.fixture
def in_process(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return the job's main: it runs here, on the session of all tests, where its process is not the point."""
    monkeypatch.setattr(job, "open_session", lambda _, **__: spark)
    return lambda *options: job.main(options)


@pytest.mark.shared
def test_weights_of_another_layout_are_refused(
    shared: Path, tmp_path: Path, in_process: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Keras' weights in torchvision's layout: exit code 2 and what to do, before anything is written."""
    weights = next((shared / "weights").glob("resnet50_v1_imagenet-*.pth"))
    options = ["--images", str(shared / "nih"), "--output", str(tmp_path / "wrong"), "--weights", str(weights)]
    assert in_process(*options, "--backbone", "resnet50") == 2
    assert "Use --backbone resnet50-v1" in capsys.readouterr().err
    assert not (tmp_path / "wrong").exists()


def test_killed_again_and_again(tmp_path: Path, in_process: Callable[..., int]) -> None:
    """Killed with SIGKILL at four points and started again, the job ends with the rows of an undisturbed run.

    Eight images are in a tar archive, and eight in a gzipped one, which is a round of its own. The thirtieth file is
    not an image: the exit code reports too many quarantined files after everything is written.
    """
    write_archive(tmp_path / "in", 29, size=64)
    images = sorted((tmp_path / "in").rglob("*.png"))
    for name, part, mode in (("y.tar", images[13:21], "w"), ("z.tar.gz", images[21:], "w:gz")):
        packed = {f"images/{path.name}": path.read_bytes() for path in part}
        (tmp_path / "in" / name).write_bytes(archives.tar_bytes(packed, mode))
        for path in part:
            path.unlink()
    (tmp_path / "in" / "bad.png").write_text("not an image")
    options = ["--weights", "random", "--precision", "fp32", "--batch-size", "3", "--max-quarantined", "0.02"]
    options += ["--metadata", str(tmp_path / "in" / "Data_Entry_2017_v2020.csv")]
    output = tmp_path / "killed"
    checkpoint, rounds = output / "_checkpoint", output / "embeddings"
    points: list[Callable[[], bool]] = [
        (checkpoint / "rounds" / "0.parquet").exists,  # planned, nothing written
        (rounds / "round=1" / "_temporary").exists,  # half written
        lambda: (rounds / "round=3" / "_SUCCESS").exists() and not (checkpoint / "rounds" / "3.done").exists(),
        (rounds / "round=4" / "_temporary").exists,  # the gzipped archive, half written
    ]
    for due in points:
        jobs.kill_when(start(tmp_path / "in", output, *options, "--round-size", "6"), due)
    printed = run(tmp_path / "in", output, *options, "--round-size", "6", code=3)
    assert in_process("--images", str(tmp_path / "in"), "--output", str(tmp_path / "whole"), *options) == 3
    assert "30 listed = 29 ok + 1 quarantined" in printed
    assert "3.33% of the input is quarantined; --max-quarantined allows 2.00%" in printed
    killed, whole = rows_of(output), rows_of(tmp_path / "whole")
    assert pc.unique(killed["round"]).to_pylist() != pc.unique(whole["round"]).to_pylist() == [0, 1]
    assert killed.drop_columns(["round", "embedding"]).equals(whole.drop_columns(["round", "embedding"]))
    killed, whole = (table.filter(pc.equal(table["status"], "ok")) for table in (killed, whole))
    assert pc.unique(killed["precision"]).to_pylist() == ["fp32"]
    np.testing.assert_allclose(vectors(killed), vectors(whole), atol=1e-4)


OPTIONS: list[tuple[list[str], str, Any]] = [
    (["--metadata", "m.csv", "n.csv"], "metadata", ("m.csv", "n.csv")),
    (["--metadata", "m.csv", "--columns", "c.toml"], "columns", "c.toml"),
    (["--max-unmatched", "0.5"], "max_unmatched", 0.5),
    (["--backbone", "resnet50-v1"], "backbone", "resnet50-v1"),
    (["--weights", "w.pth"], "weights", "w.pth"),
    (["--input-size", "448"], "input_size", 448),
    (["--fit", "pad"], "fit", Fit.PAD),
    (["--engine", "openvino"], "engine", "openvino"),
    (["--image-feature", "scan"], "image_feature", "scan"),
    (["--bits-stored", "12"], "bits_stored", 12),
    (["--any-dicom"], "any_dicom", True),
    (["--keep-patient-ids"], "keep_patient_ids", True),
    (["--patient-key", "k"], "patient_key", "k"),
    (["--webdataset-metadata"], "webdataset_metadata", True),
    (["--augment", "hflip"], "view_names", ("none", "hflip")),
    (["--metadata", "m", "--views", "hflip,affine:2"], "view_names", ("none", "hflip", "affine-1", "affine-2")),
    (["--metadata", "m", "--views", "affine:1", "--view-seed", "3"], "view_seed", 3),
    (["--precision", "bf16"], "precision", "bf16"),
    (["--device", "cuda"], "device", "cuda"),
    (["--batch-size", "3"], "batch_size", 3),
    (["--round-size", "5"], "round_size", 5),
    (["--watch", "2.5"], "watch", 2.5),
    (["--replay-quarantine"], "replay_quarantine", True),
    (["--metadata", "m", "--split", "image"], "split", SplitRule(SplitLevel.IMAGE)),
    (
        ["--metadata", "m", "--train-val-list", "a", "--test-list", "b"],
        "split",
        SplitRule(SplitLevel.PATIENT, "a", "b"),
    ),
]


@pytest.mark.parametrize(("words", "name", "value"), OPTIONS, ids=[" ".join(words) for words, _, _ in OPTIONS])
def test_every_option_reaches_the_job(
    monkeypatch: pytest.MonkeyPatch, words: list[str], name: str, value: object
) -> None:
    """Each option changes the one setting it names, from a default that is another."""
    seen: list[ExtractConfig] = []

    def record(_: object, config: ExtractConfig) -> dict[str, Any]:
        seen.append(config)
        images = {"listed": 0, "quarantined": 0, "without_metadata": 0}
        return {"images": images, "metadata": {"rows": 0, "rejected": {}}}

    monkeypatch.setattr(job, "open_session", lambda _, **__: None)
    monkeypatch.setattr(job, "extract", record)
    monkeypatch.setattr(job, "format_summary", lambda _: "")
    for arguments in ([], words):
        assert job.main(["--images", "in", "--output", "out", *arguments]) == 0
    holders = [config.embedding if hasattr(config.embedding, name) else config for config in seen]
    default, changed = (getattr(holder, name) for holder in holders)
    assert changed == value
    assert default != value


def test_images_without_metadata_end_with_a_code_of_their_own(
    tmp_path: Path, in_process: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """All work is committed; the last line says why the code is 4 and what to look at. The limit is an option."""
    write_archive(tmp_path / "in", 6, size=64)
    table = tmp_path / "in" / "Data_Entry_2017_v2020.csv"
    lines = table.read_text().splitlines()
    (tmp_path / "cut.csv").write_text("\n".join(lines[:-2]))
    options = ["--images", str(tmp_path / "in"), "--weights", "random", "--metadata", str(tmp_path / "cut.csv")]
    assert in_process(*options, "--output", str(tmp_path / "strict")) == 4
    last = capsys.readouterr().err.splitlines()[-1]
    assert "2 of 6 images have no metadata; --max-unmatched allows 1.00%. Outcomes: 4 matched, 2 no-line." in last
    assert rows_of(tmp_path / "strict").num_rows == 6
    assert in_process(*options, "--output", str(tmp_path / "loose"), "--max-unmatched", "0.34") == 0
