"""Tests of the networks of all sources: the embeddings of the source library's own forward and preprocessing."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torchvision import models, transforms
from torchvision.transforms import InterpolationMode

from cxrfeat.backbones.backbone import Backbone
from cxrfeat.backbones.encoder import EncoderSpec, FrozenEncoder
from cxrfeat.backbones.registry import BACKBONES, get_backbone
from cxrfeat.backbones.torchvision_models import make_row
from cxrfeat.backbones.weights import Weights, find_weights
from cxrfeat.device import Precision, has_native_bf16
from cxrfeat.errors import ConfigError, WeightsError
from cxrfeat.images.preprocess import to_model_input
from tests import fakes
from tests.cxrfeat.backbones.test_encoder import cosines

Embeddings = NDArray[np.float32]

RANDOM = Weights(None, "random-seed0")
FILMS = [fakes.gray_image(300, 260, seed=1), 255 - fakes.gray_image(240, 320, seed=2), fakes.gray_image(64, 64, seed=3)]
needs_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs the extra timm")
needs_xrv = pytest.mark.skipif(importlib.util.find_spec("torchxrayvision") is None, reason="needs the extra xrv")

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def torchvision_forward(name: str, build: Callable[[], Any], size: int) -> Embeddings:
    """Embed with torchvision's network and transforms; a hook records the input of the classifier's pooling."""
    network = seeded(build)
    recorded: dict[str, torch.Tensor] = {}

    def embed(images: torch.Tensor) -> torch.Tensor:
        if name.startswith(("densenet", "mobilenet_v2")):  # they pool in their forward
            maps: torch.Tensor = network.features(images)
            return (maps.relu() if name.startswith("densenet") else maps).mean((2, 3))
        output: torch.Tensor = network(images)
        return recorded["maps"].mean((2, 3)) if recorded else output

    if name.startswith("vit"):
        network.heads = nn.Identity()
    elif hasattr(network, "avgpool"):
        network.avgpool.register_forward_pre_hook(lambda _, inputs: recorded.update(maps=inputs[0]))
    return run(embed, size, IMAGENET, name)


def seeded(build: Callable[[], Any]) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().eval()


@torch.inference_mode()
def run(
    embed: Callable[[torch.Tensor], torch.Tensor], size: int, normalise: tuple[list[float], list[float]], name: str
) -> Embeddings:
    """Embed FILMS one by one with torchvision's transforms, resized to a square as our inputs are."""
    bicubic = name == "efficientnet_b0" or ":" in name
    pipeline = transforms.Compose(
        [
            transforms.Resize((size, size), InterpolationMode.BICUBIC if bicubic else InterpolationMode.BILINEAR),
            transforms.ToTensor(),
            transforms.Normalize(*normalise),
        ]
    )
    images = [pipeline(Image.fromarray(film).convert("RGB")).unsqueeze(0) for film in FILMS]
    made: Embeddings = torch.cat([embed(image) for image in images]).float().numpy()
    return made


def check_embeddings(name: str, expected: Embeddings, size: int | None = None, weights: Weights = RANDOM) -> None:
    """Check cosines in both precisions, and that neighbours and batches never change a bit."""
    spec = EncoderSpec(name, weights, Precision.FP32, input_size=size)
    encoder = FrozenEncoder(spec)
    inputs = np.stack([to_model_input(film, encoder.input) for film in FILMS])
    order = [2, 0, 0, 1, 2]  # more than a batch
    made = encoder.embed(inputs[order])
    assert made.shape == (5, encoder.dim)
    assert cosines(expected[:2], expected[1:]).max() < 0.99999, "the images must differ, or nothing is compared"
    assert cosines(made, expected[order]).min() >= 0.9999
    np.testing.assert_array_equal(made[[1, 0]], made[[2, 4]])
    other = encoder if spec.resolve().optimise else FrozenEncoder(replace(spec, batch_size=3))
    if encoder.has_maps:
        embeddings, maps = other.embed_with_maps(inputs)
        np.testing.assert_allclose(maps.mean((2, 3)), embeddings, rtol=1e-4, atol=1e-5 * float(np.abs(made).max()))
    else:
        embeddings = other.embed(inputs)
        with pytest.raises(ConfigError, match="no feature maps"):
            encoder.embed_with_maps(inputs)
    np.testing.assert_array_equal(embeddings[order], made)
    if has_native_bf16():
        half = FrozenEncoder(replace(spec, precision=Precision.BF16))
        assert cosines(half.embed(inputs), expected).min() >= 0.995


