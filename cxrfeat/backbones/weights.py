"""Find and load the weights of a backbone.

The fingerprint of an extractor identifies its backbone, weights and input. Embeddings may be compared, mixed or passed
to the same head only if their fingerprints are equal.
"""

from __future__ import annotations

import hashlib
import http.client
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from cxrfeat.backbones.backbone import Backbone
from cxrfeat.backbones.checkpoints import fit_state, read_state
from cxrfeat.errors import BundleError, ConfigError, WeightsError
from cxrfeat.images.preprocess import Fit, parse_name

RANDOM = "random"
"""Name of the weights of a seeded, untrained network: for trials, never for results."""

_RANDOM_SEED = 0


@dataclass(frozen=True)
class Weights:
    """File and digest of a backbone's weights.

    Attributes:
        path: local file, or None for the seeded random network.
        digest: sha256 of the file in hexadecimal, or ``random-seed0``.
    """

    path: Path | None
    digest: str


def find_weights(backbone: Backbone, weights: str | None) -> Weights:
    """Find weights by path or name: as a file, then in the source's cache, then by download from the source.

    Args:
        backbone: entry of the registry.
        weights: a path, a name such as ``IMAGENET1K_V1``, ``random``, or None for the backbone's default.

    Raises:
        WeightsError: the name is neither a file nor known, or the weights are not cached and the download fails.
    """
    if weights == RANDOM:
        return Weights(None, f"{RANDOM}-seed{_RANDOM_SEED}")
    path = Path(weights).expanduser() if weights else None
    if path is None or not path.is_file():
        path = _fetch_published(backbone, weights)
    with path.open("rb") as stream:
        return Weights(path.resolve(), hashlib.file_digest(stream, "sha256").hexdigest())


def _fetch_published(backbone: Backbone, name: str | None) -> Path:
    published = backbone.published
    names = list(published.names) if published else []
    if name is None and names:
        name = names[0]
    if published is None or name not in names:
        problem = f"weights {name!r} are neither a file nor a known name" if name else "no weights are published"
        raise WeightsError(
            f"{problem} for backbone {backbone.name!r}; expected a .pth or .safetensors file"
            + (f", or one of {', '.join(names)}" if names else "")
        )
    cached = published.cached(str(name))
    if cached.is_file():
        return cached
    try:
        return published.fetch(str(name))
    except (OSError, RuntimeError, ValueError, http.client.HTTPException) as error:
        raise WeightsError(
            f"cannot download weights {name} of {backbone.name} ({error}). Provide them in one of three ways: "
            f"(1) --weights PATH with a .pth or .safetensors file; (2) put {cached.name} into {cached.parent}; "
            f"(3) run once on a network that can reach {published.host}"
        ) from error


def cached_weights(backbone: Backbone) -> Path:
    """Return the path of a backbone's default weights in its source's cache; the file need not exist.

    Raises:
        WeightsError: no weights are published for the backbone.
    """
    if backbone.published is None or not backbone.published.names:
        raise WeightsError(f"no weights are published for backbone {backbone.name!r}")
    return backbone.published.cached(backbone.published.names[0])


def fingerprint(backbone: Backbone, weights: Weights) -> str:
    """Return the extractor's fingerprint, ``backbone:first 16 hex digits of the weights' sha256:input``."""
    return f"{backbone.name}:{weights.digest[:16]}:{backbone.input.name}"


def parse_fingerprint(extractor: str) -> tuple[str, str, tuple[int, Fit] | None]:
    """Return the backbone, the digits of the weights, and the size and fit of the input that a fingerprint names.

    Example:
        >>> parse_fingerprint("timm:xception:0123456789abcdef:gray299-bicubic-half")
        ('timm:xception', '0123456789abcdef', (299, <Fit.SQUASH: 'squash'>))
    """
    backbone, digits, name = ["", "", *extractor.rsplit(":", 2)][-3:]
    return backbone, digits, parse_name(name)


def check_backbone(backbone: Backbone, extractor: str) -> None:
    """Check that an extractor has this backbone and input, before any weights are searched.

    Args:
        backbone: the requested backbone.
        extractor: fingerprint of the extractor that a head was trained on.

    Raises:
        BundleError: the head needs another backbone or input; the message names the options.
    """
    needed, digits, shape = parse_fingerprint(extractor)
    if backbone.name != needed:
        raise BundleError(
            f"the head was trained on {extractor!r}: it needs --backbone {needed}, not {backbone.name}, and weights "
            f"whose sha256 starts with {digits}"
        )
    if shape is not None and shape != (backbone.input.size, backbone.input.fit):
        raise BundleError(
            f"the head was trained on {extractor!r}: it needs --input-size {shape[0]} --fit {shape[1]}, not "
            f"{backbone.input.size} and {backbone.input.fit}"
        )


def load_network(backbone: Backbone, weights: Weights) -> nn.Module:
    """Build the network without its classifier and load its weights: eval mode, no gradients, fp32, on the CPU.

    Raises:
        WeightsError: the file is unreadable, does not match the network (the message groups the differences), or would
            give wrong features, because it was trained for another layout or pixel scale.
    """
    if weights.path is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_RANDOM_SEED)
            network = backbone.build(backbone.input.size)
        return _freeze(network, backbone)
    state = read_state(weights.path, backbone)
    if backbone.skeleton is None:
        with torch.random.fork_rng(devices=[]):
            network = backbone.build(backbone.input.size)
    else:
        with torch.device("meta"):
            network = backbone.skeleton()
    fitted = fit_state(state, network, backbone, weights.path)
    if backbone.check_state is not None:
        backbone.check_state(backbone.name, fitted, weights.path)
    network.load_state_dict(fitted, strict=False, assign=True)
    return _freeze(network, backbone)


def _freeze(network: nn.Module, backbone: Backbone) -> nn.Module:
    for name in dict(network.named_children()):
        if f"{name}.".startswith(backbone.classifier):
            setattr(network, name, nn.Identity())
    return network.float().eval().requires_grad_(False)


def check_network(backbone: Backbone, weights: Weights) -> None:
    """Load a network and embed one black image, so that an error is one line on the driver.

    Raises:
        WeightsError: the weights do not match the network.
        ConfigError: the network does not accept the input size.
    """
    spec = backbone.input
    try:
        trunk = backbone.trunk(load_network(backbone, weights))
        with torch.inference_mode():
            trunk(torch.zeros(1, spec.channels, spec.size, spec.size))
    # Networks check their input size in different ways: timm asserts, torch raises RuntimeError.
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"backbone {backbone.name} does not accept {spec.size} pixels: {error}") from error
