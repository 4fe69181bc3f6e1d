"""Bundle on disk: a trained head and everything needed to use it.

A bundle is a folder of two files: ``head.safetensors`` (weights and input statistics) and ``bundle.json`` (everything
else, human-readable). It is written atomically.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

from cxrfeat import __version__
from cxrfeat.errors import BundleError, ConfigError
from cxrfeat.head.bundle_tensors import (
    MAX_MAGNITUDE,
    MEAN,
    SCALE,
    WEIGHTS,
    check_finite,
    check_shapes,
    read_tensors,
)
from cxrfeat.head.calibration import Calibration
from cxrfeat.head.inputs import AGE, COVARIATES, SEX, Inputs
from cxrfeat.head.mlp import Head
from cxrfeat.io import storage
from cxrfeat.labels.cells import MAX_AGE_YEARS
from cxrfeat.labels.findings import ANY_FINDING
from cxrfeat.labels.label_set import LabelSet
from cxrfeat.labels.label_sets import NIH14, label_set_of_head

FORMAT = 2
"""Newest bundle format. Format 1 has NIH's 14 findings and is still written for them; format 2 adds ``label_set``."""

_DESCRIPTION = "bundle.json"
_CALIBRATION_FIELDS = ("slope", "intercept")

MAX_DESCRIPTION_BYTES = 16 * 1024**2
MAX_WEIGHTS_BYTES = 1024**3
"""Size limits of the two files."""

MAX_LAYERS, MAX_WIDTH = 16, 1_000_000

_IMPUTED_RANGES = {AGE: (0, MAX_AGE_YEARS), SEX: (0, 1)}


@dataclass(frozen=True)
class Bundle:
    """A trained head and everything needed to use it.

    Attributes:
        head: network in eval mode.
        inputs: statistics that turn rows into the head's input vectors.
        hidden: widths of the hidden layers.
        extractor: fingerprint of the embeddings that the head was trained on.
        calibration: map from logits to probabilities.
        thresholds: by rule, then by label or any_finding: the lowest probability that counts as positive, chosen on
            the validation set; None if the validation set lacked a class.
        training: record of training settings and metrics, as JSON values.
        label_set: labels of the outputs.
    """

    head: Head
    inputs: Inputs
    hidden: tuple[int, ...]
    extractor: str
    calibration: Calibration
    thresholds: Mapping[str, Mapping[str, float | None]]
    training: Mapping[str, Any]
    label_set: LabelSet = NIH14

    @property
    def fingerprint(self) -> str:
        """Identifier of the head; heads whose predictions may differ have different fingerprints."""
        settings = json.dumps([self.extractor, _describe_inference(self)], sort_keys=True).encode()
        widths = "-".join(map(str, self.hidden))
        return f"mlp-{widths}:{hashlib.sha256(_serialize(self) + settings).hexdigest()[:12]}"

    def check_extractor(self, extractor: str) -> None:
        """Raise BundleError unless the embeddings come from the extractor that the head was trained on."""
        if extractor != self.extractor:
            raise BundleError(
                f"the embeddings come from {extractor!r}, but the head was trained on {self.extractor!r}: "
                "embed with that extractor, or train a head on these embeddings"
            )


@dataclass(frozen=True)
class BundleFiles:
    """Contents of a bundle's two files.

    Attributes:
        location: folder they were read from, for error messages.
        weights: contents of ``head.safetensors``.
        description: contents of ``bundle.json``.
    """

    location: str
    weights: bytes
    description: bytes


