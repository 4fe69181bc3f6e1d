"""Registry of frozen backbones.

To add a network of torchvision, add a row to :data:`cxrfeat.backbones.torchvision_models.ROWS`. Names with a prefix,
such as ``timm:xception``, are looked up in the package of that name.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Mapping

from cxrfeat.backbones import resnet_models, timm_models, torchvision_models, xrv_models
from cxrfeat.backbones.backbone import Backbone
from cxrfeat.errors import ConfigError

DEFAULT_BACKBONE = "resnet50"

BACKBONES: dict[str, Backbone] = {
    backbone.name: backbone for backbone in (*resnet_models.ROWS, *torchvision_models.ROWS)
}
"""Backbones that need no further package, by name."""

SOURCES: Mapping[str, Callable[[str], Backbone]] = {
    "timm": timm_models.find_model,
    "xrv": xrv_models.find_model,
}
"""Function that returns the backbone of a name without its prefix, by prefix."""


def get_backbone(name: str) -> Backbone:
    """Return the backbone of a name.

    Raises:
        ConfigError: the name is unknown, or the package that has the network is not installed.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    prefix, separator, model = name.partition(":")
    if separator and prefix in SOURCES:
        return _find(prefix, model)
    known = sorted(BACKBONES)
    near = difflib.get_close_matches(name, known, 1)
    raise ConfigError(
        f"unknown backbone {name!r}{f', did you mean {near[0]}?' if near else ''}; expected timm:MODEL, xrv:MODEL or "
        f"one of {', '.join(known)}"
    )


@functools.lru_cache(maxsize=16)
def _find(prefix: str, model: str) -> Backbone:
    return SOURCES[prefix](model)
