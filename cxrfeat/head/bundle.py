"""A head's bundle on disk: the head and all that is needed to use it.

A bundle is a folder of two files: ``head.safetensors`` (weights, and the statistics of its inputs) and ``bundle.json``
(everything else, readable). It appears whole or not at all.
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
from cxrfeat.errors import BundleError
from cxrfeat.head.calibration import Calibration
from cxrfeat.head.inputs import COVARIATES, Inputs
from cxrfeat.head.mlp import Head
from cxrfeat.io import storage
from cxrfeat.labels.findings import ANY_FINDING, FINDINGS

FORMAT = 1
"""Of the bundle; raised when an older program would misread a newer bundle."""

_WEIGHTS, _DESCRIPTION = "head.safetensors", "bundle.json"
_MEAN, _SCALE = "inputs.mean", "inputs.scale"
_LINES = ("slope", "intercept")


@dataclass(frozen=True)
class Bundle:
    """A trained head and all that is needed to use it.

    Attributes:
        head: in eval mode.
        inputs: how its inputs are made.
        hidden: widths of its hidden layers.
        extractor: fingerprint of the embeddings that it was trained on.
        calibration: from its logits to probabilities.
        thresholds: for each rule that chose them on validation, the probability from which a finding, or any finding
            at all, counts as positive; None where validation lacked a class.
        training: how it was trained and how good it is: JSON values, for the record.
    """

    head: Head
    inputs: Inputs
    hidden: tuple[int, ...]
    extractor: str
    calibration: Calibration
    thresholds: Mapping[str, Mapping[str, float | None]]
    training: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """Name of the head in its predictions: two heads that may answer differently have different ones."""
        decides = json.dumps([self.extractor, _describe_use(self)], sort_keys=True).encode()
        shape = "-".join(map(str, self.hidden))
        return f"mlp-{shape}:{hashlib.sha256(_serialize(self) + decides).hexdigest()[:12]}"

    def check_backbone(self, backbone: str) -> None:
        """Raise BundleError unless the head was trained on this backbone's embeddings; nothing of it need be loaded yet."""
        needed, _, weights = self.extractor.partition(":")
        if backbone != needed:
            raise BundleError(
                f"the head was trained on {self.extractor!r}: it needs --backbone {needed}, not {backbone}, and weights "
                f"whose sha256 starts with {weights.partition(':')[0]}"
            )

    def check_extractor(self, extractor: str) -> None:
        """Raise BundleError unless embeddings come from the extractor that the head was trained on."""
        if extractor != self.extractor:
            raise BundleError(
                f"the embeddings come from {extractor!r}, but the head was trained on {self.extractor!r}: "
                "embed with that extractor, or train a head on these embeddings"
            )


@dataclass(frozen=True)
class BundleFiles:
    """The two files of a bundle.

    Attributes:
        location: where they were read, for errors to name.
        weights: ``head.safetensors``.
        description: ``bundle.json``.
    """

    location: str
    weights: bytes
    description: bytes


def save_bundle(bundle: Bundle, folder: Path) -> None:
    """Write a bundle so that, killed at any moment, there is a whole bundle or none.

    Raises:
        BundleError: something is there already, or the disk refuses.
    """
    scratch = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)  # of a killed process with our number
    try:
        scratch.mkdir(parents=True)
        weights = _serialize(bundle)
        description = json.dumps(_describe(bundle, hashlib.sha256(weights).hexdigest()), indent=2) + "\n"
        _write(scratch / _WEIGHTS, weights)
        _write(scratch / _DESCRIPTION, description.encode())
        _sync_folder(scratch)
        scratch.rename(folder)  # refuses a folder that is not empty
        _sync_folder(folder.parent)
    except OSError as error:
        raise BundleError(f"the bundle can't be written to {folder}: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def load_bundle(folder: Path | str) -> Bundle:
    """Read a bundle from a folder or URI.

    Raises:
        BundleError: a file is missing or damaged, a newer format, other labels, or weights that don't fit.
    """
    return parse_bundle(read_bundle(folder))


def read_bundle(folder: Path | str) -> BundleFiles:
    """Read a bundle's files as they are, to send them where they are needed.

    Raises:
        BundleError: one of them can't be read.
    """
    location = str(folder)
    try:
        if not storage.exists(storage.join(location, _DESCRIPTION)):
            inside = storage.join(location, "head")
            hint = f"; did you mean {inside}?" if storage.exists(storage.join(inside, _DESCRIPTION)) else ""
            raise BundleError(f"{location} is no bundle: there is no {_DESCRIPTION} in it{hint}")
        contents = [storage.read_bytes(storage.join(location, name)) for name in (_WEIGHTS, _DESCRIPTION)]
    except OSError as error:
        raise BundleError(f"{location} is no bundle that can be read: {error}") from error
    return BundleFiles(location, *contents)


def parse_bundle(files: BundleFiles) -> Bundle:
    """Turn a bundle's files into a head and all that is needed to use it.

    Raises:
        BundleError: as :func:`load_bundle`.
    """
    folder = files.location
    try:
        description = json.loads(files.description)
    except ValueError as error:
        raise BundleError(f"{folder} is no bundle that can be read: {_DESCRIPTION}: {error}") from error
    _check_description(folder, description, files.weights)
    tensors = safetensors.torch.load(files.weights)
    dims, imputed, hidden = description["dims"], description["imputed"], tuple(description["dims"]["hidden"])
    inputs = Inputs(_pop(folder, tensors, _MEAN), _pop(folder, tensors, _SCALE), imputed)
    if (len(inputs.mean), len(inputs.scale), inputs.width) != (dims["embedding"], dims["embedding"], dims["inputs"]):
        raise BundleError(
            f"{folder}: statistics of {len(inputs.mean)} and {len(inputs.scale)} embedding columns and {len(imputed)} "
            f"extra inputs don't fit the dims {dims}"
        )
    head = Head(inputs.width, hidden)
    try:
        head.load_state_dict(tensors)
    except RuntimeError as error:
        raise BundleError(f"{folder}: the weights don't fit the dims {dims}: {error}") from error
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise BundleError(f"{folder}: the weights hold NaN or infinity")
    calibration = _read_calibration(folder, description["calibration"])
    thresholds = _read_thresholds(folder, description["thresholds"])
    extractor, training = description["extractor"], description["training"]
    return Bundle(head.eval(), inputs, hidden, extractor, calibration, thresholds, training)


def _read_calibration(folder: str, lines: Any) -> Calibration:
    try:
        return Calibration(*(np.array([lines[name][finding] for finding in FINDINGS]) for name in _LINES))
    except (TypeError, KeyError, ValueError) as error:
        raise BundleError(f"{folder}/{_DESCRIPTION}: the calibration can't be used: {error!r}") from error


def _read_thresholds(folder: str, rules: Any) -> dict[str, dict[str, float | None]]:
    expected = {*FINDINGS, ANY_FINDING}
    for rule, thresholds in rules.items():
        if set(thresholds) != expected:
            raise BundleError(
                f"{folder}/{_DESCRIPTION}: thresholds of {rule!r} are for {sorted(thresholds)}; expected {sorted(expected)}"
            )
        odd = {name: value for name, value in thresholds.items() if value is not None and not 0 <= value <= 1}
        if odd:
            raise BundleError(f"{folder}/{_DESCRIPTION}: thresholds of {rule!r} are no probabilities: {odd}")
    return dict(rules)


def _serialize(bundle: Bundle) -> bytes:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in bundle.head.state_dict().items()}
    tensors[_MEAN] = torch.from_numpy(bundle.inputs.mean)
    tensors[_SCALE] = torch.from_numpy(bundle.inputs.scale)
    return safetensors.torch.save(tensors)


