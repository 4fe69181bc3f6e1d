"""``python -m head_training.report``: one HTML page about data, training, evaluation and images."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cxrfeat import exits
from head_training.report.build import ReportConfig, write_report

PROG = "python -m head_training.report"

EXIT_CODES = {exits.INTERRUPTED: "interrupted; an existing report is unchanged"}


def build_parser(prog: str = PROG) -> argparse.ArgumentParser:
    """Return the argument parser."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog=prog,
        description="Write report.html, a self-contained page. Each input below adds its sections.",
        epilog=exits.epilog(EXIT_CODES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument_group("inputs").add_argument
    add(
        "--metadata",
        nargs="+",
        default=(),
        metavar="CSV",
        help="labels and patients, as cxrfeat extract reads them: counts, patients, co-occurrence",
    )
    add("--columns", metavar="TOML", help="column map of a metadata table of your own")
    add("--labels", metavar="NAME|TOML", help="label set of the metadata (default: the run's or the evaluation's)")
    add("--train-val-list", metavar="FILE", help="official list of train_val file names (default: split by hash)")
    add("--test-list", metavar="FILE", help="official list of test file names")
    add("--run", type=Path, metavar="RUN", help="output folder of head_training.fit: images, learning curves and grid")
    add("--evaluation", type=Path, metavar="EVAL", help="metrics.json of head_training.evaluate, or its folder")
    add("--images", metavar="DIR_OR_URI", help="images to show: one per finding, and correct and wrong predictions")
    add("--predictions", type=Path, metavar="FILE", help="the evaluated predictions (default: the run's)")
    add = parser.add_argument_group("output").add_argument
    add("--output", type=Path, metavar="DIR", help="folder of report.html (default: EVAL, RUN, or report)")
    return parser


def parse(argv: Sequence[str] | None, prog: str = PROG) -> ReportConfig:
    """Parse the command line into a :class:`ReportConfig`.

    Raises:
        ConfigError: an invalid combination of options.
    """
    options = vars(build_parser(prog).parse_args(argv))
    evaluation, run = options["evaluation"], options["run"]
    if evaluation is not None and evaluation.suffix == ".json":
        evaluation = evaluation.parent
    options["output"] = options["output"] or evaluation or run or Path("report")
    return ReportConfig(**{**options, "metadata": tuple(options["metadata"])})


def main(argv: Sequence[str] | None = None, *, prog: str = PROG) -> int:
    """Run the command and return its exit code."""
    return exits.run(lambda: _write(parse(argv, prog)), interrupted="no report was written")


def _write(config: ReportConfig) -> int:
    print(f"written to {write_report(config)}")
    return exits.DONE


if __name__ == "__main__":
    sys.exit(main())
