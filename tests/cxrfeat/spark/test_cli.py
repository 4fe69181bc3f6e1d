"""How a job ends: its exit codes, and what the user reads."""

from __future__ import annotations

from typing import Any

import pytest

from cxrfeat.errors import ConfigError, DatasetIntegrityError, WorkerError
from cxrfeat.spark import cli


def summary(ok: int, quarantined: int) -> dict[str, Any]:
    images = {
        "listed": ok + quarantined,
        "ok": ok,
        "quarantined": quarantined,
        "without_metadata": 0,
        "rows": ok,
        "pixel_formats": {},
        "reasons": {"corrupt": quarantined},
        "names_in_several_folders": 0,
    }
    return {"extractor": "fake", "images": images, "metadata": {"rows": 0, "rejected": {}}}


@pytest.mark.parametrize(
    ("ok", "quarantined", "limit", "code"),
    [(99, 1, 0.01, 0), (98, 2, 0.01, 3), (0, 1, 0.0, 3), (1, 0, 0.0, 0), (0, 0, 0.0, 0), (0, 5, 1.0, 0)],
)
def test_the_share_in_quarantine_decides(ok: int, quarantined: int, limit: float, code: int) -> None:
    """More than the limit is exit code 3; exactly the limit, and an empty folder, are fine."""
    assert cli.run(lambda: summary(ok, quarantined), max_quarantined=limit) == code


@pytest.mark.parametrize(
    ("error", "code", "printed"),
    [
        (ConfigError("round size 0"), 2, "error: round size 0\n"),
        (WorkerError("a task failed"), 1, "error: a task failed\n"),
        (DatasetIntegrityError("lost"), 1, "error: lost\n"),
        (KeyboardInterrupt(), 130, "interrupted: committed rounds are safe, run the same command to go on\n"),
    ],
)
def test_errors_are_one_line_and_a_code(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, printed: str
) -> None:
    """Unusable input is 2, a failure on the way 1, an interruption 130, each with its message on stderr."""

    def job() -> dict[str, Any]:
        raise error

    assert cli.run(job, max_quarantined=0) == code
    assert capsys.readouterr().err == printed


def test_unknown_errors_are_not_hidden() -> None:
    """A bug keeps its traceback."""
    with pytest.raises(ZeroDivisionError):
        cli.run(lambda: 1 // 0, max_quarantined=0)  # type: ignore[arg-type,return-value]


def test_the_summary_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """People read what was listed, what became of it and why."""
    cli.run(lambda: summary(1234, 5), max_quarantined=1)
    printed = capsys.readouterr().out
    assert "1,239 listed = 1,234 ok + 5 quarantined" in printed
    assert "corrupt 5" in printed
