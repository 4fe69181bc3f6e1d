"""Find the weights of a backbone, check them, and load the network.

The fingerprint of an extractor names backbone, weights and preprocessing. Compare or mix embeddings, or feed them to one
head, only if their fingerprints are equal.
"""

from __future__ import annotations

import hashlib
import http.client
import zipfile
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from cxrfeat.backbones.registry import Backbone
from cxrfeat.backbones.resnet import ResNet
from cxrfeat.errors import WeightsError
from cxrfeat.images import preprocess

RANDOM = "random"
"""The weights name of a seeded, untrained network: for trying things out, never for results."""

_RANDOM_SEED = 0

_DIFFERENCES_SHOWN = 10
"""Of weights that do not fit: another network differs in hundreds."""

_PIXEL_SCALE_VARIANCE = 100.0
"""Median first-layer variance that only networks trained on 0–255 pixels should reach: 3,400 in Keras' ResNet50."""


@dataclass(frozen=True)
class Weights:
    """Where a backbone's weights are and what they are.

    Attributes:
        path: a local file, or None for the seeded random network.
        digest: sha256 of the file's bytes in hex, or ``random-seed0``.
    """

    path: Path | None
    digest: str


def find_weights(backbone: Backbone, weights: str | None) -> Weights:
    """Find weights by path or name: a file, then torchvision's cache, then torchvision's download.

    Args:
        backbone: whose weights.
        weights: a path, a name such as ``IMAGENET1K_V1``, ``random``, or None for the backbone's default.

    Raises:
        WeightsError: no such file or name, or nothing in the cache and no network.
    """
    if weights == RANDOM:
        return Weights(None, f"{RANDOM}-seed{_RANDOM_SEED}")
    path = Path(weights).expanduser() if weights else None
    if path is None or not path.is_file():
        path = _published_weights(backbone, weights)
    with path.open("rb") as stream:
        return Weights(path.resolve(), hashlib.file_digest(stream, "sha256").hexdigest())


def _published_weights(backbone: Backbone, name: str | None) -> Path:
    published = _published(backbone)
    names = list(published)
    if name is None and names:
        name = names[0]
    if name not in names:
        asked = f"weights {name!r} are neither a file nor known by name" if name else "no weights are published"
        raise WeightsError(
            f"{asked} for backbone {backbone.name!r}; expected a .pth or .safetensors file"
            + (f", or one of {names}" if names else "")
        )
    url = published[str(name)]
    cached = _cache_path(url)
    if not cached.is_file():
        try:
            torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            raise WeightsError(
                f"weights {name} of {backbone.name} can't be downloaded ({error}). Three ways to provide them: "
                f"(1) --weights PATH with a .pth or .safetensors file; (2) put {cached.name} into {cached.parent}; "
                f"(3) run once where the network reaches {url.split('/')[2]}"
            ) from error
    return cached


def cached_weights(backbone: Backbone) -> Path:
    """Return where torchvision's cache keeps the default weights of a backbone, whether or not they are there.

    Raises:
        WeightsError: no weights are published for the backbone.
    """
    published = _published(backbone)
    if not published:
        raise WeightsError(f"no weights are published for backbone {backbone.name!r}")
    return _cache_path(next(iter(published.values())))


def _cache_path(url: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]


def _published(backbone: Backbone) -> dict[str, str]:
    """Return the addresses of torchvision's weights by name; the first is the default."""
    if backbone.published is None:
        return {}
    from torchvision.models import get_model_weights  # noqa: PLC0415 -- as slow as torch itself, and seldom needed

    return {weights.name: weights.url for weights in get_model_weights(backbone.published)}


def fingerprint(backbone: Backbone, weights: Weights) -> str:
    """Name what the extractor computes: ``backbone:first 16 hex digits of the weights' sha256:preprocessing``."""
    return f"{backbone.name}:{weights.digest[:16]}:{preprocess.NAME}"


def load_network(backbone: Backbone, weights: Weights) -> ResNet:
    """Build the network and set its weights: eval mode, no gradients, fp32, on the CPU.

    Raises:
        WeightsError: the file can't be read, does not fit (the message lists the first differences), or was
            trained in the other layout.
    """
    if weights.path is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_RANDOM_SEED)
            network = backbone.build().draw_weights()
    else:
        state = _read_state(weights.path)
        with torch.device("meta"):
            network = backbone.build()
        _check_fit(network, state, weights.path)
        _check_layout(backbone, state, weights.path)
        network.load_state_dict(
            {key: value for key, value in state.items() if _is_needed(key)}, strict=False, assign=True
        )
    network.fc = nn.Identity()  # the classifier is not part of the extractor, whatever was stored
    return network.float().eval().requires_grad_(False)


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        mapped = zipfile.is_zipfile(path)  # torch's format before 1.6 was none, and is read whole
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except MemoryError:
        raise
    except OSError as error:
        raise WeightsError(f"{path} can't be read: {error}") from error
    # The restricted unpickler trips over foreign bytes in a dozen ways, KeyError among them; all mean the same, and
    # torch's own words advise to load it unrestricted.
    except Exception as error:
        raise WeightsError(
            f"{path} can't be read as plain tensors ({type(error).__name__}); expected safetensors, or a state dict "
            "(name → tensor) that torch.save wrote"
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise WeightsError(f"{path} holds {type(state).__name__}; expected a state dict (name → tensor)")
    return state


def _is_needed(key: str) -> bool:
    # The classifier goes, and step counters of BatchNorm mean nothing in eval mode.
    return not key.startswith("fc.") and not key.endswith("num_batches_tracked")


def _check_fit(network: nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items() if _is_needed(key)}
    actual = {key: tuple(value.shape) for key, value in state.items() if _is_needed(key)}
    differences = (
        [f"missing {key} {shape}" for key, shape in expected.items() if key not in actual]
        + [f"unexpected {key} {shape}" for key, shape in actual.items() if key not in expected]
        + [f"{key} is {actual[key]}, expected {s}" for key, s in expected.items() if actual.get(key, s) != s]
        + [f"{key} holds NaN or Inf" for key, value in state.items() if _is_needed(key) and not value.isfinite().all()]
    )
    if differences:
        shown = differences[:_DIFFERENCES_SHOWN]
        more = [f"and {len(differences) - len(shown)} more"] if len(differences) > len(shown) else []
        raise WeightsError(f"{path} does not fit; {len(differences)} differences:\n  " + "\n  ".join([*shown, *more]))


def _check_layout(backbone: Backbone, state: dict[str, torch.Tensor], path: Path) -> None:
    """Refuse Keras' and Caffe's weights in torchvision's layout: they fit it and give wrong features there.

    Both layouts have the same shapes. What gives the origin away is the scale of the first layer: Keras and Caffe
    train on pixels of 0–255, so the first BatchNorm has seen variances in the thousands.
    """
    variance = state["bn1.running_var"].median().item()
    if backbone.name == "resnet50" and variance > _PIXEL_SCALE_VARIANCE:
        raise WeightsError(
            f"{path} was trained on 0–255 pixels (first BatchNorm variance {variance:.0f}, one trained on standardised pixels stays below "
            f"{_PIXEL_SCALE_VARIANCE:.0f}), as Keras' and Caffe's networks are: their stride is on the 1×1 convolution "
            "and their features are wrong in torchvision's layout. Use --backbone resnet50-v1"
        )
