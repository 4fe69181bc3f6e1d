"""The training section: how the configurations learned, which one was chosen, and from what."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator

from cxrfeat.findings import FINDINGS
from head_training.report import style
from head_training.report.page import Block, Plot, Section, Table
from head_training.report.sources import Run
from head_training.report.style import count, decimal, general, spell

_SETTINGS = ("hidden", "dropout", "lr", "weight_decay")

_SHOWN = 8
"""Configurations in the table."""

_DRAWN = 24
"""Configurations in a figure, the best: a default grid is drawn whole, and a page of a big one stays small."""

_CELLS = 12
"""Learning rates, and weight decays, in the heat map: its numbers stay legible."""

_SELECTED_BY = {"auroc": "mean AUROC", "val_loss": "loss"}
_MONITORS = {"val_loss": ("val_loss", "loss"), "auroc": ("val_auroc", "mean AUROC"), "f1": ("val_f1", "macro F1")}


def training_section(run: Run) -> Section:
    """Return learning curves, the grid as a heat map and as parallel lines, the best settings and the chosen one's."""
    chosen, settings = run.selected, run.config["settings"]
    blocks: list[Block | None] = [
        _courses(run),
        _losses(run),
        _heat_map(run),
        _parallel(run),
        _best_table(run),
        _finding_table(run),
        _settings_table(run),
    ]
    rows = run.config["rows"]
    lead = [
        f"Trained on {count(rows['train'])} films, chosen on {count(rows['val'])} by {_SELECTED_BY[settings['select']]}; "
        "test films decide nothing here.",
        f"Embeddings of {run.extractor}.",
    ]
    facts = [
        (count(len(run.grid)), "configurations"),
        (decimal(chosen["val_auroc"]), f"mean AUROC on val, of {chosen['val_auroc_findings']:.0f} findings"),
        (f"{chosen['best_epoch']:.0f} of {chosen['epochs']:.0f}", "epochs: the best of the chosen one"),
        *((count(number), f"configurations {status}") for status, number in _not_complete(run.grid)),
    ]
    return Section("Training", [block for block in blocks if block is not None], lead, facts)


def _not_complete(grid: pd.DataFrame) -> list[tuple[str, int]]:
    ends = grid["status"].value_counts()
    return [(str(status), int(number)) for status, number in ends.items() if status != "complete"]


def _courses(run: Run) -> Plot:
    """Show what was monitored, epoch by epoch: the chosen configuration in front of the others."""
    column, name = _MONITORS[run.config["settings"]["monitor"]]
    chosen = run.selected
    finite = run.history[np.isfinite(run.history[column].astype(float))]
    values = finite.loc[finite["index"] == chosen["index"], column]
    better = max if column != "val_loss" else min
    others = [index for index in _by_auroc(run)["index"] if index != chosen["index"]]
    drawn = others[: _DRAWN - 1]
    title = f"The chosen configuration is at its best in epoch {chosen['best_epoch']:.0f}: {name} {decimal(better(values), 4)}"

    def plot(axes: Axes) -> None:
        for _, course in finite[finite["index"].isin(drawn)].groupby("index"):
            axes.plot(course["epoch"], course[column], color=style.CONTEXT, linewidth=0.9, zorder=1)
        best = finite[finite["index"] == chosen["index"]]
        axes.plot(best["epoch"], best[column], color=style.BLUE, zorder=3)
        at = best[best["epoch"] == chosen["best_epoch"]]
        axes.scatter(at["epoch"], at[column], color=style.VERMILLION, s=42, zorder=4)
        # A configuration that diverges must not press all others into a line.
        low, high = np.quantile(finite[column].astype(float), (0.0, 0.97) if column == "val_loss" else (0.03, 1.0))
        low, high = min(low, values.min()), max(high, values.max())
        margin = 0.05 * (high - low) or 0.01
        axes.set_ylim(low - margin, high + margin)
        _epochs(axes, f"{name} on val", int(finite["epoch"].max()))

    gray = "all others" if len(drawn) == len(others) else f"the best {len(drawn)} of the {count(len(others))} others"
    caption = f"Blue: the chosen configuration, red its best epoch; gray: {gray}."
    return Plot(title, style.draw(plot, f"Learning curves. {title}", height=3.4), caption)


