"""The training section: how the configurations learned, which one was chosen, and from what."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from cxrfeat.labels.findings import FINDINGS
from head_training.report import style
from head_training.report.grid_figures import DRAWN, best_table, by_auroc, heat_map, parallel_lines
from head_training.report.page import Block, Plot, Section, Table
from head_training.report.report_inputs import TrainingRun
from head_training.report.style import count, decimal, general, spell

_SELECTED_BY = {"auroc": "mean AUROC", "val_loss": "loss"}
_MONITORS = {"val_loss": ("val_loss", "loss"), "auroc": ("val_auroc", "mean AUROC"), "f1": ("val_f1", "macro F1")}


def training_section(run: TrainingRun) -> Section:
    """Return learning curves, the grid as a heat map and as parallel lines, the best settings and the chosen one's."""
    chosen, settings = run.selected, run.config["settings"]
    blocks: list[Block | None] = [
        _courses(run),
        _losses(run),
        heat_map(run),
        parallel_lines(run),
        best_table(run),
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


def _courses(run: TrainingRun) -> Plot:
    """Show what was monitored, epoch by epoch: the chosen configuration in front of the others."""
    column, name = _MONITORS[run.config["settings"]["monitor"]]
    chosen = run.selected
    finite = run.history[np.isfinite(run.history[column].astype(float))]
    values = finite.loc[finite["index"] == chosen["index"], column]
    better = max if column != "val_loss" else min
    others = [index for index in by_auroc(run)["index"] if index != chosen["index"]]
    drawn = others[: DRAWN - 1]
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


def _losses(run: TrainingRun) -> Plot:
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


def _finding_table(run: TrainingRun) -> Table:
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


def _settings_table(run: TrainingRun) -> Table:
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
