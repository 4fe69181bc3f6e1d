"""The section about the ranking on test: AUROC, average precision and their curves."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from cxrfeat.labels.findings import FINDINGS, NO_FINDING
from head_training.report import style
from head_training.report.charts import curve, forest
from head_training.report.page import Block, Multiples, Plot, Section, Table
from head_training.report.report_inputs import EvaluationMetrics, MetricValue
from head_training.report.style import count, decimal, percent, spell

_GOOD = 0.8
_AVERAGES = {"macro": "mean (macro)", "micro": "all in one (micro)"}


def evaluation_section(metrics: EvaluationMetrics) -> Section:
    """Return mean and single AUROCs with intervals, average precision, and both curves of each finding."""
    facts = [
        (metrics.number("auroc", "macro").text(), f"mean AUROC on test, {label_and_split(metrics)}"),
        (metrics.number("average_precision", "macro").text(), f"mean average precision, {label_and_split(metrics)}"),
    ]
    blocks: list[Block] = [_forest(metrics), _table(metrics), _roc(metrics), _precision_recall(metrics)]
    return Section("Test", blocks, provenance(metrics), facts)


def label_and_split(metrics: EvaluationMetrics) -> str:
    """Return what no mean stands without: the split protocol and the digest of the labels, in short."""
    return f"{metrics.content['protocol']['name']}, labels {metrics.content['labels']['digest'][:8]}"


def provenance(metrics: EvaluationMetrics) -> list[str]:
    """Return the sentences that stand beside every mean: which labels, which split, which patients."""
    labels, protocol = metrics.content["labels"], metrics.content["protocol"]
    test, settings = metrics.content["splits"]["test"], metrics.content["settings"]
    sentences = [
        f"Split protocol: {protocol['name']} ({protocol['why'].rstrip('.')}).",
        f"Labels: {labels['file']}, sha256 {labels['sha256'][:12]}, digest of those evaluated {labels['digest'][:8]}; {count(labels['counts']['images'])} films, "
        f"{count(labels['counts'][NO_FINDING])} of them with {NO_FINDING}.",
        f"Test: {count(test['images'])} films of {count(test['patients'])} patients, {count(test['without_prediction'])} "
        f"more without a prediction; {count(test['counts'][NO_FINDING])} with {NO_FINDING}. Intervals are of "
        f"{percent(settings['confidence'], 0)}, from {count(settings['resamples'])} resamples of patients.",
    ]
    if protocol["patients_in_both"]:
        sentences.append(
            f"{count(protocol['patients_in_both'])} patients are on both sides of the split: these numbers are too good."
        )
    return sentences


def _forest(metrics: EvaluationMetrics) -> Plot:
    numbers = {finding: metrics.number("auroc", finding) for finding in FINDINGS}
    order = sorted(
        numbers, key=lambda finding: numbers[finding].value if numbers[finding].defined else -1, reverse=True
    )
    defined = [finding for finding in order if numbers[finding].defined]
    title = "No finding has both classes on test"
    if defined:
        # What has no interval has too few patients to be what a title is about, unless all have.
        certain = [finding for finding in defined if math.isfinite(numbers[finding].low)] or defined
        best, worst = certain[0], certain[-1]
        title = (
            f"{spell(best)} is ranked best ({decimal(numbers[best].value, 2)}), "
            f"{spell(worst)} worst ({decimal(numbers[worst].value, 2)})"
        )
    shown = [*(numbers[finding] for finding in order), *(metrics.number("auroc", average) for average in _AVERAGES)]

    def plot(axes: Axes) -> None:
        forest(axes, [*map(spell, order), *_AVERAGES.values()], shown, bold=[len(order)])
        axes.axvline(0.5, color=style.MUTED, linewidth=0.9, linestyle=(0, (2, 3)))
        axes.set_xlabel("AUROC")

    caption = "AUROC on test with its interval; dotted: chance. A dash: a class is absent."
    return Plot(title, style.draw(plot, f"AUROC of each finding. {title}", height=4.6), caption)


def _table(metrics: EvaluationMetrics) -> Table:
    rows = []
    for scope in (*FINDINGS, *_AVERAGES):
        number = metrics.number("average_precision", scope)
        counts = ("", "") if scope in _AVERAGES else (count(number.positives), percent(_prevalence(number)))
        rows.append((_AVERAGES.get(scope) or spell(scope), *counts, number.text()))
    header = ("", "positives", "of films", "average precision")
    title = f"The mean average precision is {decimal(metrics.number('average_precision', 'macro').value)}"
    caption = "To be read beside the share of positives, which is what a random ranking reaches."
    return Table(title, header, rows, caption, emphasis=(len(FINDINGS), len(FINDINGS) + 1))


def _prevalence(number: MetricValue) -> float | None:
    return number.positives / number.images if number.images else None


def _curves(metrics: EvaluationMetrics) -> dict[str, Any]:
    curves = metrics.content["curves"].get("test", {})
    return {finding: curves[finding] for finding in FINDINGS if finding in curves}


def _roc(metrics: EvaluationMetrics) -> Multiples:
    panels = []
    values = [metrics.number("auroc", finding).value for finding in _curves(metrics)]
    for (finding, curves), value in zip(_curves(metrics).items(), values, strict=True):
        panel = _panel(curves["roc"], "fpr", "tpr", f"ROC curve of {spell(finding)}")
        panels.append((f"{spell(finding)} {decimal(value)}", panel))
    title = f"{sum(value >= _GOOD for value in values)} of {len(values)} findings reach an AUROC of {decimal(_GOOD, 2)}"
    return Multiples(title, panels, f"ROC: sensitivity over 1 − specificity; gray: chance.{_without_curve(metrics)}")


def _precision_recall(metrics: EvaluationMetrics) -> Multiples:
    panels, lifts = [], []
    for finding, curves in _curves(metrics).items():
        precision = metrics.number("average_precision", finding)
        prevalence = _prevalence(precision)
        lifts.append(precision.value / prevalence if prevalence else np.nan)
        panel = _panel(curves["pr"], "recall", "precision", f"Precision-recall curve of {spell(finding)}", prevalence)
        panels.append((f"{spell(finding)} {decimal(precision.value)}", panel))
    title = "Precision and recall"
    if np.isfinite(lifts).any():
        title = f"Average precision is {np.nanmin(lifts):.1f} to {np.nanmax(lifts):.1f} times the prevalence"
    caption = f"Precision over recall, with the average precision; gray: the prevalence.{_without_curve(metrics)}"
    return Multiples(title, panels, caption)


def _without_curve(metrics: EvaluationMetrics) -> str:
    absent = [spell(finding) for finding in FINDINGS if finding not in _curves(metrics)]
    return f" No curve, since a class is absent: {', '.join(absent)}." if absent else ""


def _panel(points: dict[str, list[float]], x: str, y: str, label: str, prevalence: float | None = None) -> Markup:
    def plot(axes: Axes) -> None:
        curve(axes, points[x], points[y], level=prevalence)

    return style.draw_panel(plot, label)
