"""Outputs whose rounds Spark's file stream planned are continued: nothing of them is done twice or lost."""

from __future__ import annotations

import shutil
from pathlib import Path
from urllib.parse import quote

import pytest
from pyspark.sql import DataFrame, SparkSession

from cxrfeat.errors import CheckpointError
from cxrfeat.io.round_log import RoundLog
from cxrfeat.io.spark_checkpoint import read_stream

ROUNDS = 12
"""Spark merges its list of files every tenth round."""


def name_of(index: int) -> str:
    return f"ward {index % 2}/100%20 ä {index:02d}.png"


@pytest.fixture(scope="module")
def old(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with images, and the checkpoint of a stream that took two of them per round."""
    folder = tmp_path_factory.mktemp("old")
    for index in range(2 * ROUNDS):
        path = folder / "in" / name_of(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")

    def take(rows: DataFrame, number: int) -> None: ...

    stream = (
        spark.readStream.format("binaryFile")
        .schema("path STRING, modificationTime TIMESTAMP, length BIGINT, content BINARY")
        .option("recursiveFileLookup", True)
        .option("pathGlobFilter", "*{.[pP][nN][gG]}")
        .option("maxFilesPerTrigger", 2)
        .load(f"file://{folder}/in")
        .writeStream.foreachBatch(take)
        .option("checkpointLocation", f"file://{folder}/_checkpoint")
        .trigger(availableNow=True)
    )
    stream.start().awaitTermination()
    return folder


@pytest.fixture
def folder(old: Path, tmp_path: Path) -> Path:
    shutil.copytree(old / "_checkpoint", tmp_path / "_checkpoint")
    return tmp_path


def log_of(old: Path, folder: Path) -> RoundLog:
    return RoundLog(str(folder / "_checkpoint"), str(old / "in"))


def test_finished_rounds_are_known(old: Path, folder: Path) -> None:
    """Every file of the stream's log is known, across its compactions, and the numbers of rounds go on."""
    log = log_of(old, folder)
    assert (folder / "_checkpoint" / "sources" / "0" / "9.compact").is_file()
    assert log.known == {name_of(index) for index in range(2 * ROUNDS)}
    assert log.unfinished is None
    log.finish(log.plan([]), {})
    assert (folder / "_checkpoint" / "rounds" / f"{ROUNDS}.done").is_file()
    assert len(log_of(old, folder).known) == 2 * ROUNDS


def test_an_unfinished_round_is_repeated_and_then_ours(old: Path, folder: Path) -> None:
    """The round that Spark planned and did not commit is handed over with its two files, until it is finished."""
    (folder / "_checkpoint" / "commits" / str(ROUNDS - 1)).unlink()
    for _ in range(2):
        log = log_of(old, folder)
        assert log.unfinished is not None
        assert log.unfinished.number == ROUNDS - 1
        assert len(log.unfinished.items) == 2
        assert len(log.known) == 2 * ROUNDS
    assert log.unfinished is not None
    log.finish(log.unfinished, {})
    after = log_of(old, folder)
    assert after.unfinished is None
    assert len(after.known) == 2 * ROUNDS
    assert after.plan([]).number == ROUNDS


def test_files_that_were_seen_but_not_planned_are_new(old: Path, folder: Path) -> None:
    """Killed between the list of files and the plan: the last files belong to no round and are listed again."""
    for kind in ("offsets", "commits"):
        (folder / "_checkpoint" / kind / str(ROUNDS - 1)).unlink()
    log = log_of(old, folder)
    assert len(log.known) == 2 * ROUNDS - 2
    assert log.plan([]).number == ROUNDS - 1


def test_a_name_from_the_log_is_the_name_of_the_listing(tmp_path: Path) -> None:
    """A name that needs an escape has it in both."""
    for kind, number, line in (
        ("sources/0", 0, f'{{"path":"file:///in/{quote("a%FF.png")}","timestamp":1,"batchId":0,"action":"add"}}'),
        ("offsets", 0, '{"logOffset":0}'),
        ("commits", 0, "{}"),
    ):
        (tmp_path / kind).mkdir(parents=True)
        (tmp_path / kind / str(number)).write_text(f"v1\n{line}")
    assert read_stream(str(tmp_path), "/in").finished == ["a%25FF.png"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("offsets/11", "", "offsets/11 starts with ''; expected 'v1'"),
        ("offsets/11", "v1\n", "offsets/11 starts with 'v1'; expected 'v1' and at least one line"),
        ("offsets/11", "v2\n{}", "offsets/11 starts with 'v2'; expected 'v1'"),
        ("offsets/11", "v1\n{", "is damaged: JSONDecodeError"),
        ("offsets/11", "v1\n{}", "is damaged: KeyError"),
        ("offsets/11", "v1\n7", "is damaged: TypeError"),
        ("sources/0/9.compact", "v1\n7", "is damaged: TypeError"),
        ("sources/0/9.compact", "v1\n{", "is damaged: JSONDecodeError"),
    ],
)
def test_a_damaged_checkpoint_is_refused(old: Path, folder: Path, name: str, content: str, message: str) -> None:
    """A log that is empty, cut off or of another version is an error that names it, not an empty log."""
    (folder / "_checkpoint" / name).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        log_of(old, folder)
