"""Raw measurements → ``results.md``: tables, ratios, bars. Nothing is measured here.

``results.json`` holds what ``python -m benchmarks.all`` collected; any part may be missing, and its section then is, too.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.bars import Bar, Run, bars, columns, find, ratios
from benchmarks.contenders import JOB

STAGES = ("read", "inflate", "decode", "resize", "network", "Arrow", "write", "all")
BUDGET_MIN = 40


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a Markdown table; all columns but the first are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def extraction(repeats: Sequence[Sequence[Run]]) -> str:
    """Write the table of contenders and the table of ratios."""
    found = columns(repeats)
    job = find(found, JOB)
    rows = []
    for column in sorted(found, key=lambda column: -max([statistics.median(column.steady or [0]), 0])):
        comparable = job is not None and job.steady and column.steady and column is not job
        ratio = f"{statistics.median(ratios(job.steady, column.steady)):.2f}" if comparable and job else ""
        median = f"{statistics.median(column.steady):.1f}" if column.steady else ""
        each = ", ".join(f"{rate:.1f}" for rate in column.steady)
        seconds = f"{statistics.median(column.seconds):.1f}"
        rows.append(
            [column.name, column.kind, median, each, ratio, f"{column.films:,}", seconds, f"{column.peak:,.0f}"]
        )
    header = ["", "", "img/s steady", "runs", "job / it", "films", "s end to end", "peak MiB"]
    return f"{table(header, rows)}\n\n{_promises(bars(found))}"


def _promises(found: Sequence[Bar]) -> str:
    rows = [
        [bar.text, f"{bar.median:.2f}", ", ".join(f"{ratio:.2f}" for ratio in bar.ratios), _minimum(bar), bar.verdict]
        for bar in found
    ]
    return table(["", "median", "runs", "bar", "kept"], rows)


def _minimum(bar: Bar) -> str:
    return "" if bar.minimum is None else f"≥ {bar.minimum:g}"


def stages(found: Sequence[Mapping[str, Any]]) -> str:
    """Write each stage's time beside its floors."""
    rows = []
    for stage in STAGES:
        ways = [way for way in found if way["stage"] == stage]
        ours = next((way["ms"] for way in ways if way["way"].startswith("ours")), None)
        floors = sorted((way for way in ways if not way["way"].startswith("ours")), key=lambda way: way["ms"])
        cells = ", ".join(f"{way['ms']:.2f} ({way['way']})" for way in floors)
        rows.append([stage, "" if ours is None else f"{ours:.2f}", cells])
    return table(["stage", "ours, ms", "others and bounds, ms"], rows)


def fit(found: Mapping[str, Any]) -> str:
    """Write seconds an epoch."""
    rows = [[name, f"{statistics.median(runs):.2f}", f"{min(runs):.2f}"] for name, runs in found["seconds"].items()]
    return table([f"{found['rows']:,} × {found['width']:,}", "s an epoch", "lowest"], rows)


def load(found: Mapping[str, Any]) -> str:
    """Write seconds and peaks of loading, and the ratio of the speeds."""
    rows = [
        [name, f"{statistics.median(runs):.2f}", f"{statistics.median(found['peaks'][name]):,.0f}"]
        for name, runs in found["seconds"].items()
    ]
    promise = Bar("speed: ours / read_table", ratios(found["seconds"]["read_table"], found["seconds"]["ours"]), 0.5)
    header = [f"{found['rows']:,} × {found['width']:,}", "s", "peak MiB"]
    return f"{table(header, rows)}\n\n{_promises([promise])}"


def score(found: Mapping[str, Any]) -> str:
    """Write rows/s."""
    rows = [
        [name, f"{statistics.median(runs):,.0f}", ", ".join(f"{run:,.0f}" for run in runs)]
        for name, runs in found["rates"].items()
    ]
    return table([f"{found['rows']:,} rows", "rows/s", "runs"], rows)


