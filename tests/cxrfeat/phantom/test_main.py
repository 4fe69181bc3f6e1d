"""What ``python -m cxrfeat.phantom`` writes, says, and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cxrfeat.phantom import archive
from cxrfeat.phantom.__main__ import main
from tests.cxrfeat.phantom.test_archive import SIZE, images


def test_the_command_writes_a_set_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line tells what is in the folder, and the folder tells which set it is."""
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


def test_the_command_explains_what_it_can_t_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistake ends with status 2 and a message, without a traceback."""
    assert main(["--count", "0", "--output", str(tmp_path / "set")]) == 2
    assert capsys.readouterr().err == "error: count: expected at least 1, got 0\n"


def test_a_full_disk_and_ctrl_c_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the exit codes of every command; what is drawn is kept."""
    for error, code, said in (
        (OSError(28, "No space left on device"), 1, "error: [Errno 28] No space left on device\n"),
        (KeyboardInterrupt(), 130, "interrupted: the same command goes on\n"),
    ):

        def fail(*_: object, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr(archive, "_draw_one", fail)
        assert main(["--count", "3", "--output", str(tmp_path / "set"), "--size", str(SIZE)]) == code
        assert capsys.readouterr().err == said
    monkeypatch.undo()
    assert main(["--count", "3", "--output", str(tmp_path / "set"), "--size", str(SIZE)]) == 0
