"""Operating points section and triage section: results after applying thresholds."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from cxrfeat.labels.findings import ANY_FINDING
from head_training.report import style
from head_training.report.charts import curve
from head_training.report.page import Block, Plot, Section, Table
from head_training.report.report_inputs import EvaluationMetrics, MetricValue
from head_training.report.style import count, decimal, percent, spell

_NAMES = {"youden": "Youden's J", "f1": "Highest F1"}
_RATES = ("sensitivity", "specificity", "ppv", "npv", "f1", "accuracy")
_COUNTS = ("tp", "fp", "tn", "fn")
_AVERAGES = ("macro", "micro", "weighted", "samples")


def operating_section(metrics: EvaluationMetrics) -> Section:
    """Return one table per operating point, and the averages over findings."""
    points = metrics.content["settings"]["points"]
    blocks: list[Block] = [_point_table(metrics, point) for point in points]
    lead = [
        "Thresholds are chosen on the validation set and applied unchanged to the test set; a fixed threshold is the "
        "same for all findings. A sensitivity that was reached in validation is not guaranteed on the test set."
    ]
    averages = [_averages_table(metrics, points)] if len(metrics.names) > 1 else []
    return Section("Operating points", [*blocks, *averages], lead)


def triage_section(metrics: EvaluationMetrics) -> Section:
    """Return the share of images without a finding that could be set aside at a given sensitivity."""
    points = [
        point for point in metrics.values("point") if metrics.metric("specificity", ANY_FINDING, point=point).defined
    ]
    targets = {
        point: metrics.metric("specificity", ANY_FINDING, point=point)
        for point in points
        if point.startswith("sensitivity_")
    }
    blocks: list[Block] = [_triage_plot(targets)] if targets else []
    curves = metrics.content["curves"].get("test", {})
    if ANY_FINDING in curves:
        blocks.append(_triage_curve(metrics, curves[ANY_FINDING]["roc"]))
    if points:
        blocks.append(_triage_table(metrics, points))
    lead = [
        "Could X-rays without any of the findings be set aside unread? The probability of any finding is computed "
        "as 1\u00a0−\u00a0Π(1\u00a0−\u00a0p), which treats findings as independent. No Finding does not mean healthy, "
        "and a label is not a diagnosis: these results describe a ranking, not a clinical workflow."
    ]
    return Section("Triage", blocks, lead, [(metrics.metric("auroc", ANY_FINDING).text(), "AUROC of any finding")])


def point_name(point: str) -> str:
    """Return the name of an operating point on the page, such as Sensitivity 0.90."""
    return _NAMES.get(point) or spell(point).capitalize()


def _point_table(metrics: EvaluationMetrics, point: str) -> Table:
    rows = []
    values: dict[str, list[float]] = {rate: [] for rate in _RATES}
    for finding in metrics.names:
        rates = {rate: metrics.metric(rate, finding, point=point) for rate in _RATES}
        for rate in _RATES:
            values[rate].append(rates[rate].value)
        counts = [count(metrics.metric(name, finding, point=point).value) for name in _COUNTS]
        threshold = decimal(rates["sensitivity"].threshold)
        rows.append((spell(finding), threshold, *(rates[rate].text(2) for rate in _RATES), *counts))
    means = {rate: _mean(values[rate]) for rate in _RATES}
    rows.append(("mean", "", *(decimal(means[rate], 2) for rate in _RATES), "", "", "", ""))
    title = (
        f"{point_name(point)}: mean sensitivity {decimal(means['sensitivity'], 2)}, "
        f"mean specificity {decimal(means['specificity'], 2)}"
    )
    header = ("", "threshold", "sensitivity", "specificity", "PPV", "NPV", "F1", "accuracy", "TP", "FP", "TN", "FN")
    return Table(title, header, rows, wide=True, emphasis=(len(metrics.names),))


def _mean(values: list[float]) -> float | None:
    defined = [value for value in values if np.isfinite(value)]
    return float(np.mean(defined)) if defined else None


def _averages_table(metrics: EvaluationMetrics, points: list[str]) -> Table:
    rows = []
    for point in points:
        for average in _AVERAGES:
            numbers = [metrics.metric(name, average, point=point) for name in ("precision", "recall", "f1")]
            rows.append((f"{point_name(point)}, {average}", *(number.text() for number in numbers)))
    caption = "Macro: mean over findings; micro: pooled; weighted: mean by positives; samples: mean over images."
    return Table("Averages over findings", ("", "precision", "recall", "F1"), rows, caption, wide=True)


def _triage_plot(targets: dict[str, MetricValue]) -> Plot:
    names, numbers = [point_name(point) for point in targets], list(targets.values())
    middle = min(len(names) - 1, 1)
    title = f"{names[middle]}: {percent(numbers[middle].value, 0)} of images without a finding could be set aside"

    def plot(axes: Axes) -> None:
        for row, number in enumerate(numbers):
            axes.barh(row, number.value, color=style.BLUE, height=0.6)
            axes.hlines(row, number.low, number.high, color=style.INK, linewidth=1.2)
            end = np.nanmax([number.value, number.high])
            axes.text(end + 0.015, row, percent(number.value), va="center", color=style.MUTED)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.12)
        axes.set_xticks(np.linspace(0, 1, 5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(value, 0)))
        axes.set_xlabel("images without a finding that are set aside")
        axes.grid(visible=False, axis="y")

    caption = "Thresholds reach the given sensitivity in validation; the table shows what they reach on the test set."
    return Plot(title, style.draw(plot, f"Triage. {title}", height=1.0 + 0.5 * len(names)), caption)


def _triage_curve(metrics: EvaluationMetrics, points: dict[str, list[float]]) -> Plot:
    auroc = metrics.metric("auroc", ANY_FINDING)
    title = f"The AUROC of any finding against none is {decimal(auroc.value, 2)}"

    def plot(axes: Axes) -> None:
        curve(axes, points["fpr"], points["tpr"], chance=None)
        axes.set_xlabel("1 − specificity")
        axes.set_ylabel("sensitivity")

    svg = style.draw(plot, f"ROC curve of any finding. {title}", height=3.4)
    return Plot(title, svg, "ROC curve on the test set; gray: chance.")


def _triage_table(metrics: EvaluationMetrics, points: list[str]) -> Table:
    rows = []
    for point in points:
        numbers = {name: metrics.metric(name, ANY_FINDING, point=point) for name in (*_RATES, *_COUNTS)}
        rates = [numbers[name].text() for name in ("sensitivity", "specificity", "npv")]
        threshold = decimal(numbers["specificity"].threshold)
        rows.append((point_name(point), threshold, *rates, count(numbers["tn"].value), count(numbers["fn"].value)))
    header = ("", "threshold", "sensitivity", "set aside", "NPV", "correctly set aside", "wrongly set aside")
    caption = "Set aside: specificity. Last columns: images set aside without a finding (correct) and with one (wrong)."
    return Table("Triage results on the test set", header, rows, caption, wide=True)
