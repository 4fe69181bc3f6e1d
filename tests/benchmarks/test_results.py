"""Page of results: tables and ratios from stored numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import results
from benchmarks.contenders import BARE, CONTENDERS, JOB, Kind


def run(contender: str, steady: float | None, seconds: float, images: int = 2000) -> dict[str, Any]:
    return {"contender": contender, "images": images, "steady": steady, "seconds": seconds, "peak": 2500.0}


def repeat(speed: float) -> list[dict[str, Any]]:
    """Return one repeat on a machine of some speed."""
    return [
        run(JOB, 36.0 * speed, 80.0),
        run(BARE, 40.0 * speed, 60.0),
        run(JOB, None, 40.0, 621),
        run("Daft", 20.0 * speed, 30.0, 217),
        run("Daft, our function", 32.0 * speed, 36.0, 621),
    ]


RUN = {"command": "python -m benchmarks.x", "machine": "a CPU", "versions": "torch 2", "date": "2026-01-01"}
FOUND: dict[str, Any] = {
    "runs": {
        "extract": RUN,
        "stages": RUN,
        "fit_memory": {**RUN, "command": "python -m benchmarks.fit --memory 40000"},
    },
    "extract": [repeat(1.0), repeat(0.5), repeat(2.0)],
    "stages": [
        {"stage": "decode", "way": "ours", "ms": 10.0},
        {"stage": "decode", "way": "OpenCV", "ms": 8.0},
        {"stage": "decode", "way": "torchvision", "ms": 7.5},
    ],
    "fit_memory": {
        "rows": 131_072,
        "width": 2048,
        "seconds": {"read_table": [2.0, 1.0, 3.0], "load_features": [4.0, 4.0, 4.0]},
        "peaks": {"read_table": [1.0, 1.0, 1.0], "load_features": [1200.0, 1280.0, 1300.0]},
    },
}


def test_rates_are_compared_run_by_run() -> None:
    """The machine's speed doubles and halves between the repeats, and the ratios stay."""
    page = results.render(FOUND)
    daft = (
        "| Daft, our function | given ours | 32.0 | 32.0, 16.0, 64.0 | 1.12 (target ≥ 1.2, **missed**) | 621 | 36.0 |"
    )
    assert f"{daft} 0.90 (target ≥ 1, **missed**) | 2,500 |" in page
    assert (
        "| bare loop | reference | 40.0 | 40.0, 20.0, 80.0 | 0.90 (target ≥ 0.95, **missed**) | 2,000 | 60.0 |" in page
    )


def test_the_page_has_what_was_measured_and_nothing_else() -> None:
    """Each part names its command; parts that were not run are left out."""
    page = results.render(FOUND)
    assert "| decode | 10.00 | 7.50 (torchvision), 8.00 (OpenCV) |" in page
    assert "| load_features | 4.00 | 0.50 (target ≥ 0.5) | 1,280 | 1.25 |" in page
    assert "- extract, stages: `python -m benchmarks.x`, 2026-01-01. a CPU; torch 2." in page
    assert "- fit_memory: `python -m benchmarks.fit --memory 40000`" in page
    assert "## Scoring" not in page


def test_a_table_has_as_many_cells_in_every_row() -> None:
    """Markdown drops the cells beyond those of the header."""
    for section in results.render(FOUND).split("\n\n"):
        if section.startswith("|"):
            assert len({line.count("|") for line in section.splitlines()}) == 1


def test_numbers_are_stored_with_their_origin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``--save`` adds a part to the file and keeps the others; the page is written from the file alone."""
    monkeypatch.setattr("sys.argv", ["benchmarks/stages.py", "--images", "x y"])
    for part in ("extract", "stages"):
        results.report(part, FOUND[part], tmp_path / "results.json")
    assert capsys.readouterr().out.count("GiB; Python ") == 2
    stored = json.loads((tmp_path / "results.json").read_text())
    assert stored["stages"] == FOUND["stages"]
    assert stored["runs"]["extract"]["command"] == "python -m benchmarks.stages --images 'x y'"
    assert results.main(["--file", str(tmp_path / "results.json")]) == 0
    assert (tmp_path / "results.md").read_text() == results.render(stored)


def test_contenders_have_their_roles() -> None:
    """The kind decides which target a row is compared with."""
    kinds = {name: contender.kind for name, contender in CONTENDERS.items()}
    assert kinds["Daft"] == kinds["2018 recipe"] == Kind.DOCUMENTED
    assert kinds["Ray Data, our function"] == Kind.GIVEN
    assert kinds[BARE] == Kind.REFERENCE
