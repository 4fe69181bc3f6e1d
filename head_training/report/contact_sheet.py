"""Films as small pictures in the page, and the contact sheet: one film of each finding."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Mapping
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
from PIL import Image

from cxrfeat.errors import ImageError
from cxrfeat.images import png_jpeg
from cxrfeat.io import storage
from cxrfeat.labels.findings import FINDINGS, NO_FINDING
from head_training.report.page import ImageTile, Sheet
from head_training.report.style import count, spell

THUMBNAIL = 320
"""Pixels of the longer side: sharp at 160 CSS pixels on a dense screen."""


class ImageFolder:
    """The films below a folder or URI, by file name; of equal names the first path counts.

    Attributes:
        unreadable: message of each film that was asked for and can't be opened or decoded, by name.
    """

    def __init__(self, root: str) -> None:
        """List the films.

        Raises:
            ConfigError: there is no such folder.
        """
        self._root = root
        paths = sorted(storage.list_files(root, png_jpeg.SUFFIXES), reverse=True)
        self._paths = {PurePosixPath(path).name: path for path in paths}
        self.unreadable: dict[str, str] = {}

    @property
    def names(self) -> Collection[str]:
        """File names of all films."""
        return self._paths.keys()

    def thumbnail(self, name: str) -> str | None:
        """Return a film as a data: URI of a small JPEG, or None and a note in ``unreadable`` where that fails."""
        try:
            with storage.open_input(storage.join(storage.qualify(self._root), self._paths[name])) as stream:
                film = png_jpeg.decode(bytes(stream.read()))
        except (ImageError, OSError) as error:
            self.unreadable[name] = str(error)
            return None
        pixels = film.pixels if film.pixels.dtype == np.uint8 else (film.pixels // 257).astype(np.uint8)
        image = Image.fromarray(pixels)
        image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=82)
        return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def contact_sheet(images: pd.DataFrame, films: ImageFolder) -> Sheet:
    """Return one film of each finding and of No Finding: the first by name that has it alone and can be decoded."""
    there = images[images["image_index"].isin(list(films.names))].sort_values("image_index")
    examples = []
    for label in (*FINDINGS, NO_FINDING):
        rows = there[there["findings"] == label].to_dict("records")
        shown = ((row, films.thumbnail(row["image_index"])) for row in rows)
        row, image = next((pair for pair in shown if pair[1] is not None), (None, None))
        lines = [] if row is None else [(about(row), "plain")]
        examples.append(ImageTile(spell(label), image, lines))
    found = sum(film.image is not None for film in examples)
    caption = (
        "Of each label the first film by file name that has it alone: nobody chose them. "
        f"{count(len(there))} films of the metadata are in the folder.{unreadable(films)}"
    )
    return Sheet(f"{found} of {len(examples)} labels are shown by a film that has nothing else", examples, caption)


def about(row: Mapping[str, object]) -> str:
    """Write name, age, sex and view of a film, as far as they are known."""
    parts = [str(row["image_index"])]
    if pd.notna(row["age_years"]):
        parts.append(f"{row['age_years']:.0f} years")
    parts += [str(row[name]) for name in ("sex", "view_position") if pd.notna(row[name])]
    return ", ".join(parts)


def unreadable(films: ImageFolder) -> str:
    """Return a sentence about films that could not be shown, or nothing."""
    if not films.unreadable:
        return ""
    name, message = next(iter(films.unreadable.items()))
    return f" {count(len(films.unreadable))} films could not be decoded and were passed over; the first: {name}: {message}."
