"""Rounds: every file in exactly one, whatever happens in between."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from cxrfeat.errors import CheckpointError, ConfigError, WorkerError
from cxrfeat.spark.rounds import Rounds, list_round_files, run_rounds

Committed = dict[int, list[str]]


def rounds_of(folder: Path, size: int = 3, watch: float | None = None) -> Rounds:
    return Rounds(str(folder / "in"), (".png",), str(folder / "checkpoint"), size, watch)


def make_files(folder: Path, names: Sequence[str]) -> list[str]:
    paths = [folder / "in" / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return sorted(map(str, paths))


def run(spark: SparkSession, rounds: Rounds) -> Committed:
    committed: Committed = {}
    run_rounds(spark, rounds, lambda files, round_id: committed.update({round_id: list(files)}))
    return committed


def all_files(*committed: Committed) -> list[str]:
    return sorted(file for rounds in committed for files in rounds.values() for file in files)


def test_each_file_is_in_one_round_and_new_files_come_later(spark: SparkSession, tmp_path: Path) -> None:
    """Rounds hold at most ``size`` files; a second run sees only new ones, however old their time stamps are."""
    old = make_files(tmp_path, [f"{index}.png" for index in range(8)])
    first = run(spark, rounds_of(tmp_path))
    assert [len(files) for files in first.values()] == [3, 3, 2]
    assert all_files(first) == old
    new = make_files(tmp_path, ["later/9.png"])
    (tmp_path / "in" / "later" / "9.png").touch()
    os.utime(tmp_path / "in" / "later" / "9.png", (10**9, 10**9))  # 2001: a restored archive
    assert run(spark, rounds_of(tmp_path)) == {3: new}


def test_odd_names_come_through_unchanged(spark: SparkSession, tmp_path: Path) -> None:
    """Nested, spaced, percent, hash, Unicode, upper-case suffix: the handle is the path that can be opened."""
    folder = tmp_path / "in [1]{a}"
    names = ["a b/c%20d.png", "é/x#y?.PNG", "deep/er/still/z.Png", "plus+&'.png"]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    (folder / "notes.txt").write_text("not an image")
    committed = run(spark, Rounds(str(folder), (".png",), str(tmp_path / "checkpoint"), 10))
    assert all_files(committed) == sorted(str(folder / name) for name in names)


def test_empty_and_vanished_files_are_handed_over(spark: SparkSession, tmp_path: Path) -> None:
    """A file of zero bytes, and one that is deleted after it was listed, are in their round like any other."""
    files = make_files(tmp_path, [f"{index}.png" for index in range(6)])
    Path(files[0]).write_bytes(b"")
    committed: Committed = {}

    def commit(handed: Sequence[str], round_id: int) -> None:
        committed[round_id] = list(handed)
        for file in set(files) - set(handed):
            Path(file).unlink(missing_ok=True)

    run_rounds(spark, rounds_of(tmp_path), commit)
    assert all_files(committed) == files


@pytest.mark.parametrize("written", [False, True], ids=["before the write", "after the write"])
def test_a_failed_round_is_repeated_with_the_same_files(spark: SparkSession, tmp_path: Path, *, written: bool) -> None:
    """A failure in the second round reaches the caller as it is; the next run repeats that round, and only that."""
    files = make_files(tmp_path, [f"{index}.png" for index in range(6)])
    attempts: list[tuple[int, list[str]]] = []
    failures = [InterruptedError("killed")]

    def commit(handed: Sequence[str], round_id: int) -> None:
        fails = round_id == 1 and bool(failures)
        if written or not fails:
            attempts.append((round_id, list(handed)))
        if fails:
            raise failures.pop()

    with pytest.raises(InterruptedError, match="killed"):
        run_rounds(spark, rounds_of(tmp_path), commit)
    new = make_files(tmp_path, ["new.png"])
    run_rounds(spark, rounds_of(tmp_path), commit)
    assert [number for number, _ in attempts] == ([0, 1, 1, 2] if written else [0, 1, 2])
    assert len({tuple(handed) for number, handed in attempts if number == 1}) == 1
    assert all_files(dict(attempts)) == sorted(files + new)


def test_the_log_is_read_across_its_compactions(spark: SparkSession, tmp_path: Path) -> None:
    """Spark merges its file log every tenth round: files of every round are still told apart."""
    files = make_files(tmp_path, [f"{index:02d}.png" for index in range(23)])
    committed = run(spark, rounds_of(tmp_path, size=1))
    assert [len(handed) for handed in committed.values()] == [1] * 23
    assert all_files(committed) == files
    assert (tmp_path / "checkpoint" / "sources" / "0" / "19.compact").is_file()
    assert list_round_files(str(tmp_path / "checkpoint"), 19) == committed[19]


def test_a_stream_that_cannot_go_on_is_one_line(spark: SparkSession, tmp_path: Path) -> None:
    """An error of the stream itself, here a damaged checkpoint file, is reported by its innermost cause."""
    make_files(tmp_path, ["0.png"])
    run(spark, rounds_of(tmp_path))
    (tmp_path / "checkpoint" / "metadata").write_text("{}")
    make_files(tmp_path, ["1.png"])
    with pytest.raises(WorkerError, match=r"^the stream of files failed: .+$") as failed:
        run(spark, rounds_of(tmp_path))
    assert "\n" not in str(failed.value)


def test_watching_goes_on_until_stopped(spark: SparkSession, tmp_path: Path) -> None:
    """With ``watch`` files that arrive later are committed by the running stream."""
    first = make_files(tmp_path, ["0.png"])
    committed: Committed = {}
    arrived = threading.Event()

    def commit(handed: Sequence[str], round_id: int) -> None:
        committed[round_id] = list(handed)
        if round_id == 0:
            make_files(tmp_path, ["1.png"])
        else:
            arrived.set()

    def stop_when_arrived() -> None:
        arrived.wait(timeout=60)
        for query in spark.streams.active:
            query.stop()

    stopper = threading.Thread(target=stop_when_arrived)
    stopper.start()
    run_rounds(spark, rounds_of(tmp_path, watch=0.1), commit)
    stopper.join()
    assert committed == {0: first, 1: [str(tmp_path / "in" / "1.png")]}


@pytest.mark.parametrize(("size", "watch", "message"), [(0, None, "round size 0"), (1, 0.0, "watch interval 0.0")])
def test_impossible_rounds_are_refused(size: int, watch: float | None, message: str) -> None:
    """A round without files or a watch without a pause is an error before any work."""
    with pytest.raises(ConfigError, match=message):
        Rounds("in", (".png",), "checkpoint", size, watch)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "offsets/0 does not exist"),
        ("", "offsets/0 starts with ''; expected 'v1'"),
        ("v1\n", "offsets/0 starts with 'v1'; expected 'v1' and at least one line"),
        ("v2\n{}", "offsets/0 starts with 'v2'; expected 'v1'"),
        ("v1\n{", "the log of round 0 is damaged: JSONDecodeError"),
        ("v1\n{}", "the log of round 0 is damaged: KeyError"),
        ("v1\n7", "the log of round 0 is damaged: TypeError"),
    ],
)
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    """A log that is missing, empty, cut off or of another version is an error that names it, not an empty round."""
    if content is not None:
        (tmp_path / "offsets").mkdir()
        (tmp_path / "offsets" / "0").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        list_round_files(str(tmp_path), 0)
