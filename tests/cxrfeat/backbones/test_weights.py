"""Tests of weights: found in the right place, loaded exactly, and rejected with the cause if invalid or unsafe."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import urllib.error
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cxrfeat.backbones.backbone import Backbone
from cxrfeat.backbones.registry import BACKBONES
from cxrfeat.backbones.weights import (
    Weights,
    check_backbone,
    find_weights,
    fingerprint,
    load_network,
    parse_fingerprint,
)
from cxrfeat.errors import BundleError, WeightsError
from cxrfeat.images.preprocess import Fit
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
    """Use a fresh folder as torchvision's cache and disable the network."""

    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


def test_a_path_goes_before_everything(tmp_path: Path, hub: Path) -> None:
    """A file given by path is used, with the sha256 of its bytes, even if the default is cached."""
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
    """A download is compared with its published hash, and never unpickled as code."""
    requested: dict[str, Any] = {}

    def download(url: str, **options: Any) -> None:
        requested.update(options, url=url)
        (hub / url.rsplit("/", 1)[1]).write_bytes(b"downloaded")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", download)
    found = find_weights(RESNET50, "IMAGENET1K_V2")
    assert found.path == (hub / "resnet50-11ad3fa6.pth").resolve()
    assert requested["url"] == "https://download.pytorch.org/models/resnet50-11ad3fa6.pth"
    assert requested["check_hash"] and requested["weights_only"]


def test_without_network_the_three_ways_are_named(hub: Path) -> None:
    """Without a network the message offers three solutions: a path, the cache folder, or the host to reach."""
    with pytest.raises(WeightsError, match="no route to host") as refused:
        find_weights(RESNET50, None)
    for way in ("--weights PATH", f"put {CACHED_NAME} into {hub}", "download.pytorch.org"):
        assert way in str(refused.value)


@pytest.mark.parametrize(
    ("backbone", "weights", "expected"),
    [
        (RESNET50, "IMAGENET", ["'IMAGENET'", "neither a file nor a known", "IMAGENET1K_V1, IMAGENET1K_V2"]),
        (RESNET50, "gone.pth", ["'gone.pth'", "neither a file nor a known", ".safetensors"]),
        (RESNET50_V1, None, ["no weights are published for backbone 'resnet50-v1'", ".pth or .safetensors"]),
        (RESNET50_V1, "IMAGENET1K_V1", ["'IMAGENET1K_V1'", "'resnet50-v1'", ".pth or .safetensors"]),
    ],
)
def test_unknown_weights_are_refused_with_what_is_known(
    backbone: Backbone, weights: str | None, expected: list[str], hub: Path
) -> None:
    """The message names the requested and the available weights; nothing is guessed."""
    with pytest.raises(WeightsError) as refused:
        find_weights(backbone, weights)
    assert [words for words in expected if words not in str(refused.value)] == []


def test_the_fingerprint_names_backbone_weights_and_input() -> None:
    """A fingerprint is backbone:16 digits:input, and changes with each of the three."""
    one = fingerprint(RESNET50, Weights(Path("x"), "0123456789abcdef" * 4))
    assert one == "resnet50:0123456789abcdef:gray224-bilinear-imagenet"
    assert fingerprint(RESNET50_V1, Weights(Path("x"), "0123456789abcdef" * 4)) != one
    assert fingerprint(RESNET50, Weights(Path("x"), "1" + "0123456789abcdef" * 4)) != one
    assert fingerprint(RESNET50, Weights(Path("y"), "0123456789abcdef" * 4)) == one
    larger = RESNET50.with_input(448, Fit.PAD)
    padded = fingerprint(larger, Weights(Path("x"), "0123456789abcdef" * 4))
    assert padded == "resnet50:0123456789abcdef:gray448-pad-bilinear-imagenet"
    assert parse_fingerprint(padded) == ("resnet50", "0123456789abcdef", (448, Fit.PAD))
    assert parse_fingerprint("timm:xception:ab:gray") == ("timm:xception", "ab", None)


