"""Command ``python -m head_training.evaluate``: evaluate a training run or any table of predictions."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cxrfeat import exits
from cxrfeat.errors import ConfigError
from cxrfeat.labels.findings import ANY_FINDING
from cxrfeat.labels.label_sets import load_label_set
from head_training.evaluation.bootstrap import RESAMPLES
from head_training.evaluation.measurement import Evaluation, evaluate
from head_training.evaluation.sources import Sources, open_files, open_run
from head_training.report.build import ReportConfig, write_report
from head_training.training.run_tables import check_output

PROG = "python -m head_training.evaluate"

EXIT_CODES = {exits.INTERRUPTED: "interrupted; the last line states whether metrics.json was written"}


def build_parser(prog: str = PROG) -> argparse.ArgumentParser:
    """Return the argument parser."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog=prog,
        description="Evaluate predictions of a label set: ranking, operating points, calibration, triage,\n"
        "subgroups, and metadata-only baselines, with 95 % bootstrap intervals over patients.",
        epilog=exits.epilog(EXIT_CODES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_mutually_exclusive_group(required=True).add_argument
    add("--run", type=Path, metavar="RUN", help="output folder of head_training.fit")
    add("--predictions", type=Path, metavar="FILE", help=".parquet or .csv with image_index and one column per finding")
    add = parser.add_argument
    add(
        "--truth",
        type=Path,
        metavar="CSV",
        help="labels and metadata of the images, as cxrfeat extract reads them, or a table of one 0/1 column per label",
    )
    add("--columns", metavar="TOML", help="column map of a --truth table of your own")
    add("--labels", metavar="NAME|TOML", help="label set of --predictions (default nih14); a run has its own")
    add(
        "--split-list",
        type=Path,
        metavar="TXT",
        help="names of the test images; without it, a column split of --predictions names them, or all images are the "
        "test set. With --run, the test split of the run is checked against the list",
    )
    add("--val-list", type=Path, metavar="TXT", help="names of the val images, used to choose thresholds")
    add("--prefix", help="prefix of the prediction columns (default: the one with the most labels)")
    add(
        "--output",
        type=Path,
        required=True,
        metavar="EVAL",
        help="output folder for metrics.json, metrics.parquet, report.html",
    )
    add(
        "--resamples",
        type=int,
        default=RESAMPLES,
        metavar="N",
        help=f"resamples of the patients, for the intervals (default {RESAMPLES})",
    )
    add("--seed", type=int, default=0, metavar="N", help="seed of the resamples (default 0)")
    add("--no-report", dest="report", action="store_false", help="do not write EVAL/report.html")
    return parser


def open_sources(options: argparse.Namespace) -> Sources:
    """Read the files named by the options.

    Raises:
        ConfigError: an invalid combination of options, or an output that already exists.
        CxrfeatError: unusable files.
    """
    for name, lowest in (("resamples", 1), ("seed", 0)):
        if getattr(options, name) < lowest:
            raise ConfigError(f"--{name} is {getattr(options, name)}; expected at least {lowest}")
    if (options.output / "metrics.json").exists():
        raise ConfigError(f"{options.output / 'metrics.json'} already exists; give another --output")
    check_output(options.output)
    if options.run is not None:
        given = [
            name for name in ("truth", "columns", "labels", "val_list", "prefix") if getattr(options, name) is not None
        ]
        if given:
            options_given = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ConfigError(
                f"{options_given} cannot be combined with --run; use --predictions RUN/predictions.parquet instead"
            )
        return open_run(options.run, test_list=options.split_list)
    if options.truth is None:
        raise ConfigError("--predictions without --truth; give the ground truth to evaluate against")
    return open_files(
        options.predictions,
        options.truth,
        test_list=options.split_list,
        val_list=options.val_list,
        prefix=options.prefix,
        label_set=load_label_set(options.labels or "nih14"),
        columns=options.columns,
    )


def main(argv: Sequence[str] | None = None, *, prog: str = PROG) -> int:
    """Run the command and return its exit code."""
    options = build_parser(prog).parse_args(argv)
    code = exits.run(lambda: _evaluate(options), interrupted="metrics.json was not written")
    if code == exits.DONE and options.report:
        config = ReportConfig(options.output, run=options.run, evaluation=options.output)
        safe = f"{options.output / 'metrics.json'} was written, but the report failed"
        print("writing the report", file=sys.stderr)
        code = exits.run_after(lambda: write_report(config), safe=safe)
    if code == exits.DONE:
        print(f"written to {options.output}" + (f"; open {options.output / 'report.html'}" if options.report else ""))
    return code


def _evaluate(options: argparse.Namespace) -> int:
    sources = open_sources(options)
    for line in describe_columns(sources):
        print(line, file=sys.stderr)
    print(f"evaluating with {options.resamples} resamples of the patients", file=sys.stderr)
    evaluation = evaluate(sources, resamples=options.resamples, seed=options.seed)
    evaluation.write(options.output)
    print(format_evaluation(evaluation))
    return exits.DONE


def describe_columns(sources: Sources) -> list[str]:
    """Return which predictions are measured, and what is odd about them or about the labels."""
    predictions = sources.predictions
    lines = [f"measuring the columns {', '.join(predictions.columns)} as labels of {sources.label_set.name}"]
    if predictions.hard_labels:
        lines.append(
            f"warning: only 0 and 1 in {', '.join(predictions.hard_labels)}: hard labels, not scores to rank by"
        )
    if sources.ground_truth.other_names:
        names = ", ".join(f"{name} ({count})" for name, count in sources.ground_truth.other_names.items())
        lines.append(f"names in the labels that are not in {sources.label_set.name}: {names}")
    return lines


def format_evaluation(evaluation: Evaluation) -> str:
    """Return the printed summary: metrics on test, baselines, and how the test split was made."""
    metrics = evaluation.metrics
    split, labels, protocol = metrics["splits"]["test"], metrics["labels"], metrics["protocol"]
    numbers = {
        tuple(row[key] for key in ("model", "scope", "metric", "point")): row
        for row in metrics["numbers"]
        if row["split"] == "test" and row["group"] == "all" and row["scale"] in (None, metrics["predictions"]["scale"])
    }
    lines = [f"{'test':<20}{'AUROC':^23}{'average precision':^23}  positives"]
    for scope in (*metrics["predictions"]["findings"], "macro", "micro", ANY_FINDING):
        auroc = numbers.get(("predictions", scope, "auroc", None))
        if auroc is not None:
            precision = numbers["predictions", scope, "average_precision", None]
            remark = f"   {protocol['name']}, labels {labels['digest'][:8]}" if scope == "macro" else ""
            lines.append(f"{scope:<20}{_interval(auroc)}{_interval(precision)}{auroc['positives']:>11}{remark}")
    baselines = [
        f"  {model:<18}{_interval(row)}"
        for (model, scope, metric, _), row in numbers.items()
        if model != "predictions" and (scope, metric) == ("macro", "auroc")
    ]
    if baselines:
        lines += ["baselines (metadata only, or untrained head), mean AUROC:", *baselines]
    elif metrics["baselines"]["note"]:
        lines.append(f"no baselines: {metrics['baselines']['note']}")
    missing, left_out = metrics["predictions"]["missing_findings"], metrics["predictions"]["left_out"]
    unpredicted = split["without_prediction"]
    without = f"; {unpredicted} more in the split have no prediction" if unpredicted else ""
    lines += [
        *([f"{labels['ages_unusable']} unusable ages"] if labels["ages_unusable"] else []),
        *([f"not predicted: {', '.join(missing)}"] if missing else []),
        *([f"left out: {left_out} predictions that are neither in val nor in test"] if left_out else []),
        f"{split['images']} images of {split['patients']} patients{without}",
        f"split: {protocol['name']} ({protocol['why']}); {protocol['patients_in_both']} patients in both val and test",
        f"labels: {labels['file']}, sha256 {labels['sha256'][:12]}…, digest {labels['digest'][:12]}…",
        metrics["notice"],
    ]
    return "\n".join(lines)


def _interval(row: Mapping[str, Any]) -> str:
    """Return value and interval, 23 characters wide."""
    if row["value"] is None:
        return f"{'-':^23}"
    interval = "" if row["low"] is None else f" ({row['low']:.3f}–{row['high']:.3f})"
    return f"  {row['value']:.3f}{interval:<16}"


if __name__ == "__main__":
    sys.exit(main())
