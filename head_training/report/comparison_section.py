"""Sections that compare a result with baselines, between subgroups, and with the literature."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.axes import Axes

from cxrfeat.labels.findings import FINDINGS
from head_training.report import style
from head_training.report.charts import forest
from head_training.report.evaluation_section import label_and_split, provenance
from head_training.report.page import Block, Plot, Section, Table
from head_training.report.report_inputs import PREDICTIONS, EvaluationMetrics
from head_training.report.style import count, decimal, spell

_MODELS = {
    PREDICTIONS: "this model",
    "untrained": "untrained head",
    "view": "view position alone",
    "age+sex": "age and sex alone",
    "view+age+sex": "view, age and sex",
}


def baselines_section(metrics: EvaluationMetrics) -> Section:
    """Return the AUROCs reached without the image, from view, age and sex, beside the model's."""
    models = [model for model in metrics.values("model") if metrics.metric("auroc", "macro", model=model).defined]
    note = metrics.content["baselines"].get("note")
    lead = [f"{note[:1].upper()}{note[1:]}."] if note else []
    lead += [
        "View, age and sex are known without looking at the X-ray. The AUROC that they reach alone does not "
        "reflect skill in reading X-rays, and a model with access to them may rely on them."
    ]
    if not any(model != PREDICTIONS for model in models):
        return Section("Baselines", [], lead)
    return Section("Baselines", [_baselines_plot(metrics, models), _baselines_table(metrics, models)], lead)


def _name(model: str) -> str:
    return _MODELS.get(model, model)


def _baselines_plot(metrics: EvaluationMetrics, models: list[str]) -> Plot:
    numbers = {model: metrics.metric("auroc", "macro", model=model) for model in models}
    order = sorted(models, key=lambda model: numbers[model].value, reverse=True)
    best = next(model for model in order if model != PREDICTIONS)
    title = f"The best baseline ({_name(best)}) has a mean AUROC of {decimal(numbers[best].value)}"

    def plot(axes: Axes) -> None:
        bold = [order.index(PREDICTIONS)] if PREDICTIONS in order else []
        forest(axes, [_name(model) for model in order], [numbers[model] for model in order], bold=bold)
        axes.axvline(0.5, color=style.MUTED, linewidth=0.9, linestyle=(0, (2, 3)))
        axes.set_xlabel(f"mean test AUROC ({label_and_split(metrics)})")

    svg = style.draw(plot, f"Baselines. {title}", height=1.0 + 0.36 * len(order))
    caption = "Baselines: logistic regressions on metadata, and the head before training. Dotted line: chance."
    return Plot(title, svg, caption)


def _baselines_table(metrics: EvaluationMetrics, models: list[str]) -> Table:
    rows = [
        (
            "mean" if scope == "macro" else spell(scope),
            *(decimal(metrics.metric("auroc", scope, model=model).value) for model in models),
        )
        for scope in (*metrics.names, "macro")
    ]
    return Table(
        "AUROC of the model and of the baselines", ("", *map(_name, models)), rows, emphasis=(len(metrics.names),)
    )


def subgroup_section(metrics: EvaluationMetrics) -> Section:
    """Return the AUROCs within groups by sex, age and view."""
    groups = [group for group in metrics.values("group") if group != "all"]
    lead = ["Results of small groups are uncertain: first look at the confidence interval and the number of patients."]
    shown = [group for group in groups if metrics.metric("auroc", "macro", group=group).defined]
    blocks: list[Block] = [_groups_plot(metrics, shown)] if shown else []
    if groups:
        blocks += [_groups_table(metrics, groups), _groups_by_finding(metrics, groups)]
    return Section("Subgroups", blocks, lead)


def _group_name(group: str) -> str:
    key, _, value = group.partition("=")
    names = {"F": "women", "M": "men"}
    return names.get(value, f"{key} {value}") if key == "sex" else f"{key} {value}".replace("-", "–")