def test_another_backbone_or_input_than_the_heads_is_refused_by_name() -> None:
    """The message names the options that the head needs, before any file is searched."""
    check_backbone(RESNET50_V1, "resnet50-v1:4d487a61:gray")
    check_backbone(RESNET50.with_input(448), "resnet50:4d487a61:gray448-bilinear-imagenet")
    with pytest.raises(BundleError, match=r"needs --backbone resnet50-v1, not resnet50, and weights .* with 4d487a61"):
        check_backbone(RESNET50, "resnet50-v1:4d487a61:gray")
    with pytest.raises(BundleError, match=r"needs --input-size 448 --fit crop, not 224 and squash"):
        check_backbone(RESNET50, "resnet50:4d487a61:gray448-crop-bilinear-imagenet")


def test_random_weights_say_so() -> None:
    """The digest and the fingerprint of an untrained network say that it is random."""
    weights = find_weights(RESNET50, "random")
    assert weights == Weights(None, "random-seed0")
    assert "random-seed0" in fingerprint(RESNET50, weights)


def test_random_networks_are_equal_and_leave_chance_alone() -> None:
    """The seeded network is the same each time, and torch's global random state does not change."""
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
    images = torch.rand(2, 3, 64, 64)
    files = [("a.pth", small_state), ("a.safetensors", small_state), ("b.pth", lean), ("b.safetensors", lean)]
    outputs = [load_network(fakes.SMALL, fakes.save_weights(tmp_path / name, state))(images) for name, state in files]
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
    """Both layouts of the real resnet50 load a complete trained state, and their features differ."""
    networks = [
        load_network(backbone, find_weights(backbone, str(trained_file))) for backbone in (RESNET50, RESNET50_V1)
    ]
    for network in networks:
        state = network.state_dict()
        assert all(torch.equal(state[name], value) for name, value in trained.items() if "num_b" not in name)
    images = torch.rand(1, 3, 64, 64)
    assert not torch.allclose(networks[0](images), networks[1](images), rtol=0.1)


def refusal(backbone: Backbone, weights: Weights) -> str:
    with pytest.raises(WeightsError) as refused:
        load_network(backbone, weights)
    assert str(weights.path) in str(refused.value)
    return str(refused.value)


def test_differences_are_listed(small_state: State, tmp_path: Path) -> None:
    """Missing, unexpected and wrongly shaped tensors are listed by name, and nothing else."""
    state = {name: value.clone() for name, value in small_state.items()}
    del state["layer1.0.conv1.weight"], state["layer1.0.bn1.bias"]
    state["module.conv1.weight"] = torch.zeros(2, 3)
    state["layer2.0.bn1.weight"] = torch.zeros(7)
    lines = refusal(fakes.SMALL, fakes.save_weights(tmp_path / "w.pth", state)).splitlines()
    assert lines[0].endswith("does not match backbone small; differences:")
    assert sorted(lines[1:]) == [
        "  layer2.0.bn1.weight has shape (7,), expected (8,)",
        "  missing layer1.0.bn1.bias (4,)",
        "  missing layer1.0.conv1.weight (4, 64, 1, 1)",
        "  unexpected module.conv1.weight (2, 3)",
    ]


def test_other_networks_are_refused(small_state: State, tmp_path: Path) -> None:
    """Weights of a smaller network do not match resnet50; many differences of one module are one line."""
    lines = refusal(RESNET50, fakes.save_weights(tmp_path / "w.pth", small_state)).splitlines()
    assert lines[1] == "  missing 30 tensors of layer1, for example layer1.1.conv1.weight (64, 256, 1, 1)"
    wrong = [line for line in lines if line.startswith("  wrong shape: ")]
    assert " tensors of layer1, for example layer1.0.conv1.weight has shape (4, 64, 1, 1), expected (" in wrong[0]
    assert len(lines) <= 12


def test_numbers_that_are_not_finite_are_refused(small_state: State, tmp_path: Path) -> None:
    """The message names the tensors that contain NaN or Inf."""
    state = {name: value.clone() for name, value in small_state.items()}
    state["layer3.0.bn2.bias"][0] = torch.nan
    state["conv1.weight"][0, 0, 0, 0] = torch.inf
    message = refusal(fakes.SMALL, fakes.save_weights(tmp_path / "w.pth", state))
    assert message.endswith("contains NaN or Inf in conv1.weight, layer3.0.bn2.bias")


