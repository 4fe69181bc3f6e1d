"""Where a command writes is looked at before it works."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cxrfeat.errors import ConfigError
from head_training.training.run_tables import check_output


def test_a_folder_that_is_there_or_can_be_made_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However deep, by a relative name too; and nothing is made."""
    for folder in (tmp_path, tmp_path / "new", tmp_path / "a" / "b" / "c"):
        check_output(folder)
    monkeypatch.chdir(tmp_path)
    check_output(Path("new"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["file", "file/below", "file/far/below"])
def test_a_file_is_no_folder(tmp_path: Path, name: str) -> None:
    """Nor can one be made below it; the error says which file is in the way."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=rf"--output .*/{name}: .*/file is a file; expected a folder, or nothing"):
        check_output(tmp_path / name)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc here")
def test_a_file_system_that_takes_nothing_is_refused() -> None:
    """Permissions alone would allow it, to root."""
    with pytest.raises(ConfigError, match=r"--output /proc/x: /proc can't be written to: "):
        check_output(Path("/proc/x"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    """The folder that refuses is named, not the one that would be made."""
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(ConfigError, match=r"/locked can't be written to: Permission denied"):
        check_output(tmp_path / "locked" / "new")
