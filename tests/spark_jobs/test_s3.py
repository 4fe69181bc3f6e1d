"""Both jobs with everything on S3: images, metadata, lists, head, drops, output and checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyspark
import pytest

from cxrfeat.head.bundle import save_bundle
from cxrfeat.io import storage
from cxrfeat.phantom.archive import write_archive
from tests import fakes, s3, s3a
from tests.spark_jobs import jobs

METADATA = "Data_Entry_2017_v2020.csv"


@pytest.fixture(scope="module")
def connector() -> list[str]:
    """Return spark-submit's options for S3."""
    options = s3a.submit_options()
    if options is None:
        pytest.skip(f"Spark has no hadoop-aws, and {s3a.FOLDER} names no folder of jars: see docs/S3.md")
    return options


def table(location: str, *keys: str) -> pa.Table:
    """Read a table and sort it; ``round`` depends on when it was made."""
    filesystem, path = storage.open_filesystem(location)
    found = pads.dataset(path, filesystem=filesystem, partitioning="hive").to_table()
    return found.select([name for name in found.column_names if name != "round"]).sort_by(
        [(key, "ascending") for key in keys]
    )


def assert_equal(found: pa.Table, expected: pa.Table, *numbers: str) -> None:
    """Compare tables: columns of numbers up to rounding, all others exactly."""
    assert found.drop_columns(list(numbers)).equals(expected.drop_columns(list(numbers)))
    for name in numbers:
        for one, other in zip(found[name].to_pylist(), expected[name].to_pylist(), strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)


def assert_same_text(roots: Iterable[str], *names: str) -> None:
    for name in names:
        found, expected = (storage.read_text(f"{root}/{name}") for root in roots)
        assert found == expected is not None


def extraction(root: str) -> list[str]:
    options = [
        "--images",
        f"{root}/images",
        "--output",
        f"{root}/features",
        "--weights",
        "random",
        "--precision",
        "fp32",
    ]
    options += ["--round-size", "5", "--max-quarantined", "0.2", "--metadata", f"{root}/{METADATA}"]
    return [*options, "--train-val-list", f"{root}/train_val_list.txt", "--test-list", f"{root}/test_list.txt"]


def scoring(root: str) -> list[str]:
    return ["--drops", f"{root}/features/embeddings", "--head", f"{root}/head", "--output", f"{root}/scored"]


def write_inputs(folder: Path) -> None:
    """Write ten images with metadata and split lists, an image with an odd name, and a file that is not an image."""
    write_archive(folder / "images", 10, size=64)
    (folder / "images" / "none.png").write_text("no image")
    odd = folder / "images" / "with space" / "100%20 ä+b=c.png"
    odd.parent.mkdir()
    odd.write_bytes(fakes.png(fakes.gray_image()))
    (folder / "images" / METADATA).rename(folder / METADATA)
    lines = (folder / METADATA).read_text().splitlines()[1:]
    patients: dict[str, list[str]] = {}
    for line in lines:
        name, _, _, patient = line.split(",")[:4]
        patients.setdefault(patient, []).append(name)
    groups = list(patients.values())
    for name, part in (("train_val_list.txt", groups[1:]), ("test_list.txt", groups[:1])):
        (folder / name).write_text("".join(f"{image}\n" for group in part for image in group))


@pytest.mark.slow
def test_jobs_on_s3_equal_jobs_on_a_disk(tmp_path: Path, bucket: str, connector: list[str]) -> None:
    """Killed in the middle and started again, with new images in between: rows, quarantine, splits and predictions."""
    write_inputs(tmp_path)
    late = sorted((tmp_path / "images").glob("*.png"))[:2]
    later = {path: path.read_bytes() for path in late}
    for path in late:
        path.rename(path.with_suffix(".later"))
    s3.upload(tmp_path, bucket)
    killed = jobs.start("extract", *extraction(bucket), submit=connector)
    jobs.kill_when(killed, lambda: storage.exists(f"{bucket}/features/embeddings/round=1"))
    for path, data in later.items():
        s3.put(f"{bucket}/images/{path.name}", data)
        path.write_bytes(data)
    printed = jobs.run("extract", *extraction(bucket), submit=connector)
    assert "12 listed = 11 ok + 1 quarantined; 2 without metadata" in printed
    jobs.run("extract", *extraction(str(tmp_path)))
    roots = (bucket, str(tmp_path))
    assert_same_text(roots, "features/summary.json", "features/metadata_without_image.txt")
    assert_equal(*(table(f"{root}/features/embeddings", "image_path") for root in roots), "embedding")
    assert_equal(*(table(f"{root}/features/metadata", "line") for root in roots))

    settings = json.loads((tmp_path / "features" / "dataset.json").read_text())
    save_bundle(fakes.bundle(2048, extractor=settings["extractor"]), tmp_path / "head")
    s3.upload(tmp_path / "head", f"{bucket}/head")
    jobs.run("score", *scoring(bucket), submit=connector)
    jobs.run("score", *scoring(str(tmp_path)))
    assert_same_text(roots, "scored/summary.json")
    predictions = [table(f"{root}/scored/predictions", "image_index", "drop_file") for root in roots]
    # Rounds of the two runs have different images, and drop files have random names.
    assert_equal(
        *(found.drop_columns(["drop_file", "row_group"]) for found in predictions),
        *(name for name in predictions[0].column_names if name.startswith("probability_") or name == "any_finding"),
    )


@pytest.mark.spark
def test_without_a_connector_the_error_names_the_fix(tmp_path: Path, bucket: str) -> None:
    """One line and exit code 2 before any work; only Spark's output needs the connector, images are read by pyarrow."""
    if s3a.submit_options() == []:
        pytest.skip("this Spark has hadoop-aws among its jars")
    (tmp_path / "a.png").write_bytes(fakes.png(fakes.gray_image()))
    printed = jobs.run("extract", "--images", str(tmp_path), "--output", f"{bucket}/out", code=2)
    version = next((Path(pyspark.__file__).parent / "jars").glob("hadoop-client-api-*.jar")).stem.rpartition("-")[2]
    assert printed.splitlines()[-1] == (
        f"error: '{bucket}/out': this Spark has no connector for s3a://; start the job with spark-submit --packages "
        f"org.apache.hadoop:hadoop-aws:{version} (docs/S3.md)"
    )
    assert "Traceback" not in printed
