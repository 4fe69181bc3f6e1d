"""How a job ends: its exit codes, and what the user reads."""

from __future__ import annotations

import pytest

from cxrfeat.errors import ConfigError, DatasetIntegrityError, WorkerError
from cxrfeat.spark import cli


@pytest.mark.parametrize(
    ("quarantined", "limit", "code"), [(0.01, 0.01, 0), (0.02, 0.01, 3), (1.0, 0.0, 3), (0.0, 0.0, 0), (1.0, 1.0, 0)]
)
def test_the_share_in_quarantine_decides(
    quarantined: float, limit: float, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """More than the limit is exit code 3; exactly the limit is fine; what the output holds is printed either way."""
    assert cli.run(lambda: cli.Outcome("5 listed", quarantined), max_quarantined=limit) == code
    assert capsys.readouterr().out == "5 listed\n"


@pytest.mark.parametrize(
    ("error", "code", "printed"),
    [
        (ConfigError("round size 0"), 2, "error: round size 0\n"),
        (WorkerError("a task failed"), 1, "error: a task failed\n"),
        (DatasetIntegrityError("lost"), 1, "error: lost\n"),
        (OSError(28, "No space left on device"), 1, "error: [Errno 28] No space left on device\n"),
        (KeyboardInterrupt(), 130, "interrupted: committed rounds are safe, run the same command to go on\n"),
    ],
)
def test_errors_are_one_line_and_a_code(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, printed: str
) -> None:
    """Unusable input is 2, a failure on the way 1, an interruption 130, each with its message on stderr."""

    def job() -> cli.Outcome:
        raise error

    assert cli.run(job, max_quarantined=0) == code
    assert capsys.readouterr().err == printed


def test_unknown_errors_are_not_hidden() -> None:
    """A bug keeps its traceback."""
    with pytest.raises(ZeroDivisionError):
        cli.run(lambda: 1 // 0, max_quarantined=0)  # type: ignore[arg-type,return-value]
