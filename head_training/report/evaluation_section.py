"""Test section: AUROC, average precision and their curves."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from cxrfeat.labels.findings import NO_FINDING
from head_training.report import style
from head_training.report.charts import curve, forest
from head_training.report.page import Block, Multiples, Plot, Section, Table
from head_training.report.report_inputs import EvaluationMetrics, MetricValue
from head_training.report.style import count, decimal, percent, spell

_HIGH_AUROC = 0.8
_AVERAGES = {"macro": "mean (macro)", "micro": "pooled (micro)"}


def evaluation_section(metrics: EvaluationMetrics) -> Section:
    """Return AUROC and average precision with intervals, and ROC and precision-recall curves of each finding."""
    facts = [
        (metrics.metric(metric, "macro").text(), f"{name} on test ({label_and_split(metrics)})")
        for metric, name in (("auroc", "mean AUROC"), ("average_precision", "mean average precision"))
    ]
    blocks: list[Block] = [_forest(metrics), _table(metrics), _roc(metrics), _precision_recall(metrics)]
    return Section("Test", blocks, provenance(metrics), facts)


def label_and_split(metrics: EvaluationMetrics) -> str:
    """Return split protocol and label digest in short form, since a mean is comparable only within both."""
    return f"split: {metrics.content['protocol']['name']}; labels: {metrics.content['labels']['digest'][:8]}"


def provenance(metrics: EvaluationMetrics) -> list[str]:
    """Return sentences on split, labels and patients, which belong with every mean."""
    labels, protocol = metrics.content["labels"], metrics.content["protocol"]
    test, settings = metrics.content["splits"]["test"], metrics.content["settings"]
    sentences = [
        f"Split protocol: {protocol['name']} ({protocol['why'].rstrip('.')}).",
        f"Labels: {labels['file']} with {count(labels['counts']['images'])} images, "
        f"{count(labels['counts'][NO_FINDING])} of them with {NO_FINDING}. SHA-256 of the file: "
        f"{labels['sha256'][:12]}; digest of the evaluated labels: {labels['digest'][:8]}.",
        f"Test set: {count(test['images'])} images of {count(test['patients'])} patients; "
        f"{count(test['counts'][NO_FINDING])} images have {NO_FINDING}. Excluded for lack of a prediction: "
        f"{count(test['without_prediction'])} images. Intervals are {percent(settings['confidence'], 0)} confidence "
        f"intervals from {count(settings['resamples'])} bootstrap resamples of patients.",
    ]
    if protocol["patients_in_both"]:
        sentences.append(
            f"Caution: {count(protocol['patients_in_both'])} patients are in both val and test: results are biased."
        )
    return sentences


def _forest(metrics: EvaluationMetrics) -> Plot:
    numbers = {finding: metrics.metric("auroc", finding) for finding in metrics.names}
    order = sorted(
        numbers, key=lambda finding: numbers[finding].value if numbers[finding].defined else -1, reverse=True
    )
    defined = [finding for finding in order if numbers[finding].defined]
    title = "No finding has both positive and negative test images"
    if defined:
        # A finding without an interval has too few patients to be named in the title, unless all have.
        certain = [finding for finding in defined if math.isfinite(numbers[finding].low)] or defined
        best, worst = certain[0], certain[-1]
        title = (
            f"{spell(best)} has the highest AUROC ({decimal(numbers[best].value, 2)}), "
            f"{spell(worst)} the lowest ({decimal(numbers[worst].value, 2)})"
        )
        if len(metrics.names) == 1:
            title = f"The AUROC of {spell(best)} is {decimal(numbers[best].value, 2)}"
    averages = _AVERAGES if len(metrics.names) > 1 else {}
    shown = [*(numbers[finding] for finding in order), *(metrics.metric("auroc", average) for average in averages)]

    def plot(axes: Axes) -> None:
        forest(axes, [*map(spell, order), *averages.values()], shown, bold=[len(order)])
        axes.axvline(0.5, color=style.MUTED, linewidth=0.9, linestyle=(0, (2, 3)))
        axes.set_xlabel("AUROC on test")

    caption = "Dotted line: chance. No interval: undefined in too many resamples. A dash: no positives or no negatives."
    return Plot(title, style.draw(plot, f"AUROC of each finding. {title}", height=style.height_of(len(shown))), caption)


def _table(metrics: EvaluationMetrics) -> Table:
    rows, averages = [], _AVERAGES if len(metrics.names) > 1 else {}
    for scope in (*metrics.names, *averages):
        number = metrics.metric("average_precision", scope)
        counts = ("", "") if scope in _AVERAGES else (count(number.positives), percent(_prevalence(number)))
        rows.append((_AVERAGES.get(scope) or spell(scope), *counts, number.text()))
    header = ("", "positives", "prevalence", "average precision")
    title = f"The mean average precision is {decimal(metrics.metric('average_precision', 'macro').value)}"
    emphasis = tuple(range(len(metrics.names), len(rows)))
    caption = "Compare it with the prevalence, which is the average precision of a random ranking."
    return Table(title, header, rows, caption, emphasis=emphasis)


def _prevalence(number: MetricValue) -> float | None:
    return number.positives / number.images if number.images else None


def _curves(metrics: EvaluationMetrics) -> dict[str, Any]:
    curves = metrics.content["curves"].get("test", {})
    return {finding: curves[finding] for finding in metrics.names if finding in curves}


def _roc(metrics: EvaluationMetrics) -> Multiples:
    panels = []
    values = [metrics.metric("auroc", finding).value for finding in _curves(metrics)]
    for (finding, curves), value in zip(_curves(metrics).items(), values, strict=True):
        panel = _panel(curves["roc"], "fpr", "tpr", f"ROC curve of {spell(finding)}")
        panels.append((f"{spell(finding)} {decimal(value)}", panel))
    high = sum(value >= _HIGH_AUROC for value in values)
    title = f"{high} of {len(values)} findings reach an AUROC of {decimal(_HIGH_AUROC, 2)}"
    if len(values) == 1:
        title = f"The ROC curve of {spell(next(iter(_curves(metrics))))}"
    caption = f"ROC curves: sensitivity against 1 − specificity, with the AUROC; gray: chance.{_without_curve(metrics)}"
    return Multiples(title, panels, caption)


def _precision_recall(metrics: EvaluationMetrics) -> Multiples:
    panels, lifts = [], []
    for finding, curves in _curves(metrics).items():
        precision = metrics.metric("average_precision", finding)
        prevalence = _prevalence(precision)
        lifts.append(precision.value / prevalence if prevalence else np.nan)
        panel = _panel(curves["pr"], "recall", "precision", f"Precision-recall curve of {spell(finding)}", prevalence)
        panels.append((f"{spell(finding)} {decimal(precision.value)}", panel))
    title = "Precision and recall"
    if np.isfinite(lifts).any():
        low, high = np.nanmin(lifts), np.nanmax(lifts)
        times = f"{low:.1f}" if len(lifts) == 1 else f"{low:.1f} to {high:.1f}"
        title = f"Average precision is {times} times the prevalence"
    caption = f"Precision against recall, with the average precision; gray: prevalence.{_without_curve(metrics)}"
    return Multiples(title, panels, caption)


def _without_curve(metrics: EvaluationMetrics) -> str:
    absent = [spell(finding) for finding in metrics.names if finding not in _curves(metrics)]
    return f" Without a curve, for lack of positives or negatives: {', '.join(absent)}." if absent else ""


def _panel(points: dict[str, list[float]], x: str, y: str, label: str, chance: float | None = None) -> Markup:
    def plot(axes: Axes) -> None:
        curve(axes, points[x], points[y], chance=chance)

    return style.draw_panel(plot, label)
