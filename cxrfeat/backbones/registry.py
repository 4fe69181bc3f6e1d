"""Registry of frozen backbones.

To add a network, add a row to :data:`BACKBONES`. :mod:`cxrfeat.backbones.weights` finds and loads its weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cxrfeat.backbones.resnet import ResNet, resnet50_v1
from cxrfeat.errors import ConfigError


@dataclass(frozen=True)
class Backbone:
    """A frozen network of the registry.

    Attributes:
        name: value of ``--backbone`` on the command line.
        dim: length of an embedding, the spatial mean of the last feature map.
        build: builds the network with uninitialised weights.
        torchvision_name: name of the network in torchvision, if it has
            published weights; None if a file is needed.
    """

    name: str
    dim: int
    build: Callable[[], ResNet]
    torchvision_name: str | None = None


BACKBONES: dict[str, Backbone] = {
    backbone.name: backbone
    for backbone in (
        Backbone("resnet50", 2048, ResNet, "resnet50"),
        Backbone("resnet50-v1", 2048, resnet50_v1),
    )
}


def get_backbone(name: str) -> Backbone:
    """Return the backbone of a name.

    Raises:
        ConfigError: the name is unknown.
    """
    if name not in BACKBONES:
        raise ConfigError(f"unknown backbone {name!r}; known backbones: {', '.join(sorted(BACKBONES))}")
    return BACKBONES[name]
