"""Films beside what is said about them: a contact sheet of the findings, and predictions, right and wrong."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from cxrfeat import imaging, storage
from cxrfeat.errors import ImageError, ReportError
from cxrfeat.findings import FINDINGS, NO_FINDING, format_findings
from cxrfeat.schema import Split
from head_training.report.operating import point_name
from head_training.report.page import Film, Section, Sheet
from head_training.report.sources import Metrics
from head_training.report.style import count, decimal, spell

THUMBNAIL = 320
"""Pixels of the longer side: sharp at 160 CSS pixels on a dense screen."""

EXAMPLES = 8
"""Films of either kind, right and wrong."""

_POINTS = ("f1", "youden")
"""Operating points for examples, the preferred one first."""


class Films:
    """The films below a folder or URI, by file name; of equal names the first path counts.

    Attributes:
        unreadable: message of each film that was asked for and can't be decoded, by name.
    """

    def __init__(self, root: str) -> None:
        """List the films.

        Raises:
            ConfigError: there is no such folder.
        """
        self._root = root
        paths = sorted(storage.list_files(root, imaging.SUFFIXES), reverse=True)
        self._paths = {PurePosixPath(path).name: path for path in paths}
        self.unreadable: dict[str, str] = {}

    def __contains__(self, name: object) -> bool:
        """Say whether there is a film of that name."""
        return name in self._paths

    def thumbnail(self, name: str) -> str | None:
        """Return a film as a data: URI of a small JPEG, or None and a note in ``unreadable`` where it is damaged."""
        try:
            with storage.open_input(storage.join(storage.qualify(self._root), self._paths[name])) as stream:
                film = imaging.decode(bytes(stream.read()))
        except ImageError as error:
            self.unreadable[name] = str(error)
            return None
        pixels = film.pixels if film.pixels.dtype == np.uint8 else (film.pixels // 257).astype(np.uint8)
        image = Image.fromarray(pixels)
        image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=82)
        return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def contact_sheet(images: pd.DataFrame, films: Films) -> Sheet:
    """Return one film of each finding and of No Finding: the first by name that has it alone and can be decoded."""
    there = images[images["image_index"].isin(films)].sort_values("image_index")
    examples = []
    for label in (*FINDINGS, NO_FINDING):
        rows = there[there["findings"] == label].to_dict("records")
        shown = ((row, films.thumbnail(row["image_index"])) for row in rows)
        row, image = next((pair for pair in shown if pair[1] is not None), (None, None))
        lines = [] if row is None else [(_about(row), "plain")]
        examples.append(Film(spell(label), image, lines))
    found = sum(film.image is not None for film in examples)
    caption = (
        "Of each finding the first film by file name that has it alone; nobody chose them. "
        f"{count(len(there))} films of the metadata are in the folder.{_unreadable(films)}"
    )
    return Sheet(f"One film each for {found} of the {len(FINDINGS)} findings and {NO_FINDING}", examples, caption)


def _about(row: Mapping[str, object]) -> str:
    parts = [str(row["image_index"])]
    if pd.notna(row["age_years"]):
        parts.append(f"{row['age_years']:.0f} years")
    parts += [str(row[name]) for name in ("sex", "view_position") if pd.notna(row[name])]
    return ", ".join(parts)


def _unreadable(films: Films) -> str:
    if not films.unreadable:
        return ""
    name, message = next(iter(films.unreadable.items()))
    return f" {count(len(films.unreadable))} films could not be decoded and were passed over; the first: {name}: {message}."


def predictions_section(metrics: Metrics, predictions: Path, films: Films) -> Section:
    """Return test films with truth and prediction: the first right and the first wrong ones in a drawing by hash.

    Args:
        metrics: for the thresholds.
        predictions: Parquet with image_index, split, findings and ``PREFIX_Finding`` on the evaluated scale.
        films: to show; the section is about those of them that are test films.

    Raises:
        ReportError: predictions that can't be read, or lack a column; no threshold at all.
    """
    thresholds = metrics.content["thresholds"]
    point = next((name for name in (*_POINTS, *thresholds) if name in thresholds), None)
    if point is None:
        raise ReportError("metrics.json has no thresholds, so predictions can't be called right or wrong")
    known = {finding: thresholds[point].get(finding) for finding in FINDINGS}
    limits = {finding: value for finding, value in known.items() if value is not None}
    rows = [row for row in _read_test(predictions, metrics.scale, limits) if row["image_index"] in films]
    rows.sort(key=lambda row: hashlib.sha256(row["image_index"].encode()).hexdigest())
    right = [row for row in rows if _called(row, limits) == _truth(row, limits)]
    wrong = [row for row in rows if _called(row, limits) != _truth(row, limits)]
    sheets = [
        Sheet(
            f"{count(len(part))} of {count(len(rows))} test films in the folder are predicted {name}",
            list(_examples(part, limits, films)),
            f"The first {EXAMPLES} in the order of the SHA-256 of their names; nobody chose them.",
        )
        for name, part in (("exactly", right), ("with at least one error", wrong))
    ]
    left_out = [spell(finding) for finding in FINDINGS if finding not in limits]
    lead = [
        f"Predicted is what reaches its threshold ({point_name(point)}, chosen on val). A film is right if its predicted "
        "findings are exactly its labels, which were mined from reports and are wrong at times themselves.",
        *([f"Without a threshold, and so not judged: {', '.join(left_out)}."] if left_out else []),
        *([_unreadable(films).strip()] if films.unreadable else []),
    ]
    return Section("Predictions", [sheet for sheet in sheets if sheet.films], lead)


def _read_test(path: Path, scale: str, findings: Iterable[str]) -> list[dict[str, object]]:
    """Return the labelled test rows."""
    columns = ["image_index", "split", "findings", *(f"{scale}_{finding}" for finding in findings)]
    try:
        file = pq.ParquetFile(path)
        missing = sorted(set(columns).difference(file.schema_arrow.names))
        if missing:
            raise ReportError(f"{path} lacks the columns {missing}; it has {file.schema_arrow.names}")
        rows = file.read(columns=columns).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise ReportError(f"{path} can't be read: {error}") from error
    prefix = f"{scale}_"
    return [
        {name.removeprefix(prefix): value for name, value in row.items()}
        for row in rows
        if row["split"] == Split.TEST.value and row["findings"] is not None
    ]