@pytest.mark.parametrize(
    ("content", "kind"),
    [([1, 2], "list"), (torch.zeros(3), "Tensor"), ({"state_dict": {"x": [1]}}, "dict"), ({"x": 1}, "dict")],
)
def test_anything_but_a_state_dict_is_refused(content: object, kind: str, tmp_path: Path) -> None:
    """The message names the type of lists, tensors and dicts of anything else."""
    assert f"contains a {kind}; expected a state dict" in refusal(
        fakes.SMALL, fakes.save_weights(tmp_path / "w.pth", content)
    )


def test_names_that_are_not_text_are_refused(tmp_path: Path) -> None:
    """A dict of tensors with numbers as names is not a state dict either."""
    refusal(fakes.SMALL, fakes.save_weights(tmp_path / "w.pth", {0: torch.zeros(1)}))


def legacy(content: object) -> bytes:
    """Save as PyTorch did before 1.6: a sequence of pickles instead of a zip file."""
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


GARBAGE: dict[str, bytes] = {
    "nothing": b"",
    "text": b"hello world\n",
    "a page of a proxy": b"<html><body>403 Forbidden</body></html>",
    "a git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 102\n",
    "Keras' HDF5": b"\x89HDF\r\n\x1a\n" + bytes(100),
    "a plain pickle": pickle.dumps({"x": [1, 2]}, protocol=2),
    "an old pickle": pickle.dumps({"x": [1, 2]}, protocol=0),
    "a zip that ends early": b"PK\x03\x04" + bytes(60),
    "an old checkpoint that ends early": legacy({"x": torch.zeros(9)})[:150],
    "letters that pickle knows": b"hj\x00",
    "a global that is not UTF-8": b"c\xb4\n",
    "a stack that is empty": b"b:",
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_is_refused(name: str, suffix: str, tmp_path: Path) -> None:
    """One line names the file, whatever it contains, and never advises to read it unsafely."""
    path = tmp_path / f"w{suffix}"
    path.write_bytes(GARBAGE[name])
    message = refusal(fakes.SMALL, Weights(path, "0"))
    assert f"cannot read {path} as plain tensors" in message
    assert "weights_only" not in message
    assert "\n" not in message


def test_a_missing_file_keeps_the_system_message(tmp_path: Path) -> None:
    """The message of an OSError is kept."""
    assert "No such file or directory" in refusal(fakes.SMALL, Weights(tmp_path / "w.pth", "0"))


def plain_pickle(content: object) -> bytes:
    return pickle.dumps(content, protocol=2)


class Malicious:
    """Object whose pickle runs code while it is read, as an attacker would write it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("write", [legacy, plain_pickle, None])
def test_code_in_a_pickle_is_refused_and_never_runs(
    write: Callable[[object], bytes] | None, small_state: State, tmp_path: Path
) -> None:
    """Weights from the internet can't take over the machine, in any of PyTorch's formats."""
    trap, path = tmp_path / "trap", tmp_path / "w.pth"
    content = {"conv1.weight": small_state["conv1.weight"], "x": Malicious(trap)}
    if write is None:
        torch.save(content, path)
    else:
        path.write_bytes(write(content))
    assert f"cannot read {path} as plain tensors" in refusal(fakes.SMALL, Weights(path, "0"))
    assert not trap.exists()


def test_a_checkpoint_of_the_old_format_is_read(small_state: State, tmp_path: Path) -> None:
    """The old format cannot be memory-mapped as a zip file is; the network is the same."""
    old, new = tmp_path / "old.pth", fakes.save_weights(tmp_path / "new.pth", small_state)
    old.write_bytes(legacy(small_state))
    expected = load_network(fakes.SMALL, new).state_dict()
    state = load_network(fakes.SMALL, Weights(old, "0")).state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_weights_of_the_other_layout_are_refused(small_state: State, tmp_path: Path) -> None:
    """Weights trained on 0–255 pixels load into both layouts; resnet50 rejects them, resnet50-v1 accepts them."""
    state = {**small_state, "bn1.running_var": small_state["bn1.running_var"] * 1e4}
    weights = fakes.save_weights(tmp_path / "keras.pth", state)
    message = refusal(replace(fakes.SMALL, name="resnet50", check_state=RESNET50.check_state), weights)
    assert "variance 10000" in message
    assert "--backbone resnet50-v1" in message
    load_network(replace(fakes.SMALL, name="resnet50-v1"), weights)
