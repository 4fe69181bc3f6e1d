"""Registry of frozen backbones.

One row of :data:`BACKBONES` adds a network. Weights are found and loaded by :mod:`cxrfeat.backbones.weights`.
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
        name: as on the command line.
        dim: length of its embedding.
        build: makes the network without its classifier, weights not set; embedding = its feature map's spatial mean.
        published: torchvision's name of the network, whose weights it publishes; None: weights come from a file.
    """

    name: str
    dim: int
    build: Callable[[], ResNet]
    published: str | None = None


BACKBONES: dict[str, Backbone] = {
    backbone.name: backbone
    for backbone in (
        Backbone("resnet50", 2048, ResNet, "resnet50"),
        Backbone("resnet50-v1", 2048, resnet50_v1),
    )
}


def get_backbone(name: str) -> Backbone:
    """Look a backbone up.

    Raises:
        ConfigError: an unknown name.
    """
    if name not in BACKBONES:
        raise ConfigError(f"unknown backbone {name!r}; known are {sorted(BACKBONES)}")
    return BACKBONES[name]
