"""The page of results: ratios, verdicts and tables from stored numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks import figure, results
from benchmarks.contenders import BARE, CONTENDERS, JOB, Kind

PEAK = {"jvm": 600.0, "driver": 500.0, "worker": 700.0, "tree": 2500.0}


def run(contender: str, steady: float | None, seconds: float = 60.0, films: int = 2000) -> dict[str, Any]:
    return {"contender": contender, "films": films, "steady": steady, "seconds": seconds, "peak": PEAK}


def repeat(factor: float) -> list[dict[str, Any]]:
    """One repeat on a machine that is ``factor`` times as fast."""
    return [
        run(JOB, 36.0 * factor, 80.0),
        run(BARE, 40.0 * factor, 60.0),
        run(JOB, None, 40.0, 621),
        run("Daft", 20.0 * factor, 30.0, 217),
        run("Daft, our function", 32.0 * factor, 36.0, 621),
        run("Ray Data, our function", 30.0 * factor, 45.0, 621),
        run("mapInPandas", 9.0 * factor, 40.0, 217),
        run("predict_batch_udf", 8.0 * factor, 40.0, 217),
        run("2018 recipe", 12.0 * factor, 40.0, 217),
    ]


REPEATS = [repeat(1.0), repeat(0.5), repeat(2.0)]
RUN = {"command": "python -m benchmarks.all", "machine": "a CPU", "versions": "torch 2", "date": "2026-01-01"}
FOUND: dict[str, Any] = {
    "runs": {
        "extraction": {**RUN, "minutes": 20.0},
        "stages": {**RUN, "minutes": 4.0},
        "load": {**RUN, "command": "python -m benchmarks.all --parts load", "minutes": 6.0},
    },
    "extraction": REPEATS,
    "stages": [
        {"stage": "decode", "way": "ours", "ms": 10.0},
        {"stage": "decode", "way": "OpenCV", "ms": 8.0},
        {"stage": "decode", "way": "torchvision", "ms": 7.5},
        {"stage": "inflate", "way": "zlib", "ms": 3.0},
    ],
    "load": {
        "rows": 40_000,
        "width": 2048,
        "seconds": {"read_table": [2.0, 1.0, 3.0], "ours": [4.0, 4.0, 4.0]},
        "peaks": {"read_table": [1.0, 1.0, 1.0], "ours": [1200.0, 1300.0, 1100.0]},
    },
}


def test_the_page_has_every_contender_and_only_what_was_measured() -> None:
    """Each run's rate is on the page; parts that were not run are not."""
    page = results.render(FOUND)
    assert "| Daft, our function | given ours | 32.0 | 32.0, 16.0, 64.0 | 1.12 | 621 | 36.0 | 2,500 |" in page
    assert "| decode | 10.00 | 7.50 (torchvision), 8.00 (OpenCV) |" in page
    assert "| ours | 4.00 | 1,200 |" in page
    assert "| speed: ours / read_table | 0.50 | 0.50, 0.25, 0.75 | ≥ 0.5 | yes |" in page
    assert "## Fit" not in page
    assert "30 minutes (bar: 40: kept)" in page
    assert "- extraction, stages: `python -m benchmarks.all`, 2026-01-01. a CPU; torch 2." in page
    assert "- load: `python -m benchmarks.all --parts load`, 2026-01-01. a CPU; torch 2." in page
    slow = {**FOUND["runs"], "load": {**FOUND["runs"]["load"], "minutes": 36.0}}
    assert "60 minutes (bar: 40: **not kept**)" in results.render({**FOUND, "runs": slow})


def test_a_table_has_as_many_cells_in_every_row() -> None:
    """GitHub drops cells beyond the header's without a word."""
    for section in results.render(FOUND).split("\n\n"):
        if section.startswith("|"):
            assert len({line.count("|") for line in section.splitlines()}) == 1


def test_the_figure_shows_what_there_is(tmp_path: Path) -> None:
    """It draws with one part or both, the same numbers give the same bytes, and the job says over how many films."""
    for number, keys in enumerate((("extraction",), ("stages",), ("extraction", "stages"))):
        paths = [tmp_path / f"{number}{copy}.svg" for copy in "ab"]
        for path in paths:
            figure.draw({key: FOUND[key] for key in keys}, path)
        assert paths[0].read_bytes() == paths[1].read_bytes()
        assert ElementTree.parse(paths[0]).getroot().tag.endswith("svg")
        assert ("<!-- job, 2,000 films -->" in paths[0].read_text()) == (
            "extraction" in keys
        )  # the text of its outline
    figure.draw({}, tmp_path / "none.svg")
    assert not (tmp_path / "none.svg").exists()


def test_contenders_say_what_they_stand_for() -> None:
    """The kinds decide which row a bar compares with."""
    kinds = {name: contender.kind for name, contender in CONTENDERS.items()}
    assert kinds["Daft"] == kinds["2018 recipe"] == Kind.DOCUMENTED
    assert kinds["Daft, its decoder, our encoder"] == kinds["mapInPandas, our function"] == Kind.GIVEN
    assert kinds["Daft, our function + allocator settings"] == Kind.GIVEN_MALLOC
    assert kinds[BARE] == kinds["OpenVINO in the bare loop"] == kinds["naive, batch 8"] == Kind.REFERENCE


def test_growth_is_judged_by_time_and_memory() -> None:
    """Ten times the rows may take ten times of either, and fewer cores are no growth."""
    small = {"rows": 10.0, "seconds": 5.0, **PEAK}
    assert "10 times as much: 10.0 times the time, 1.00 times the memory: linear or better" in results.score_scaling(
        [small, {**small, "rows": 100.0, "seconds": 50.0}]
    )
    assert "**worse than linear**" in results.score_scaling([small, {**small, "rows": 100.0, "tree": 25_001.0}])
    points = [
        {"cores": 2, "run": run(JOB, 30.0, 20.0, 200)},
        {"cores": 2, "run": run(JOB, 30.0, 80.0, 2000)},
        {"cores": 1, "run": run(JOB, 15.0, 40.0, 200)},
    ]
    assert results.scaling(points).count("times as much: 4.0 times the time") == 1
