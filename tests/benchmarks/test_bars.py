"""Promises are judged repeat by repeat, against the fastest of their kind."""

from __future__ import annotations

import pytest

from benchmarks import bars
from tests.benchmarks.test_results import REPEATS


def bar(text: str) -> bars.Bar:
    found = [one for one in bars.bars(bars.columns(REPEATS)) if text in one.text]
    assert len(found) == 1, [one.text for one in found]
    return found[0]


def test_ratios_are_taken_repeat_by_repeat() -> None:
    """A machine that drifts between repeats changes no ratio."""
    assert bar("steady rate: job / bare loop").ratios == pytest.approx([0.9] * 3)


@pytest.mark.parametrize(
    ("text", "median", "verdict"),
    [
        ("steady rate: job / bare loop", 36 / 40, "**no**"),
        ("2,000 films: job / bare loop", 60 / 80, "**no**"),
        ("the fastest peer given our function (Daft, our function)", 36 / 32, "**no**"),
        ("the fastest peer as documented (Daft)", 36 / 20, "**no**"),
        ("the faster Spark peer as documented (mapInPandas)", 36 / 9, "yes"),
        ("the 2018 recipe", 36 / 12, "yes"),
        ("621 films: job / Daft, our function", 36 / 40, "**no**"),
    ],
)
def test_every_bar_is_judged(text: str, median: float, verdict: str) -> None:
    """A bar compares with the fastest of its kind, and a rate end to end is what is higher when it took less time."""
    assert bar(text).median == pytest.approx(median)
    assert bar(text).verdict == verdict


def test_a_bar_that_is_just_reached_is_kept() -> None:
    """The promise is "at least"."""
    assert bars.Bar("x", (4.0,), 4.0).verdict == "yes"
    assert bars.Bar("x", (3.999,), 4.0).verdict == "**no**"
    assert bars.Bar("x", (1.0,)).verdict == ""
