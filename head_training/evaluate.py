"""``python -m head_training.evaluate``: measure a run of ours, or any table of predictions, with intervals."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cxrfeat import exits
from cxrfeat.errors import ConfigError
from cxrfeat.labels.findings import ANY_FINDING
from head_training.evaluation.bootstrap import RESAMPLES
from head_training.evaluation.measurement import Evaluation, evaluate
from head_training.evaluation.sources import Sources, open_files, open_run
from head_training.report.build import ReportConfig, write_report
from head_training.training.run_tables import check_output

PROG = "python -m head_training.evaluate"

EXIT_CODES = {exits.INTERRUPTED: "interrupted; the last line says whether there is a metrics.json"}


def build_parser(prog: str = PROG) -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog=prog,
        description="Measure predictions of the 14 findings: ranking, operating points, calibration, triage, subgroups,\n"
        "and what metadata alone would reach; 95 % intervals over patients.",
        epilog=exits.epilog(EXIT_CODES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_mutually_exclusive_group(required=True).add_argument
    add("--run", type=Path, metavar="RUN", help="output of head_training.fit")
    add("--predictions", type=Path, metavar="FILE", help=".parquet or .csv with image_index and a column a finding")
    add = parser.add_argument
    add("--truth", type=Path, metavar="CSV", help="Data_Entry_2017*.csv[.gz]: labels and metadata of the predictions")
    add(
        "--split-list",
        type=Path,
        metavar="TXT",
        help="names of the test images; without it predictions need a column split. A run has its own, and with this is "
        "compared with it",
    )
    add("--val-list", type=Path, metavar="TXT", help="names of the images to choose thresholds on; never of the test")
    add("--prefix", help="of the prediction columns (default: probability_, prob_, score_, none, or the only one)")
    add(
        "--output",
        type=Path,
        required=True,
        metavar="EVAL",
        help="folder for metrics.json, metrics.parquet, report.html",
    )
    add(
        "--resamples",
        type=int,
        default=RESAMPLES,
        metavar="N",
        help=f"of the patients, for the intervals (default {RESAMPLES})",
    )
    add("--seed", type=int, default=0, metavar="N", help="of the resamples (default 0)")
    add("--no-report", dest="report", action="store_false", help="write no EVAL/report.html")
    return parser


def open_sources(options: argparse.Namespace) -> Sources:
    """Read what the options name.

    Raises:
        ConfigError: options that don't go together, an output that is there already.
        CxrfeatError: files that can't be used.
    """
    for name, lowest in (("resamples", 1), ("seed", 0)):
        if getattr(options, name) < lowest:
            raise ConfigError(f"--{name} is {getattr(options, name)}; expected at least {lowest}")
    if (options.output / "metrics.json").exists():
        raise ConfigError(f"{options.output / 'metrics.json'} is there already; give another --output")
    check_output(options.output)
    if options.run is not None:
        given = [name for name in ("truth", "val_list", "prefix") if getattr(options, name) is not None]
        if given:
            options_given = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ConfigError(
                f"{options_given} with --run: a run has its own; give --predictions RUN/predictions.parquet instead"
            )
        return open_run(options.run, test_list=options.split_list)
    if options.truth is None:
        raise ConfigError("--predictions without --truth: nothing to measure against")
    return open_files(
        options.predictions,
        options.truth,
        test_list=options.split_list,
        val_list=options.val_list,
        prefix=options.prefix,
    )


def main(argv: Sequence[str] | None = None, *, prog: str = PROG) -> int:
    """Run the command; return the exit code."""
    options = build_parser(prog).parse_args(argv)
    code = exits.run(lambda: _evaluate(options), interrupted="there is no metrics.json")
    if code == exits.DONE and options.report:
        config = ReportConfig(options.output, run=options.run, evaluation=options.output)
        safe = f"{options.output / 'metrics.json'} is whole, but there is no report"
        print("writing the report", file=sys.stderr)
        code = exits.run_after(lambda: write_report(config), safe=safe)
    if code == exits.DONE:
        print(f"written to {options.output}" + (f"; open {options.output / 'report.html'}" if options.report else ""))
    return code


def _evaluate(options: argparse.Namespace) -> int:
    sources = open_sources(options)
    print(f"measuring, with {options.resamples} resamples of the patients", file=sys.stderr)
    evaluation = evaluate(sources, resamples=options.resamples, seed=options.seed)
    evaluation.write(options.output)
    print(format_evaluation(evaluation))
    return exits.DONE


def format_evaluation(evaluation: Evaluation) -> str:
    """Return what a user wants to know at the end: the test split, and what it is worth."""
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
            beside = f"   {protocol['name']}, labels {labels['digest'][:8]}" if scope == "macro" else ""
            lines.append(f"{scope:<20}{_interval(auroc)}{_interval(precision)}{auroc['positives']:>11}{beside}")
    baselines = [
        f"  {model:<18}{_interval(row)}"
        for (model, scope, metric, _), row in numbers.items()
        if model != "predictions" and (scope, metric) == ("macro", "auroc")
    ]
    if baselines:
        lines += ["baselines, mean AUROC of what does not see the film, or has not learnt:", *baselines]
    elif metrics["baselines"]["note"]:
        lines.append(f"no baselines: {metrics['baselines']['note']}")
    without = (
        f", {split['without_prediction']} of the split without a prediction" if split["without_prediction"] else ""
    )
    missing = metrics["predictions"]["missing_findings"]
    left_out = metrics["predictions"]["left_out"]
    lines += [
        *([f"{labels['ages_unusable']} ages can't be used"] if labels["ages_unusable"] else []),
        *([f"not predicted: {', '.join(missing)}"] if missing else []),
        *([f"left out: {left_out} predictions that are neither val nor test"] if left_out else []),
        f"{split['images']} images of {split['patients']} patients{without}",
        f"split: {protocol['name']} ({protocol['why']}); {protocol['patients_in_both']} patients in both val and test",
        f"labels: {labels['file']}, sha256 {labels['sha256'][:12]}…, digest {labels['digest'][:12]}…",
        metrics["notice"],
    ]
    return "\n".join(lines)


def _interval(row: Mapping[str, Any]) -> str:
    if row["value"] is None:
        return f"{'-':^23}"
    interval = "" if row["low"] is None else f" ({row['low']:.3f}–{row['high']:.3f})"
    return f"  {row['value']:.3f}{interval:<16}"


if __name__ == "__main__":
    sys.exit(main())
