"""The scoring job as a user runs it: spark-submit, kill -9, exit codes, options."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pytest

from cxrfeat.cli import score as job
from cxrfeat.head.bundle import save_bundle
from cxrfeat.labels.findings import FINDINGS
from cxrfeat.spark.score import ScoreConfig
from tests import fakes
from tests.cxrfeat.pipeline.drops import DIM, rows, write
from tests.cxrfeat.pipeline.test_parquet_drops import expected
from tests.spark_jobs import jobs


def write_drops(folder: Path, count: int) -> pa.Table:
    tables = [rows(50, seed=number) for number in range(count)]
    for number, table in enumerate(tables):
        write(folder / f"{number}.parquet", table)
    return pa.concat_tables(tables)


@pytest.mark.slow
@pytest.mark.spark
def test_killed_again_and_again(tmp_path: Path) -> None:
    """Killed with SIGKILL at two points and started again, every row is there once, as a plain forward pass has it.

    The thirteenth file is not a drop: the exit code reports too many quarantined files after everything is written.
    """
    table = write_drops(tmp_path / "drops", 12)
    (tmp_path / "drops" / "bad.parquet").write_text("no drop")
    save_bundle(fakes.bundle(DIM), tmp_path / "head")
    options = ["--drops", str(tmp_path / "drops"), "--head", str(tmp_path / "head"), "--round-size", "3"]
    options += ["--max-quarantined", "0.05"]
    output = tmp_path / "killed"
    checkpoint, rounds = output / "_checkpoint", output / "predictions"
    # Before anything is written both jobs are the same: test_extract.py is killed there.
    points: list[Callable[[], bool]] = [
        (rounds / "round=1" / "_temporary").exists,  # half written
        lambda: (rounds / "round=3" / "_SUCCESS").exists() and not (checkpoint / "rounds" / "3.done").exists(),
    ]
    for due in points:
        jobs.kill_when(jobs.start("score", *options, "--output", str(output)), due)
    printed = jobs.run("score", *options, "--output", str(output), code=3)
    assert "600 listed = 600 scored + 0 quarantined; 1 files of unknown length" in printed
    assert "7.69% of the input is quarantined; --max-quarantined allows 5.00%" in printed
    found = pads.dataset(str(output / "predictions"), partitioning="hive").to_table().sort_by("image_index")
    scored = found.filter(pc.equal(found["status"], "ok"))
    assert scored["image_index"].to_pylist() == sorted(table["image_index"].to_pylist())
    probabilities = [scored[f"probability_{finding}"].to_numpy() for finding in FINDINGS]
    np.testing.assert_allclose(np.stack(probabilities, axis=1), expected(table.sort_by("image_index")), atol=1e-6)
    assert found.num_rows == 601


OPTIONS: list[tuple[list[str], str, Any]] = [
    (["--operating-point", "f1"], "operating_point", "f1"),
    (["--round-size", "5"], "round_size", 5),
    (["--watch", "2.5"], "watch", 2.5),
]
OF_IMAGES: list[tuple[list[str], str, Any]] = [
    (["--metadata", "m.csv"], "metadata", ("m.csv",)),
    (["--metadata", "m.csv", "--columns", "c.toml"], "columns", "c.toml"),
    (["--image-feature", "scan"], "image_feature", "scan"),
    (["--bits-stored", "12"], "bits_stored", 12),
    (["--any-dicom"], "any_dicom", True),
    (["--keep-patient-ids"], "keep_patient_ids", True),
    (["--patient-key", "k"], "patient_key", "k"),
    (["--webdataset-metadata"], "webdataset_metadata", True),
    (["--backbone", "resnet50-v1"], "backbone", "resnet50-v1"),
    (["--weights", "w.pth"], "weights", "w.pth"),
    (["--precision", "bf16"], "precision", "bf16"),
    (["--device", "cuda"], "device", "cuda"),
    (["--batch-size", "3"], "batch_size", 3),
    (["--input-size", "448"], "input_size", 448),
    (["--fit", "crop"], "fit", "crop"),
    (["--engine", "openvino"], "engine", "openvino"),
]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[ScoreConfig]:
    """Replace the job by a list that records its settings."""
    configs: list[ScoreConfig] = []

    def record(_: object, config: ScoreConfig) -> dict[str, Any]:
        configs.append(config)
        return {"files": {"listed": 0}}

    monkeypatch.setattr(job, "open_session", lambda _, **__: None)
    monkeypatch.setattr(job, "score", record)
    monkeypatch.setattr(job, "format_summary", lambda _: "")
    return configs


@pytest.mark.parametrize(("words", "name", "value"), OPTIONS, ids=[" ".join(words) for words, _, _ in OPTIONS])
def test_every_option_reaches_the_job(seen: list[ScoreConfig], words: list[str], name: str, value: object) -> None:
    """Each option changes the one setting it names, from a default that is another."""
    for arguments in ([], words):
        assert job.main(["--drops", "in", "--head", "head", "--output", "out", *arguments]) == 0
    default, changed = (getattr(config, name) for config in seen)
    assert changed == value
    assert default != value
    assert {config.embedding for config in seen} == {None}


@pytest.mark.parametrize(("words", "name", "value"), OF_IMAGES, ids=[" ".join(words) for words, _, _ in OF_IMAGES])
def test_options_of_images_reach_the_embedding_and_are_refused_for_drops(
    seen: list[ScoreConfig], words: list[str], name: str, value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    """Options of the network have no effect on drops, so there they are an error."""
    for arguments in ([], words):
        assert job.main(["--images", "in", "--head", "head", "--output", "out", *arguments]) == 0
    default, changed = (getattr(config.embedding, name) for config in seen)
    assert changed == value
    assert default != value
    assert job.main(["--drops", "in", "--head", "head", "--output", "out", *words]) == 2
    assert re.search(rf"error: .*{words[0]}.*: only valid with --images", capsys.readouterr().err)


def test_drops_or_images_and_not_both(capsys: pytest.CaptureFixture[str]) -> None:
    """One of the two is needed."""
    for source in ([], ["--drops", "a", "--images", "b"]):
        with pytest.raises(SystemExit) as left:
            job.main([*source, "--head", "head", "--output", "out"])
        assert left.value.code == 2
    assert "not allowed with argument" in capsys.readouterr().err
