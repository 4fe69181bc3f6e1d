"""The orchestrator: what was measured is stored, what was not is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import all as everything
from tests.benchmarks.test_results import FOUND


def fake(answers: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let parts answer from a table, and fail where it has nothing."""
    parts = {name: lambda options, name=name: answers[name] for name in everything.PARTS}
    monkeypatch.setattr(everything, "PARTS", parts)


def run(folder: Path, *words: str) -> dict[str, Any]:
    assert everything.main(["--images", "films", "--output", str(folder), *words]) == 0
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def test_parts_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run of one part renews that part alone, and the page has both."""
    fake({"extraction": FOUND["extraction"], "stages": FOUND["stages"]}, monkeypatch)
    first = run(tmp_path, "--parts", "extraction", "stages")
    fake({"stages": FOUND["stages"][:1]}, monkeypatch)
    second = run(tmp_path, "--parts", "stages")
    assert second["extraction"] == first["extraction"] == FOUND["extraction"]
    assert second["stages"] == FOUND["stages"][:1]
    commands = {part: run["command"] for part, run in second["runs"].items()}
    typed = f"python -m benchmarks.all --images films --output {tmp_path} --parts"
    assert commands == {"extraction": f"{typed} extraction stages", "stages": f"{typed} stages"}
    page = (tmp_path / "results.md").read_text()
    assert "## Extraction" in page and "## Where" in page and "torchvision)" not in page
    assert (tmp_path / "results.svg").exists()


def test_a_failure_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured before a part failed is stored."""
    fake({"stages": FOUND["stages"]}, monkeypatch)
    with pytest.raises(KeyError):
        run(tmp_path, "--parts", "stages", "fit")
    assert json.loads((tmp_path / "results.json").read_text())["stages"] == FOUND["stages"]


def test_rendering_measures_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Page and figure come from the stored numbers alone."""
    fake({}, monkeypatch)
    (tmp_path / "results.json").write_text(json.dumps(FOUND))
    assert everything.main(["--render", "--output", str(tmp_path)]) == 0
    assert "Daft, our function" in (tmp_path / "results.md").read_text()
    assert json.loads((tmp_path / "results.json").read_text()) == FOUND


@pytest.mark.parametrize("words", [[], ["--images", "x", "--parts", "lunch"]])
def test_bad_options_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """There is nothing to measure without films, and no part of another name."""
    with pytest.raises(SystemExit, match="2"):
        everything.main(words)
    assert "--images is needed" in capsys.readouterr().err or words
