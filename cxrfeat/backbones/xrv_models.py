"""Backbones of torchxrayvision, an optional package: networks trained on chest X-rays, ``xrv:MODEL``.

They take one channel of pixels in −1024 to 1024.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cxrfeat.backbones.backbone import Backbone
from cxrfeat.backbones.torchvision_models import LastActivation, resnet_trunk
from cxrfeat.errors import ConfigError
from cxrfeat.images.preprocess import InputSpec

_DENSENET, _RESNET = "densenet121-res", "resnet50-res"


@dataclass(frozen=True)
class XrvWeights:
    """Weights that torchxrayvision publishes for a model; see :class:`.backbone.PublishedWeights`.

    Attributes:
        model: name of the model.
    """

    model: str
    host = "github.com"

    @property
    def names(self) -> Sequence[str]:
        """Name of the weights, which is that of the model."""
        return [self.model]

    def cached(self, name: str) -> Path:
        """Return the file in torchxrayvision's cache."""
        from torchxrayvision.models import model_urls  # noqa: PLC0415

        folder = Path.home() / ".torchxrayvision" / "models_data"
        return folder / str(model_urls[name]["weights_url"]).rsplit("/", 1)[1]

    def fetch(self, name: str) -> Path:
        """Download into torchxrayvision's cache."""
        from torchxrayvision.models import model_urls  # noqa: PLC0415

        file = self.cached(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(model_urls[name]["weights_url"], str(file))
        return file


def find_model(name: str) -> Backbone:
    """Return the backbone of a model of torchxrayvision.

    Raises:
        ConfigError: torchxrayvision is not installed, or has no such model.
    """
    known = list_models()
    if not known:
        raise ConfigError(f"backbone xrv:{name} needs the package torchxrayvision: pip install 'cxrfeat[xrv]'")
    if name not in known:
        raise ConfigError(f"torchxrayvision has no model {name!r}; expected one of {', '.join(known)}")
    is_densenet = name.startswith(_DENSENET)
    size = int(name.removeprefix(_DENSENET if is_densenet else _RESNET).partition("-")[0])
    return Backbone(
        f"xrv:{name}",
        1024 if is_densenet else 2048,
        _build_densenet if is_densenet else _build_resnet,
        LastActivation if is_densenet else resnet_trunk,
        input=InputSpec(size=size, channels=1, mean=(0.5,), std=(1 / 2048,)),
        parameters=6_947_584 if is_densenet else 23_501_760,
        licence="Apache-2.0",
        classifier=("classifier.", "fc.", "op_threshs"),
        published=XrvWeights(name),
        pickled_classes=_densenet_classes if is_densenet else None,
    )


def list_models() -> list[str]:
    """Return the names of torchxrayvision's models, without the prefix; [] if it is not installed."""
    try:
        from torchxrayvision.models import model_urls  # noqa: PLC0415
    except ModuleNotFoundError:
        return []
    return sorted(name for name in model_urls if name.startswith((_DENSENET, _RESNET)))


def _build_densenet(_: int) -> nn.Module:
    from torchxrayvision.models import DenseNet  # noqa: PLC0415

    network: nn.Module = DenseNet(weights=None)
    return network


def _build_resnet(_: int) -> nn.Module:
    # torchxrayvision's own class downloads weights in its constructor; this is the network inside it.
    from torchvision.models import resnet50  # noqa: PLC0415

    network: nn.Module = resnet50(weights=None)
    network.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    return network


@functools.cache
def _densenet_classes() -> tuple[Any, ...]:
    """Return the classes in a pickled DenseNet: torchxrayvision publishes whole networks instead of states."""
    from torchxrayvision import models  # noqa: PLC0415

    layers = (nn.Sequential, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.Linear)
    return (models.DenseNet, models._DenseBlock, models._DenseLayer, models._Transition, *layers)
