"""Tables of all measurements: each benchmark prints its own, and this command writes them into one page.

    python -m benchmarks.results          # results.json → results.md; measures nothing

Benchmarks add their numbers to ``results.json`` with ``--save``; parts that are missing are left out of the page.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks import machine
from benchmarks.contenders import BARE, CONTENDERS, JOB, Kind

STAGES = ("read", "decode", "resize", "network", "write", "all")

STEADY_TARGETS: dict[str, float] = {
    **{BARE: 0.95, "predict_batch_udf": 4.0, "mapInPandas": 4.0},
    **{Kind.GIVEN: 1.2, Kind.DOCUMENTED: 2.5},
}
END_TO_END_TARGETS = {BARE: 0.8, "Daft, our function": 1.0}
"""Least ratios of our job's rate to a contender's, or to any of a kind, that the project aims at."""

FIT_RATIOS = (
    ("stack", "one by one", 1, "target ≤ 0.5"),
    ("stack", "plain", 24, ""),
    ("stack", "one", 1, "target ≤ 2 on a GPU"),
    ("stack bf16", "one by one bf16", 1, ""),
    ("stack bf16", "stack", 1, ""),
    ("2018", "one", 1, "target ≥ 10"),
)
"""Two contestants, how many of the second one are compared with, and a remark."""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; all columns but the first are aligned as numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def ratio(above: Sequence[float | None], below: Sequence[float | None], least: float | None = None) -> str:
    """Return the median ratio of neighbouring runs, with a target if one is given; empty if no ratio is defined.

    Ratios are taken run by run, because the machine's speed drifts between the runs of one contender.
    """
    ratios = [a / b for a, b in zip(above, below, strict=True) if a and b]
    if not ratios:
        return ""
    median = statistics.median(ratios)
    target = "" if least is None else f" (target ≥ {least:g}{'' if median >= least else ', **missed**'})"
    return f"{median:.2f}{target}"


def extract(repeats: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """Return the table of contenders, the fastest first; steady rates are compared with the job's longest run."""
    columns = [  # all runs of one contender over one number of images, key by key
        {key: [run[key] for run in runs] for key in ("contender", "images", "steady", "seconds", "peak")}
        for runs in zip(*repeats, strict=True)
    ]
    jobs = {column["images"][0]: column for column in columns if column["contender"][0] == JOB}
    longest = jobs[max(jobs)]
    rows = []
    for column in columns:
        name, count = column["contender"][0], column["images"][0]
        kind = CONTENDERS[name].kind if name in CONTENDERS else Kind.JOB
        rates = [rate for rate in column["steady"] if rate is not None]
        steady = end_to_end = ""
        if kind != Kind.JOB:
            steady = ratio(longest["steady"], column["steady"], STEADY_TARGETS.get(name) or STEADY_TARGETS.get(kind))
        if kind != Kind.JOB and count in jobs:
            end_to_end = ratio(column["seconds"], jobs[count]["seconds"], END_TO_END_TARGETS.get(name))
        median = f"{statistics.median(rates):.1f}" if rates else ""
        each = ", ".join(f"{rate:.1f}" for rate in rates)
        seconds = f"{statistics.median(column['seconds']):.1f}"
        rows.append(
            [name, kind, median, each, steady, f"{count:,}", seconds, end_to_end, f"{max(column['peak']):,.0f}"]
        )
    rows.sort(key=lambda row: -float(row[2] or 0))
    header = ["", "", "images/s, steady", "runs", "job / it", "images", "s end to end", "job / it", "peak MiB"]
    return table(header, rows)


def memory(points: Sequence[Mapping[str, Any]]) -> str:
    """Return time and peak memory per number of images or rows, and their growth from each number to the next."""
    rows = []
    for before, point in zip([None, *points], points, strict=False):
        keys = ("count", "seconds", "peak")
        growth = [f"× {point[key] / before[key]:.2f}" for key in keys] if before else []
        rows.append([f"{point['count']:,}", f"{point['seconds']:.1f}", f"{point['peak']:,.0f}", ", ".join(growth)])
    return table(["", "s end to end", "peak MiB", "growth of all three"], rows)


def stages(found: Sequence[Mapping[str, Any]]) -> str:
    """Return the time of each stage beside that of alternatives."""
    rows = []
    for stage in STAGES:
        ways = sorted((way for way in found if way["stage"] == stage), key=lambda way: way["ms"])
        ours = [f"{way['ms']:.2f}" for way in ways if way["way"] == "ours"]
        others = [f"{way['ms']:.2f} ({way['way']})" for way in ways if way["way"] != "ours"]
        if ours:
            rows.append([stage, *ours, ", ".join(others)])
    return table(["stage", "ours, ms", "others, ms"], rows)


