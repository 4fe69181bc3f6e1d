"""Backbones of timm, an optional package: ``timm:MODEL`` or ``timm:MODEL.TAG``.

The embedding is what timm's network returns without a classifier (``num_classes=0``), and the input is that of the
model's default weights, fitted by squashing.
"""

from __future__ import annotations

import difflib
import functools
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cxrfeat.backbones.backbone import Backbone, State
from cxrfeat.backbones.torchvision_models import check_pixel_scale
from cxrfeat.errors import ConfigError
from cxrfeat.images.preprocess import MAX_SIZE, InputSpec, Interpolation

_FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of a model's weights in its hub repository, in the order in which timm prefers them."""

_PROBE_TOLERANCE = 1e-4
"""Largest difference, relative to the largest value, between an embedding and the mean of its map."""


@dataclass(frozen=True)
class TimmWeights:
    """Weights that timm names for a model; see :class:`.backbone.PublishedWeights`.

    Attributes:
        tag: name of the weights.
        repository: repository on the hub.
    """

    tag: str
    repository: str
    host = "huggingface.co"

    @property
    def names(self) -> Sequence[str]:
        """Name of the weights: other weights of a network are other models, ``timm:MODEL.TAG``."""
        return [self.tag]

    def cached(self, name: str) -> Path:
        """Return the file in the hub's cache, or where it would be."""
        from huggingface_hub import constants, try_to_load_from_cache  # noqa: PLC0415

        found = [try_to_load_from_cache(self.repository, file) for file in _FILES]
        folder = Path(constants.HF_HUB_CACHE) / f"models--{self.repository.replace('/', '--')}"
        return next((Path(path) for path in found if isinstance(path, str)), folder / _FILES[0])

    def fetch(self, name: str) -> Path:
        """Download into the hub's cache."""
        from huggingface_hub import hf_hub_download  # noqa: PLC0415
        from huggingface_hub.errors import EntryNotFoundError  # noqa: PLC0415

        try:
            return Path(hf_hub_download(self.repository, _FILES[0]))
        except EntryNotFoundError:
            return Path(hf_hub_download(self.repository, _FILES[1]))


class _TimmTrunk(nn.Module):
    """A network of timm without classifier; returns the last feature map where its mean is the embedding."""

    def __init__(self, network: Any, *, returns_map: bool) -> None:
        super().__init__()
        self.network = network
        self.returns_map = returns_map

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Turn (N, 3, H, W) standardised images into (N, dim, h, w) maps or (N, dim) vectors."""
        features = self.network.forward_features(images)
        result: torch.Tensor = features if self.returns_map else self.network.forward_head(features, pre_logits=True)
        return result


@torch.inference_mode()
def _is_mean_of_map(network: Any, size: int) -> bool:
    """Return True if a network's embedding is the mean of its last feature map: seen on one image of seeded noise."""
    noise = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    maps = network.forward_features(noise)
    embedding = network.forward_head(maps, pre_logits=True)  # (1, dim)
    if maps.ndim != 4 or maps.shape[:2] != embedding.shape:
        return False
    scale = float(embedding.abs().max())
    return scale > 0 and float((maps.mean(dim=(2, 3)) - embedding).abs().max()) <= _PROBE_TOLERANCE * scale


def find_model(name: str) -> Backbone:
    """Return the backbone of a model of timm.

    Raises:
        ConfigError: timm is not installed, or has no such model, or the model's input is not a square of 3 channels.
    """
    try:
        import timm  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ConfigError(f"backbone timm:{name} needs the package timm: pip install 'cxrfeat[timm]'") from error
    if not timm.is_model(name):
        near = difflib.get_close_matches(name.partition(".")[0], timm.list_models(), 3)
        raise ConfigError(
            f"timm {timm.__version__} has no model {name!r}; "
            + (f"similar names: {', '.join(near)}" if near else "cxrfeat backbones 'timm:*' lists its models")
        )
    with torch.device("meta"), _quiet():
        network: Any = timm.create_model(name, pretrained=False, num_classes=0)
    config = network.pretrained_cfg
    channels, height, width = config["input_size"]
    if channels != 3 or height != width or height > MAX_SIZE:
        raise ConfigError(f"backbone timm:{name} takes {channels}×{height}×{width} images; expected 3×N×N")
    classifier = config.get("classifier") or ()
    sized = bool(config.get("fixed_input_size"))
    return Backbone(
        f"timm:{name}",
        int(network.head_hidden_size),
        functools.partial(_build, name, sized=sized),
        _trunk,
        input=InputSpec(
            size=height,
            interpolation=Interpolation.BILINEAR if config["interpolation"] == "bilinear" else Interpolation.BICUBIC,
            mean=tuple(map(float, config["mean"])),
            std=tuple(map(float, config["std"])),
        ),
        size_step=_patch_size(network) if sized else 1,
        pooling=f"timm's {getattr(network, 'global_pool', None) or 'head'}" if sized else "timm's head",
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        licence=str(config.get("license") or "see timm"),
        classifier=tuple(f"{part}." for part in ([classifier] if isinstance(classifier, str) else classifier)),
        published=TimmWeights(config.get("tag") or "default", config["hf_hub_id"]) if config.get("hf_hub_id") else None,
        check_state=check_pixel_scale,
        adapt_state=_filter_state,
    )


def list_models(pattern: str) -> list[str]:
    """Return the names of timm's models that match a shell pattern, without the prefix; [] without timm."""
    try:
        import timm  # noqa: PLC0415
    except ModuleNotFoundError:
        return []
    return list(timm.list_models(pattern))


def _patch_size(network: Any) -> int:
    patch = getattr(getattr(network, "patch_embed", None), "patch_size", 1)
    return int(patch[0] if isinstance(patch, tuple) else patch)


def _build(name: str, size: int, *, sized: bool) -> nn.Module:
    """Build a model with its random weights; ``sized`` ones have position embeddings for one input size."""
    import timm  # noqa: PLC0415

    options: dict[str, Any] = {"img_size": size} if sized else {}
    with _quiet():
        network: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, **options)
    network.input_size = size  # type: ignore[assignment]
    return network


def _trunk(network: Any) -> nn.Module:
    return _TimmTrunk(network, returns_map=_is_mean_of_map(network, network.input_size))


def _filter_state(state: State, network: Any) -> State:
    """Convert a state with the filter of the model's module, which knows original names and other input sizes."""
    module = sys.modules[type(network).__module__]
    convert = getattr(module, "checkpoint_filter_fn", None)
    converted: Mapping[str, torch.Tensor] = state if convert is None else convert(dict(state), network)
    return dict(converted)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence timm's warnings about renamed models: the name works."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="timm")
        yield
