"""Rounds: every item in exactly one, whatever happens in between."""

from __future__ import annotations

import _thread
import threading
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from cxrfeat.errors import ConfigError
from cxrfeat.io import storage
from cxrfeat.io.refs import ImageRef
from cxrfeat.io.round_log import RoundLog
from cxrfeat.pipeline.image_source import ImageLister, Source
from cxrfeat.spark.rounds import TYPICAL_IMAGE_BYTES, RoundPlan, cut_rounds, run_interruptibly, run_rounds

Table = dict[int, list[str]]


class KilledError(Exception): ...


def make_files(folder: Path, names: Sequence[str]) -> list[str]:
    for name in names:
        (folder / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "in" / name).write_bytes(b"x")
    return sorted(names)


def run(folder: Path, table: Table, size: int = 3, watch: float | None = None) -> None:
    """Run a job whose commit overwrites a round of the table."""
    root = str(folder / "in")

    def commit(items: Sequence[ImageRef], number: int) -> Mapping[str, Any]:
        table[number] = [item.key for item in items]
        return {"images": len(items)}

    log = RoundLog(str(folder / "checkpoint"), root)
    run_rounds(log, RoundPlan(size, watch), Source(ImageLister(root)).list_new, commit)


def all_keys(table: Table) -> list[str]:
    return sorted(key for keys in table.values() for key in keys)


def test_each_file_is_in_one_round_and_new_files_come_later(tmp_path: Path) -> None:
    """Rounds hold at most ``size`` files; a second run takes the new ones alone."""
    old = make_files(tmp_path, [f"{index}.png" for index in range(8)])
    table: Table = {}
    run(tmp_path, table)
    assert [len(keys) for keys in table.values()] == [3, 3, 2]
    assert all_keys(table) == old
    new = make_files(tmp_path, ["later/9.png"])
    run(tmp_path, table)
    assert table[3] == new
    assert all_keys(table) == sorted(old + new)


@pytest.mark.parametrize("writes", range(13))
def test_a_kill_at_any_write_loses_and_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """Killed before or after the n-th write of log or table and started again, each file is in the table once."""
    names = make_files(tmp_path, [f"{index}.png" for index in range(8)])
    table: Table = {}
    left = [writes]

    def count() -> None:
        if not left[0]:
            raise KilledError
        left[0] -= 1

    class Fragile(Table):
        def __setitem__(self, number: int, keys: list[str]) -> None:
            count()
            table[number] = keys
            count()

    real = storage.write_bytes

    def write(location: str, content: bytes) -> None:
        count()
        real(location, content)

    monkeypatch.setattr(storage, "write_bytes", write)
    killed = False
    try:
        run(tmp_path, Fragile())
    except KilledError:
        killed = True
    assert killed == (writes < 12)  # three rounds of a plan, a table (before and after it), and a note
    left[0] = 1000
    names += make_files(tmp_path, ["new.png"])
    run(tmp_path, Fragile())
    assert all_keys(table) == sorted(names)


def test_a_repeated_round_has_the_same_files_even_if_they_are_gone(tmp_path: Path) -> None:
    """Files of a planned round that vanish before it is repeated are handed over again, to be quarantined."""
    names = make_files(tmp_path, ["0.png", "1.png"])
    log = RoundLog(str(tmp_path / "checkpoint"), str(tmp_path / "in"))
    log.plan([ImageRef(name) for name in names])
    (tmp_path / "in" / "0.png").unlink()
    table: Table = {}
    run(tmp_path, table)
    assert table == {0: names}


def test_an_error_of_the_job_is_passed_on_unchanged(tmp_path: Path) -> None:
    """A failure in a round reaches the caller as it is."""
    make_files(tmp_path, ["0.png"])
    failure = KilledError("disk on fire")

    def commit(items: Sequence[ImageRef], number: int) -> Mapping[str, Any]:
        raise failure

    with pytest.raises(KilledError) as raised:
        run_rounds(RoundLog(str(tmp_path / "c"), "/in"), RoundPlan(1), lambda _: [ImageRef("0.png")], commit)
    assert raised.value is failure