def save_bundle(bundle: Bundle, folder: Path) -> None:
    """Write a bundle atomically: a process killed at any moment leaves a complete bundle or none.

    Raises:
        BundleError: the folder exists and is not empty, or the write fails.
    """
    scratch = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)  # left by a killed process with the same process id
    try:
        scratch.mkdir(parents=True)
        weights = _serialize(bundle)
        description = json.dumps(_describe(bundle, hashlib.sha256(weights).hexdigest()), indent=2) + "\n"
        _write(scratch / WEIGHTS, weights)
        _write(scratch / _DESCRIPTION, description.encode())
        _sync_folder(scratch)
        scratch.rename(folder)  # fails if the folder exists and is not empty
        _sync_folder(folder.parent)
    except OSError as error:
        raise BundleError(f"cannot write the bundle to {folder}: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def load_bundle(folder: Path | str) -> Bundle:
    """Read a bundle from a folder or URI.

    Raises:
        BundleError: a file is missing or damaged, the format is newer, or labels or weights do not match.
    """
    return parse_bundle(read_bundle(folder))


def read_bundle(folder: Path | str) -> BundleFiles:
    """Read the files of a bundle without parsing them, to send them to workers.

    Raises:
        BundleError: a file is missing or unreadable.
    """
    location = str(folder)
    try:
        if not storage.exists(storage.join(location, _DESCRIPTION)):
            inside = storage.join(location, "head")
            hint = f"; did you mean {inside}?" if storage.exists(storage.join(inside, _DESCRIPTION)) else ""
            raise BundleError(f"{location} is not a bundle: {_DESCRIPTION} is missing{hint}")
        contents = []
        for name, limit in ((WEIGHTS, MAX_WEIGHTS_BYTES), (_DESCRIPTION, MAX_DESCRIPTION_BYTES)):
            with storage.open_input(storage.join(location, name)) as stream:
                if stream.size() > limit:
                    raise BundleError(f"{location}/{name} has {stream.size()} bytes; the limit is {limit}")
                contents.append(bytes(stream.read()))
    except OSError as error:
        raise BundleError(f"cannot read the bundle {location}: {error}") from error
    return BundleFiles(location, *contents)


def parse_bundle(files: BundleFiles) -> Bundle:
    """Parse the files of a bundle.

    Raises:
        BundleError: same conditions as for :func:`load_bundle`.
    """
    folder = files.location
    try:
        description = json.loads(files.description)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{folder} is not a bundle: {_DESCRIPTION} is not valid JSON: {error}") from error
    _check_description(folder, description, files.weights)
    tensors = read_tensors(folder, files.weights)
    dims, imputed, hidden = description["dims"], description["imputed"], tuple(description["dims"]["hidden"])
    inputs = Inputs(_pop(folder, tensors, MEAN), _pop(folder, tensors, SCALE), imputed)
    label_set = _read_label_set(folder, description)
    if (len(inputs.mean), len(inputs.scale), inputs.width) != (dims["embedding"], dims["embedding"], dims["inputs"]):
        raise BundleError(
            f"{folder}: statistics of {len(inputs.mean)} and {len(inputs.scale)} embedding columns and {len(imputed)} "
            f"covariates do not match dims {json.dumps(dims)}"
        )
    widths = (inputs.width, *hidden, len(label_set.outputs))
    check_shapes(folder, tensors, widths, dims)  # before a head of these sizes is allocated
    head = Head(inputs.width, hidden, len(label_set.outputs))
    head.load_state_dict(tensors)
    calibration = _read_calibration(folder, description["calibration"], label_set)
    thresholds = _read_thresholds(folder, description["thresholds"], label_set)
    extractor, training = description["extractor"], description["training"]
    check_finite(folder, head.eval(), calibration, inputs.width)
    return Bundle(head, inputs, hidden, extractor, calibration, thresholds, training, label_set)


def _read_label_set(folder: str, description: Mapping[str, Any]) -> LabelSet:
    """Return the label set; a bundle of format 1 has NIH's findings."""
    try:
        label_set = label_set_of_head(description, f"{folder}/{_DESCRIPTION}")
    except ConfigError as error:
        raise BundleError(str(error)) from error
    if description["labels"] != list(label_set.outputs):
        labels = json.dumps(description["labels"])
        raise BundleError(f"{folder} has labels {labels}; expected {', '.join(label_set.outputs)} in this order")
    return label_set


def _read_calibration(folder: str, fields: Any, label_set: LabelSet) -> Calibration:
    try:
        names = label_set.outputs
        lines = [np.array([_number(fields[field][name]) for name in names]) for field in _CALIBRATION_FIELDS]
        if max(np.abs(line).max() for line in lines) > MAX_MAGNITUDE:
            raise ValueError(f"a value is above {MAX_MAGNITUDE:g}")  # noqa: TRY301
        return Calibration(*lines)
    except (TypeError, KeyError, ValueError) as error:
        raise BundleError(f"{folder}/{_DESCRIPTION}: invalid calibration: {type(error).__name__}: {error}") from error


def _number(value: object) -> float:
    """Return a JSON number.

    Raises:
        TypeError: the value is not a number.
    """
    if not _is_number(value):
        raise TypeError(f"{value!r} is not a number")
    return float(value)  # type: ignore[arg-type]


def _is_number(value: object) -> bool:
    """Return True for a JSON number; in Python, true would count as 1."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _read_thresholds(folder: str, rules: Any, label_set: LabelSet) -> dict[str, dict[str, float | None]]:
    expected = {*label_set.outputs, ANY_FINDING}
    for rule, thresholds in rules.items():
        if not isinstance(thresholds, dict) or set(thresholds) != expected:
            found = ", ".join(sorted(thresholds)) if isinstance(thresholds, dict) else json.dumps(thresholds)
            raise BundleError(
                f"{folder}/{_DESCRIPTION}: thresholds of {rule!r} are for {found}; "
                f"expected {', '.join(sorted(expected))}"
            )
        invalid = [
            f"{name} {value}"
            for name, value in thresholds.items()
            if value is not None and not (_is_number(value) and 0 <= value <= 1)
        ]
        if invalid:
            raise BundleError(f"{folder}/{_DESCRIPTION}: {rule!r} thresholds outside 0 to 1: {', '.join(invalid)}")
    return dict(rules)


def _serialize(bundle: Bundle) -> bytes:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in bundle.head.state_dict().items()}
    tensors[MEAN] = torch.from_numpy(bundle.inputs.mean)
    tensors[SCALE] = torch.from_numpy(bundle.inputs.scale)
    return safetensors.torch.save(tensors)


def _describe(bundle: Bundle, sha256: str) -> dict[str, Any]:
    return {
        "format": 1 if bundle.label_set == NIH14 else FORMAT,
        "labels": list(bundle.label_set.outputs),
        **_describe_labels(bundle),
        "extractor": bundle.extractor,
        "dims": {
            "embedding": len(bundle.inputs.mean),
            "inputs": bundle.inputs.width,
            "hidden": list(bundle.hidden),
            "outputs": len(bundle.label_set.outputs),
        },
        **_describe_inference(bundle),
        "training": dict(bundle.training),
        "versions": {
            "cxrfeat": __version__,
            **{name: version(name) for name in ("torch", "numpy", "pyarrow", "scikit-learn", "safetensors")},
        },
        "sha256": sha256,
    }


def _describe_inference(bundle: Bundle) -> dict[str, Any]:
    """Return the settings that determine predictions, besides weights and extractor."""
    fields = (bundle.calibration.slope, bundle.calibration.intercept)
    return {
        **_describe_labels(bundle),
        "imputed": {name: bundle.inputs.imputed[name] for name in bundle.inputs.covariates},
        "calibration": {
            name: dict(zip(bundle.label_set.outputs, values.tolist(), strict=True))
            for name, values in zip(_CALIBRATION_FIELDS, fields, strict=True)
        },
        "thresholds": {rule: dict(thresholds) for rule, thresholds in bundle.thresholds.items()},
    }


def _describe_labels(bundle: Bundle) -> dict[str, Any]:
    """Return the label set; nothing for NIH's findings, whose heads keep the fingerprints of format 1."""
    return {} if bundle.label_set == NIH14 else {"label_set": bundle.label_set.describe()}


def _check_description(folder: str, description: Any, weights: bytes) -> None:
    """Check the description and the digest of the weights; the format first, since it defines all other fields."""
    found = description.get("format") if isinstance(description, dict) else None
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise BundleError(f"{folder}/{_DESCRIPTION} has format {found!r}; expected a number from 1 to {FORMAT}")
    if found > FORMAT:
        raise BundleError(f"{folder} has format {found}; this version reads formats up to {FORMAT}: upgrade cxrfeat")
    required = {"labels", "extractor", "dims", "imputed", "calibration", "thresholds", "training", "sha256"}
    missing = required.difference(description)
    if missing:
        raise BundleError(f"{folder}/{_DESCRIPTION} lacks {', '.join(sorted(missing))}")
    for name in ("dims", "imputed", "calibration", "thresholds", "training"):
        if not isinstance(description[name], dict):
            raise BundleError(f"{folder}/{_DESCRIPTION}: {name} is {json.dumps(description[name])}; expected an object")
    _check_values(folder, description)
    if not set(description["imputed"]) <= set(COVARIATES):
        names = ", ".join(sorted(map(str, description["imputed"])))
        raise BundleError(f"{folder} uses the covariates {names}; known covariates: {', '.join(COVARIATES)}")
    digest = hashlib.sha256(weights).hexdigest()
    if digest != description["sha256"]:
        raise BundleError(f"{folder}/{WEIGHTS} has sha256 {digest}; {_DESCRIPTION} records {description['sha256']}")


def _check_values(folder: str, description: Mapping[str, Any]) -> None:
    """Check the types of the dimensions, the imputed values and the extractor."""
    dims, imputed = description["dims"], description["imputed"]
    missing = {"embedding", "inputs", "hidden"}.difference(dims)
    if missing:
        raise BundleError(f"{folder}/{_DESCRIPTION}: dims lack {', '.join(sorted(missing))}")
    widths = [dims["embedding"], dims["inputs"], *(dims["hidden"] if isinstance(dims["hidden"], list) else [None])]
    if not all(isinstance(width, int) and not isinstance(width, bool) and width > 0 for width in widths):
        raise BundleError(f"{folder}/{_DESCRIPTION}: dims are {json.dumps(dims)}; expected whole numbers above 0")
    if len(widths) - 2 > MAX_LAYERS or max(widths) > MAX_WIDTH:
        raise BundleError(
            f"{folder}/{_DESCRIPTION}: {len(widths) - 2} hidden layers of up to {max(widths)} units; expected at most "
            f"{MAX_LAYERS} of {MAX_WIDTH}"
        )
    if not all(_is_number(value) and np.isfinite(value) for value in imputed.values()):
        raise BundleError(f"{folder}/{_DESCRIPTION}: imputed is {json.dumps(imputed)}; expected finite numbers")
    for name, value in imputed.items():
        low, high = _IMPUTED_RANGES.get(name, (value, value))
        if not low <= value <= high:
            raise BundleError(f"{folder}/{_DESCRIPTION}: imputed {name} is {value}; expected {low} to {high}")
    if not isinstance(description["extractor"], str):
        raise BundleError(f"{folder}/{_DESCRIPTION}: extractor is {description['extractor']!r}; expected a text")


def _pop(folder: str, tensors: dict[str, torch.Tensor], name: str) -> np.ndarray:
    if name not in tensors:
        raise BundleError(f"{folder}/{WEIGHTS} lacks the tensor {name!r}; found {', '.join(sorted(tensors))}")
    if tensors[name].ndim != 1:
        raise BundleError(f"{folder}/{WEIGHTS}: tensor {name!r} has {tensors[name].ndim} dimensions; expected 1")
    return tensors.pop(name).numpy()


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    """Flush the entries of a folder to disk; fsync on a file does not do this."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
