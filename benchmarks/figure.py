"""The figure of ``results.md``: rates of all contenders, and each stage beside its floor."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.bars import Column, columns
from benchmarks.contenders import Kind
from benchmarks.results import STAGES
from head_training.report.style import BLUE, CONTEXT, GRID, INK, MUTED, ORANGE, SKY, VERMILLION

COLOURS = {
    Kind.JOB: VERMILLION,
    Kind.REFERENCE: CONTEXT,
    Kind.GIVEN: BLUE,
    Kind.GIVEN_MALLOC: SKY,
    Kind.DOCUMENTED: ORANGE,
}
_ROW, _MARGIN = 0.32, 1.3
"""Inches of a bar, and of title, axis and legend together."""


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Draw what there is: extraction, stages, or both."""
    panels = [key for key in ("extraction", "stages") if key in results]
    if not panels:
        return
    found = columns(results["extraction"]) if "extraction" in results else []
    with rc_context({"font.size": 10, "svg.hashsalt": "results", "axes.edgecolor": CONTEXT, "text.color": INK}):
        figure = Figure(figsize=(12, max(4, _MARGIN + _ROW * len(found))), layout="constrained")
        for number, key in enumerate(panels):
            axes = figure.add_subplot(1, len(panels), number + 1)
            if key == "extraction":
                _rates(axes, found)
            else:
                _stages(axes, results["stages"])
        figure.savefig(path, metadata={"Date": None})


def _style(axes: Axes, title: str, label: str) -> None:
    axes.set_title(title, loc="left", fontweight="bold")
    axes.set_xlabel(label, color=MUTED)
    axes.grid(axis="x", color=GRID)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _rates(axes: Axes, found: Sequence[Column]) -> None:
    shown = sorted((column for column in found if column.steady), key=lambda column: statistics.median(column.steady))
    names = [f"{column.name}, {column.films:,} films" if column.kind is Kind.JOB else column.name for column in shown]
    for row, column in enumerate(shown):
        median = statistics.median(column.steady)
        axes.barh(row, median, color=COLOURS[column.kind], height=0.7)
        axes.plot(column.steady, [row] * len(column.steady), "|", color=INK, markersize=8)
        axes.annotate(f"{median:.1f}", (max(column.steady), row), (5, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(shown)), names)
    axes.margins(x=0.12, y=0.02)
    used = {column.kind for column in shown}
    handles = [axes.barh(0, 0, color=colour, label=kind.value) for kind, colour in COLOURS.items() if kind in used]
    axes.legend(handles=handles, loc="lower right", frameon=False)
    _style(axes, "Extraction, films a second after start-up", "median; a stroke is one run")


def _stages(axes: Axes, found: Sequence[Mapping[str, Any]]) -> None:
    for row, stage in enumerate(reversed(STAGES)):
        ways = [way for way in found if way["stage"] == stage]
        ours = next((way["ms"] for way in ways if way["way"].startswith("ours")), None)
        others = (way for way in ways if not way["way"].startswith("ours") and not way["way"].endswith("bound"))
        floor = min(others, key=lambda way: way["ms"], default=None)
        if ours is not None:
            axes.barh(row + 0.2, ours, color=VERMILLION, height=0.36)
            axes.annotate(f"{ours:.2f}", (ours, row + 0.2), (4, 0), textcoords="offset points", va="center")
        if floor is not None:
            axes.barh(row - 0.2, floor["ms"], color=CONTEXT, height=0.36)
            text = f"{floor['ms']:.2f}  {floor['way']}"
            axes.annotate(text, (floor["ms"], row - 0.2), (4, 0), textcoords="offset points", va="center", color=MUTED)
    axes.set_yticks(range(len(STAGES)), list(reversed(STAGES)))
    axes.margins(x=0.18, y=0.02)
    _style(axes, "Where an image's time goes, one core", "ms an image; gray: the fastest other way")
