"""Image thumbnails, and the contact sheet with one example image per finding."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Mapping
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
from PIL import Image

from cxrfeat.errors import ImageError
from cxrfeat.images.candidates import SUFFIXES
from cxrfeat.images.decode import decode_image
from cxrfeat.io import listing, storage
from cxrfeat.labels.findings import NO_FINDING
from head_training.report.page import ImageTile, Sheet
from head_training.report.report_images import ReportImages
from head_training.report.style import count, spell

THUMBNAIL = 320
"""Longer side in pixels: sharp at 160 CSS pixels on a high-density screen."""


class ImageFolder:
    """Images in a folder or URI and its subfolders, by path and by file name; of equal names, the first path counts.

    Attributes:
        unreadable: error message of each image that could not be opened or decoded, by name.
    """

    def __init__(self, root: str) -> None:
        """List the images.

        Raises:
            ConfigError: the folder does not exist.
        """
        self._root = root
        paths = sorted(listing.list_files(root, SUFFIXES), reverse=True)
        self._paths = {PurePosixPath(path).name: path for path in paths} | {path: path for path in paths}
        self.unreadable: dict[str, str] = {}

    def __len__(self) -> int:
        """Return the number of images."""
        return len(set(self._paths.values()))

    @property
    def names(self) -> Collection[str]:
        """File names and paths of all images."""
        return self._paths.keys()

    def thumbnail(self, name: str) -> str | None:
        """Return an image as a data: URI of a small JPEG, or None after recording its error in ``unreadable``."""
        try:
            with storage.open_input(storage.join(storage.qualify(self._root), self._paths[name])) as stream:
                decoded = decode_image(bytes(stream.read()))
        except (ImageError, OSError) as error:
            self.unreadable[name] = str(error)
            return None
        pixels = decoded.pixels  # (H, W) uint8 or uint16
        small = Image.fromarray(pixels if pixels.dtype == np.uint8 else (pixels // 257).astype(np.uint8))
        small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=82)
        return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def contact_sheet(data: ReportImages, folder: ImageFolder) -> Sheet:
    """Return one image per label and of No Finding: the first decodable one by name that has this label alone."""
    images = data.images.assign(label=data.only_label())
    available = images[images["image_index"].isin(list(folder.names))].sort_values("image_index")
    tiles = []
    for label in dict.fromkeys((*data.names, NO_FINDING)):
        rows = available[available["label"] == label].to_dict("records")
        candidates = ((row, folder.thumbnail(row["image_index"])) for row in rows)
        row, image = next((pair for pair in candidates if pair[1] is not None), (None, None))
        lines = [] if row is None else [(describe(row), "plain")]
        tiles.append(ImageTile(spell(label), image, lines))
    found = sum(tile.image is not None for tile in tiles)
    caption = (
        "Each image is the first by file name that has the label and no other: a fixed rule, not a selection by eye. "
        f"{count(len(available))} images of the metadata are in the folder.{unreadable(folder)}"
    )
    return Sheet(f"Example images of {found} of the {len(tiles)} labels", tiles, caption)


def describe(row: Mapping[str, object]) -> str:
    """Return name, age, sex and view of an image, without unknown values."""
    parts = [str(row["image_index"])]
    if pd.notna(row["age_years"]):
        parts.append(f"{row['age_years']:.0f} years")
    parts += [str(row[name]) for name in ("sex", "view_position") if pd.notna(row[name])]
    return ", ".join(parts)


def unreadable(folder: ImageFolder) -> str:
    """Return a sentence about the images that could not be decoded, or an empty string."""
    if not folder.unreadable:
        return ""
    name, message = next(iter(folder.unreadable.items()))
    return f" Images that could not be decoded: {count(len(folder.unreadable))}, the first {name} ({message})."