def fit(found: Mapping[str, Any]) -> str:
    """Return seconds per epoch and their ratios."""
    median = {name: statistics.median(runs) for name, runs in found["seconds"].items()}
    rows = [[name, f"{median[name]:.2f}", f"{min(runs):.2f}"] for name, runs in found["seconds"].items()]
    ratios = [
        [
            f"{above} / {below if count == 1 else f'({count} × {below})'}",
            f"{median[above] / median[below] / count:.2f}",
            remark,
        ]
        for above, below, count, remark in FIT_RATIOS
        if above in median and below in median
    ]
    header = [f"{found['rows']:,} × {found['width']:,}", "s per epoch", "lowest"]
    return f"{table(header, rows)}\n\n{table(['', 'of medians', ''], ratios)}"


def fit_memory(found: Mapping[str, Any]) -> str:
    """Return seconds and peak memory of reading embeddings and of a whole fit."""
    matrix = found["rows"] * found["width"] * 4 / machine.MIB  # float32
    seconds = found["seconds"]
    rows = []
    for name, runs in seconds.items():
        peak = statistics.median(found["peaks"][name])
        speed = ratio(seconds["read_table"], runs, 0.5 if name == "load_features" else None) if name != "fit" else ""
        rows.append([name, f"{statistics.median(runs):.2f}", speed, f"{peak:,.0f}", f"{peak / matrix:.2f}"])
    header = [f"{found['rows']:,} × {found['width']:,}", "s", "speed / read_table's", "peak MiB", "peak / matrix"]
    return table(header, rows)


def score(found: Mapping[str, Any]) -> str:
    """Return rows/s and their ratios to the bare program."""
    rates = found["rates"]
    rows = [
        [
            name,
            f"{statistics.median(runs):,.0f}",
            ", ".join(f"{run:,.0f}" for run in runs),
            "" if name == "bare" else ratio(runs, rates["bare"], 0.6 if name == "rounds" else None),
        ]
        for name, runs in rates.items()
    ]
    return table([f"{found['rows']:,} rows", "rows/s", "runs", "it / bare"], rows)


class ResultSection(NamedTuple):
    """Heading, command, explanation, and the function that turns stored numbers into text."""

    title: str
    command: str
    note: str
    write: Callable[[Any], str]


SECTIONS = {
    "extract": ResultSection(
        "Extraction",
        "extract --images DIR --weights PATH --contenders all --count 621 --long-count 2000",
        """\
`job` is our Spark job. `documented`: as the peer's own documentation writes it; `given ours`: the same peer around our
embedding function. `steady` leaves out start-up (`benchmarks/steady.py`); its ratios are to the job's longest run,
those end to end to the job's run over as many images. Peak: the whole process tree, shared pages counted once.""",
        extract,
    ),
    "stages": ResultSection(
        "Time of one image on one core",
        "stages --images DIR --weights PATH",
        "`all` is the worker's function from path to Parquet.",
        stages,
    ),
    "fit": ResultSection("Training", "fit --rows 20000", "`--help` explains the names.", fit),
    "fit_memory": ResultSection(
        "Reading embeddings for training",
        "fit --memory 40000 --repeats 5",
        """\
`load_features` is the reader of the training: a checked matrix with labels; `read_table` is pyarrow's table alone;
`fit` is a whole run of one epoch.""",
        fit_memory,
    ),
    "score": ResultSection("Scoring", "score", "`--help` explains the names.", score),
    "score_memory": ResultSection(
        "Memory of the scoring job", "score --memory 100000 1000000", "Per number of rows.", memory
    ),
}
"""Sections in the order of the page; the keys are those of ``results.json``."""


def report(part: str, numbers: Any, file: Path | None, device: torch.device | None = None) -> None:
    """Print the table of one part; store its numbers, command, machine and date in a file if one is given."""
    print(f"{machine.describe(device)}; {machine.versions()}\n\n{SECTIONS[part].write(numbers)}")
    if file is None:
        return
    stored = json.loads(file.read_text()) if file.exists() else {"runs": {}}
    stored[part] = numbers
    stored["runs"][part] = {
        "command": f"python -m benchmarks.{Path(sys.argv[0]).stem} {shlex.join(sys.argv[1:])}",
        "machine": machine.describe(device),
        "versions": machine.versions(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    file.write_text(json.dumps(stored, indent=1) + "\n")


def render(found: Mapping[str, Any]) -> str:
    """Return the page."""
    page = ["# Results", "Written by `python -m benchmarks.results` from `results.json`: do not edit."]
    parts_of: dict[tuple[str, ...], list[str]] = {}
    for part, run in found["runs"].items():
        parts_of.setdefault(tuple(run[key] for key in ("command", "date", "machine", "versions")), []).append(part)
    page.append(
        "\n".join(
            f"- {', '.join(parts)}: `{command}`, {date}. {where}; {versions}."
            for (command, date, where, versions), parts in parts_of.items()
        )
    )
    for part, section in SECTIONS.items():
        if part in found:
            again = f"Measure it again with `python -m benchmarks.{section.command}`."
            page += [f"## {section.title}", f"{section.note} {again}", section.write(found[part])]
    return "\n\n".join(page) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--file", type=Path, default=machine.RESULTS, help="the numbers; the page goes beside them")
    file: Path = parser.parse_args(argv).file
    file.with_suffix(".md").write_text(render(json.loads(file.read_text())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