def _losses(run: Run) -> Plot:
    """Show both losses of the chosen configuration."""
    chosen = run.selected
    course = run.history[run.history["index"] == chosen["index"]]
    last = course.iloc[-1]
    gap = last["val_loss"] - last["train_loss"]
    side = "above" if gap > 0 else "below"
    dot = "o" if len(course) == 1 else ""  # a line of one point has no length
    title = f"In the last epoch the loss on val is {decimal(abs(gap), 4)} {side} the training loss"

    def plot(axes: Axes) -> None:
        axes.plot(course["epoch"], course["train_loss"], color=style.ORANGE, marker=dot, label="train")
        axes.plot(course["epoch"], course["val_loss"], color=style.BLUE, marker=dot, label="val")
        axes.axvline(chosen["best_epoch"], color=style.MUTED, linewidth=0.9, linestyle=(0, (2, 3)))
        _epochs(axes, "loss", int(last["epoch"]))
        axes.legend()

    caption = "The chosen configuration; dotted: its best epoch. The training loss is with dropout and as weighted."
    return Plot(title, style.draw(plot, f"Training and validation loss. {title}", height=3.4), caption)


def _epochs(axes: Axes, name: str, last: int) -> None:
    axes.set_xlabel("epoch")
    axes.set_ylabel(name)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    axes.set_xlim(0.5, last + 0.5)


def _heat_map(run: Run) -> Plot | None:
    """Show the best mean AUROC for each learning rate and weight decay; None where there is but one of both."""
    table = run.grid.pivot_table("val_auroc", "lr", "weight_decay", aggfunc="max", dropna=False)
    if table.size < 2 or not np.isfinite(table.to_numpy(dtype=float)).any():
        return None
    caption = "Mean AUROC on val, the best over all other settings; a dash where no configuration could be ranked."
    if max(table.shape) > _CELLS:
        rates, decays = map(count, table.shape)
        caption += f" Of {rates} learning rates and {decays} weight decays the best, at most {_CELLS} of each."
        best = [table.max(axis=axis).nlargest(_CELLS).index for axis in ("columns", "index")]
        table = table.loc[sorted(best[0]), sorted(best[1])]
    values = table.to_numpy(dtype=float)
    row, column = np.unravel_index(np.nanargmax(values), values.shape)
    title = f"Learning rate {general(table.index[row])} with weight decay {general(table.columns[column])} ranks best"

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
        axes.set_xticks(np.arange(len(table.columns)) + 0.5, [general(value) for value in table.columns])
        axes.set_yticks(np.arange(len(table.index)) + 0.5, [general(value) for value in table.index])
        axes.tick_params(axis="x", length=0)
        axes.set_xlabel("weight decay")
        axes.set_ylabel("learning rate")
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)

    svg = style.draw(plot, f"Grid of learning rate and weight decay. {title}", height=1.2 + 0.5 * len(table))
    return Plot(title, svg, caption)


def _parallel(run: Run) -> Plot | None:
    """Show each configuration as a line through its settings to its AUROC; None where nothing varies."""
    by_auroc = _by_auroc(run).assign(hidden=lambda grid: [_shape(widths) for widths in grid["hidden"]])
    ranked = by_auroc[np.isfinite(by_auroc["val_auroc"].astype(float))]
    drawn = ranked.head(_DRAWN)
    varying = [name for name in _SETTINGS if drawn[name].nunique() > 1]
    if not varying:
        return None
    aurocs = drawn["val_auroc"].astype(float)
    spread = float(aurocs.max() - aurocs.min())
    title = f"Settings move the mean AUROC by {decimal(float(ranked['val_auroc'].max() - ranked['val_auroc'].min()))}"

    def plot(axes: Axes) -> None:
        places = {
            name: {value: place for place, value in enumerate(_in_order(drawn[name].sort_index()))} for name in varying
        }
        heights = [drawn[name].map(places[name]) / (len(places[name]) - 1) for name in varying]
        heights.append((aurocs - aurocs.min()) / (spread or 1.0))
        lines = np.column_stack(heights).astype(float)
        for rank, line in reversed([*enumerate(lines)]):  # the best last, over the others
            colour, width = (style.BLUE, 2.4) if rank == 0 else (style.CONTEXT, 0.9)
            axes.plot(np.arange(len(line)), line, color=colour, linewidth=width, clip_on=False)
        for x, name in enumerate(varying):
            for value, place in places[name].items():
                text = value if isinstance(value, str) else general(value)
                _on_line(axes, x, place / (len(places[name]) - 1), text)
        for height, value in ((0.0, aurocs.min()), (1.0, aurocs.max())):
            _on_line(axes, len(varying), height if spread else 0.0, decimal(value))
        axes.set_xticks(np.arange(len(varying) + 1), [*map(spell, varying), "mean AUROC"])
        axes.tick_params(axis="x", length=0, labelcolor=style.INK)
        axes.set_xlim(-0.25, len(varying) + 0.25)
        axes.set_ylim(-0.04, 1.04)
        axes.yaxis.set_visible(False)
        axes.grid(visible=True, axis="x", color=style.CONTEXT)
        axes.spines["bottom"].set_visible(False)

    caption = "Each line is one configuration, from its settings to its mean AUROC on val; blue: the best by AUROC."
    if len(drawn) < len(ranked):
        caption += f" Drawn are the best {len(drawn)} of {count(len(ranked))}."
    return Plot(title, style.draw(plot, f"Settings and AUROC. {title}", height=3.6), caption)


