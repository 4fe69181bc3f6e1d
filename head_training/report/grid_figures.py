"""Hyperparameter grid in the training section: heat map, parallel coordinates and table of the best."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from head_training.report import style
from head_training.report.page import Plot, Table
from head_training.report.report_inputs import TrainingRun
from head_training.report.style import compact, count, decimal

_SETTINGS = {"hidden": "hidden layers", "dropout": "dropout", "lr": "learning rate", "weight_decay": "weight decay"}
"""Column of the grid → its name on the page."""

_SHOWN = 8
"""Number of configurations in the table."""

DRAWN = 24
"""Number of configurations in a figure, the best: all of a default grid, while the page of a large grid stays small."""

_CELLS = 12
"""Most learning rates, and most weight decays, in the heat map, so that its numbers stay legible."""


def heat_map(run: TrainingRun) -> Plot | None:
    """Plot the best mean AUROC for each learning rate and weight decay; return None if neither varies."""
    table = run.grid.pivot_table("val_auroc", "lr", "weight_decay", aggfunc="max", dropna=False)
    if table.size < 2 or not np.isfinite(table.to_numpy(dtype=float)).any():
        return None
    caption = "Mean validation AUROC, the highest over all other settings. A dash: the AUROC is not defined."
    if max(table.shape) > _CELLS:
        rates, decays = map(count, table.shape)
        caption += f" Shown: the best of {rates} learning rates and {decays} weight decays, at most {_CELLS} of each."
        best = [table.max(axis=axis).nlargest(_CELLS).index for axis in ("columns", "index")]
        table = table.loc[sorted(best[0]), sorted(best[1])]
    values = table.to_numpy(dtype=float)
    row, column = np.unravel_index(np.nanargmax(values), values.shape)
    title = f"Learning rate {compact(table.index[row])} with weight decay {compact(table.columns[column])} is best"

    def plot(axes: Axes) -> None:
        low, high = np.nanmin(values), np.nanmax(values)
        limits = Normalize(low - 0.002, high + 0.002)
        axes.pcolormesh(
            np.ma.masked_invalid(values), cmap=style.SEQUENTIAL, norm=limits, edgecolor="white", linewidth=2
        )
        for y, x in np.ndindex(values.shape):
            colour = "white" if limits(values[y, x]) > 0.55 else style.INK
            weight = "bold" if (y, x) == (row, column) else "normal"
            text = decimal(values[y, x])
            axes.text(x + 0.5, y + 0.5, text, color=colour, weight=weight, ha="center", va="center")
        axes.set_xticks(np.arange(len(table.columns)) + 0.5, [compact(value) for value in table.columns])
        axes.set_yticks(np.arange(len(table.index)) + 0.5, [compact(value) for value in table.index])
        axes.tick_params(axis="x", length=0)
        axes.set_xlabel("weight decay")
        axes.set_ylabel("learning rate")
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)

    svg = style.draw(plot, f"Grid of learning rate and weight decay. {title}", height=1.2 + 0.5 * len(table))
    return Plot(title, svg, caption)


def parallel_lines(run: TrainingRun) -> Plot | None:
    """Plot each configuration as a line through its settings to its AUROC; return None if no setting varies."""
    grid = by_auroc(run)
    finite = np.isfinite(grid["val_auroc"].astype(float))
    ranked = grid[finite].assign(hidden=lambda rows: [_shape(widths) for widths in rows["hidden"]])
    drawn = ranked.head(DRAWN)
    varying = [name for name in _SETTINGS if drawn[name].nunique() > 1]
    if not varying:
        return None
    aurocs = drawn["val_auroc"].astype(float)
    spread = float(aurocs.max() - aurocs.min())
    difference = float(ranked["val_auroc"].max() - ranked["val_auroc"].min())
    title = f"The mean AUROC differs by up to {decimal(difference)} between configurations"

    def plot(axes: Axes) -> None:
        positions = {
            name: {value: rank for rank, value in enumerate(_in_order(drawn[name].sort_index()))} for name in varying
        }
        heights = [drawn[name].map(positions[name]) / (len(positions[name]) - 1) for name in varying]
        heights.append((aurocs - aurocs.min()) / (spread or 1.0))
        lines = np.column_stack(heights).astype(float)  # (configurations, varying settings + 1)
        for rank, line in reversed([*enumerate(lines)]):  # the best last, on top of the others
            colour, width = (style.BLUE, 2.4) if rank == 0 else (style.CONTEXT, 0.9)
            axes.plot(np.arange(len(line)), line, color=colour, linewidth=width, clip_on=False)
        for x, name in enumerate(varying):
            for value, position in positions[name].items():
                text = value if isinstance(value, str) else compact(value)
                _on_line(axes, x, position / (len(positions[name]) - 1), text)
        for height, value in ((0.0, aurocs.min()), (1.0, aurocs.max())):
            _on_line(axes, len(varying), height if spread else 0.0, decimal(value))
        axes.set_xticks(np.arange(len(varying) + 1), [*(_SETTINGS[name] for name in varying), "mean AUROC"])
        axes.tick_params(axis="x", length=0, labelcolor=style.INK)
        axes.set_xlim(-0.25, len(varying) + 0.25)
        axes.set_ylim(-0.04, 1.04)
        axes.yaxis.set_visible(False)
        axes.grid(visible=True, axis="x", color=style.CONTEXT)
        axes.spines["bottom"].set_visible(False)

    caption = "Each line is one configuration: its settings and its mean validation AUROC. Blue: the highest AUROC."
    if len(drawn) < len(ranked):
        caption += f" Only the best {len(drawn)} of {count(len(ranked))} are shown."
    return Plot(title, style.draw(plot, f"Settings and AUROC. {title}", height=3.6), caption)


def _on_line(axes: Axes, x: float, y: float, text: str) -> None:
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5}
    axes.text(x + 0.03, y, text, fontsize=9.5, va="center", color=style.MUTED, bbox=box, zorder=5)


def _in_order(values: pd.Series) -> Sequence[float | str]:
    """Return the distinct values: numbers in ascending order, shapes in the order of the grid."""
    distinct = list(dict.fromkeys(values))
    return distinct if isinstance(distinct[0], str) else sorted(distinct)


def _shape(widths: Sequence[int]) -> str:
    return "–".join(map(str, widths))


def by_auroc(run: TrainingRun) -> pd.DataFrame:
    """Return the grid sorted by mean AUROC, the best first; ties keep the order of the grid."""
    return run.grid.sort_values("val_auroc", ascending=False, kind="stable", na_position="last")


def best_table(run: TrainingRun) -> Table:
    """Return the settings and results of the best configurations."""
    order = by_auroc(run)
    rows = [
        (
            row["name"],
            _shape(row["hidden"]),
            *(compact(row[name]) for name in ("dropout", "lr", "weight_decay")),
            f"{row['best_epoch']:.0f}" if pd.notna(row["best_epoch"]) else "–",
            decimal(row["val_loss"], 4),
            decimal(row["val_auroc"], 4),
            row["status"],
        )
        for row in order.head(_SHOWN).to_dict("records")
    ]
    emphasis = [index for index, name in enumerate(order["name"].head(_SHOWN)) if name == run.selected["name"]]
    header = (
        "",
        "hidden layers",
        "dropout",
        "learning rate",
        "weight decay",
        "best epoch",
        "validation loss",
        "validation AUROC",
        "status",
    )
    title = f"The best {len(rows)} of {len(order)} configurations" if len(order) > 1 else "The only configuration"
    caption = "Sorted by mean validation AUROC; bold: the selected configuration."
    return Table(title, header, rows, caption, wide=True, emphasis=emphasis)
