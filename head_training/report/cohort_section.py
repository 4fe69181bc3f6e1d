"""Data section: patients, views and labels of the metadata."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from cxrfeat.io.schema import Split
from cxrfeat.labels.findings import NO_FINDING
from head_training.report import style
from head_training.report.charts import heat_map, labelled_bars
from head_training.report.correlation import correlate, strongest_pair
from head_training.report.page import Block, Plot, Section, Sheet, Table
from head_training.report.report_images import ReportImages
from head_training.report.style import count, decimal, percent, spell

_AGE_STEP = 5
_IMAGES_PER_PATIENT_BINS = (1, 2, 3, 5, 9, 17, 33)
_VIEWS_SHOWN = 5
_UNKNOWN_VIEW = "unknown"
_MIN_POSITIVES = 10
"""Positives in each of two views before a title compares the prevalence of a finding between them."""

_MIN_CORRELATION = 0.1


def data_section(data: ReportImages, sheet: Sheet | None = None) -> Section:
    """Return figures and tables of prevalence, patients, views, labels and splits, and the contact sheet if given."""
    images, rejected = data.images, data.rejected
    unlabelled = len(images) - len(data.labels)
    _, findings = data.findings
    no_finding = float((findings.sum(axis=1) == 0).mean()) if len(findings) else None
    lead = [
        _describe_labels(data),
        data.source,
    ]
    if unlabelled:
        lead.append(f"{count(unlabelled)} images have no label. They count as images, but not in any prevalence.")
    blocks: list[Block | None] = [
        _prevalence(data),
        _age_pyramid(images),
        _views(data),
        _split_table(data),
        _co_occurrence(data),
        _correlation(data),
        _images_per_patient(images),
        _prevalence_by_view(data),
        _finding_table(data),
        sheet,
        _rejected_table(data.rejected),
    ]
    facts = [
        (count(len(images)), "images"),
        (count(images["patient_id"].nunique()), "patients"),
        (percent(no_finding), "No Finding"),
        (decimal(float(findings.sum(axis=1).mean()), 2) if len(findings) else "–", "findings per image"),
        *([(count(len(rejected)), "rejected lines")] if len(rejected) else []),
    ]
    return Section("Data", [block for block in blocks if block is not None], lead, facts)


def _prevalence(data: ReportImages) -> Plot:
    counts = data.labels.sum(axis=0).astype(int)  # (F,)
    order = np.argsort(counts, kind="stable")
    shares = counts / np.maximum(data.known, 1)
    most, least = data.names[order[-1]], data.names[order[0]]
    title = (
        f"{spell(most)} occurs in {percent(shares.max())} of images, {spell(least)} in {percent(shares.min())}"
        if counts.any()
        else "No image has a finding"
    )

    if counts.any() and len(data.names) == 1:
        title = f"{spell(most)} occurs in {percent(shares[0])} of images"

    def plot(axes: Axes) -> None:
        labelled_bars(axes, [spell(data.names[index]) for index in order], counts[order], data.known[order])

    svg = style.draw(plot, f"Images with each finding. {title}", height=style.height_of(len(data.names)))
    caption = "Number of images with each finding, and share of those whose label is known. An image may have several."
    return Plot(title, svg, caption)


def _describe_labels(data: ReportImages) -> str:
    """Return what the labels are and what the absence of findings means."""
    if data.label_set.name.startswith("nih"):
        return (
            "The labels of ChestX-ray14 were mined from radiology reports, not read from the X-rays. No Finding means "
            "that none of the findings was extracted, not that the patient is healthy."
        )
    return (
        f"The labels are those of the set {data.label_set.name}, as the metadata record them. An image without any of "
        "them does not show that the patient is healthy."
    )


def _age_pyramid(images: pd.DataFrame) -> Plot:
    known = images[images["sex"].notna() & images["age_years"].notna()]
    ages = known["age_years"].to_numpy(dtype=float)
    top = max(_AGE_STEP, int(np.floor(ages.max(initial=0) / _AGE_STEP) + 1) * _AGE_STEP)
    edges = np.arange(0, top + _AGE_STEP, _AGE_STEP)
    men, women = (np.histogram(ages[(known["sex"] == sex).to_numpy()], edges)[0] for sex in "MF")
    total = men.sum() + women.sum()
    title = (
        f"Median age is {np.median(ages):.0f} years; {percent(men.sum() / total, 0)} of images show men"
        if total
        else "No image has both age and sex"
    )

    def plot(axes: Axes) -> None:
        centres = edges[:-1] + _AGE_STEP / 2
        axes.barh(centres, -men, height=_AGE_STEP * 0.88, color=style.BLUE)
        axes.barh(centres, women, height=_AGE_STEP * 0.88, color=style.ORANGE)
        widest = max(men.max(), women.max(), 1) * 1.08
        axes.set_xlim(-widest, widest)
        axes.set_ylim(0, top)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(abs(value))))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        axes.set_xlabel("images")
        axes.set_ylabel("age, years")
        axes.text(0.0, 1.02, "men", transform=axes.transAxes, color=style.BLUE, weight="bold")
        axes.text(1.0, 1.02, "women", transform=axes.transAxes, ha="right", color="#9a6a00", weight="bold")

    missing = len(images) - len(known)
    caption = "Images by sex and by age at the time of the X-ray, in 5-year bins."
    if missing:
        caption += f" Not shown: {count(missing)} images without age or sex."
    return Plot(title, style.draw(plot, f"Age pyramid by sex. {title}", height=4.3), caption)


def _images_per_patient(images: pd.DataFrame) -> Plot:
    sizes = images["patient_id"].value_counts().to_numpy()  # (patients,) images of each patient
    edges = [*(edge for edge in _IMAGES_PER_PATIENT_BINS if edge <= sizes.max()), sizes.max() + 1]
    patients = np.histogram(sizes, edges)[0]
    names = [str(low) if high - low == 1 else f"{low}–{high - 1}" for low, high in itertools.pairwise(edges)]
    title = f"{percent((sizes == 1).mean(), 0)} of patients have a single image"
    if sizes.max() > 1:
        title += f"; the maximum is {count(sizes.max())}"

    def plot(axes: Axes) -> None:
        bars = axes.bar(names, patients, color=style.BLUE, width=0.8)
        axes.bar_label(bars, [count(number) for number in patients], color=style.MUTED, fontsize=9.5, padding=2)
        axes.set_xlabel("images per patient")
        axes.set_ylabel("patients")
        axes.yaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))
        axes.grid(visible=False, axis="x")

    caption = "Images of one patient resemble each other, so all of them are in the same split."
    return Plot(title, style.draw(plot, f"Images per patient. {title}"), caption)


def _view_counts(images: pd.DataFrame) -> pd.Series:
    return images["view_position"].fillna(_UNKNOWN_VIEW).astype(str).value_counts()


def _views(data: ReportImages) -> Plot:
    """Plot the number and share of images per view position, with rare views combined."""
    counts = _view_counts(data.images)
    shown = counts.head(_VIEWS_SHOWN)
    if len(counts) > _VIEWS_SHOWN:
        shown = pd.concat([shown, pd.Series({"other": counts.iloc[_VIEWS_SHOWN:].sum()})])
    title = f"{percent(counts.iloc[0] / counts.sum(), 0)} of images are {counts.index[0]} views"
    if counts.index[0] == _UNKNOWN_VIEW:
        title = f"The view is unknown for {percent(counts.iloc[0] / counts.sum(), 0)} of images"

    def plot(axes: Axes) -> None:
        labelled_bars(axes, list(shown.index)[::-1], shown.to_numpy()[::-1], np.full(len(shown), counts.sum()))

    svg = style.draw(plot, f"View positions. {title}", height=0.6 + 0.4 * len(shown))
    return Plot(title, svg, "PA: beam from behind, patient standing. AP: beam from the front, mostly at the bedside.")


def _co_occurrence(data: ReportImages) -> Plot | None:
    names, labels = data.findings
    if len(names) < 2:
        return None
    together = labels.T.astype(float) @ labels  # (F, F) images with both findings
    counts = np.diag(together)  # (F,)
    with np.errstate(invalid="ignore"):  # a finding without images gives 0/0 = NaN
        shares = together / counts[:, None]
    np.fill_diagonal(shares, np.nan)
    pair = strongest_pair(shares, symmetric=False)
    title = "No image has two findings"
    if pair is not None and shares[pair] > 0:
        row, column = (spell(names[index]) for index in pair)
        title = f"{percent(shares[pair], 0)} of images with {row} also have {column}"

    def plot(axes: Axes) -> None:
        heat_map(
            axes,
            shares,
            names,
            style.SEQUENTIAL,
            (0.0, float(np.nanmax(shares, initial=0.01))),
            mark=0.25,
            digits=0,
        )

    caption = (
        "Of the images with the finding of the row, the percentage that also have the finding of the column. "
        "Percentages of 25 and more are printed."
    )
    return Plot(title, style.draw(plot, f"Co-occurrence of findings. {title}", height=5.0), caption, dense=True)


def _correlation(data: ReportImages) -> Plot | None:
    names, labels = data.findings
    if len(names) < 2:
        return None
    correlations = correlate(labels)  # (F, F)
    np.fill_diagonal(correlations, np.nan)
    pair = strongest_pair(np.abs(correlations), symmetric=True)
    title = "No correlation between findings is defined"
    if pair is not None:
        first, second = (spell(names[index]) for index in pair)
        verb = "occur together" if correlations[pair] > 0 else "rarely occur together"
        title = f"{first} and {second} {verb} (r\u00a0=\u00a0{decimal(correlations[pair], 2)})"
        if abs(correlations[pair]) < _MIN_CORRELATION:
            title = f"No two findings are correlated: |r| is below {decimal(_MIN_CORRELATION, 2)}"

    def plot(axes: Axes) -> None:
        bound = float(np.nanmax(np.abs(correlations), initial=0.01))
        heat_map(axes, correlations, names, style.DIVERGING, (-bound, bound), mark=_MIN_CORRELATION, digits=2)

    caption = (
        "Pearson's r between labels (φ, since labels are binary). Values of |r| from 0.10 are printed. "
        "Gray: not defined, because a finding is in no image or in every image."
    )
    return Plot(title, style.draw(plot, f"Correlation of findings. {title}", height=5.0), caption, dense=True)


def _prevalence_by_view(data: ReportImages) -> Plot | None:
    """Plot the prevalence of each finding in the two most frequent views; return None if only one view occurs."""
    views = _view_counts(data.images).index[:2]
    if len(views) < 2:
        return None
    view_of = data.images.loc[data.labelled, "view_position"].fillna(_UNKNOWN_VIEW).astype(str).to_numpy()
    groups = [data.labels[view_of == view] for view in views]  # (images of the view, F) each
    if not all(len(group) for group in groups):
        return None
    first, second = (group.mean(axis=0) for group in groups)  # (F,) each
    enough = np.logical_and(*(group.sum(axis=0) >= _MIN_POSITIVES for group in groups))
    order = np.argsort(np.maximum(first, second), kind="stable")
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(enough, second / first, np.nan)
    title = f"Findings in {views[0]} and {views[1]} images"
    if np.isfinite(ratios).any():
        extreme = int(np.nanargmax(np.abs(np.log(ratios))))
        often, rare = (views[1], views[0]) if ratios[extreme] > 1 else (views[0], views[1])
        factor = max(ratios[extreme], 1 / ratios[extreme])
        title = f"{spell(data.names[extreme])} is {factor:.1f} times as frequent in {often} as in {rare} images"

    def plot(axes: Axes) -> None:
        rows = np.arange(len(data.names))
        axes.hlines(rows, first[order], second[order], color=style.CONTEXT, linewidth=2, zorder=1)
        for values, colour, view in ((first, style.BLUE, views[0]), (second, style.VERMILLION, views[1])):
            axes.scatter(values[order], rows, color=colour, s=34, label=view, zorder=2, clip_on=False)
        axes.set_yticks(rows, [spell(data.names[index]) for index in order])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(value, 0)))
        axes.set_xlabel("share of images with the finding")
        axes.grid(visible=False, axis="y")
        axes.set_xlim(left=0)
        axes.legend(loc="lower right")

    caption = "The view depends on whether the patient can stand, so a model may learn the view instead of the finding."
    return Plot(
        title, style.draw(plot, f"Prevalence by view. {title}", height=style.height_of(len(data.names))), caption
    )


def _finding_table(data: ReportImages) -> Table:
    """Return the frequency of each finding: in all images, alone, in patients and in each split."""
    found = data.labels == 1  # (N, F)
    has_negative = data.label_set.negative_output
    columns = [*found.T, *([] if has_negative else [~found.any(axis=1)])]  # (N,) each: the labels and No Finding
    alone = found.sum(axis=1) <= 1
    patients = data.images.loc[data.labelled, "patient_id"].to_numpy()
    splits = data.splits[data.labelled].to_numpy()
    rows = []
    known, names = [*data.known, len(found)], [*map(spell, data.names), NO_FINDING]
    for name, has, total in zip(names, columns, known, strict=False):
        numbers = [has.sum(), (has & alone).sum(), len(set(patients[has]))]
        numbers += [(has & (splits == split.value)).sum() for split in Split]
        rows.append((name, percent(float(has.sum() / total) if total else None), *map(count, numbers)))
    header = ("", "share", "images", "alone", "patients", *(f"images in {split.value}" for split in Split))
    caption = "Share: of the images whose label is known. Alone: images with this finding and no other."
    return Table(
        "Images and patients with each finding",
        header,
        rows,
        caption,
        wide=True,
        emphasis=(data.label_set.findings_count,),
    )


def _split_table(data: ReportImages) -> Table:
    """Return the number of images and patients in each split."""
    images_of = {split.value: data.images[(data.splits == split.value).to_numpy()] for split in Split}
    rows = [
        (name, count(len(images)), percent(len(images) / len(data.images)), count(images["patient_id"].nunique()))
        for name, images in images_of.items()
    ]
    title = f"{percent(len(images_of[Split.TEST]) / len(data.images), 0)} of images are in the test set"
    return Table(title, ("", "images", "share", "patients"), rows, data.protocol)


def _rejected_table(rejected: pd.DataFrame) -> Table | None:
    if rejected.empty:
        return None
    groups = rejected.groupby("reason", sort=False)
    rows = [
        (str(reason), count(len(group)), str(group["number"].iloc[0]), str(group["message"].iloc[0]))
        for reason, group in sorted(groups, key=lambda pair: -len(pair[1]))
    ]
    title = f"Rejected metadata lines: {count(len(rejected))}"
    return Table(title, ("", "lines", "number of the first", "message of the first"), rows, wide=True)
