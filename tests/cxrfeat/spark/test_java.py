"""The check for Java returns the version, or raises one message with the problem and its fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxrfeat.errors import JavaError
from cxrfeat.spark.java import find_java, main

FIXES = ("apt-get install -y openjdk-17", "brew install openjdk@17", "conda install -c conda-forge openjdk=17")

OPENJDK_17 = 'openjdk version "17.0.15" 2025-04-15'

WORKING = [
    (OPENJDK_17, 17),
    ('openjdk version "17" 2021-09-14', 17),
    ('java version "21.0.2" 2024-01-16 LTS', 21),
    ('openjdk version "26-ea" 2026-03-17', 26),
    ("Picked up JAVA_TOOL_OPTIONS: -Xmx1g\n" + OPENJDK_17, 17),
]
TOO_OLD = [
    ('java version "1.8.0_402"', 8),
    ('openjdk version "11.0.22" 2024-01-16', 11),
    ('openjdk version "16.0.2"', 16),
]


def install(folder: Path, answer: str, exit_code: int = 0) -> Path:
    """Put a fake ``java`` into a folder that answers on stderr, as Java does."""
    folder.mkdir(parents=True, exist_ok=True)
    java = folder / "java"
    java.write_text(
        f"#!/bin/sh\nwhile read line; do echo \"$line\" >&2; done <<'END'\n{answer}\nEND\nexit {exit_code}\n"
    )
    java.chmod(0o755)
    return java


@pytest.fixture(autouse=True)
def _no_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the machine's own Java: what a test does not install is not there."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))


@pytest.mark.parametrize(("answer", "version"), WORKING)
def test_java_on_the_path_is_found(
    answer: str, version: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Java 17 and newer of any vendor is found, and main prints its version and returns 0."""
    install(tmp_path / "path", answer)
    assert find_java() == version
    assert main() == 0
    assert capsys.readouterr().out == f"Java {version}\n"


def test_java_home_goes_before_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The version is that of the Java that Spark will start, and Spark starts JAVA_HOME's."""
    install(tmp_path / "path", 'openjdk version "11.0.22"')
    install(tmp_path / "home" / "bin", 'openjdk version "21.0.2"')
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    assert find_java() == 21


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the message of the refusal, after checking that it carries the fixes and that main exits with 1."""
    with pytest.raises(JavaError) as error:
        find_java()
    message = str(error.value)
    assert message.startswith("Spark needs Java 17 or newer")
    assert [fix for fix in FIXES if fix not in message] == []
    assert main() == 1
    assert capsys.readouterr() == ("", message + "\n")
    return message


@pytest.mark.parametrize(("answer", "version"), TOO_OLD)
def test_an_older_java_is_refused(
    answer: str, version: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message names the Java that was found and its version, 1.8 as 8."""
    java = install(tmp_path / "path", answer)
    assert f"{java} is Java {version}." in refused(capsys)


def test_no_java_at_all_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Without Java the message says where it was looked for."""
    assert "JAVA_HOME is not set and PATH has no java" in refused(capsys)


def test_a_java_home_without_java_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stale JAVA_HOME is named, even where PATH has a good Java: Spark would not look there."""
    install(tmp_path / "path", OPENJDK_17)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "gone"))
    assert f"JAVA_HOME={tmp_path / 'gone'} has no bin/java" in refused(capsys)


@pytest.mark.parametrize(
    ("answer", "exit_code"),
    [("Error: could not open libjvm.so", 1), (OPENJDK_17, 1), ("Unable to locate a Java Runtime.", 0)],
)
def test_a_broken_java_is_refused(
    answer: str, exit_code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A Java that fails, or is macOS's placeholder, is refused with its own output."""
    java = install(tmp_path / "path", answer, exit_code)
    assert f"{java} does not run ({answer})" in refused(capsys)


@pytest.mark.parametrize(
    ("content", "mode"), [(b"\x7fELF of another machine", 0o755), (b"#!/bin/sh\n", 0o644)], ids=["binary", "rights"]
)
def test_a_java_that_the_system_cannot_start_is_refused(
    content: bytes, mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A binary of another architecture, or one without the right to run, does not run: no traceback."""
    java = install(tmp_path / "home" / "bin", "")
    java.write_bytes(content)
    java.chmod(mode)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    assert f"{java} does not run" in refused(capsys)
