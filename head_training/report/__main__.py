"""``python -m head_training.report``: one HTML page about data, training, evaluation and films."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cxrfeat import exits
from head_training.report.build import ReportConfig, write_report

PROG = "python -m head_training.report"

EXIT_CODES = {exits.INTERRUPTED: "interrupted; an older report is as it was"}


def build_parser(prog: str = PROG) -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog=prog,
        description="Write report.html, one page that needs nothing else: each part that is given brings its sections.",
        epilog=exits.epilog(EXIT_CODES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument_group("parts").add_argument
    add("--metadata", metavar="CSV", help="metadata in NIH's format, plain or gzipped: counts, people, co-occurrence")
    add("--train-val-list", metavar="FILE", help="official list of train_val file names; by default a hash divides")
    add("--test-list", metavar="FILE", help="official list of test file names")
    add("--run", type=Path, metavar="RUN", help="folder of head_training.fit: its images, learning curves and grid")
    add("--evaluation", type=Path, metavar="EVAL", help="metrics.json of head_training.evaluate, or its folder")
    add("--images", metavar="DIR_OR_URI", help="films to show: one of each finding, and predictions right and wrong")
    add("--predictions", type=Path, metavar="FILE", help="the predictions that were evaluated (default: the run's)")
    add = parser.add_argument_group("output").add_argument
    add("--output", type=Path, metavar="DIR", help="folder of report.html (default: EVAL, RUN, or report)")
    return parser


def parse(argv: Sequence[str] | None, prog: str = PROG) -> ReportConfig:
    """Turn the command line into what is to be done.

    Raises:
        ConfigError: options that can't be carried out.
    """
    options = vars(build_parser(prog).parse_args(argv))
    evaluation, run = options["evaluation"], options["run"]
    if evaluation is not None and evaluation.suffix == ".json":
        evaluation = evaluation.parent
    options["output"] = options["output"] or evaluation or run or Path("report")
    return ReportConfig(**options)


def main(argv: Sequence[str] | None = None, *, prog: str = PROG) -> int:
    """Run the command; return the exit code."""
    return exits.run(lambda: _write(parse(argv, prog)), interrupted="no report was written")


def _write(config: ReportConfig) -> int:
    print(f"written to {write_report(config)}")
    return exits.DONE


if __name__ == "__main__":
    sys.exit(main())
