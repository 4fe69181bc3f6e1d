"""The output folder is checked before any work."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cxrfeat.errors import ConfigError
from head_training.training.run_tables import check_output


def test_existing_and_new_folders_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any depth and by a relative path; nothing is created."""
    for folder in (tmp_path, tmp_path / "new", tmp_path / "a" / "b" / "c"):
        check_output(folder)
    monkeypatch.chdir(tmp_path)
    check_output(Path("new"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["file", "file/below", "file/far/below"])
def test_a_file_is_refused(tmp_path: Path, name: str) -> None:
    """So is any path below it; the error names the file."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=rf"--output .*/{name}: .*/file is a file; expected a folder or a new path"):
        check_output(tmp_path / name)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc here")
def test_an_unwritable_file_system_is_refused() -> None:
    """The check writes to it: permissions alone would let root pass."""
    with pytest.raises(ConfigError, match=r"--output /proc/x: cannot write to /proc: "):
        check_output(Path("/proc/x"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    """The error names the existing folder, not the new one."""
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(ConfigError, match=r"cannot write to .*/locked: Permission denied"):
        check_output(tmp_path / "locked" / "new")