def _groups_plot(metrics: EvaluationMetrics, groups: list[str]) -> Plot:
    numbers = {group: metrics.metric("auroc", "macro", group=group) for group in ("all", *groups)}
    # A group without an interval is too small to be named in the title, unless all groups are.
    certain = [group for group in groups if math.isfinite(numbers[group].low)] or groups
    low, high = (extreme(certain, key=lambda group: numbers[group].value) for extreme in (min, max))
    title = (
        f"The mean AUROC ranges from {decimal(numbers[low].value)} ({_group_name(low)}) to "
        f"{decimal(numbers[high].value)} ({_group_name(high)})"
    )

    def plot(axes: Axes) -> None:
        names = ["all", *map(_group_name, groups)]
        forest(axes, names, [numbers[group] for group in ("all", *groups)], bold=[0])
        axes.axvline(numbers["all"].value, color=style.CONTEXT, linewidth=1)
        axes.set_xlabel(f"mean test AUROC ({label_and_split(metrics)})")

    caption = (
        "Each mean is over the findings whose AUROC is defined in the group, so groups may average different findings."
    )
    return Plot(title, style.draw(plot, f"Subgroups. {title}", height=1.0 + 0.36 * len(numbers)), caption)


def _groups_table(metrics: EvaluationMetrics, groups: list[str]) -> Table:
    rows = []
    for group in ("all", *groups):
        number = metrics.metric("auroc", "macro", group=group)
        name = _group_name(group) if group != "all" else "all"
        rows.append((name, count(number.images), count(number.patients), number.text()))
    return Table("Size of the groups", ("", "images", "patients", "mean AUROC"), rows, emphasis=(0,))


def _groups_by_finding(metrics: EvaluationMetrics, groups: list[str]) -> Table:
    rows = []
    for finding in metrics.names:
        numbers = [metrics.metric("auroc", finding, group=group) for group in ("all", *groups)]
        rows.append((spell(finding), *(f"{decimal(number.value)} ({count(number.positives)})" for number in numbers)))
    header = ("", "all", *map(_group_name, groups))
    caption = "In parentheses: the number of positives. A dash: the group has no positives or no negatives."
    return Table("AUROC of each finding in each group", header, rows, caption, wide=True)


def literature_section(metrics: EvaluationMetrics) -> Section:
    """Return published results, with separate tables for the official split and for random splits."""
    entries = metrics.content["literature"]
    protocols = sorted({entry["protocol"] for entry in entries})  # official, random
    ours = metrics.content["protocol"]["name"]
    lead = [
        "Results on the official split and on random splits are not comparable and are in separate tables: the same "
        "model had 0.841 on a random split and 0.807 on the official one (Guendel et al. 2018).",
        *provenance(metrics)[:2],
    ]
    blocks: list[Block] = [
        _literature_table(metrics, [entry for entry in entries if entry["protocol"] == protocol], protocol)
        for protocol in protocols
    ]
    if not any(_same_split(ours, protocol) for protocol in protocols):
        lead.append(f"The tables do not include this evaluation, because no listed paper uses its split ({ours}).")
    return Section("Literature", blocks, lead)


def _same_split(ours: str, protocol: str) -> bool:
    """Return True if this evaluation uses the split of a paper; no two random splits are the same."""
    return ours.startswith("official") and protocol.startswith("official")


def _literature_table(metrics: EvaluationMetrics, entries: list[dict[str, Any]], protocol: str) -> Table:
    with_ours = _same_split(metrics.content["protocol"]["name"], protocol)
    names = [f"{entry['name']} ({entry['year']}){'' if entry['verified'] else ' *'}" for entry in entries]
    rows = []
    for finding in (*FINDINGS, None):
        values = [entry["mean"] if finding is None else entry["findings"].get(finding) for entry in entries]
        ours = [metrics.metric("auroc", finding or "macro").text()] if with_ours else []
        rows.append((spell(finding) if finding else "mean", *map(decimal, values), *ours))
    caption = " ".join(f"{name}: {entry['source'].rstrip('.')}." for name, entry in zip(names, entries, strict=True))
    if any(not entry["verified"] for entry in entries):
        caption += " * Values of single findings have not been checked against the paper."
    title = f"AUROC on {'the official split' if protocol.startswith('official') else 'random splits'}"
    header = ("", *names, *(["this evaluation"] if with_ours else []))
    return Table(title, header, rows, caption, wide=True, emphasis=(len(FINDINGS),))
