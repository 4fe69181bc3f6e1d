"""Extraction benchmark around the contenders: links, counted rows, times of our job, commands."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import extract
from benchmarks.contenders import CONTENDERS, Contender, JobContender
from benchmarks.steady import Mark
from benchmarks.workloads import link_images

PROGRAM = """
import pathlib, sys
import pyarrow as pa, pyarrow.parquet as pq
images, output, marks, lost = map(pathlib.Path, sys.argv[1:5])
output.mkdir()
names = [str(path) for path in images.rglob("*.png")]
marks.write_text("".join(f"{100 + 0.5 * number} 1\\n" for number in range(len(names))))
pq.write_table(pa.table({"path": names[int(str(lost)):]}), output / "x.parquet")
"""


class FakeContender(Contender):
    """Contender that writes a row for every image but those it loses."""

    lost = 0

    def command(self, images: Path, output: Path, marks: Path, network: Sequence[str]) -> list[str]:
        return [sys.executable, "-c", PROGRAM, str(images), str(output), str(marks), str(self.lost)]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in ("a/1.png", "b/2.png", "3.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_text(name)
    return tmp_path / "images"


def test_images_are_linked_as_often_as_needed(images: Path, tmp_path: Path) -> None:
    """Every link has a path of its own and leads to a real image."""
    link_images(images, tmp_path / "many", 8)
    links = list((tmp_path / "many").rglob("*.png"))
    assert len(links) == 8
    assert {link.resolve() for link in links} == {image.resolve() for image in images.rglob("*.png")}


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    """A folder without images ends the benchmark instead of an endless loop."""
    with pytest.raises(SystemExit, match="no image found"):
        link_images(tmp_path, tmp_path / "many", 8)


def test_a_run_is_measured_and_counted(images: Path) -> None:
    """The steady rate of a run comes from its marks."""
    run = extract.run(FakeContender("fake", ""), images, 3, [])
    assert (run["contender"], run["images"], run["steady"]) == ("fake", 3, 2.0)
    assert run["seconds"] > 0


def test_a_lost_row_fails_the_run(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A contender is not fast by leaving images out."""
    monkeypatch.setattr(FakeContender, "lost", 1)
    with pytest.raises(ValueError, match="fake wrote 2 rows; expected one for each of 3 images"):
        extract.run(FakeContender("fake", ""), images, 3, [])


def submit_stage(number: int, scope: str) -> str:
    """Return an event as Spark logs it."""
    rdds = [{"Scope": json.dumps({"id": "1", "name": name})} for name in ("Exchange", scope)]
    info = {"Stage ID": number, "RDD Info": [*rdds, {"RDD ID": 1}]}
    return json.dumps({"Event": "SparkListenerStageSubmitted", "Stage Info": info})


def end_task(stage: int, start: int, end: int) -> str:
    """Return an event as Spark logs it."""
    info = {"Launch Time": 1000 * start, "Finish Time": 1000 * end}
    return json.dumps({"Event": "SparkListenerTaskEnd", "Stage ID": stage, "Task Info": info})


def test_our_job_is_measured_by_its_tasks(tmp_path: Path) -> None:
    """The images of a round are spread over the tasks of its embedding stage; other stages do not count."""
    for number, count in {10: 3, 2: 5}.items():
        folder = tmp_path / "out" / "embeddings" / f"round={number}" / "status=ok"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"x": list(range(count))}), folder / "part.parquet")
    (tmp_path / "out" / "summary.json").write_text(json.dumps({"images": {"ok": 8}}))
    events = [
        *(submit_stage(1, "Scan"), end_task(1, 80, 90)),
        *(submit_stage(4, "MapInArrow"), end_task(4, 91, 103), end_task(4, 90, 100)),
        *(submit_stage(7, "MapInArrow"), end_task(7, 110, 140)),
        json.dumps({"Event": "SparkListenerApplicationEnd"}),
    ]
    (tmp_path / "local-17").write_text("\n".join(events) + "\n")
    marks = JobContender().marks(tmp_path / "out", tmp_path / "marks")
    assert marks == [Mark(second, 1) for second in (95, 100, 95, 99, 103, 120, 130, 140)]
    assert JobContender().rows(tmp_path / "out") == 8


def test_every_command_can_be_typed(capsys: pytest.CaptureFixture[str]) -> None:
    """``--list`` prints the command of each row, settings included, and runs nothing."""
    assert extract.main(["--images", "xrays", "--list"]) == 0
    printed = capsys.readouterr().out
    assert all(f"\n{name}\n" in printed for name in CONTENDERS)
    assert "spark_jobs/extract.py --images xrays --output OUTPUT" in printed
    assert "env MALLOC_MMAP_THRESHOLD_=" in printed
    given = ["--images", "xrays", "--list", "--metadata", "labels.csv", "--lists", "a.txt", "b.txt"]
    assert extract.main(given) == 0
    printed = capsys.readouterr().out
    assert re.search(
        r"job with metadata\n.*--metadata \S*labels\.csv --train-val-list \S*a\.txt --test-list \S*b\.txt", printed
    )
