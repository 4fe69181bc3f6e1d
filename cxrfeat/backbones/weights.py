"""Find, check and load the weights of a backbone.

The fingerprint of an extractor identifies its backbone, weights and preprocessing. Embeddings may be compared, mixed or
passed to the same head only if their fingerprints are equal.
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
"""Name of the weights of a seeded, untrained network: for trials, never for results."""

_RANDOM_SEED = 0

_DIFFERENCES_SHOWN = 10
"""Maximum number of differences in an error message: the weights of another network differ in hundreds."""

_PIXEL_SCALE_VARIANCE = 100.0
"""Median variance of the first BatchNorm above which a network was trained on 0–255 pixels; Keras' ResNet50: 3,400."""


@dataclass(frozen=True)
class Weights:
    """File and digest of a backbone's weights.

    Attributes:
        path: local file, or None for the seeded random network.
        digest: sha256 of the file in hexadecimal, or ``random-seed0``.
    """

    path: Path | None
    digest: str


def find_weights(backbone: Backbone, weights: str | None) -> Weights:
    """Find weights by path or name: as a file, then in torchvision's cache, then by download from torchvision.

    Args:
        backbone: entry of the registry.
        weights: a path, a name such as ``IMAGENET1K_V1``, ``random``, or None for the backbone's default.

    Raises:
        WeightsError: the name is neither a file nor known, or the weights are not cached and the download fails.
    """
    if weights == RANDOM:
        return Weights(None, f"{RANDOM}-seed{_RANDOM_SEED}")
    path = Path(weights).expanduser() if weights else None
    if path is None or not path.is_file():
        path = _fetch_published(backbone, weights)
    with path.open("rb") as stream:
        return Weights(path.resolve(), hashlib.file_digest(stream, "sha256").hexdigest())


def _fetch_published(backbone: Backbone, name: str | None) -> Path:
    urls = _published_urls(backbone)
    names = list(urls)
    if name is None and names:
        name = names[0]
    if name not in names:
        problem = f"weights {name!r} are neither a file nor a known name" if name else "no weights are published"
        raise WeightsError(
            f"{problem} for backbone {backbone.name!r}; expected a .pth or .safetensors file"
            + (f", or one of {', '.join(names)}" if names else "")
        )
    url = urls[str(name)]
    cached = _cache_path(url)
    if not cached.is_file():
        try:
            torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            raise WeightsError(
                f"cannot download weights {name} of {backbone.name} ({error}). Provide them in one of three ways: "
                f"(1) --weights PATH with a .pth or .safetensors file; (2) put {cached.name} into {cached.parent}; "
                f"(3) run once on a network that can reach {url.split('/')[2]}"
            ) from error
    return cached


def cached_weights(backbone: Backbone) -> Path:
    """Return the path of a backbone's default weights in torchvision's cache; the file need not exist.

    Raises:
        WeightsError: no weights are published for the backbone.
    """
    urls = _published_urls(backbone)
    if not urls:
        raise WeightsError(f"no weights are published for backbone {backbone.name!r}")
    return _cache_path(next(iter(urls.values())))


def _cache_path(url: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]


def _published_urls(backbone: Backbone) -> dict[str, str]:
    """Return the URLs of the weights that torchvision publishes, by name; the first is the default."""
    if backbone.torchvision_name is None:
        return {}
    from torchvision.models import get_model_weights  # noqa: PLC0415 -- slow to import, seldom needed

    return {weights.name: weights.url for weights in get_model_weights(backbone.torchvision_name)}


def fingerprint(backbone: Backbone, weights: Weights) -> str:
    """Return the extractor's fingerprint, ``backbone:first 16 hex digits of the weights' sha256:preprocessing``."""
    return f"{backbone.name}:{weights.digest[:16]}:{preprocess.NAME}"


def load_network(backbone: Backbone, weights: Weights) -> ResNet:
    """Build the network and load its weights: eval mode, no gradients, fp32, on the CPU.

    Raises:
        WeightsError: the file is unreadable, does not match the network (the message lists the first differences), or
            was trained in the other layout.
    """
    if weights.path is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_RANDOM_SEED)
            network = backbone.build().init_weights()
    else:
        state = _read_state(weights.path)
        with torch.device("meta"):
            network = backbone.build()
        _check_state_dict(network, state, weights.path)
        _check_layout(backbone, state, weights.path)
        network.load_state_dict(
            {key: value for key, value in state.items() if _is_needed(key)}, strict=False, assign=True
        )
    network.fc = nn.Identity()  # the classifier is not part of the extractor
    return network.float().eval().requires_grad_(False)


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        can_map = zipfile.is_zipfile(path)  # files of torch before 1.6 are not zip files and cannot be memory-mapped
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=can_map)
    except MemoryError:
        raise
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error}") from error
    # On foreign bytes the restricted unpickler raises a dozen exception types, KeyError among them. All mean the same,
    # and torch's own message is not shown because it advises to disable the restriction.
    except Exception as error:
        raise WeightsError(
            f"cannot read {path} as plain tensors ({type(error).__name__}); expected safetensors, or a state dict "
            "(name → tensor) written by torch.save"
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise WeightsError(f"{path} contains a {type(state).__name__}; expected a state dict (name → tensor)")
    return state


def _is_needed(key: str) -> bool:
    # The classifier is removed, and eval mode ignores the step counters of BatchNorm.
    return not key.startswith("fc.") and not key.endswith("num_batches_tracked")


def _check_state_dict(network: nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items() if _is_needed(key)}
    actual = {key: tuple(value.shape) for key, value in state.items() if _is_needed(key)}
    differences = (
        [f"missing {key} {shape}" for key, shape in expected.items() if key not in actual]
        + [f"unexpected {key} {shape}" for key, shape in actual.items() if key not in expected]
        + [f"{key} has shape {actual[key]}, expected {s}" for key, s in expected.items() if actual.get(key, s) != s]
        + [f"{key} contains NaN or Inf" for key, v in state.items() if _is_needed(key) and not v.isfinite().all()]
    )
    if differences:
        shown = differences[:_DIFFERENCES_SHOWN]
        more = [f"and {len(differences) - len(shown)} more"] if len(differences) > len(shown) else []
        lines = "\n  ".join([*shown, *more])
        raise WeightsError(f"{path} does not match the network; {len(differences)} differences:\n  {lines}")


def _check_layout(backbone: Backbone, state: dict[str, torch.Tensor], path: Path) -> None:
    """Reject weights from Keras or Caffe in torchvision's layout, where they load but give wrong features.

    Both layouts have the same shapes. The scale of the first layer tells them apart: Keras and Caffe train on pixels of
    0–255, so the variances of the first BatchNorm are in the thousands.
    """
    variance = state["bn1.running_var"].median().item()
    if backbone.name == "resnet50" and variance > _PIXEL_SCALE_VARIANCE:
        raise WeightsError(
            f"{path} was trained on 0–255 pixels, as networks of Keras and Caffe are: the first BatchNorm has variance "
            f"{variance:.0f}, expected at most {_PIXEL_SCALE_VARIANCE:.0f}. Their stride is in the 1×1 convolution, so "
            "features would be wrong in torchvision's layout. Use --backbone resnet50-v1"
        )
