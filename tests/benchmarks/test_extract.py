"""What the extraction benchmark does around a contender: films by links, rows counted, runs summed up."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import extract
from benchmarks.contenders import CONTENDERS, JOB, Contender, Job, Network
from benchmarks.films import replicate
from benchmarks.machine import Peak
from benchmarks.steady import Mark

NETWORK = Network("resnet50", "random")
PROGRAM = """
import pathlib, sys
import pyarrow as pa, pyarrow.parquet as pq
images, output, marks, lost = map(pathlib.Path, sys.argv[1:5])
output.mkdir()
names = [str(path) for path in images.rglob("*.png")]
marks.write_text("".join(f"{100 + 0.5 * number} 1\\n" for number in range(len(names))))
pq.write_table(pa.table({"path": names[int(str(lost)):]}), output / "x.parquet")
"""


class Fake(Contender):
    """A contender that writes a row for every film but those it loses."""

    lost = 0

    def command(self, images: Path, output: Path, marks: Path, network: Network) -> list[str]:
        return [sys.executable, "-c", PROGRAM, str(images), str(output), str(marks), str(self.lost)]


@pytest.fixture
def films(tmp_path: Path) -> Path:
    for name in ("a/1.png", "b/2.png", "3.png"):
        (tmp_path / "films" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "films" / name).write_text(name)
    return tmp_path / "films"


def test_films_are_linked_as_often_as_needed(films: Path, tmp_path: Path) -> None:
    """Every link is a film of its own name, and leads to a real one."""
    replicate(films, tmp_path / "many", 8)
    links = list((tmp_path / "many").rglob("*.png"))
    assert len(links) == 8
    assert {link.resolve() for link in links} == {film.resolve() for film in films.rglob("*.png")}


def test_no_films_are_refused(tmp_path: Path) -> None:
    """An empty folder is an error and not an endless loop."""
    with pytest.raises(SystemExit, match="no image found"):
        replicate(tmp_path, tmp_path / "many", 8)


def test_a_run_is_measured_and_counted(films: Path) -> None:
    """The steady rate is that of the marks."""
    run = extract.run(Fake("fake", ""), films, 3, NETWORK)
    assert run.steady == 2.0
    assert run.films == 3
    assert run.seconds > 0


def test_a_lost_row_fails_the_run(films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A contender is not fast by leaving films out."""
    monkeypatch.setattr(Fake, "lost", 1)
    with pytest.raises(ValueError, match="fake wrote 2 rows; expected one for each of 3 films"):
        extract.run(Fake("fake", ""), films, 3, NETWORK)


def stage(number: int, scope: str) -> str:
    """Write an event as Spark logs it."""
    rdds = [{"Scope": json.dumps({"id": "1", "name": name})} for name in ("Exchange", scope)]
    info = {"Stage ID": number, "RDD Info": [*rdds, {"RDD ID": 1}]}
    return json.dumps({"Event": "SparkListenerStageSubmitted", "Stage Info": info})


def task(number: int, start: int, end: int) -> str:
    info = {"Launch Time": 1000 * start, "Finish Time": 1000 * end}
    return json.dumps({"Event": "SparkListenerTaskEnd", "Stage ID": number, "Task Info": info})


def test_the_job_is_measured_by_its_tasks(tmp_path: Path) -> None:
    """A round's films are spread over the time of its stage's tasks, in any order of names and ends; other stages don't count."""
    for number, films in {10: 3, 2: 5}.items():
        folder = tmp_path / "out" / "embeddings" / f"round={number}" / "status=ok"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"x": list(range(films))}), folder / "part.parquet")
    (tmp_path / "out" / "summary.json").write_text(json.dumps({"images": {"ok": 8}}))
    events = [stage(1, "Scan"), task(1, 80, 90), stage(4, "MapInArrow"), task(4, 91, 103), task(4, 90, 100)]
    events += [stage(7, "MapInArrow"), task(7, 110, 140), json.dumps({"Event": "SparkListenerApplicationEnd"})]
    (tmp_path / "local-17").write_text("\n".join(events) + "\n")
    marks = Job(JOB, "").marks(tmp_path / "out", tmp_path / "marks")
    assert marks == [Mark(second, 1) for second in (95, 100, 95, 99, 103, 120, 130, 140)]
    assert Job(JOB, "").rows(tmp_path / "out") == 8


def test_the_summary_compares_run_by_run() -> None:
    """Ratios to our job are those of each repeat."""
    runs = [
        [extract.Run(JOB, 10, 30.0 * speed, 5.0, Peak()), extract.Run("bare loop", 10, 40.0 * speed, 4.0, Peak())]
        for speed in (1.0, 2.0)
    ]
    assert "0.75   (runs: 0.75, 0.75)" in extract.summary(runs)


def test_every_command_can_be_typed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """``--list`` prints each row's command, settings included."""
    monkeypatch.setattr("shutil.which", lambda name: name)
    assert extract.main(["--images", "films", "--list"]) == 0
    printed = capsys.readouterr().out
    assert all(f"\n{name}\n" in printed for name in CONTENDERS)
    assert "spark_jobs/extract.py --images films --output OUTPUT" in printed
    assert "env MALLOC_MMAP_THRESHOLD_=" in printed
