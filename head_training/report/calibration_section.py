"""Calibration section: predicted against observed frequencies, before and after calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from numpy.typing import NDArray

from head_training.report import style
from head_training.report.charts import unit_square
from head_training.report.page import Block, Multiples, Plot, Section
from head_training.report.report_inputs import EvaluationMetrics
from head_training.report.style import decimal, spell

_SCALES = {"score": "uncalibrated score", "probability": "calibrated probability"}
_AXIS_LIMITS = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
_ERRORS = {"ece": "ECE", "brier": "Brier score"}


def calibration_section(metrics: EvaluationMetrics) -> Section:
    """Return ECE, Brier score and reliability of each finding on every scale; no blocks if nothing was computed."""
    bins = metrics.content["reliability"].get("test", {})
    scales = [scale for scale in metrics.content["predictions"]["scales"] if bins.get(scale)]
    scales.sort(key=lambda scale: scale == metrics.scale)  # before calibration, then after
    blocks: list[Block] = []
    if scales:
        blocks = [_error_plot(metrics, scales, metric) for metric in _ERRORS]
        blocks.append(_reliability(metrics, bins, scales))
    lead = [
        "A probability is calibrated if, among the images with a predicted probability of 0.3, 30\u00a0% have the "
        "finding. The expected calibration error (ECE) is the mean gap between predicted and observed frequency over "
        "15 bins; the Brier score is the mean squared error of the probability."
    ]
    return Section("Calibration", blocks, lead)


def _error_plot(metrics: EvaluationMetrics, scales: list[str], metric: str) -> Plot:
    """Plot a calibration error of each finding, before and after calibration if both scales were evaluated."""
    values = {
        scale: np.array([metrics.metric(metric, finding, scale=scale).value for finding in metrics.names])
        for scale in scales
    }
    means = [
        decimal(float(errors[np.isfinite(errors)].mean())) if np.isfinite(errors).any() else "–"
        for errors in values.values()
    ]
    name = _ERRORS[metric]
    title = f"The mean {name} is {means[-1]}"
    if len(scales) > 1:
        change = f"changes the mean {name} from {means[0]} to {means[-1]}"
        title = f"Calibration {change if means[0] != means[-1] else f'leaves the mean {name} at {means[-1]}'}"
    return Plot(title, _dumbbell(values, metrics.names, name, title), _legend(scales))


def _colours(scales: list[str]) -> dict[str, str]:
    return dict(zip(scales, [style.ORANGE, style.BLUE][-len(scales) :], strict=True))


def _legend(scales: list[str]) -> str:
    names = [_SCALES.get(scale, scale) for scale in scales]
    return f"Blue: {names[-1]}." if len(names) == 1 else f"Orange: {names[0]}; blue: {names[-1]}."


def _dumbbell(values: dict[str, NDArray[np.float64]], names: Sequence[str], name: str, title: str) -> Markup:
    first, *_, last = [*values.values(), *values.values()]  # (F,) each; equal if only one scale was evaluated
    order = np.argsort(np.nan_to_num(first, nan=-1.0), kind="stable")

    def plot(axes: Axes) -> None:
        rows = np.arange(len(names))
        axes.hlines(rows, first[order], last[order], color=style.CONTEXT, linewidth=2)
        for scale, colour in _colours(list(values)).items():
            axes.scatter(values[scale][order], rows, color=colour, s=34, zorder=3, clip_on=False)
        axes.set_yticks(rows, [spell(names[index]) for index in order])
        axes.set_xlabel(name)
        axes.set_xlim(left=0)
        axes.grid(visible=False, axis="y")

    return style.draw(plot, f"{name} of each finding. {title}", height=style.height_of(len(names)))


def _reliability(metrics: EvaluationMetrics, bins: dict[str, dict[str, Any]], scales: list[str]) -> Multiples:
    panels = []
    for finding in metrics.names:
        series = {scale: bins[scale][finding] for scale in scales if finding in bins[scale]}
        if series:
            panels.append((spell(finding), _panel(series, _colours(scales), f"Reliability of {spell(finding)}")))
    caption = (
        "Observed frequency of the finding against the mean predicted probability, one dot per bin; on the gray line, "
        f"both are equal. Larger dots: more images. {_legend(scales)} The scale of the axes differs between panels."
    )
    errors = {finding: metrics.metric("ece", finding, scale=scales[-1]).value for finding in metrics.names}
    defined = {finding: error for finding, error in errors.items() if np.isfinite(error)}
    title = "Predicted and observed frequencies"
    if defined:
        worst = max(defined, key=defined.__getitem__)
        title = f"{spell(worst)} has the largest calibration error (ECE {decimal(defined[worst])})"
    return Multiples(title, panels, caption)


def _panel(series: dict[str, dict[str, list[float]]], colours: dict[str, str], label: str) -> Markup:
    def plot(axes: Axes) -> None:
        highest = 0.05
        for scale, bins in series.items():
            mean, observed, images = (np.array(bins[name], dtype=float) for name in ("mean", "observed", "images"))
            filled = images > 0  # (bins,); an empty bin has no mean
            sizes = 8 + 40 * images[filled] / max(images.sum(), 1)
            axes.plot(mean[filled], observed[filled], color=colours[scale], linewidth=1, alpha=0.5, clip_on=False)
            axes.scatter(mean[filled], observed[filled], s=sizes, color=colours[scale], zorder=3, clip_on=False)
            highest = max(highest, *mean[filled], *observed[filled])
        limit = next(limit for limit in _AXIS_LIMITS if limit >= highest)
        axes.plot([0, limit], [0, limit], color=style.CONTEXT, linewidth=1, zorder=1)
        unit_square(axes, limit)

    return style.draw_panel(plot, label)
