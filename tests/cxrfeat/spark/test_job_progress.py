"""The bar shows what the workers have counted."""

from __future__ import annotations

import pytest
from pyspark.sql import SparkSession

from cxrfeat.spark.job_progress import JobProgress


def test_the_bar_ends_with_the_counts(spark: SparkSession, capsys: pytest.CaptureFixture[str]) -> None:
    """Images done by this run and an earlier one, the total and the quarantined are on the last line."""
    with JobProgress(spark.sparkContext, total=10, done=3) as progress:
        progress.done.add(7)
        progress.quarantined.add(2)
    last = capsys.readouterr().err.rstrip().split("\r")[-1]
    assert "100%" in last
    assert "10/10" in last
    assert "quarantined=2" in last


def test_a_failing_job_leaves_the_bar_where_it_was(spark: SparkSession, capsys: pytest.CaptureFixture[str]) -> None:
    """An error passes through, and the bar is closed with what had been done."""
    with pytest.raises(InterruptedError), JobProgress(spark.sparkContext, total=10) as progress:
        progress.done.add(4)
        raise InterruptedError
    assert "4/10" in capsys.readouterr().err


def test_the_clock_of_a_running_job_is_updated(spark: SparkSession, capsys: pytest.CaptureFixture[str]) -> None:
    """The bar is redrawn before the first task ends, with a total or without."""
    for total in (10, None):
        with JobProgress(spark.sparkContext, total=total) as progress:
            before = capsys.readouterr().err.count("\r")
            for _ in range(5):
                progress._refresh()
        assert capsys.readouterr().err.count("\r") >= before + 5


def test_a_job_that_waits_for_files_is_silent(spark: SparkSession, capsys: pytest.CaptureFixture[str]) -> None:
    """While nothing happens its bar is not drawn again."""
    with JobProgress(spark.sparkContext, watching=True) as progress:
        progress.done.add(1)
        progress._refresh()
        before = capsys.readouterr().err
        for _ in range(100):
            progress._refresh()
        progress.done.add(1)
    after = capsys.readouterr().err
    assert before.count("\r") >= 1
    assert after.count("\r") <= 3
