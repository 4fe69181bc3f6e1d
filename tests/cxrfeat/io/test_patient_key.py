"""The key of the patients' hashes: created once, for its owner alone, and the same ever after."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxrfeat.errors import ConfigError
from cxrfeat.io.patient_key import default_location, load_key


def test_a_key_is_created_once(tmp_path: Path) -> None:
    """The first call draws a key that nobody else can read; later calls return it."""
    key = load_key(str(tmp_path / "key"))
    assert len(key) == 32
    assert load_key(str(tmp_path / "key")) == key
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert load_key(str(tmp_path / "other")) != key


def test_the_default_is_in_the_configuration_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """XDG_CONFIG_HOME, or ~/.config without it."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "x"))
    key = load_key()
    assert bytes.fromhex((tmp_path / "x" / "cxrfeat" / "patient-key").read_text()) == key
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_location() == tmp_path / ".config" / "cxrfeat" / "patient-key"


@pytest.mark.parametrize(
    ("content", "said"), [("zz", "64 hex digits"), ("00ff", "2 bytes"), ("\udcff", "64 hex digits")]
)
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, content: str, said: str) -> None:
    """Too short, or no hex digits: the message names the file."""
    (tmp_path / "key").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match=said) as refused:
        load_key(str(tmp_path / "key"))
    assert str(tmp_path / "key") in str(refused.value)


def test_a_key_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """The message says how to choose another file."""
    with pytest.raises(ConfigError, match="--patient-key FILE"):
        load_key(str(tmp_path / "missing" / "key"))
