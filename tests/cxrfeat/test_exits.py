"""Exit codes of commands and the messages on stderr."""

from __future__ import annotations

import signal

import pytest

from cxrfeat import exits
from cxrfeat.errors import ConfigError, DatasetIntegrityError, OutputLockedError, WorkerError

ENDS = [
    (ConfigError("round size 0"), 2, "round size 0"),
    (WorkerError("a task failed"), 1, "a task failed"),
    (DatasetIntegrityError("lost"), 1, "lost"),
    (OSError(28, "No space left on device"), 1, "[Errno 28] No space left on device"),
]


def raising(error: BaseException) -> int:
    raise error


@pytest.mark.parametrize(("error", "code", "said"), ENDS)
def test_errors_are_one_line_and_a_code(
    capsys: pytest.CaptureFixture[str], error: Exception, code: int, said: str
) -> None:
    """Invalid input is 2, a failure during the run 1, each with its message on stderr."""
    assert exits.run(lambda: raising(error), interrupted="") == code
    assert capsys.readouterr() == ("", f"error: {said}\n")


@pytest.mark.parametrize(("error", "_", "said"), ENDS)
def test_an_error_after_the_work_says_what_is_safe(
    capsys: pytest.CaptureFixture[str], error: Exception, _: int, said: str
) -> None:
    """Every error after the work is a failure during the run."""
    assert exits.run_after(lambda: raising(error), safe="the head is whole") == 1
    assert capsys.readouterr() == ("", f"error: the head is whole: {said}\n")


def test_ctrl_c_says_what_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code is 130, the convention of shells."""
    assert exits.run(lambda: raising(KeyboardInterrupt()), interrupted="no head was written") == 130
    assert exits.run_after(lambda: raising(KeyboardInterrupt()), safe="the head is whole") == 130
    assert capsys.readouterr().err == "interrupted: no head was written\ninterrupted: the head is whole\n"


def test_sigterm_ends_a_command_like_ctrl_c(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exit code is 143; the handler is the one of before afterwards."""
    monkeypatch.setattr(exits, "_received", [])
    before = signal.getsignal(signal.SIGTERM)

    def command() -> int:
        signal.raise_signal(signal.SIGTERM)
        return 0

    assert exits.run(command, interrupted="no head was written") == 143
    assert capsys.readouterr().err == "terminated: no head was written\n"
    assert signal.getsignal(signal.SIGTERM) == before
    assert exits.interrupt_code() == 143


def test_another_job_at_work_has_a_code_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    """A second job on one output ends with 5."""
    assert exits.run(lambda: raising(OutputLockedError("another job")), interrupted="") == 5
    assert capsys.readouterr().err == "error: another job\n"


def test_ctrl_c_can_be_answered_before_anything_else(capfd: pytest.CaptureFixture[str]) -> None:
    """The message is printed immediately and once; a second Ctrl-C interrupts the cleanup."""
    before = signal.getsignal(signal.SIGINT)
    try:
        exits.report_interrupts("rounds are safe")

        def command() -> int:
            with pytest.raises(KeyboardInterrupt) as first:
                signal.raise_signal(signal.SIGINT)
            assert capfd.readouterr().err == "\ninterrupted: rounds are safe\n"
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
            raise first.value

        assert exits.run(command, interrupted="nothing is") == 130
        assert capfd.readouterr().err == ""
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_command_that_ends_by_itself_keeps_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is printed."""
    assert (exits.run(lambda: 0, interrupted=""), exits.run(lambda: 3, interrupted="")) == (0, 3)
    assert exits.run_after(lambda: "a path", safe="") == 0
    assert capsys.readouterr() == ("", "")


def test_unknown_errors_are_not_hidden() -> None:
    """A bug keeps its traceback."""
    with pytest.raises(ZeroDivisionError):
        exits.run(lambda: 1 // 0, interrupted="")
    with pytest.raises(ZeroDivisionError):
        exits.run_after(lambda: 1 // 0, safe="")


def test_help_explains_every_code_in_order() -> None:
    """A description given by the command replaces the default one."""
    text = exits.epilog({exits.INTERRUPTED: "interrupted; as 1", exits.FAILED: "no GPU"})
    assert text.splitlines() == [
        "exit codes:", "  0    done", "  1    no GPU", "  2    invalid options or input",
        "  130  interrupted; as 1", "", "Research software, not a medical device.",
    ]  # fmt: skip
