"""What an output folder is made of, in ``dataset.json``: two runs may write into one folder only if they agree."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version

from cxrfeat import __version__
from cxrfeat.errors import DatasetMismatchError
from cxrfeat.io import storage
from cxrfeat.labels.splits import SplitRule

NAME = "dataset.json"
FORMAT = 1


def check_manifest(output: str, settings: Mapping[str, object]) -> None:
    """Write settings into a new output folder's ``dataset.json``; in an old one, check that none differs.

    Raises:
        ConfigError: the folder can't be read or written.
        DatasetMismatchError: the folder was made with other settings; the message gives both for each.
    """
    location = storage.join(output, NAME)
    mine = {"format": FORMAT, **settings}
    with storage.refusing(output):
        text = storage.read_text(location)
        if text is None:
            versions = {name: version(name) for name in ("torch", "torchvision", "pillow", "pyspark", "pyarrow")}
            created_with = {"cxrfeat": __version__, **versions}
            storage.write_text(location, json.dumps({**mine, "created_with": created_with}, indent=2) + "\n")
            return
    theirs = json.loads(text)
    there, now = _flatten(theirs), _flatten(mine)
    differences = [
        f"{key}: {there.get(key)!r} there, {now.get(key)!r} now"
        for key in dict.fromkeys([*now, *there])
        if not key.startswith("created_with") and there.get(key) != now.get(key)
    ]
    if differences:
        raise DatasetMismatchError(
            f"{output} was made with other settings; give another --output, or those settings:\n  "
            + "\n  ".join(differences)
        )


def _flatten(settings: Mapping[str, object]) -> dict[str, object]:
    """Return settings with those of a nested one under ``outer.inner``, so that only what differs is named."""
    flat: dict[str, object] = {}
    for key, value in settings.items():
        flat |= {f"{key}.{inner}": part for inner, part in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def describe_split(rule: SplitRule) -> dict[str, str | None]:
    """Return a split rule in terms of content: the same lists under another path are the same rule."""
    return {
        "level": rule.level.value,
        "train_val_list_sha256": _sha256(rule.train_val_list),
        "test_list_sha256": _sha256(rule.test_list),
    }


def _sha256(location: str | None) -> str | None:
    if location is None:
        return None
    with storage.open_input(location) as stream:
        return hashlib.sha256(stream.read()).hexdigest()
