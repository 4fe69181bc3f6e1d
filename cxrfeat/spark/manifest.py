"""Settings of an output folder, stored in ``dataset.json``: later runs must use the same ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version

from cxrfeat import __version__
from cxrfeat.errors import DatasetMismatchError
from cxrfeat.images.header import Pseudonyms
from cxrfeat.io import storage
from cxrfeat.labels.splits import SplitRule

NAME = "dataset.json"
IDENTIFIERS = "identifiers.json"
FORMAT = 1


def check_manifest(output: str, settings: Mapping[str, object], origin: Mapping[str, str] | None = None) -> None:
    """Write ``dataset.json`` into a new output folder, or check that an existing one has the same settings.

    Args:
        output: the folder.
        settings: settings that all runs into the folder must share.
        origin: facts of the first run that are recorded beside the versions, and not compared.

    Raises:
        ConfigError: the folder is unreadable or not writable.
        DatasetMismatchError: the folder was written with other settings; the message lists the differences.
    """
    location = storage.join(output, NAME)
    requested = {"format": FORMAT, **settings}
    with storage.as_config_error(output):
        text = storage.read_text(location)
        if text is None:
            versions = {name: version(name) for name in ("torch", "torchvision", "pillow", "pyspark", "pyarrow")}
            created_with = {"cxrfeat": __version__, **versions, **(origin or {})}
            storage.write_text(location, json.dumps({**requested, "created_with": created_with}, indent=2) + "\n")
            return
    old, new = _flatten(json.loads(text)), _flatten(requested)
    differences = [
        f"{key}: {_show(old.get(key))} in {NAME}, {_show(new.get(key))} in this run"
        for key in dict.fromkeys([*new, *old])
        if not key.startswith("created_with") and old.get(key) != new.get(key)
    ]
    if differences:
        raise DatasetMismatchError(
            f"{output} was written with other settings; use another --output, or the same settings:\n  "
            + "\n  ".join(differences)
        )


def check_identifiers(output: str, pseudonyms: Pseudonyms | None) -> None:
    """Write ``identifiers.json`` at the first DICOM files of an output, or check that they are stored in the same way.

    With another key, a patient would have another name, and could be in two splits.

    Raises:
        ConfigError: the folder is unreadable or not writable.
        DatasetMismatchError: earlier runs used another key, or the other of the two ways.
    """
    if pseudonyms is None:
        return
    requested = {"patient_ids": "kept" if pseudonyms.keep_patient_ids else "hashed", "key_id": pseudonyms.key_id}
    location = storage.join(output, IDENTIFIERS)
    with storage.as_config_error(output):
        text = storage.read_text(location)
        if text is None:
            storage.write_text(location, json.dumps(requested, indent=2) + "\n")
    if text is not None and json.loads(text) != requested:
        raise DatasetMismatchError(
            f"{output} has identifiers {json.loads(text)}, this run {requested}; use the same --patient-key and "
            "--keep-patient-ids, or another --output"
        )


def _show(value: object) -> str:
    if value is None:
        return "unset"
    return repr(", ".join(map(str, value)) if isinstance(value, list) else value)


def _flatten(settings: Mapping[str, object]) -> dict[str, object]:
    """Return settings with nested ones under ``outer.inner``, so that a message names only the inner difference."""
    flat: dict[str, object] = {}
    for key, value in settings.items():
        flat |= {f"{key}.{inner}": part for inner, part in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def describe_split(rule: SplitRule) -> dict[str, str | None]:
    """Return a split rule with the digests of its lists, so that renaming a list does not change the rule."""
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
