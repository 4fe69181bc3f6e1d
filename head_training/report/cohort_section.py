"""The data section: who and what is in the metadata, before any pixel or number of a model."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from cxrfeat.io.schema import Split
from cxrfeat.labels.findings import FINDINGS, NO_FINDING
from cxrfeat.labels.metadata import Metadata
from head_training.report import style
from head_training.report.charts import heat_map, labelled_bars
from head_training.report.correlation import correlate, strongest_pair
from head_training.report.page import Block, Plot, Section, Sheet, Table
from head_training.report.report_images import ReportImages
from head_training.report.style import count, decimal, percent, spell

_AGE_STEP = 5
_FILMS_PER_PATIENT = (1, 2, 3, 5, 9, 17, 33)
_VIEWS_SHOWN = 5
_UNKNOWN_VIEW = "not given"
_ENOUGH = 10
"""Films of either view with a finding, for a title to be about it."""

_WEAK = 0.1


def data_section(data: ReportImages, sheet: Sheet | None = None) -> Section:
    """Return counts, prevalence, people, views, co-occurrence, correlation, splits, rejected lines and, if given, films."""
    images, rejected = data.images, data.metadata.rejected
    unlabelled = len(images) - len(data.labels)
    healthy = float((data.labels.sum(axis=1) == 0).mean()) if len(data.labels) else None
    lead = [
        "The labels of ChestX-ray14 were mined from reports, not read off films. No Finding means that none of the 14 was "
        "found, and not that somebody is healthy.",
        data.source,
    ]
    if unlabelled:
        lead.append(f"Without a label: {count(unlabelled)} films. They count as films, and in no prevalence.")
    blocks: list[Block | None] = [
        _prevalence(data),
        _people(images),
        _views(data),
        _split_table(data),
        _co_occurrence(data),
        _correlation(data),
        _films_per_patient(images),
        _view_and_findings(data),
        _finding_table(data),
        sheet,
        _rejected_table(data.metadata),
    ]
    facts = [
        (count(len(images)), "films"),
        (count(images["patient_id"].nunique()), "patients"),
        (percent(healthy), "No Finding"),
        (decimal(float(data.labels.sum(axis=1).mean()), 2) if len(data.labels) else "–", "findings a film"),
        *([(count(len(rejected)), "lines rejected")] if len(rejected) else []),
    ]
    return Section("Data", [block for block in blocks if block is not None], lead, facts)


def _prevalence(data: ReportImages) -> Plot:
    counts = data.labels.sum(axis=0).astype(int)
    order = np.argsort(counts, kind="stable")
    shares = counts / max(len(data.labels), 1)
    most, least = FINDINGS[order[-1]], FINDINGS[order[0]]
    title = (
        f"{spell(most)} is on {percent(shares.max())} of films, {spell(least)} on {percent(shares.min())}"
        if counts.any()
        else "No film has any finding"
    )

    def plot(axes: Axes) -> None:
        labelled_bars(axes, [spell(FINDINGS[row]) for row in order], counts[order], len(data.labels))

    svg = style.draw(plot, f"Films of each finding. {title}", height=4.3)
    return Plot(title, svg, "Labelled films with each finding and their share. A film may have several.")


def _people(images: pd.DataFrame) -> Plot:
    known = images[images["sex"].notna() & images["age_years"].notna()]
    ages = known["age_years"].to_numpy(dtype=float)
    top = max(_AGE_STEP, int(np.floor(ages.max(initial=0) / _AGE_STEP) + 1) * _AGE_STEP)
    edges = np.arange(0, top + _AGE_STEP, _AGE_STEP)
    men, women = (np.histogram(ages[(known["sex"] == sex).to_numpy()], edges)[0] for sex in "MF")
    total = men.sum() + women.sum()
    title = (
        f"Median age is {np.median(ages):.0f} years; {percent(men.sum() / total, 0)} of films show men"
        if total
        else "No film has both age and sex"
    )

    def plot(axes: Axes) -> None:
        middles = edges[:-1] + _AGE_STEP / 2
        axes.barh(middles, -men, height=_AGE_STEP * 0.88, color=style.BLUE)
        axes.barh(middles, women, height=_AGE_STEP * 0.88, color=style.ORANGE)
        widest = max(men.max(), women.max(), 1) * 1.08
        axes.set_xlim(-widest, widest)
        axes.set_ylim(0, top)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(abs(value))))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        axes.set_xlabel("films")
        axes.set_ylabel("age, years")
        axes.text(0.0, 1.02, "men", transform=axes.transAxes, color=style.BLUE, weight="bold")
        axes.text(1.0, 1.02, "women", transform=axes.transAxes, ha="right", color="#9a6a00", weight="bold")

    missing = len(images) - len(known)
    caption = "Films by age at the film and sex, in steps of 5 years."
    if missing:
        caption += f" Left out, without age or sex: {count(missing)}."
    return Plot(title, style.draw(plot, f"Age pyramid by sex. {title}", height=4.3), caption)


def _films_per_patient(images: pd.DataFrame) -> Plot:
    films = images["patient_id"].value_counts().to_numpy()
    edges = [*(edge for edge in _FILMS_PER_PATIENT if edge <= films.max()), films.max() + 1]
    patients = np.histogram(films, edges)[0]
    names = [str(low) if high - low == 1 else f"{low}–{high - 1}" for low, high in itertools.pairwise(edges)]
    title = f"{percent((films == 1).mean(), 0)} of patients have a single film"
    if films.max() > 1:
        title += f"; one has {count(films.max())}"

    def plot(axes: Axes) -> None:
        bars = axes.bar(names, patients, color=style.BLUE, width=0.8)
        axes.bar_label(bars, [count(number) for number in patients], color=style.MUTED, fontsize=9.5, padding=2)
        axes.set_xlabel("films of a patient")
        axes.set_ylabel("patients")
        axes.yaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))
        axes.grid(visible=False, axis="x")

    caption = "Films of one patient resemble each other, so a patient is never in two splits."
    return Plot(title, style.draw(plot, f"Films per patient. {title}"), caption)


def _view_counts(images: pd.DataFrame) -> pd.Series:
    return images["view_position"].fillna(_UNKNOWN_VIEW).astype(str).value_counts()


def _views(data: ReportImages) -> Plot:
    """Show the shares of view positions as one bar each; rare ones are summed up."""
    counts = _view_counts(data.images)
    shown = counts.head(_VIEWS_SHOWN)
    if len(counts) > _VIEWS_SHOWN:
        shown = pd.concat([shown, pd.Series({"other": counts.iloc[_VIEWS_SHOWN:].sum()})])
    title = f"{percent(counts.iloc[0] / counts.sum(), 0)} of films are {counts.index[0]}"
    if counts.index[0] == _UNKNOWN_VIEW:
        title = f"The view of {percent(counts.iloc[0] / counts.sum(), 0)} of films is not given"

    def plot(axes: Axes) -> None:
        labelled_bars(axes, list(shown.index)[::-1], shown.to_numpy()[::-1], int(counts.sum()))

    svg = style.draw(plot, f"View positions. {title}", height=0.6 + 0.4 * len(shown))
    return Plot(title, svg, "PA: standing, the beam from behind. AP: from the front, mostly at the bedside.")


def _co_occurrence(data: ReportImages) -> Plot:
    together = data.labels.T.astype(float) @ data.labels
    counts = np.diag(together)
    with np.errstate(invalid="ignore"):  # a finding that no film has: 0/0, shown as not defined
        shares = together / counts[:, None]
    np.fill_diagonal(shares, np.nan)
    pair = strongest_pair(shares, symmetric=False)
    title = "No two findings are ever on one film"
    if pair is not None and shares[pair] > 0:
        row, column = (spell(FINDINGS[place]) for place in pair)
        title = f"{percent(shares[pair], 0)} of films with {row} also have {column}"

    def plot(axes: Axes) -> None:
        heat_map(axes, shares, style.SEQUENTIAL, (0.0, float(np.nanmax(shares, initial=0.01))), mark=0.25, digits=0)

    caption = (
        "Of the films with the finding of a row, the percentage that also has the column's; 25 and more in numbers."
    )
    return Plot(title, style.draw(plot, f"Co-occurrence of findings. {title}", height=5.0), caption, dense=True)


def _correlation(data: ReportImages) -> Plot:
    correlations = correlate(data.labels)
    np.fill_diagonal(correlations, np.nan)
    pair = strongest_pair(np.abs(correlations), symmetric=True)
    title = "No two findings can be correlated"
    if pair is not None:
        first, second = (spell(FINDINGS[place]) for place in pair)
        verb = "occur together" if correlations[pair] > 0 else "rarely occur together"
        title = f"{first} and {second} {verb} (r\u00a0=\u00a0{decimal(correlations[pair], 2)})"
        if abs(correlations[pair]) < _WEAK:
            title = f"No two findings are correlated: |r| is below {decimal(_WEAK, 2)}"

    def plot(axes: Axes) -> None:
        bound = float(np.nanmax(np.abs(correlations), initial=0.01))
        heat_map(axes, correlations, style.DIVERGING, (-bound, bound), mark=_WEAK, digits=2)

    caption = (
        "Pearson's r of the labels, which is φ for yes and no; |r| of 0.10 and more in hundredths. "
        "Gray: not defined, since a finding is on no film or on all."
    )
    return Plot(title, style.draw(plot, f"Correlation of findings. {title}", height=5.0), caption, dense=True)


def _view_and_findings(data: ReportImages) -> Plot | None:
    """Show each finding's prevalence in the two most frequent views; None where there is but one."""
    views = _view_counts(data.images).index[:2]
    if len(views) < 2:
        return None
    of_labelled = data.images.loc[data.labelled, "view_position"].fillna(_UNKNOWN_VIEW).astype(str).to_numpy()
    groups = [data.labels[of_labelled == view] for view in views]
    if not all(len(group) for group in groups):
        return None
    first, second = (group.mean(axis=0) for group in groups)
    enough = np.logical_and(*(group.sum(axis=0) >= _ENOUGH for group in groups))
    order = np.argsort(np.maximum(first, second), kind="stable")
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(enough, second / first, np.nan)
    title = f"Findings on {views[0]} and {views[1]} films"
    if np.isfinite(ratios).any():
        extreme = int(np.nanargmax(np.abs(np.log(ratios))))
        often, rare = (views[1], views[0]) if ratios[extreme] > 1 else (views[0], views[1])
        factor = max(ratios[extreme], 1 / ratios[extreme])
        title = f"{spell(FINDINGS[extreme])} is {factor:.1f} times as frequent on {often} as on {rare}"

    def plot(axes: Axes) -> None:
        places = np.arange(len(FINDINGS))
        axes.hlines(places, first[order], second[order], color=style.CONTEXT, linewidth=2, zorder=1)
        for values, color, view in ((first, style.BLUE, views[0]), (second, style.VERMILLION, views[1])):
            axes.scatter(values[order], places, color=color, s=34, label=view, zorder=2, clip_on=False)
        axes.set_yticks(places, [spell(FINDINGS[row]) for row in order])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(value, 0)))
        axes.set_xlabel("films of the view with the finding")
        axes.grid(visible=False, axis="y")
        axes.set_xlim(left=0)
        axes.legend(loc="lower right")

    caption = "The view says who could stand up: a model may learn the view instead of the finding."
    return Plot(title, style.draw(plot, f"Prevalence by view. {title}", height=4.3), caption)