@pytest.mark.parametrize(
    ("name", "size"),
    [
        *((name, 224) for name in ("resnet18", "densenet121", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0")),
        *((name, 64) for name in ("resnet101", "vgg16", "vit_b_16", "convnext_tiny")),  # a full size takes long
    ],
)
def test_networks_of_torchvision(name: str, size: int) -> None:
    """The embedding is the mean of the map that enters the pooling, or the class token."""
    options = {"image_size": size} if name.startswith("vit") else {}
    expected = torchvision_forward(name, lambda: models.get_model(name, **options), size)
    check_embeddings(name, expected, size)


def test_inception_gets_the_input_it_was_trained_on() -> None:
    """Our input equals ImageNet's standardisation followed by torchvision's ``transform_input``."""
    build = lambda: models.inception_v3(init_weights=True, transform_input=True, aux_logits=False)  # noqa: E731
    check_embeddings("inception_v3", torchvision_forward("inception_v3", build, 299))


def test_two_taps_are_the_means_of_two_layers() -> None:
    """The last 2048 numbers are those of resnet50, the first 1024 the mean of layer3."""
    network = seeded(models.resnet50)
    recorded: dict[str, torch.Tensor] = {}
    network.layer3.register_forward_hook(lambda *parts: recorded.update(middle=parts[2]))
    network.layer4.register_forward_hook(lambda *parts: recorded.update(last=parts[2]))

    def embed(images: torch.Tensor) -> torch.Tensor:
        network(images)
        return torch.cat([recorded["middle"].mean((2, 3)), recorded["last"].mean((2, 3))], 1)

    check_embeddings("resnet50-l34", run(embed, 224, IMAGENET, "resnet50"))


@needs_timm
@pytest.mark.parametrize(
    ("model", "size"),
    [
        ("tf_efficientnet_lite0", 224),
        ("legacy_xception", 139),
        ("inception_resnet_v2", 139),
        ("vit_small_patch14_dinov2", 98),
        ("swin_tiny_patch4_window7_224", 224),
    ],
)
def test_networks_of_timm(model: str, size: int, tmp_path: Path) -> None:
    """The embedding is timm's own without a classifier, on an input with timm's mean, std and interpolation."""
    import timm

    config = timm.get_pretrained_cfg(model)
    options = {"img_size": size} if config.fixed_input_size else {}
    network = seeded(lambda: timm.create_model(model, num_classes=0, **options))
    for name, parameter in network.named_parameters():
        if name.endswith(".gamma"):  # DINOv2 scales its layers by 1e-5 at first, so that all images are alike
            nn.init.ones_(parameter)
    path = tmp_path / "w.pth"
    torch.save(network.state_dict(), path)
    expected = run(network, size, (list(config.mean), list(config.std)), f"timm:{model}")
    check_embeddings(f"timm:{model}", expected, size, Weights(path, "0" * 64))


@needs_timm
def test_timms_networks_at_another_size() -> None:
    """A transformer is built for the requested size; sizes between its patches are refused."""
    encoder = FrozenEncoder(EncoderSpec("timm:vit_tiny_patch16_224", RANDOM, Precision.FP32, input_size=96))
    assert encoder.embed(np.zeros((2, 96, 96), np.uint8)).shape == (2, 192)
    assert encoder.fingerprint.endswith(":gray96-bicubic-half")
    with pytest.raises(ConfigError, match="in multiples of 16"):
        EncoderSpec("timm:vit_tiny_patch16_224", RANDOM, input_size=100)


@needs_timm
def test_unknown_networks_of_timm_are_refused_with_similar_names() -> None:
    """A typing error is easy to fix."""
    with pytest.raises(ConfigError, match=r"has no model 'densnet121'; similar names: densenet121"):
        get_backbone("timm:densnet121")


@needs_xrv
def test_networks_of_torchxrayvision() -> None:
    """The embedding is torchxrayvision's own, on its own normalisation to −1024…1024."""
    import torchxrayvision

    network = seeded(lambda: torchxrayvision.models.DenseNet(weights=None))
    resized = [np.asarray(Image.fromarray(film).resize((224, 224), Image.Resampling.BILINEAR)) for film in FILMS]
    scaled = [torchxrayvision.utils.normalize(film.astype(np.float32), 255) for film in resized]
    with torch.inference_mode():
        expected = torch.cat([network.features2(torch.from_numpy(film)[None, None]) for film in scaled]).numpy()
    check_embeddings("xrv:densenet121-res224-nih", expected)
    with pytest.raises(ConfigError, match="has no model 'nih'; expected one of densenet121-res224-all, "):
        get_backbone("xrv:nih")


@needs_xrv
def test_a_pickled_network_of_torchxrayvision_is_read_without_running_code(tmp_path: Path) -> None:
    """Its published files are whole networks: only the classes of a DenseNet are allowed in them."""
    import torchxrayvision

    network = torchxrayvision.models.DenseNet(weights=None).eval()
    with torch.no_grad():
        network.features.conv0.weight *= 1.5
    path = tmp_path / "network.pt"
    torch.save(network, path)
    backbone = get_backbone("xrv:densenet121-res224-all")
    found = FrozenEncoder(EncoderSpec(backbone.name, find_weights(backbone, str(path)), Precision.FP32))
    plain = tmp_path / "state.pt"
    torch.save(network.state_dict(), plain)
    expected = FrozenEncoder(EncoderSpec(backbone.name, find_weights(backbone, str(plain)), Precision.FP32))
    inputs = np.stack([to_model_input(film) for film in FILMS])
    np.testing.assert_array_equal(found.embed(inputs), expected.embed(inputs))
    with pytest.raises(WeightsError, match="as plain tensors"):
        FrozenEncoder(EncoderSpec("densenet121", find_weights(backbone, str(path))))
    torch.save(models.resnet18(), path)
    with pytest.raises(WeightsError, match="as plain tensors"):
        FrozenEncoder(EncoderSpec(backbone.name, find_weights(backbone, str(path))))


@pytest.fixture
def added() -> Iterator[Backbone]:
    """Add one row for a network of torchvision that the registry does not have."""
    row = make_row("shufflenet_v2_x0_5", 1024, 0, shufflenet_trunk, classifier=("fc.",))
    BACKBONES[row.name] = row
    yield row
    del BACKBONES[row.name]


def shufflenet_trunk(network: Any) -> nn.Sequential:
    stages = (network.stage2, network.stage3, network.stage4)
    return nn.Sequential(network.conv1, network.maxpool, *stages, network.conv5)


def test_one_row_adds_a_network(added: Backbone) -> None:
    """A network of torchvision that has a row embeds, with its own weights' names and fingerprint."""
    network = seeded(lambda: models.get_model(added.name))
    network.fc = nn.Identity()
    check_embeddings(added.name, run(network, 224, IMAGENET, added.name))
    assert added.published is not None
    assert "IMAGENET1K_V1" in added.published.names
    assert EncoderSpec(added.name, RANDOM).fingerprint == "shufflenet_v2_x0_5:random-seed0:gray224-bilinear-imagenet"
