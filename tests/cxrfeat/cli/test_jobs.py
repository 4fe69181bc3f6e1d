"""Exit codes of a job, and the lines that it prints at its end."""

from __future__ import annotations

import pytest

from cxrfeat.cli import jobs


@pytest.mark.parametrize(
    ("quarantined", "limit", "code"), [(0.01, 0.01, 0), (0.02, 0.01, 3), (1.0, 0.0, 3), (0.0, 0.0, 0), (1.0, 1.0, 0)]
)
def test_the_share_in_quarantine_decides(
    quarantined: float, limit: float, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """More than the limit is exit code 3, the limit itself is not; the summary is printed in both cases."""
    assert jobs.run(lambda: jobs.Outcome("5 listed", quarantined, "OUT/embeddings"), max_quarantined=limit) == code
    printed = capsys.readouterr()
    assert printed.out == "5 listed\n"
    assert ("in OUT/embeddings/round=*/status=quarantined" in printed.err) == (code == 3)


def test_an_interrupted_job_can_be_continued(capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C is exit code 130, and the message explains how to continue."""

    def job() -> jobs.Outcome:
        raise KeyboardInterrupt

    assert jobs.run(job, max_quarantined=0) == 130
    assert capsys.readouterr().err == "interrupted: committed rounds are kept; run the same command to continue\n"


@pytest.mark.parametrize("share", ["-0.1", "1.5", "nan", "most"])
def test_an_invalid_share_is_refused(share: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The option accepts a fraction from 0 to 1 only."""
    parser = jobs.make_parser("extract.py", "", "")
    jobs.add_work_options(parser, round_size=1, unit="images")
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(["--max-quarantined", share])
    assert f"argument --max-quarantined: {share}; expected a fraction from 0 to 1" in capsys.readouterr().err
