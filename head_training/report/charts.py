"""Charts shared by several sections."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from numpy.typing import NDArray

from head_training.report.report_inputs import MetricValue
from head_training.report.style import BLUE, CONTEXT, INK, MUTED, VERMILLION, count, percent, spell


def labelled_bars(axes: Axes, names: Sequence[str], counts: NDArray[np.integer], totals: NDArray[np.integer]) -> None:
    """Draw horizontal bars, the last on top, each labelled with its count and its share of its total."""
    bars = axes.barh(names, counts, color=BLUE, height=0.72)
    axes.set_ylim(-0.6, max(len(names), 3) - 0.4)  # a single bar would fill the figure
    texts = [
        f"{count(number)} · {percent(number / total if total else None)}"
        for number, total in zip(counts, totals, strict=True)
    ]
    axes.bar_label(bars, texts, padding=5, color=MUTED, fontsize=10)
    axes.set_xlim(0, max(int(counts.max()), 1) * 1.4)  # room for the label of the longest bar
    axes.xaxis.set_visible(False)
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)


def heat_map(
    axes: Axes,
    values: NDArray[np.floating],
    labels: Sequence[str],
    colours: Colormap,
    limits: tuple[float, float],
    *,
    mark: float,
    digits: int,
) -> None:
    """Draw an (F, F) matrix of labels as a heat map, NaN in gray.

    Args:
        axes: to draw onto.
        values: (F, F) shares or correlations.
        labels: F names.
        colours: colour map.
        limits: lowest and highest value of the colour map.
        mark: lowest absolute value whose number is printed in its cell.
        digits: 2 prints 0.18 as .18; 0 prints it as 18.
    """
    axes.pcolormesh(np.ma.masked_invalid(values), cmap=colours, vmin=limits[0], vmax=limits[1], edgecolor="white")
    dark_from = 0.6 * max(abs(limits[0]), abs(limits[1]))  # white text on cells darker than this
    for row, column in zip(*np.nonzero(np.abs(values) >= mark), strict=True):
        value = values[row, column]
        text = f"{value * 100:.0f}" if digits == 0 else f"{value:.2f}".replace("0.", ".").replace("-", "−")
        colour = "white" if abs(value) > dark_from else INK
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=colour, fontsize=8.5)
    names = [spell(label) for label in labels]
    centres = np.arange(len(names)) + 0.5
    axes.set_xticks(centres, names, rotation=90)
    axes.set_yticks(centres, names)
    axes.invert_yaxis()
    axes.xaxis.tick_top()
    axes.tick_params(axis="x", length=0, labelcolor=INK)
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)


def forest(axes: Axes, names: Sequence[str], numbers: Sequence[MetricValue], *, bold: Sequence[int] = ()) -> None:
    """Draw a forest plot, the first row on top, with each value and its interval printed at the right edge.

    Args:
        axes: to draw onto.
        names: row labels.
        numbers: one value per row; an undefined value is printed as a dash.
        bold: indices of highlighted rows, such as a mean.
    """
    edge = axes.get_yaxis_transform()
    for row, number in enumerate(numbers):
        colour, weight = (VERMILLION, "bold") if row in bold else (BLUE, "normal")
        axes.hlines(row, number.low, number.high, color=colour, linewidth=2.2)
        axes.scatter(number.value, row, color=colour, s=36, zorder=3)
        axes.text(1.03, row, number.text(), transform=edge, va="center", fontsize=9.5, color=MUTED, weight=weight)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.3, -0.7)
    axes.grid(visible=False, axis="y")


def curve(axes: Axes, x: Sequence[float], y: Sequence[float], *, chance: float | None) -> None:
    """Draw a curve in the unit square with its chance level: a horizontal line, or the diagonal if it is None."""
    if chance is None:
        axes.plot([0, 1], [0, 1], color=CONTEXT, linewidth=1)
    else:
        axes.axhline(chance, color=CONTEXT, linewidth=1)
    axes.plot(x, y, color=BLUE, clip_on=False)
    unit_square(axes)


def unit_square(axes: Axes, limit: float = 1.0) -> None:
    """Set both axes to run from 0 to ``limit``, with three ticks each."""
    axes.set(xlim=(0, limit), ylim=(0, limit), aspect="equal")
    ticks = [0.0, limit / 2, limit]
    names = [f"{tick:.2g}" for tick in ticks]
    axes.set_xticks(ticks, names)
    axes.set_yticks(ticks, names)
    axes.tick_params(length=0)
