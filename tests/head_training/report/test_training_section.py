"""The training section: results of a run, including incomplete ones."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cxrfeat.errors import ReportError
from cxrfeat.io.schema import HISTORY, grid_schema
from cxrfeat.labels.findings import FINDINGS
from head_training.report import style
from head_training.report.page import Plot, Section, Table
from head_training.report.report_inputs import read_run
from head_training.report.training_section import training_section
from tests.head_training.runs import FAST, fit


@pytest.fixture(scope="module")
def trained_run(features: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "grid.toml").write_text("dropout = [0.0, 0.2]\nlr = [1e-2, 1e-3]\nweight_decay = [1e-4, 1e-5]\n")
    options = ("--quiet", "--epochs", "3", "--batch-size", "64", "--hidden", "6", "--device", "cpu")
    assert fit(features, folder / "out", *options, "--grid", str(folder / "grid.toml"), "--monitor", "auroc") == 0
    return folder / "out"


def titles(section: Section) -> list[str]:
    return [block.title for block in section.blocks]


def table(section: Section, title: str) -> Table:
    (found,) = [block for block in section.blocks if isinstance(block, Table) and title in block.title]
    return found


def test_the_section_equals_the_tables(trained_run: Path) -> None:
    """Facts, titles and tables show the numbers of the grid, and the best configuration is first and in bold."""
    section = training_section(read_run(trained_run))
    grid = pq.read_table(trained_run / "grid.parquet").to_pylist()
    (selected,) = [row for row in grid if row["selected"]]
    assert ("8", "configurations") in section.facts
    assert (f"{selected['val_auroc']:.3f}", "mean validation AUROC of 14 findings") in section.facts
    best = table(section, "The best 8 of 8")
    assert [row[0] for row in best.rows] == [row["name"] for row in sorted(grid, key=lambda row: -row["val_auroc"])]
    assert best.rows[best.emphasis[0]][0] == selected["name"]
    values = {row[0]: row[1] for row in table(section, "Validation AUROC of the selected configuration").rows}
    assert values["Hernia"] == f"{selected['val_auroc_Hernia']:.3f}"
    assert values["mean"] == f"{selected['val_auroc']:.3f}"
    settings = {row[0]: row[1] for row in table(section, f"Settings of configuration {selected['name']}").rows}
    assert (settings["epochs"], settings["monitor"], settings["standardise"]) == ("3", "auroc", "yes")
    assert settings["early stop"] == "none"
    assert settings["test: images, patients"] == "80, 80"
    spread = max(row["val_auroc"] for row in grid) - min(row["val_auroc"] for row in grid)
    assert f"The mean AUROC differs by up to {spread:.3f} between configurations" in titles(section)
    lr, decay = (max(grid, key=lambda row: row["val_auroc"])[name] for name in ("lr", "weight_decay"))
    assert f"Learning rate {lr:g} with weight decay {decay:g}".replace("e-0", "e-") + " is best" in titles(section)


def rewrite(run: Path, folder: Path, **changes: Any) -> Path:
    """Copy a run with other values in columns of grid.parquet and history.parquet, given as functions of a row."""
    (folder / "head").mkdir(parents=True)
    for name in ("config.json", "head/bundle.json"):
        (folder / name).write_bytes((run / name).read_bytes())
    for name, schema in (("grid", grid_schema(FINDINGS)), ("history", HISTORY)):
        rows = pq.read_table(run / f"{name}.parquet").to_pylist()
        for row in rows:
            row.update({column: value(row) for column, value in changes.items() if column in row})
        pq.write_table(pa.Table.from_pylist(rows, schema), folder / f"{name}.parquet")
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {"val_auroc": lambda row: row["val_auroc"] if row.get("selected") or "epoch" in row else None},
        {"val_auroc": lambda row: None if "selected" in row else 0.5},
        {"val_auroc": lambda _: 0.5},
        {"val_loss": lambda row: row["val_loss"] if row["index"] in (0, 7) else math.inf},
        {"train_loss": lambda _: math.nan, "val_loss": lambda _: math.nan},
        {"lr": lambda _: 0.1, "weight_decay": lambda _: 0.1, "dropout": lambda _: 0.1},
    ],
    ids=["one-ranked", "none-ranked", "all-equal", "diverged", "nan", "nothing-varies"],
)
def test_unusual_runs_break_no_figure(trained_run: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    """Undefined AUROCs, ties, and losses that are not finite: all figures are drawn."""
    section = training_section(read_run(rewrite(trained_run, tmp_path / "run", **changes)))
    assert len(section.blocks) >= 5


def grow(run: Path, folder: Path, times: int) -> Path:
    """Copy a run with its configurations repeated, each copy with other settings and a slightly lower AUROC."""
    rewrite(run, folder)
    for name, schema in (("grid", grid_schema(FINDINGS)), ("history", HISTORY)):
        rows = pq.read_table(folder / f"{name}.parquet").to_pylist()
        configurations = 1 + max(row["index"] for row in rows)
        more = []
        for copy in range(times):
            for row in rows:
                changed = {"index": row["index"] + copy * configurations, "val_auroc": row["val_auroc"] - 1e-4 * copy}
                if name == "grid":
                    changed |= {"lr": row["lr"] * (1 + copy), "selected": row["selected"] and copy == 0}
                more.append({**row, **changed})
        pq.write_table(pa.Table.from_pylist(more, schema), folder / f"{name}.parquet")
    return folder


def test_a_big_grid_is_drawn_in_part(trained_run: Path, tmp_path: Path) -> None:
    """Of 80 configurations, each figure draws the best 24 and gives the total; all of a grid of 24 are drawn."""
    big = training_section(read_run(grow(trained_run, tmp_path / "big", 10)))
    whole = training_section(read_run(grow(trained_run, tmp_path / "whole", 3)))
    for title, of_big, of_whole in (
        ("The best epoch is", "gray: the best 23 of the 79 others.", "gray: all others."),
        ("mean AUROC differs", "Only the best 24 of 80 are shown.", "Blue: the highest AUROC."),
    ):
        for section, caption in ((big, of_big), (whole, of_whole)):
            (plot,) = [block for block in section.blocks if isinstance(block, Plot) and title in block.title]
            assert plot.caption.endswith(caption)
            assert plot.svg.count(f"stroke: {style.CONTEXT}; stroke-width: 0.9") == 23
    (heat,) = [block for block in big.blocks if isinstance(block, Plot) and " is best" in block.title]
    assert "Shown: the best of 19 learning rates and 2 weight decays, at most 12 of each." in heat.caption
    assert len(re.findall(r">0\.[1-9]\d\d<", heat.svg)) == 12 * 2


def test_one_configuration_has_no_grid(features: Path, tmp_path: Path) -> None:
    """A single configuration has learning curves, but no heat map and no parallel lines."""
    assert fit(features, tmp_path / "run", *FAST) == 0
    section = training_section(read_run(tmp_path / "run"))
    assert not any(" is best" in title or "mean AUROC differs" in title for title in titles(section))
    assert titles(section)[0].startswith("The best epoch is")
    assert "The only configuration" in titles(section)


def test_a_run_that_cannot_be_read_is_refused(trained_run: Path, tmp_path: Path) -> None:
    """The error names the file and the problem."""
    with pytest.raises(ReportError, match=r"config\.json does not exist; expected a complete output folder"):
        read_run(tmp_path)
    copy = rewrite(trained_run, tmp_path / "copy")
    (copy / "grid.parquet").write_bytes(b"PAR1")
    with pytest.raises(ReportError, match=r"cannot read .*grid\.parquet"):
        read_run(copy)
    pq.write_table(pq.read_table(trained_run / "grid.parquet").drop_columns(["lr"]), copy / "grid.parquet")
    with pytest.raises(ReportError, match=r"grid.parquet lacks the columns lr; it has"):
        read_run(copy)
    unselected = rewrite(trained_run, tmp_path / "unselected", selected=lambda _: False)
    with pytest.raises(ReportError, match="0 selected rows; expected one"):
        read_run(unselected)
    other = rewrite(trained_run, tmp_path / "other")
    (other / "config.json").write_text(json.dumps({"settings": {}}))
    with pytest.raises(ReportError, match=r"config\.json lacks the keys configuration, rows, patients; it has"):
        read_run(other)
