"""The steady rate: one definition for all contenders."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.steady import Mark, mark, read_marks, steady_rate


def test_start_up_is_left_out() -> None:
    """What happens before a fifth of the images is done does not count, and nor do those images."""
    marks = [Mark(100.0, 20), Mark(101.0, 40), Mark(104.0, 40)]
    assert steady_rate(marks) == pytest.approx(80 / 4)
    assert steady_rate([Mark(0.0, 20), *marks[1:]]) == pytest.approx(80 / 104)


def test_start_up_ends_with_the_mark_that_reaches_a_fifth() -> None:
    """Of two rounds the first is start-up: that is how our job is measured."""
    assert steady_rate([Mark(30.0, 1000), Mark(60.0, 1000)]) == pytest.approx(1000 / 30)
    assert steady_rate([Mark(1.0, 19), Mark(2.0, 1), Mark(12.0, 80)]) == pytest.approx(80 / 10)


@given(st.floats(0.5, 500), st.integers(10, 60), st.integers(1, 32), st.randoms())
def test_an_even_pace_is_its_own_rate(rate: float, batches: int, images: int, random: object) -> None:
    """Whatever the batches and the order of the marks."""
    marks = [Mark(number * images / rate, images) for number in range(batches)]
    random.shuffle(marks)  # type: ignore[attr-defined]
    assert steady_rate(marks) == pytest.approx(rate)


@pytest.mark.parametrize("marks", [[], [Mark(1.0, 8)], [Mark(1.0, 8), Mark(1.0, 8)]])
def test_too_few_marks_are_refused(marks: list[Mark]) -> None:
    """No rate is made up where nothing was finished after start-up."""
    with pytest.raises(ValueError, match="expected at least two"):
        steady_rate(marks)


def _write(path: str, images: int, times: int) -> None:
    for _ in range(times):
        mark(path, images)


def test_processes_share_a_file(tmp_path: Path) -> None:
    """Marks of several processes never mix, and are read in the order of time."""
    path = tmp_path / "marks"
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.starmap(_write, [(str(path), 3, 200), (str(path), 4000, 200)])
    marks = read_marks(path)
    assert marks == sorted(marks)
    assert sorted(one.images for one in marks) == [3] * 200 + [4000] * 200


def test_no_file_is_no_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A contender that is run by hand without --marks writes none."""
    monkeypatch.chdir(tmp_path)
    mark(None, 8)
    assert list(tmp_path.iterdir()) == []