def scaling(found: Sequence[Mapping[str, Any]]) -> str:
    """Write time and memory over films and cores."""
    rows = [
        [
            f"{point['run']['films']:,}",
            str(point["cores"]),
            f"{point['run']['seconds']:.1f}",
            "" if point["run"]["steady"] is None else f"{point['run']['steady']:.1f}",
            *(f"{point['run']['peak'][part]:,.0f}" for part in ("jvm", "driver", "worker", "tree")),
        ]
        for point in found
    ]
    header = ["films", "cores", "s end to end", "img/s steady", "JVM MiB", "driver", "largest worker", "whole tree"]
    most = max(point["cores"] for point in found)
    sizes = [
        {"count": point["run"]["films"], "seconds": point["run"]["seconds"], "tree": point["run"]["peak"]["tree"]}
        for point in found
        if point["cores"] == most
    ]
    return f"{table(header, rows)}\n\n{_growth(sizes)}"


def _growth(points: Sequence[Mapping[str, float]]) -> str:
    """Say how time and memory grew from each size to the next, and whether that is linear or better."""
    lines = []
    for small, large in itertools.pairwise(points):
        times, seconds, tree = (large[key] / small[key] for key in ("count", "seconds", "tree"))
        verdict = "linear or better" if max(seconds, tree) <= times else "**worse than linear**"
        lines.append(
            f"- {times:.0f} times as much: {seconds:.1f} times the time, {tree:.2f} times the memory: {verdict}."
        )
    return "\n".join(lines)


def score_scaling(found: Sequence[Mapping[str, float]]) -> str:
    """Write time and memory of scoring over rows."""
    rows = [
        [
            f"{point['rows']:,.0f}",
            f"{point['seconds']:.1f}",
            *(f"{point[part]:,.0f}" for part in ("jvm", "driver", "worker", "tree")),
        ]
        for point in found
    ]
    header = ["rows", "s end to end", "JVM MiB", "driver", "largest worker", "whole tree"]
    return f"{table(header, rows)}\n\n{_growth([{**point, 'count': point['rows']} for point in found])}"


SECTIONS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "extraction": ("Extraction", extraction),
    "stages": ("Where an image's time goes, and the least it could be: one core", stages),
    "fit": ("Fit", fit),
    "load": ("Reading embeddings back, encoded as the extraction writes them", load),
    "score": ("Score", score),
    "scaling": ("Scaling of the extraction: rounds of 100 films", scaling),
    "score_scaling": ("Scaling of the scoring", score_scaling),
}
"""In the order of the page; the keys are those of ``results.json``."""

NOTES = {
    "extraction": "`job` is our Spark job. `documented`: as the peer's own documentation writes it; `given ours`: the same peer "
    "around our embedding function or encoder. `steady` leaves start-up out (benchmarks/steady.py). Ratios are taken "
    "repeat by repeat; their median is the figure. Peak is of the whole process tree, shared pages counted once.",
    "stages": "`inflate` is inside `decode`; `all` is the worker's function from path to Parquet. Floors are what other libraries need for the same thing, with other bits; the bounds are this "
    "machine's measured arithmetic and copy rates (benchmarks/limits.py).",
    "fit": "One epoch of each; `python -m benchmarks.fit --help` says what the names mean.",
    "load": "`ours` is what `head_training.fit` does: the matrix in memory, checked and joined; `read_table` is pyarrow's table alone.",
    "score": "`python -m benchmarks.score --help` says what the names mean.",
}


def _provenance(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """Say of each run what was measured in it, when, where and by which command."""
    parts_of: dict[tuple[str, ...], list[str]] = {}
    for part, run in runs.items():
        parts_of.setdefault(tuple(run[key] for key in ("command", "date", "machine", "versions")), []).append(part)
    return "\n".join(
        f"- {', '.join(parts)}: `{command}`, {date}. {machine}; {versions}."
        for (command, date, machine, versions), parts in parts_of.items()
    )


def render(results: Mapping[str, Any]) -> str:
    """Write the page."""
    runs = {part: run for part, run in results["runs"].items() if part in SECTIONS}
    minutes = sum(run["minutes"] for run in runs.values())
    verdict = "kept" if minutes < BUDGET_MIN else "**not kept**"
    parts = [
        "# Results",
        f"Written by `python -m benchmarks.all` from `results.json`: do not edit. All parts took {minutes:.0f} minutes "
        f"(bar: {BUDGET_MIN}: {verdict}).",
        _provenance(runs),
        "![Rates of all contenders, and each stage beside its floor](results.svg)",
    ]
    for key, (title, write) in SECTIONS.items():
        if key in results:
            parts += [f"## {title}", *([NOTES[key]] if key in NOTES else []), write(results[key])]
    return "\n\n".join(parts) + "\n"