def _describe(bundle: Bundle, sha256: str) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "labels": list(FINDINGS),
        "extractor": bundle.extractor,
        "dims": {
            "embedding": len(bundle.inputs.mean),
            "inputs": bundle.inputs.width,
            "hidden": list(bundle.hidden),
            "outputs": len(FINDINGS),
        },
        **_describe_use(bundle),
        "training": dict(bundle.training),
        "versions": {
            "cxrfeat": __version__,
            **{name: version(name) for name in ("torch", "numpy", "pyarrow", "scikit-learn", "safetensors")},
        },
        "sha256": sha256,
    }


def _describe_use(bundle: Bundle) -> dict[str, Any]:
    """Return what decides the answers beside weights and extractor."""
    lines = (bundle.calibration.slope, bundle.calibration.intercept)
    return {
        "imputed": {name: bundle.inputs.imputed[name] for name in bundle.inputs.covariates},
        "calibration": {
            name: dict(zip(FINDINGS, line.tolist(), strict=True)) for name, line in zip(_LINES, lines, strict=True)
        },
        "thresholds": {rule: dict(thresholds) for rule, thresholds in bundle.thresholds.items()},
    }


def _check_description(folder: str, description: Any, weights: bytes) -> None:
    """Check all that must hold before the weights are looked at; format first, since it decides what the rest means."""
    found = description.get("format") if isinstance(description, dict) else None
    if not isinstance(found, int) or found < 1:
        raise BundleError(f"{folder}/{_DESCRIPTION} has format {found!r}; expected a number from 1 to {FORMAT}")
    if found > FORMAT:
        raise BundleError(f"{folder} has format {found}, this version reads up to {FORMAT}: use a newer cxrfeat")
    missing = {"labels", "extractor", "dims", "imputed", "calibration", "thresholds", "training", "sha256"}.difference(
        description
    )
    if missing:
        raise BundleError(f"{folder}/{_DESCRIPTION} lacks {sorted(missing)}")
    missing = {"embedding", "inputs", "hidden"}.difference(description["dims"])
    if missing:
        raise BundleError(f"{folder}/{_DESCRIPTION}: dims lack {sorted(missing)}")
    if description["labels"] != list(FINDINGS):
        raise BundleError(f"{folder} has labels {description['labels']}; expected {list(FINDINGS)} in this order")
    if not set(description["imputed"]) <= set(COVARIATES):
        raise BundleError(f"{folder} uses the inputs {sorted(description['imputed'])}; known are {list(COVARIATES)}")
    digest = hashlib.sha256(weights).hexdigest()
    if digest != description["sha256"]:
        raise BundleError(f"{folder}/{_WEIGHTS} has sha256 {digest}, but {_DESCRIPTION} says {description['sha256']}")


def _pop(folder: str, tensors: dict[str, torch.Tensor], name: str) -> np.ndarray:
    if name not in tensors:
        raise BundleError(f"{folder}/{_WEIGHTS} lacks the tensor {name!r}; it holds {sorted(tensors)}")
    return tensors.pop(name).numpy()


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk: a file's own fsync does not."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
