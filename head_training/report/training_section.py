"""Training section: learning curves, grid, and the selected configuration."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from head_training.report import style
from head_training.report.grid_figures import DRAWN, best_table, by_auroc, heat_map, parallel_lines
from head_training.report.page import Block, Plot, Section, Table
from head_training.report.report_inputs import TrainingRun
from head_training.report.style import compact, count, decimal, spell

_SELECTED_BY = {"auroc": "highest mean AUROC", "val_loss": "lowest loss"}
_MONITORS = {"val_loss": ("val_loss", "loss"), "auroc": ("val_auroc", "mean AUROC"), "f1": ("val_f1", "macro F1")}


def training_section(run: TrainingRun) -> Section:
    """Return learning curves, figures of the grid, and results and settings of the selected configuration."""
    selected, settings = run.selected, run.config["settings"]
    blocks: list[Block | None] = [
        _learning_curves(run),
        _losses(run),
        heat_map(run),
        parallel_lines(run),
        best_table(run),
        _finding_table(run),
        _settings_table(run),
    ]
    rows = run.config["rows"]
    lead = [
        f"Trained on {count(rows['train'])} images. The configuration with the {_SELECTED_BY[settings['select']]} on "
        f"{count(rows['val'])} validation images was selected; test images were not used.",
        f"Embeddings: {run.extractor}.",
    ]
    facts = [
        (count(len(run.grid)), "configurations"),
        (
            decimal(selected["val_auroc"]),
            f"mean validation AUROC of {selected['val_auroc_findings']:.0f} findings"
            if len(run.names) > 1
            else f"validation AUROC of {spell(run.names[0])}",
        ),
        (f"{selected['best_epoch']:.0f} of {selected['epochs']:.0f}", "best epoch of the selected configuration"),
        *((count(number), f"configurations {status}") for status, number in _incomplete(run.grid)),
    ]
    return Section("Training", [block for block in blocks if block is not None], lead, facts)


def _incomplete(grid: pd.DataFrame) -> list[tuple[str, int]]:
    """Return each status other than complete, with its number of configurations."""
    statuses = grid["status"].value_counts()
    return [(str(status), int(number)) for status, number in statuses.items() if status != "complete"]


def _learning_curves(run: TrainingRun) -> Plot:
    """Plot the monitored metric by epoch, with the selected configuration in front of the others."""
    column, name = _MONITORS[run.config["settings"]["monitor"]]
    selected = run.selected
    finite = run.history[np.isfinite(run.history[column].astype(float))]
    values = finite.loc[finite["index"] == selected["index"], column]
    better = max if column != "val_loss" else min
    others = [index for index in by_auroc(run)["index"] if index != selected["index"]]
    drawn = others[: DRAWN - 1]
    title = f"The best epoch is {selected['best_epoch']:.0f}, with a validation {name} of {decimal(better(values), 4)}"

    def plot(axes: Axes) -> None:
        for _, history in finite[finite["index"].isin(drawn)].groupby("index"):
            axes.plot(history["epoch"], history[column], color=style.CONTEXT, linewidth=0.9, zorder=1)
        front = finite[finite["index"] == selected["index"]]
        axes.plot(front["epoch"], front[column], color=style.BLUE, zorder=3)
        best = front[front["epoch"] == selected["best_epoch"]]
        axes.scatter(best["epoch"], best[column], color=style.VERMILLION, s=42, zorder=4)
        # Limits from quantiles: a configuration that diverges would flatten all other curves.
        low, high = np.quantile(finite[column].astype(float), (0.0, 0.97) if column == "val_loss" else (0.03, 1.0))
        low, high = min(low, values.min()), max(high, values.max())
        margin = 0.05 * (high - low) or 0.01
        axes.set_ylim(low - margin, high + margin)
        _label_epochs(axes, f"validation {name}", int(finite["epoch"].max()))

    gray = "all others" if len(drawn) == len(others) else f"the best {len(drawn)} of the {count(len(others))} others"
    caption = f"Blue: the selected configuration, with its best epoch in red; gray: {gray}."
    return Plot(title, style.draw(plot, f"Learning curves. {title}", height=3.4), caption)


def _losses(run: TrainingRun) -> Plot:
    """Plot training and validation loss of the selected configuration."""
    selected = run.selected
    history = run.history[run.history["index"] == selected["index"]]
    last = history.iloc[-1]
    gap = last["val_loss"] - last["train_loss"]
    side = "above" if gap > 0 else "below"
    marker = "o" if len(history) == 1 else ""  # a line of one point is invisible
    title = f"After the last epoch, the validation loss is {decimal(abs(gap), 4)} {side} the training loss"

    def plot(axes: Axes) -> None:
        axes.plot(history["epoch"], history["train_loss"], color=style.ORANGE, marker=marker, label="training")
        axes.plot(history["epoch"], history["val_loss"], color=style.BLUE, marker=marker, label="validation")
        axes.axvline(selected["best_epoch"], color=style.MUTED, linewidth=0.9, linestyle=(0, (2, 3)))
        _label_epochs(axes, "loss", int(last["epoch"]))
        axes.legend()

    caption = "Dotted line: the best epoch. The training loss includes dropout and, if any, loss weighting."
    return Plot(title, style.draw(plot, f"Training and validation loss. {title}", height=3.4), caption)


def _label_epochs(axes: Axes, name: str, last: int) -> None:
    axes.set_xlabel("epoch")
    axes.set_ylabel(name)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    axes.set_xlim(0.5, last + 0.5)


def _finding_table(run: TrainingRun) -> Table:
    selected, described = run.selected, run.config.get("val", {}).get("findings", {})
    rows = [
        (
            spell(finding),
            decimal(selected[f"val_auroc_{finding}"]),
            count(described[finding]["positives"]) if finding in described else "–",
        )
        for finding in run.names
    ]
    rows.append(("mean", decimal(selected["val_auroc"]), ""))
    caption = "A dash: no positives or no negatives in the validation set."
    title = "Validation AUROC of the selected configuration"
    return Table(title, ("", "AUROC", "positives"), rows, caption, emphasis=(len(run.names),))


def _settings_table(run: TrainingRun) -> Table:
    values = {**run.config["settings"], **run.config["configuration"]}
    rows = [(spell(name), _format(value)) for name, value in values.items() if name not in ("name", "configurations")]
    images, patients = run.config["rows"], run.config["patients"]
    rows += [(f"{split}: images, patients", f"{count(images[split])}, {count(patients[split])}") for split in images]
    return Table(f"Settings of configuration {run.selected['name']}", ("", "value"), rows)


def _format(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "none" if value is None else compact(value) if isinstance(value, float) else str(value)
