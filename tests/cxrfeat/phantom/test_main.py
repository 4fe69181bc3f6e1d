"""Command ``python -m cxrfeat.phantom``: output, summary and errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cxrfeat.phantom import archive
from cxrfeat.phantom.__main__ import main
from tests.cxrfeat.phantom.test_archive import SIZE, images


def test_the_command_writes_a_set_and_a_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line describes the content, and phantom.json identifies the set."""
    output = tmp_path / "set"
    assert main(["--count", "3", "--output", str(output), "--seed", "5", "--size", str(SIZE)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{output}: 3 images of ")
    assert "(3 drawn now, 0 kept)" in line
    assert json.loads((output / "phantom.json").read_text()) == {
        "seed": 5,
        "size": SIZE,
        "version": archive.VERSION,
    }
    assert len(images(output)) == 3


def test_an_invalid_option_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code is 2, without a traceback."""
    assert main(["--count", "0", "--output", str(tmp_path / "set")]) == 2
    assert capsys.readouterr().err == "error: count: expected at least 1, got 0\n"


def test_a_full_disk_and_ctrl_c_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit codes are those of every command; drawn images are kept."""
    for error, code, message in (
        (OSError(28, "No space left on device"), 1, "error: [Errno 28] No space left on device\n"),
        (KeyboardInterrupt(), 130, "interrupted: run the same command again to continue\n"),
    ):

        def fail(*_: object, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr(archive, "_draw_one", fail)
        assert main(["--count", "3", "--output", str(tmp_path / "set"), "--size", str(SIZE)]) == code
        assert capsys.readouterr().err == message
    monkeypatch.undo()
    assert main(["--count", "3", "--output", str(tmp_path / "set"), "--size", str(SIZE)]) == 0
