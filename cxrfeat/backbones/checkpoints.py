"""Read checkpoints of any training program: unpack the state, remove its prefix and check that it fits the network."""

from __future__ import annotations

import contextlib
import logging
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from cxrfeat.backbones.backbone import Backbone, State
from cxrfeat.errors import WeightsError

_LOG = logging.getLogger(__name__)

_NESTED = ("state_dict", "model_state_dict", "model", "network")
"""Keys under which training programs store the state, beside the optimiser's."""

PREFIXES = ("module.", "model.", "backbone.", "encoder.", "net.", "_orig_mod.")
"""Prefixes that wrappers put in front of the names of a network's tensors, also one after the other."""

_SHOWN = 10
"""Maximum number of lines of differences in an error message."""

_SINGLY = 3
"""Differences of one kind in one module that are listed singly; more are counted."""


def read_state(path: Path, backbone: Backbone) -> State:
    """Return the tensors of a checkpoint by name, as the file has them.

    Accepted are safetensors, and files of ``torch.save`` with a state dict, alone or in a dict of a training program.

    Raises:
        WeightsError: the file is unreadable, holds anything but plain data, or no state dict.
    """
    content = _read(path, backbone)
    if isinstance(content, nn.Module):  # only of the classes that the backbone allows
        return _module_state(content)
    for _ in _NESTED:
        nested = next((key for key in _NESTED if isinstance(content, dict) and isinstance(content.get(key), dict)), "")
        content = content[nested] if nested else content
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items()
    ):
        raise WeightsError(f"{path} contains a {type(content).__name__}; expected a state dict (name → tensor)")
    return dict(content)


def _read(path: Path, backbone: Backbone) -> Any:
    classes = backbone.pickled_classes() if backbone.pickled_classes else ()
    allowed = torch.serialization.safe_globals(list(classes)) if classes else contextlib.nullcontext()
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        can_map = zipfile.is_zipfile(path)  # files of torch before 1.6 are not zip files and cannot be memory-mapped
        with allowed:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=can_map)
    except MemoryError:
        raise
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error}") from error
    # On foreign bytes the restricted unpickler raises a dozen exception types, KeyError among them. All mean the same,
    # and torch's own message is not shown because it advises to disable the restriction.
    except Exception as error:
        raise WeightsError(
            f"cannot read {path} as plain tensors ({type(error).__name__}); expected safetensors, or a state dict "
            "(name → tensor) written by torch.save"
        ) from error


def _module_state(network: nn.Module) -> State:
    for module in network.modules():
        module.__dict__.setdefault("_non_persistent_buffers_set", set())  # missing in files of torch before 1.6
    return dict(network.state_dict())


def fit_state(state: State, network: nn.Module, backbone: Backbone, path: Path) -> State:
    """Return the tensors of a state that a network's trunk needs, under the network's names.

    A prefix is removed if, and only if, the rest then fits the trunk exactly. The classifier may be missing or have
    another size.

    Args:
        state: tensors of the checkpoint.
        network: network that the state is for; its tensors may be on the meta device.
        backbone: the network's description.
        path: the checkpoint, for messages.

    Raises:
        WeightsError: the state does not fit; the message groups the differences.
    """
    expected = trunk_shapes(network, backbone)
    candidates = [state, *_without_prefix(state, {name.partition(".")[0] for name in network.state_dict()})]
    first: list[str] = []
    for candidate in candidates:
        needed = {name: value for name, value in candidate.items() if is_needed(name, backbone)}
        differences = list(_differences(needed, expected))
        if differences and backbone.adapt_state is not None:
            with contextlib.suppress(KeyError, RuntimeError, ValueError, IndexError, AttributeError):
                adapted = backbone.adapt_state(candidate, network)
                needed = {name: value for name, value in adapted.items() if is_needed(name, backbone)}
                if not list(_differences(needed, expected)):
                    differences = []
        if not differences:
            _check_finite(needed, path)
            return needed
        first = first or differences
    shown = first[:_SHOWN]
    more = [f"and {len(first) - len(shown)} more"] if len(first) > len(shown) else []
    lines = "\n  ".join([*shown, *more])
    raise WeightsError(f"{path} does not match backbone {backbone.name}; differences:\n  {lines}")


def trunk_shapes(network: nn.Module, backbone: Backbone) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors that the trunk needs, by name."""
    state = network.state_dict()
    return {name: tuple(value.shape) for name, value in state.items() if is_needed(name, backbone)}


def is_needed(name: str, backbone: Backbone) -> bool:
    """Return True for a tensor of the trunk: no classifier, and no step counter, which eval mode ignores."""
    return not name.startswith(backbone.classifier) and not name.endswith("num_batches_tracked")


def _without_prefix(state: Mapping[str, torch.Tensor], own: Collection[str]) -> Iterator[State]:
    """Yield the state with one prefix removed, then two, and so on.

    Tensors without the prefix are left out if they belong to another module, such as the head that was trained on top.
    """
    current = dict(state)
    while True:
        prefix = next((p for p in PREFIXES if any(name.startswith(p) for name in current)), None)
        if prefix is None or prefix.rstrip(".") in own:
            return
        inside = {name.removeprefix(prefix): value for name, value in current.items() if name.startswith(prefix)}
        outside = {name: value for name, value in current.items() if not name.startswith(prefix)}
        left_out = {name.partition(".")[0] for name in outside}
        if left_out & set(own):
            return  # tensors of the network itself are outside the prefix, so it is none
        if left_out:
            _LOG.debug("checkpoint modules beside %s: %s", prefix, ", ".join(sorted(left_out)))
        current = inside
        yield current


def _differences(actual: Mapping[str, torch.Tensor], expected: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """Yield lines about missing, unexpected and wrongly shaped tensors; many of one module become one line."""
    shapes = {name: tuple(value.shape) for name, value in actual.items()}
    missing = {name: f"missing {name} {shape}" for name, shape in expected.items() if name not in shapes}
    unexpected = {name: f"unexpected {name} {shape}" for name, shape in shapes.items() if name not in expected}
    reshaped = {
        name: f"{name} has shape {shapes[name]}, expected {shape}"
        for name, shape in expected.items()
        if shapes.get(name, shape) != shape
    }
    for kind, found in (("missing", missing), ("unexpected", unexpected), ("wrong shape:", reshaped)):
        modules: dict[str, list[str]] = {}
        for name, line in found.items():
            modules.setdefault(name.partition(".")[0], []).append(line)
        for module, lines in modules.items():
            if len(lines) <= _SINGLY:
                yield from lines
            else:
                example = lines[0].removeprefix(f"{kind} ")
                yield f"{kind} {len(lines)} tensors of {module}, for example {example}"


def _check_finite(state: Mapping[str, torch.Tensor], path: Path) -> None:
    damaged = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if damaged:
        more = f" and {len(damaged) - _SHOWN} more" if len(damaged) > _SHOWN else ""
        raise WeightsError(f"{path} contains NaN or Inf in {', '.join(damaged[:_SHOWN])}{more}")