def _finding_table(data: ReportImages) -> Table:
    """Show how often each finding is there, by itself, in patients and in each split."""
    found = data.labels == 1
    columns = [*found.T, ~found.any(axis=1)]
    alone = found.sum(axis=1) <= 1
    patients = data.images.loc[data.labelled, "patient_id"].to_numpy()
    splits = data.splits[data.labelled].to_numpy()
    rows = []
    for name, has in zip((*map(spell, FINDINGS), NO_FINDING), columns, strict=True):
        numbers = [has.sum(), (has & alone).sum(), len(set(patients[has]))]
        numbers += [(has & (splits == split.value)).sum() for split in Split]
        rows.append((name, percent(float(has.mean()) if len(has) else None), *map(count, numbers)))
    header = ("", "of films", "films", "alone", "patients", *(f"films in {split.value}" for split in Split))
    caption = "Alone: films with this finding and no other."
    return Table("Every finding in numbers", header, rows, caption, wide=True, emphasis=(len(FINDINGS),))


def _split_table(data: ReportImages) -> Table:
    """Show films and patients of each split."""
    parts = {split.value: data.images[(data.splits == split.value).to_numpy()] for split in Split}
    rows = [
        (name, count(len(part)), percent(len(part) / len(data.images)), count(part["patient_id"].nunique()))
        for name, part in parts.items()
    ]
    title = f"{percent(len(parts[Split.TEST]) / len(data.images), 0)} of films are for the test"
    return Table(title, ("", "films", "of films", "patients"), rows, data.protocol)


def _rejected_table(metadata: Metadata) -> Table | None:
    if metadata.rejected.empty:
        return None
    groups = metadata.rejected.groupby("reason", sort=False)
    rows = [
        (str(reason), count(len(group)), str(group["number"].iloc[0]), str(group["message"].iloc[0]))
        for reason, group in sorted(groups, key=lambda pair: -len(pair[1]))
    ]
    title = f"Rejected lines of the metadata: {count(len(metadata.rejected))}"
    return Table(title, ("", "lines", "the first: line", "message"), rows, wide=True)
