"""What the registry promises: the right weights from the right place, fitted exactly, or an error that says what to do."""

from __future__ import annotations

import hashlib
import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch

from cxrfeat.backbones.registry import BACKBONES, Backbone, get_backbone
from cxrfeat.backbones.weights import Weights, find_weights, fingerprint, load_network
from cxrfeat.errors import ConfigError, WeightsError
from cxrfeat.images import preprocess
from tests import fakes

State = dict[str, torch.Tensor]


RESNET50, RESNET50_V1 = BACKBONES["resnet50"], BACKBONES["resnet50-v1"]
CACHED_NAME = "resnet50-0676ba61.pth"


@pytest.fixture(scope="module")
def small_state() -> State:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        state: State = fakes.build_small().state_dict()
    return state


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put torchvision's cache into a fresh folder and cut the network off."""

    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


def test_a_path_goes_before_everything(tmp_path: Path, hub: Path) -> None:
    """A file is taken as it is and named by the sha256 of its bytes, even if the cache has the default."""
    (hub / CACHED_NAME).write_bytes(b"cached")
    path = tmp_path / "mine.pth"
    path.write_bytes(b"mine")
    assert find_weights(RESNET50, str(path)) == Weights(path.resolve(), hashlib.sha256(b"mine").hexdigest())


@pytest.mark.parametrize("name", [None, "IMAGENET1K_V1"])
def test_the_cache_goes_before_the_network(name: str | None, hub: Path) -> None:
    """The default weights are IMAGENET1K_V1, and a file in torchvision's cache needs no network."""
    (hub / CACHED_NAME).write_bytes(b"cached")
    found = find_weights(RESNET50, name)
    assert found == Weights((hub / CACHED_NAME).resolve(), hashlib.sha256(b"cached").hexdigest())


def test_the_download_is_checked_and_lands_in_the_cache(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes from the network is compared with its published hash, and never unpickled as code."""
    asked: dict[str, Any] = {}

    def download(url: str, **options: Any) -> None:
        asked.update(options, url=url)
        (hub / url.rsplit("/", 1)[1]).write_bytes(b"downloaded")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", download)
    found = find_weights(RESNET50, "IMAGENET1K_V2")
    assert found.path == (hub / "resnet50-11ad3fa6.pth").resolve()
    assert asked["url"] == "https://download.pytorch.org/models/resnet50-11ad3fa6.pth"
    assert asked["check_hash"] and asked["weights_only"]


def test_without_network_the_three_ways_are_named(hub: Path) -> None:
    """Whoever sits behind a firewall reads what to do: a path, the cache folder, or which host to reach."""
    with pytest.raises(WeightsError, match="no route to host") as refused:
        find_weights(RESNET50, None)
    for way in ("--weights PATH", f"put {CACHED_NAME} into {hub}", "download.pytorch.org"):
        assert way in str(refused.value)


@pytest.mark.parametrize(
    ("backbone", "weights", "said"),
    [
        (RESNET50, "IMAGENET", ["'IMAGENET'", "neither a file nor known", "'IMAGENET1K_V1'", "'IMAGENET1K_V2'"]),
        (RESNET50, "gone.pth", ["'gone.pth'", "neither a file nor known", ".safetensors"]),
        (RESNET50_V1, None, ["no weights are published for backbone 'resnet50-v1'", ".pth or .safetensors"]),
        (RESNET50_V1, "IMAGENET1K_V1", ["'IMAGENET1K_V1'", "'resnet50-v1'", ".pth or .safetensors"]),
    ],
)
def test_unknown_weights_are_refused_with_what_is_known(
    backbone: Backbone, weights: str | None, said: list[str], hub: Path
) -> None:
    """The message names what was asked for and what there is; nothing is guessed."""
    with pytest.raises(WeightsError) as refused:
        find_weights(backbone, weights)
    assert [words for words in said if words not in str(refused.value)] == []


def test_an_unknown_backbone_is_refused_with_the_known_ones() -> None:
    """A typing error in --backbone lists the registry."""
    with pytest.raises(ConfigError, match=r"'resnet51'.*\['resnet50', 'resnet50-v1'\]"):
        get_backbone("resnet51")


def test_the_fingerprint_names_backbone_weights_and_preprocessing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fingerprint is backbone:16 digits:preprocessing, and changes with each of the three."""
    one = fingerprint(RESNET50, Weights(Path("x"), "0123456789abcdef" * 4))
    assert one == "resnet50:0123456789abcdef:gray224-bilinear-imagenet"
    assert fingerprint(RESNET50_V1, Weights(Path("x"), "0123456789abcdef" * 4)) != one
    assert fingerprint(RESNET50, Weights(Path("x"), "1" + "0123456789abcdef" * 4)) != one
    assert fingerprint(RESNET50, Weights(Path("y"), "0123456789abcdef" * 4)) == one
    monkeypatch.setattr(preprocess, "NAME", "other")
    assert fingerprint(RESNET50, Weights(Path("x"), "0123456789abcdef" * 4)) != one


def test_random_weights_say_so() -> None:
    """A network that was never trained can't pass for one that was."""
    weights = find_weights(RESNET50, "random")
    assert weights == Weights(None, "random-seed0")
    assert "random-seed0" in fingerprint(RESNET50, weights)


@pytest.mark.parametrize(
    ("backbone", "conv1", "conv2"),
    [(RESNET50, (1, 1), (2, 2)), (RESNET50_V1, (2, 2), (1, 1))],
    ids=lambda x: str(x)[:30],
)
def test_the_stride_of_a_stage_is_where_the_layout_has_it(
    backbone: Backbone, conv1: tuple[int, int], conv2: tuple[int, int]
) -> None:
    """resnet50 halves the picture in the 3×3, resnet50-v1 in the first 1×1; the first stage and the rest never do."""
    with torch.device("meta"):
        network = backbone.build()
    for stage in (network.layer2, network.layer3, network.layer4):
        first: Any = stage[0]
        assert (first.conv1.stride, first.conv2.stride) == (conv1, conv2)
    rest = [*network.layer1, *network.layer2[1:], *network.layer3[1:], *network.layer4[1:]]
    assert {convolution.stride for block in rest for convolution in (block.conv1, block.conv2)} == {(1, 1)}


def test_random_networks_are_equal_and_leave_chance_alone() -> None:
    """The seeded network is the same each time, whatever was drawn before, and nobody's random numbers change."""
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first = load_network(fakes.SMALL, Weights(None, "random-seed0")).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(5)
    second = load_network(fakes.SMALL, Weights(None, "random-seed0")).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("weights", ["random", "file"])
def test_every_network_is_frozen(weights: str, small_state: State, tmp_path: Path) -> None:
    """Eval mode all the way down, no gradients, fp32, and outputs that move no buffer."""
    found = (
        Weights(None, "random-seed0") if weights == "random" else fakes.save_weights(tmp_path / "w.pth", small_state)
    )
    network = load_network(fakes.SMALL, found)
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    before = {name: value.clone() for name, value in network.named_buffers()}
    network(torch.rand(2, 3, 64, 64))
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())


