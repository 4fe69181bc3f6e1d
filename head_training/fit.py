"""Command ``python -m head_training.fit``: train a head, or a grid of heads, on embeddings."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cxrfeat import exits
from cxrfeat.device import Device, Precision
from cxrfeat.head.inputs import COVARIATES
from cxrfeat.labels.label_sets import LABEL_SETS, load_label_set
from head_training.evaluation.bootstrap import RESAMPLES
from head_training.evaluation.measurement import evaluate
from head_training.evaluation.sources import open_run
from head_training.report.build import ReportConfig, write_report
from head_training.training.fit_calibration import MIN_IMAGES, CalibrationMethod
from head_training.training.grid import DEFAULT_GRID, KEYS, Configuration, expand, read_grid
from head_training.training.history import PRECISIONS, Monitor, TrainingSettings
from head_training.training.loss import LossWeighting
from head_training.training.run import FitConfig, FitResult, fit
from head_training.training.selection import SelectionMetric

PROG = "python -m head_training.fit"

EXIT_CODES = {
    exits.FAILED: "failed: no GPU, or no configuration that can be ranked",
    exits.INTERRUPTED: "interrupted; the best head so far is kept if an epoch was complete, as stated in the last line",
    exits.TERMINATED: "the same after SIGTERM, without evaluation and report",
}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "2018": {
        "batch_size": 10,
        "standardise": False,
        "loss_weighting": LossWeighting.FREQUENCY,
        "select": SelectionMetric.VAL_LOSS,
    },
}
"""Settings of the 2018 system that differ from the defaults; options on the command line override a preset."""

_SETTINGS = ("epochs", "batch_size", "early_stop", "monitor", "seed", "precision")


def build_parser(prog: str = PROG) -> argparse.ArgumentParser:
    """Return the argument parser."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog=prog,
        description="Train a head: an MLP that predicts the labels of a label set from embeddings, age and sex.",
        epilog=exits.epilog(EXIT_CODES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument_group("data").add_argument
    add("--features", required=True, metavar="DIR_OR_URI", help="OUT/embeddings, or a folder with the same schema")
    add("--output", required=True, type=Path, metavar="RUN", help="output folder for the bundle and the tables")
    add(
        "--labels",
        default="nih14",
        metavar="NAME|TOML",
        help=f"label set, one of {', '.join(LABEL_SETS)}, or a TOML file (default nih14)",
    )
    add("--drop-empty", action="store_true", help="leave out labels without a positive in the training split")
    add(
        "--patients-as-written",
        dest="as_written",
        action="store_true",
        help="accept patients whose names differ in blanks or leading zeros alone",
    )
    add("--without", type=_covariates, default=(), metavar="age,sex", help="leave out age, sex, or both")
    add("--no-standardise", dest="standardise", action="store_false", help="do not standardise the embedding")
    _add_configuration(parser)
    _add_training(parser)
    return parser


def _add_configuration(parser: argparse.ArgumentParser) -> None:
    defaults = Configuration()
    add = parser.add_argument_group("configuration").add_argument
    add(
        "--grid",
        nargs="?",
        const=True,
        metavar="FILE",
        help=f"train every combination of the values in a TOML file (keys {', '.join(KEYS)}) and keep the best; "
        "without FILE, a grid of 24 configurations",
    )
    shown = " ".join(map(str, defaults.hidden))
    add("--hidden", type=int, nargs="+", metavar="N", help=f"widths of the hidden layers (default {shown})")
    add("--dropout", type=float, metavar="P", help=f"dropout rate of hidden units (default {defaults.dropout})")
    add("--lr", type=float, metavar="R", help=f"initial learning rate of Adam (default {defaults.lr})")
    add("--weight-decay", type=float, metavar="W", help=f"L2 penalty of Adam (default {defaults.weight_decay})")


def _add_training(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("training").add_argument
    add(
        "--preset",
        choices=sorted(PRESETS),
        help="2018: batch size 10, no standardisation, loss weighted by frequency, select by val_loss",
    )
    add("--epochs", type=int, default=50, metavar="N", help="maximum number of epochs (default 50)")
    add("--batch-size", type=int, default=256, metavar="N", help="rows per step (default 256)")
    add(
        "--loss-weighting",
        type=LossWeighting,
        choices=list(LossWeighting),
        default=LossWeighting.NONE,
        help="frequency: positives and negatives of a finding get equal total weight (default none)",
    )
    add("--early-stop", type=int, metavar="N", help="stop a configuration after N epochs without improvement")
    add(
        "--monitor",
        type=Monitor,
        choices=list(Monitor),
        default=Monitor.VAL_LOSS,
        help="validation metric used to pick the best epoch (default val_loss)",
    )
    add(
        "--select",
        type=SelectionMetric,
        choices=list(SelectionMetric),
        default=SelectionMetric.AUROC,
        help="validation metric used to choose the configuration: mean AUROC (default), or val_loss as in 2018",
    )
    add("--seed", type=int, default=0, metavar="N", help="seed of initial weights, batches and dropout (default 0)")
    add("--device", type=Device, choices=list(Device), default=Device.AUTO, help="auto (default): a GPU if available")
    add(
        "--precision",
        type=Precision,
        choices=PRECISIONS,
        default=Precision.FP32,
        help="precision of the first layer's matrix product: fp32 (default), or bf16, which takes about two thirds of "
        "the time on devices with native bf16",
    )
    add("--quiet", action="store_true", help="do not show progress")
    add("--no-report", dest="report", action="store_false", help="do not write RUN/evaluation and RUN/report.html")


def _covariates(names: str) -> tuple[str, ...]:
    given = tuple(name.strip() for name in names.split(","))
    if not set(given) <= set(COVARIATES):
        raise argparse.ArgumentTypeError(f"{names!r}; expected some of {','.join(COVARIATES)}")
    return given


def parse(argv: Sequence[str] | None, prog: str = PROG) -> tuple[FitConfig, bool]:
    """Parse the command line; return the configuration and True if a report is requested.

    Raises:
        ConfigError: invalid values.
    """
    parser = build_parser(prog)
    options = parser.parse_args(argv)
    if options.preset:
        parser.set_defaults(**PRESETS[options.preset])
        options = parser.parse_args(argv)
    given = {key: getattr(options, key) for key in KEYS if getattr(options, key) is not None}
    grid = DEFAULT_GRID if options.grid is True else read_grid(Path(options.grid)) if options.grid else {}
    config = FitConfig(
        features=options.features,
        output=options.output,
        configurations=expand(grid, given),
        settings=TrainingSettings(**{name: getattr(options, name) for name in _SETTINGS}),
        label_set=load_label_set(options.labels),
        drop_empty=options.drop_empty,
        as_written=options.as_written,
        covariates=tuple(name for name in COVARIATES if name not in options.without),
        standardise=options.standardise,
        loss_weighting=options.loss_weighting,
        select=options.select,
        device=options.device,
        quiet=options.quiet,
    )
    return config, options.report


def main(argv: Sequence[str] | None = None, *, prog: str = PROG) -> int:
    """Run the command and return its exit code."""
    return exits.run(lambda: _fit(*parse(argv, prog)), interrupted="no head was written")


def _fit(config: FitConfig, report: bool) -> int:
    result = fit(config)
    print(format_result(result, config.select))
    code = exits.DONE
    if report and exits.interrupt_code() != exits.TERMINATED:  # after SIGTERM, little time is left
        print("evaluating the head and writing the report", file=sys.stderr)
        safe = f"{config.head} was written, but the report failed"
        code = exits.run_after(lambda: _evaluate_and_report(config.output), safe=safe)
    print(
        f"written to {config.output}"
        + (f"; open {config.output / 'report.html'}" if report and code == exits.DONE else "")
    )
    if result.interrupted:
        print("interrupted: the best head so far was kept", file=sys.stderr)
        return exits.interrupt_code()
    return code


def _evaluate_and_report(run: Path) -> None:
    """Write the evaluation and the report into the folder of a run."""
    evaluation = run / "evaluation"
    evaluate(open_run(run), resamples=RESAMPLES, seed=0).write(evaluation)
    write_report(ReportConfig(run, run=run, evaluation=evaluation))


def format_result(result: FitResult, select: SelectionMetric) -> str:
    """Return the printed summary: the chosen configuration, its calibration, and its AUROC on val and test."""
    names = result.label_set.outputs
    counts = Counter(str(history.status) for history in result.histories)
    chosen = result.history
    width = max(20, *(len(name) + 2 for name in names))
    calibrated = sum(method != CalibrationMethod.NONE for method in result.methods)
    uncalibrated = (
        f"; the others have fewer than {MIN_IMAGES} images of a class in val, or calibration did not improve them"
    )
    configuration = chosen.configuration
    metric = {SelectionMetric.AUROC: "mean AUROC on val", SelectionMetric.VAL_LOSS: "val loss"}[select]
    lines = [
        "configurations: " + ", ".join(f"{count} {status}" for status, count in sorted(counts.items())),
        *(f"left out: {count} rows {reason}" for reason, count in result.left_out.items() if count),
        *([f"impossible: {result.impossible_ages} ages, taken as missing"] if result.impossible_ages else []),
        *(f"imputed: {count} missing values of {name}" for name, count in result.imputed.items() if count),
        f"chosen: {chosen.name}, by {metric}; best epoch {chosen.best_epoch} of {len(chosen.epochs)}; hidden "
        f"{' '.join(map(str, configuration.hidden))}, dropout {configuration.dropout:g}, lr {configuration.lr:g}, "
        f"weight decay {configuration.weight_decay:g}",
        f"calibrated on val: {calibrated} of {len(names)} labels{uncalibrated if calibrated < len(names) else ''}",
        f"{'AUROC':<{width}}{'val':>8}{'test':>8}   positives in val, test",
    ]
    for val, test in zip(result.val.findings, result.test.findings, strict=True):
        positives = f"{val.positives}, {test.positives}"
        lines.append(f"{val.finding:<{width}}{_decimal(val.auroc):>8}{_decimal(test.auroc):>8}   {positives}")
    means = f"{_decimal(result.val.mean):>8}{_decimal(result.test.mean):>8}"
    lines.append(f"{'mean':<{width}}{means}   over {result.val.over} and {result.test.over} labels")
    return "\n".join(lines)


def _decimal(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    sys.exit(main())
