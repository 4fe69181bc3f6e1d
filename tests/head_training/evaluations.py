"""Files of small predictions and ground truth with known numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cxrfeat.labels.findings import FINDINGS, format_findings, from_multi_hot
from head_training.evaluate import main

HEADER = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position\n"


class Case:
    """Predictions of 120 images of 40 patients, 30 of them test and 10 val; 60 more images of 20 patients have none."""

    def __init__(self, folder: Path, findings: Sequence[str] = FINDINGS) -> None:
        random = np.random.default_rng(0)
        self.folder, self.findings = folder, findings
        self.images = [f"{number:03}.png" for number in range(180)]
        self.patients = np.arange(180) // 3
        ill = random.uniform(size=180) < 0.8
        self.labels = (random.uniform(size=(180, len(FINDINGS))) < 0.3) & ill[:, None]
        self.scores = (self.labels * 0.3 + random.uniform(0, 0.7, size=self.labels.shape)).round(2)
        self.ages, self.sexes = random.integers(1, 95, size=180), random.choice(["M", "F"], size=180)
        self.views = np.where(random.uniform(size=180) < 0.2 + 0.5 * self.labels[:, 0], "AP", "PA")
        self.ground_truth = self.write_ground_truth()
        self.predictions = self.write_predictions(self.table())
        self.test_list = self.write_list("test.txt", range(90))
        self.val_list = self.write_list("val.txt", range(90, 120))

    def write_ground_truth(self) -> Path:
        path = self.folder / "truth.csv"
        names = [format_findings(found) for found in from_multi_hot(self.labels)]
        rows = zip(self.images, names, self.patients, self.ages, self.sexes, self.views, strict=True)
        lines = [f"{image},{label},0,{patient},{age},{sex},{view}\n" for image, label, patient, age, sex, view in rows]
        path.write_text(HEADER + "".join(lines))
        return path

    def table(self, prefix: str = "score_") -> pa.Table:
        """Return predictions of all images but the last sixty."""
        columns = {f"{prefix}{name}": self.scores[:120, FINDINGS.index(name)] for name in self.findings}
        return pa.table({"image_index": self.images[:120], **columns})

    def write_predictions(self, table: pa.Table, name: str = "predictions.parquet") -> Path:
        path = self.folder / name
        pq.write_table(table, path)
        return path

    def write_list(self, name: str, rows: range) -> Path:
        path = self.folder / name
        path.write_text("".join(f"{self.images[row]}\n" for row in rows))
        return path

    def options(self, output: str = "eval", *more: str) -> list[str]:
        """Return a complete command line; ``more`` overrides earlier options."""
        paths = {"predictions": self.predictions, "truth": self.ground_truth, "split-list": self.test_list}
        named = [part for name, path in paths.items() for part in (f"--{name}", str(path))]
        val = ["--val-list", str(self.val_list)]
        return [*named, *val, "--output", str(self.folder / output), "--resamples", "60", "--no-report", *more]

    def evaluate(self, output: str = "eval", *more: str) -> dict[str, Any]:
        assert main(self.options(output, *more)) == 0
        return read(self.folder / output)


def read(folder: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return metrics


def find(metrics: dict[str, Any], **given: object) -> dict[str, Any]:
    """Return the one number that has these values; by default test, all images, the predictions and no point."""
    wanted = {"split": "test", "group": "all", "model": "predictions", "point": None, **given}
    (row,) = [row for row in metrics["numbers"] if all(row[key] == value for key, value in wanted.items())]
    return dict(row)