def test_pth_and_safetensors_give_the_same_network(small_state: State, tmp_path: Path) -> None:
    """The format of the file does not matter, nor does a classifier or a step counter that is missing."""
    lean = {name: value for name, value in small_state.items() if not name.startswith("fc.") and "num_b" not in name}
    pictures = torch.rand(2, 3, 64, 64)
    files = [("a.pth", small_state), ("a.safetensors", small_state), ("b.pth", lean), ("b.safetensors", lean)]
    outputs = [load_network(fakes.SMALL, fakes.save_weights(tmp_path / name, state))(pictures) for name, state in files]
    assert outputs[0].shape == (2, 2048)
    assert all(torch.equal(output, outputs[0]) for output in outputs)
    assert outputs[0].std() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_stored_in_another_precision_become_fp32(
    dtype: torch.dtype, small_state: State, tmp_path: Path
) -> None:
    """The network is fp32 whatever the file holds, so that BatchNorm is folded in fp32."""
    halves = {name: value.to(dtype) if value.is_floating_point() else value for name, value in small_state.items()}
    network = load_network(fakes.SMALL, fakes.save_weights(tmp_path / "w.safetensors", halves))
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert {buffer.dtype for name, buffer in network.named_buffers() if "num_b" not in name} == {torch.float32}


def test_full_size_weights_load(trained: State, trained_file: Path) -> None:
    """Both layouts of the real resnet50 take a trained state whole, and their features differ."""
    networks = [
        load_network(backbone, find_weights(backbone, str(trained_file))) for backbone in (RESNET50, RESNET50_V1)
    ]
    for network in networks:
        state = network.state_dict()
        assert all(torch.equal(state[name], value) for name, value in trained.items() if "num_b" not in name)
    pictures = torch.rand(1, 3, 64, 64)
    assert not torch.allclose(networks[0](pictures), networks[1](pictures), rtol=0.1)
