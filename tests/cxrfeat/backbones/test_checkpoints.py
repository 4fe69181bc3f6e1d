"""Tests of checkpoints: the wrappings of training programs are removed, but only where the rest fits exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cxrfeat.backbones.backbone import Backbone
from cxrfeat.backbones.checkpoints import PREFIXES
from cxrfeat.backbones.registry import get_backbone
from cxrfeat.backbones.weights import Weights, load_network
from cxrfeat.errors import WeightsError
from tests import fakes

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made: State = fakes.build_small().init_weights().state_dict()
    return made


def prefixed(prefix: str, state: Mapping[str, torch.Tensor]) -> State:
    return {prefix + name: value for name, value in state.items()}


def load(content: object, path: Path, backbone: Backbone = fakes.SMALL) -> State:
    loaded: State = load_network(backbone, fakes.save_weights(path, content)).state_dict()
    return loaded


Wrap = Callable[[State], object]

WRAPPED: dict[str, Wrap] = {
    "plain": lambda state: state,
    "lightning": lambda state: {"state_dict": prefixed("model.", state), "epoch": 3, "lr_schedulers": [{"x": 0.1}]},
    "a training program": lambda state: {"model": state, "optimizer": {"state": {}, "param_groups": []}, "step": 9},
    "model_state_dict": lambda state: {"model_state_dict": prefixed("module.", state), "loss": 0.5},
    "nested twice": lambda state: {"state_dict": {"model": state}},
    "two prefixes": lambda state: prefixed("module.model.", state),
    "compiled": lambda state: prefixed("_orig_mod.", state),
    "a new head beside the backbone": lambda state: {
        **prefixed("backbone.", {name: value for name, value in state.items() if not name.startswith("fc.")}),
        "head.weight": torch.zeros(14, 2048),
        "head.bias": torch.zeros(14),
    },
    "another size of head": lambda state: {**state, "fc.weight": torch.zeros(14, 2048), "fc.bias": torch.zeros(14)},
    "a head of two layers": lambda state: {
        **{name: value for name, value in state.items() if not name.startswith("fc.")},
        "fc.0.weight": torch.zeros(128, 2048),
        "fc.2.weight": torch.zeros(14, 128),
    },
}


@pytest.mark.parametrize("suffix", [".pth", ".ckpt"])
@pytest.mark.parametrize("kind", WRAPPED)
def test_wrappings_are_removed(kind: str, suffix: str, state: State, tmp_path: Path) -> None:
    """Every wrapping gives the same trunk as the plain state."""
    expected = {name: value for name, value in state.items() if not name.startswith("fc.") and "num_b" not in name}
    found = load(WRAPPED[kind](state), tmp_path / f"w{suffix}")
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("prefix", PREFIXES)
def test_each_prefix_is_removed_from_safetensors(prefix: str, state: State, tmp_path: Path) -> None:
    """Files without a pickle have prefixes too."""
    found = load(prefixed(prefix, state), tmp_path / "w.safetensors")
    assert torch.equal(found["layer4.0.conv3.weight"], state["layer4.0.conv3.weight"])


REFUSED: dict[str, Wrap] = {
    "an unknown prefix": lambda state: prefixed("student.", state),
    "a prefix of half the tensors": lambda state: {
        name if name.startswith("layer4") else f"module.{name}": value for name, value in state.items()
    },
    "a prefix in front of another network": lambda state: prefixed(
        "module.", {**state, "layer5.weight": torch.ones(1)}
    ),
    "a prefix without a tensor": lambda state: prefixed(
        "module.", {name: value for name, value in state.items() if name != "layer3.0.bn1.bias"}
    ),
    "a plain state and one tensor more": lambda state: {**state, "neck.weight": torch.ones(1)},
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_prefix_stays_unless_the_rest_fits(kind: str, state: State, tmp_path: Path) -> None:
    """Nothing is guessed: the differences of the file as it is are listed."""
    with pytest.raises(WeightsError, match="does not match backbone small; differences:"):
        load(REFUSED[kind](state), tmp_path / "w.pth")


class ForeignSettings:
    """Class of a training program whose instances its checkpoints contain."""


def test_objects_of_other_classes_are_refused(state: State, tmp_path: Path) -> None:
    """A checkpoint with hyperparameters of a class of its own would need unpickling code: it is refused."""
    with pytest.raises(WeightsError, match="as plain tensors"):
        load({"state_dict": state, "hyper_parameters": ForeignSettings()}, tmp_path / "w.ckpt")


def test_positions_are_resized_to_the_input(tmp_path: Path) -> None:
    """A vision transformer of 224 pixels loads at another size, with its position embeddings interpolated."""
    backbone = get_backbone("vit_b_16")
    network: Any = backbone.build(224)
    path = tmp_path / "vit.pth"
    torch.save(network.state_dict(), path)
    resized = load_network(backbone.with_input(96), Weights(path, "0" * 64))
    positions: Any = resized.get_parameter("encoder.pos_embedding")
    assert positions.shape == (1, 1 + 6 * 6, 768)
    torch.testing.assert_close(positions[:, 0], network.encoder.pos_embedding[:, 0])
    with pytest.raises(WeightsError, match="does not match"):
        load_network(replace(backbone.with_input(96), adapt_state=None), Weights(path, "0" * 64))


def test_pixel_scale_is_checked_for_every_convolutional_network(tmp_path: Path) -> None:
    """Weights that were trained on 0–255 pixels are refused by a network that gets standardised ones."""
    backbone = get_backbone("mobilenet_v2")
    state = backbone.build(224).state_dict()
    state["features.0.1.running_var"] = torch.full((32,), 5000.0)
    with pytest.raises(WeightsError, match=r"variance 5000.*mobilenet_v2 gets standardised pixels"):
        load(state, tmp_path / "w.pth", backbone)
