"""Backbones of torchvision, one row each.

Importing torchvision takes as long as importing torch, so a network's module is imported when it is built.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cxrfeat.backbones.backbone import Backbone, State
from cxrfeat.errors import WeightsError
from cxrfeat.images.preprocess import InputSpec, Interpolation

PIXEL_SCALE_VARIANCE = 100.0
"""Median variance of the first BatchNorm above which a network was trained on 0–255 pixels; Keras' ResNet50: 3,400."""

_LICENCE = "BSD-3-Clause"
_BICUBIC = InputSpec(interpolation=Interpolation.BICUBIC)
_INCEPTION = InputSpec(size=299, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
"""Inception converts ImageNet's standardisation to −1…1 (``transform_input``); this spec gives −1…1 at once."""


@dataclass(frozen=True)
class TorchvisionWeights:
    """Weights that torchvision publishes for one of its networks; see :class:`.backbone.PublishedWeights`.

    Attributes:
        model: name of the network in torchvision.
    """

    model: str
    host = "download.pytorch.org"

    @property
    def names(self) -> Sequence[str]:
        """Names of the weights, such as IMAGENET1K_V1."""
        return list(self._urls)

    @property
    def _urls(self) -> Mapping[str, str]:
        from torchvision.models import get_model_weights  # noqa: PLC0415 -- slow to import, seldom needed

        return {weights.name: weights.url for weights in get_model_weights(self.model)}

    def cached(self, name: str) -> Path:
        """Return the file in torchvision's cache."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self._urls[name].rsplit("/", 1)[1]

    def fetch(self, name: str) -> Path:
        """Download into torchvision's cache; the hash in the file's name is checked."""
        torch.hub.load_state_dict_from_url(self._urls[name], map_location="cpu", check_hash=True, weights_only=True)
        return self.cached(name)


def check_pixel_scale(name: str, state: Mapping[str, torch.Tensor], path: Path, advice: str = "") -> None:
    """Reject weights that were trained on pixels of 0–255 for a network that gets standardised ones.

    The variance of the first BatchNorm is then in the thousands. The shapes are the same, so the weights would load.

    Raises:
        WeightsError: the variance is above :data:`PIXEL_SCALE_VARIANCE`.
    """
    variances = [value for key, value in state.items() if key.endswith("running_var")]
    variance = variances[0].median().item() if variances else 0.0
    if variance > PIXEL_SCALE_VARIANCE:
        advice = advice or f"Backbone {name} gets standardised pixels, so features would be wrong"
        raise WeightsError(
            f"{path} was trained on 0–255 pixels, as networks of Keras and Caffe are: the first BatchNorm has variance "
            f"{variance:.0f}, expected at most {PIXEL_SCALE_VARIANCE:.0f}. {advice}"
        )


class LastActivation(nn.Sequential):
    """Feature layers of a network that applies its last ReLU outside of them."""

    def __init__(self, network: Any) -> None:
        super().__init__(network.features, nn.ReLU())


def _features(network: Any) -> nn.Module:
    features: nn.Module = network.features
    return features


def resnet_trunk(network: Any) -> nn.Sequential:
    """Return a ResNet without its pooling and classifier."""
    stages = (network.layer1, network.layer2, network.layer3, network.layer4)
    return nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool, *stages)


class _Inception(nn.Sequential):
    """Inception v3 up to its pooling, in the order of torchvision's forward."""

    def __init__(self, network: Any) -> None:
        names = [
            *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1", "Conv2d_3b_1x1", "Conv2d_4a_3x3"),
            *("maxpool2", "Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d"),
            *("Mixed_6e", "Mixed_7a", "Mixed_7b", "Mixed_7c"),
        ]
        super().__init__(*(getattr(network, name) for name in names))


class _ClassToken(nn.Module):
    """Vision transformer without its head: (N, 3, H, W) → (N, dim), the class token after the last norm."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        network.heads = nn.Identity()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the (N, dim) class token."""
        token: torch.Tensor = self.network(images)
        return token


def _resize_positions(state: State, network: Any) -> State:
    """Interpolate the position embeddings of a vision transformer to the network's input size."""
    from torchvision.models.vision_transformer import interpolate_embeddings  # noqa: PLC0415

    resized: State = interpolate_embeddings(network.image_size, network.patch_size, dict(state))
    return resized


def _build(name: str, size: int, **options: Any) -> nn.Module:
    """Build a network of torchvision with its random weights; ``options`` go to its constructor."""
    from torchvision import models  # noqa: PLC0415

    if name.startswith("vit_"):
        options["image_size"] = size
    network: nn.Module = models.get_model(name, weights=None, **options)
    return network


def make_row(
    name: str, dim: int, parameters: int, trunk: Callable[[Any], nn.Module] = _features, **fields: Any
) -> Backbone:
    """Return the row of a network of torchvision.

    Args:
        name: name of the network in torchvision.
        dim: length of an embedding.
        parameters: number of parameters of the trunk.
        trunk: returns the part that computes the embedding; by default the module ``features``.
        fields: further fields of :class:`Backbone`; ``options`` are passed to the constructor of the network.
    """
    options = fields.pop("options", {})
    defaults: dict[str, Any] = {
        "licence": _LICENCE,
        "classifier": ("classifier.",),
        "check_state": check_pixel_scale,
        "published": TorchvisionWeights(name),
    }
    build = functools.partial(_build, name, **options)
    return Backbone(name, dim, build, trunk, parameters=parameters, **(defaults | fields))


ROWS = (
    make_row("resnet18", 512, 11_176_512, resnet_trunk, classifier=("fc.",)),
    make_row("resnet101", 2048, 42_500_160, resnet_trunk, classifier=("fc.",)),
    make_row("densenet121", 1024, 6_953_856, LastActivation),
    make_row("mobilenet_v2", 1280, 2_223_872),
    make_row("mobilenet_v3_large", 960, 2_971_952),
    make_row("vgg16", 512, 14_714_688),
    make_row("efficientnet_b0", 1280, 4_007_548, input=_BICUBIC),
    make_row("convnext_tiny", 768, 27_818_592),
    make_row(
        "vit_b_16",
        768,
        85_798_656,
        _ClassToken,
        size_step=16,
        pooling="class token",
        classifier=("heads.",),
        adapt_state=_resize_positions,
    ),
    make_row(
        "inception_v3",
        2048,
        21_785_568,
        _Inception,
        input=_INCEPTION,
        min_size=75,
        classifier=("fc.", "AuxLogits."),
        options={"init_weights": True, "transform_input": False, "aux_logits": False},
    ),
)