def _on_line(axes: Axes, x: float, y: float, text: str) -> None:
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5}
    axes.text(x + 0.03, y, text, fontsize=9.5, va="center", color=style.MUTED, bbox=box, zorder=5)


def _in_order(values: pd.Series) -> Sequence[float | str]:
    """Return distinct values, numbers rising, shapes as the grid has them."""
    distinct = list(dict.fromkeys(values))
    return distinct if isinstance(distinct[0], str) else sorted(distinct)


def _shape(widths: Sequence[int]) -> str:
    return "–".join(map(str, widths))


def _by_auroc(run: Run) -> pd.DataFrame:
    """Return the grid from the best configuration down; of equals the first in the grid."""
    return run.grid.sort_values("val_auroc", ascending=False, kind="stable", na_position="last")


def _best_table(run: Run) -> Table:
    order = _by_auroc(run)
    rows = [
        (
            row["name"],
            _shape(row["hidden"]),
            *(general(row[name]) for name in ("dropout", "lr", "weight_decay")),
            f"{row['best_epoch']:.0f}" if pd.notna(row["best_epoch"]) else "–",
            decimal(row["val_loss"], 4),
            decimal(row["val_auroc"], 4),
            row["status"],
        )
        for row in order.head(_SHOWN).to_dict("records")
    ]
    emphasis = [place for place, name in enumerate(order["name"].head(_SHOWN)) if name == run.selected["name"]]
    header = (
        "",
        "hidden",
        "dropout",
        "learning rate",
        "weight decay",
        "best epoch",
        "loss on val",
        "AUROC on val",
        "end",
    )
    title = f"The best {len(rows)} of {len(order)} configurations" if len(order) > 1 else "The one configuration"
    return Table(title, header, rows, "By mean AUROC on val; in bold the chosen one.", wide=True, emphasis=emphasis)


def _finding_table(run: Run) -> Table:
    chosen, described = run.selected, run.config.get("val", {}).get("findings", {})
    rows = [
        (
            spell(finding),
            decimal(chosen[f"val_auroc_{finding}"]),
            count(described[finding]["positives"]) if finding in described else "–",
        )
        for finding in FINDINGS
    ]
    rows.append(("mean", decimal(chosen["val_auroc"]), ""))
    caption = "A dash: val has no positive or no negative of it."
    return Table("The chosen head on val", ("", "AUROC", "positives"), rows, caption, emphasis=(len(FINDINGS),))


def _settings_table(run: Run) -> Table:
    values = {**run.config["settings"], **run.config["configuration"]}
    rows = [(spell(name), _write(value)) for name, value in values.items() if name not in ("name", "configurations")]
    rows += [(f"{split}: films, patients", f"{count(run.config['rows'][split])}, {count(run.config['patients'][split])}")
             for split in run.config["rows"]]  # fmt: skip
    return Table(f"Settings of {run.selected['name']}", ("", "value"), rows)


def _write(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "none" if value is None else general(value) if isinstance(value, float) else str(value)
