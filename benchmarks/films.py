"""Any number of films from a few, by links."""

from __future__ import annotations

from pathlib import Path

from cxrfeat.images import png_jpeg
from cxrfeat.io import storage


def replicate(source: Path, target: Path, count: int) -> None:
    """Fill a folder with ``count`` films by linking those of another again and again."""
    files = sorted(storage.list_files(str(source), png_jpeg.SUFFIXES))
    if not files:
        raise SystemExit(f"no image found below {source}")
    for index in range(count):
        name = Path(files[index % len(files)])
        folder = target / f"copy_{index // len(files):04d}" / name.parent
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name.name).symlink_to((source / name).resolve())