def test_watching_lists_again(tmp_path: Path) -> None:
    """With ``watch``, files that arrive later are committed by the running job."""
    first = make_files(tmp_path, ["0.png"])

    class Arriving(Table):
        def __setitem__(self, number: int, keys: list[str]) -> None:
            super().__setitem__(number, keys)
            if number == 1:
                raise KilledError
            make_files(tmp_path, ["1.png"])

    table = Arriving()
    with pytest.raises(KilledError):
        run(tmp_path, table, watch=0.01)
    assert table == {0: first, 1: ["1.png"]}


@pytest.mark.parametrize(("size", "watch", "message"), [(0, None, "round size 0"), (1, 0.0, "watch interval 0.0")])
def test_impossible_rounds_are_refused(size: int, watch: float | None, message: str) -> None:
    """A round without files or a watch without a pause is an error before any work."""
    with pytest.raises(ConfigError, match=message):
        RoundPlan(size, watch)


@pytest.mark.parametrize("pause", [0, 1])
def test_an_interrupt_stops_the_job_and_the_rounds(spark: SparkSession, tmp_path: Path, pause: float) -> None:
    """Ctrl-C just before or in a Spark job cancels it, reaches the caller, starts no other round; the session lives."""
    started, ended = threading.Event(), threading.Event()
    numbers: list[int] = []

    def sleep(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        time.sleep(60)
        yield from batches

    def commit(items: Sequence[ImageRef], number: int) -> Mapping[str, Any]:
        numbers.append(number)
        started.set()
        spark.range(1).mapInArrow(sleep, "id long").collect()
        return {}

    def work(stop: threading.Event) -> None:
        log = RoundLog(str(tmp_path), "/in")
        try:
            run_rounds(log, RoundPlan(1), lambda _: [ImageRef("0.png"), ImageRef("1.png")], commit, stop)
        finally:
            ended.set()

    def interrupt() -> None:
        started.wait()
        time.sleep(pause)
        _thread.interrupt_main()

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        run_interruptibly(spark, work)
    assert ended.wait(30)
    assert numbers == [0]
    assert spark.range(3).count() == 3


def test_an_error_of_interruptible_work_is_passed_on(spark: SparkSession) -> None:
    """What the work raises reaches the caller as it is."""
    failure = KilledError("disk on fire")

    def work(_: threading.Event) -> None:
        raise failure

    with pytest.raises(KilledError) as raised:
        run_interruptibly(spark, work)
    assert raised.value is failure


sizes = st.lists(st.one_of(st.none(), st.integers(0, 40)), max_size=30)


@given(sizes, st.integers(1, 12), st.integers(1, 4))
def test_rounds_divide_the_items(contents: list[int | None], size: int, slots: int) -> None:
    """Any mix of files and whole containers: each is in one round, files in full rounds, containers side by side."""
    items = [
        ImageRef(f"{index:02d}", length=None if images is None else images * TYPICAL_IMAGE_BYTES)
        for index, images in enumerate(contents)
    ]
    rounds = list(cut_rounds(items, RoundPlan(size, slots=slots)))
    assert sorted(item for part in rounds for item in part) == sorted(items)
    for part in rounds:
        assert len({item.length is None for item in part}) == 1
        if part[0].length is None:
            assert len(part) <= size
        elif len(part) > slots:
            assert sum(max(1, (item.length or 0) // TYPICAL_IMAGE_BYTES) for item in part) <= size
    wholes = [part for part in rounds if part[0].length is not None]
    assert all(len(part) >= slots for part in wholes[:-1])


def test_known_items_are_not_listed_again() -> None:
    """A source is listed once at the start, and then for each check with what is known."""
    calls: list[Set[str]] = []

    def lister(known: Set[str]) -> Any:
        calls.append(known)
        return ImageLister("tests/cxrfeat/io")()

    source = Source(lister)
    assert source.list_new({"a"}) == []
    assert source.list_new({"b"}) == []
    assert calls == [frozenset(), {"b"}]
