"""What the registry promises about files that are no weights, not these weights, or an attack: refused, each cause by name."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cxrfeat.backbones.registry import BACKBONES, Backbone
from cxrfeat.backbones.weights import Weights, load_network
from cxrfeat.errors import WeightsError
from tests import fakes

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def small_state() -> State:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        state: State = fakes.build_small().state_dict()
    return state


def refusal(backbone: Backbone, weights: Weights) -> str:
    with pytest.raises(WeightsError) as refused:
        load_network(backbone, weights)
    assert str(weights.path) in str(refused.value)
    return str(refused.value)


def test_differences_are_listed(small_state: State, tmp_path: Path) -> None:
    """Missing, unexpected, misshapen and not finite: each by name with its shape, and nothing else."""
    state = {name: value.clone() for name, value in small_state.items()}
    del state["layer1.0.conv1.weight"], state["layer1.0.bn1.bias"]
    state["module.conv1.weight"] = torch.zeros(2, 3)
    state["layer2.0.bn1.weight"] = torch.zeros(7)
    state["layer3.0.bn2.bias"][0] = torch.nan
    state["conv1.weight"][0, 0, 0, 0] = torch.inf
    lines = refusal(fakes.SMALL, fakes.save_weights(tmp_path / "w.pth", state)).splitlines()
    assert lines[0].endswith("does not fit; 6 differences:")
    assert sorted(lines[1:]) == [
        "  conv1.weight holds NaN or Inf",
        "  layer2.0.bn1.weight is (7,), expected (8,)",
        "  layer3.0.bn2.bias holds NaN or Inf",
        "  missing layer1.0.bn1.bias (4,)",
        "  missing layer1.0.conv1.weight (4, 64, 1, 1)",
        "  unexpected module.conv1.weight (2, 3)",
    ]


def test_other_networks_are_refused(small_state: State, tmp_path: Path) -> None:
    """A smaller network's weights are no weights of resnet50, which takes ten lines to say and not hundreds."""
    lines = refusal(BACKBONES["resnet50"], fakes.save_weights(tmp_path / "w.pth", small_state)).splitlines()
    assert all(line.startswith("  missing layer") for line in lines[1:11])
    assert len(lines) == 12
    assert int(lines[0].split()[-2]) == 10 + int(lines[-1].split()[1])


@pytest.mark.parametrize(
    ("content", "kind"),
    [([1, 2], "list"), (torch.zeros(3), "Tensor"), ({"state_dict": {"x": torch.zeros(1)}}, "dict"), ({"x": 1}, "dict")],
)
def test_what_is_no_state_dict_is_refused(content: object, kind: str, tmp_path: Path) -> None:
    """Lists, tensors and checkpoints with a dict inside are named by what they are."""
    assert f"holds {kind}; expected a state dict" in refusal(
        fakes.SMALL, fakes.save_weights(tmp_path / "w.pth", content)
    )


def test_names_that_are_not_text_are_refused(tmp_path: Path) -> None:
    """A dict of tensors with numbers for names is no state dict either."""
    refusal(fakes.SMALL, fakes.save_weights(tmp_path / "w.pth", {0: torch.zeros(1)}))


def legacy(content: object) -> bytes:
    """Save as PyTorch did before 1.6: pickles in a row instead of a zip."""
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
    """Whatever the file holds instead of tensors, one line names the file and never advises to read it unsafely."""
    path = tmp_path / f"w{suffix}"
    path.write_bytes(GARBAGE[name])
    message = refusal(fakes.SMALL, Weights(path, "0"))
    assert "can't be read as plain tensors" in message
    assert "weights_only" not in message
    assert "\n" not in message


def test_a_file_that_has_gone_is_no_garbage(tmp_path: Path) -> None:
    """Errors of the disk keep their own words."""
    assert "No such file or directory" in refusal(fakes.SMALL, Weights(tmp_path / "w.pth", "0"))


def plain_pickle(content: object) -> bytes:
    return pickle.dumps(content, protocol=2)


class Malicious:
    """What an attacker puts into a pickle: code that runs while it is read."""

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
    assert "can't be read as plain tensors" in refusal(fakes.SMALL, Weights(path, "0"))
    assert not trap.exists()


def test_a_checkpoint_of_the_old_format_is_read(small_state: State, tmp_path: Path) -> None:
    """It can't be mapped into memory as a zip is; its network is the same."""
    old, new = tmp_path / "old.pth", fakes.save_weights(tmp_path / "new.pth", small_state)
    old.write_bytes(legacy(small_state))
    expected = load_network(fakes.SMALL, new).state_dict()
    state = load_network(fakes.SMALL, Weights(old, "0")).state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_weights_of_the_other_layout_are_refused(small_state: State, tmp_path: Path) -> None:
    """Weights from 0–255 pixels fit torchvision's layout and are wrong there: resnet50 refuses, resnet50-v1 takes them."""
    state = {**small_state, "bn1.running_var": small_state["bn1.running_var"] * 1e4}
    weights = fakes.save_weights(tmp_path / "keras.pth", state)
    message = refusal(Backbone("resnet50", 2048, fakes.build_small), weights)
    assert "variance 10000" in message
    assert "--backbone resnet50-v1" in message
    load_network(Backbone("resnet50-v1", 2048, fakes.build_small), weights)
