"""Tests of quantised networks: one file with a digest of its own, close to fp32, refused where it does not belong."""

from __future__ import annotations

import importlib.util
import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cxrfeat.backbones.encoder import EncoderSpec, FrozenEncoder, check_encoder
from cxrfeat.backbones.quantized import find_quantized, read_quantized
from cxrfeat.backbones.registry import BACKBONES, get_backbone
from cxrfeat.backbones.weights import Weights, find_weights
from cxrfeat.cli import quantize
from cxrfeat.device import Engine, Precision
from cxrfeat.errors import ConfigError, WeightsError
from cxrfeat.images.preprocess import to_model_input
from tests import fakes
from tests.cxrfeat.backbones.test_encoder import cosines

MISSING = [name for name in ("openvino", "nncf") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs the extra quantize ({', '.join(MISSING)})")

SIZE = 64
COUNT = 140


@pytest.fixture(scope="module", autouse=True)
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the small backbone in the registry, and the cache in a folder of its own."""
    BACKBONES["small"] = fakes.SMALL
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
    del BACKBONES["small"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 140 images and a file that is none."""
    folder = tmp_path_factory.mktemp("images")
    for index in range(COUNT):
        Image.fromarray(fakes.gray_image(seed=index)).save(folder / f"{index:03d}.png")
    (folder / "text.png").write_text("no image")
    return folder


def run(images: Path, output: Path, *options: str) -> int:
    words = ["--images", str(images), "--output", str(output), "--backbone", "small", "--weights", "random"]
    return quantize.main([*words, "--input-size", str(SIZE), *options])


@pytest.fixture(scope="module")
def int8(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a quantised small network."""
    path = tmp_path_factory.mktemp("int8") / "small-int8"
    assert run(images, path) == 0
    return path


def spec_of(path: Path, **options: Any) -> EncoderSpec:
    spec = EncoderSpec("small", find_weights(fakes.SMALL, str(path)), input_size=SIZE)
    return replace(spec, **options)


def test_it_is_close_to_fp32_and_another_extractor(int8: Path) -> None:
    """The embeddings are near those of the same weights in fp32, equal for any neighbours, and marked int8."""
    reference = FrozenEncoder(EncoderSpec("small", Weights(None, "random-seed0"), Precision.FP32, input_size=SIZE))
    encoder = FrozenEncoder(spec_of(int8))
    inputs = np.stack([to_model_input(fakes.gray_image(seed=1000 + index), encoder.input) for index in range(5)])
    made = encoder.embed(inputs)
    assert cosines(made, reference.embed(inputs)).min() >= 0.95
    assert encoder.precision == "int8"
    assert encoder.fingerprint != reference.fingerprint
    assert encoder.fingerprint.startswith("small:")
    np.testing.assert_array_equal(encoder.embed(inputs[::-1]), made[::-1])
    np.testing.assert_array_equal(encoder.embed(inputs[2:3]), made[2:3])
    assert encoder.embed_with_maps(inputs)[1].shape == (5, 2048, 2, 2)


def test_the_output_says_how_it_was_made(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Cosines over images that did not choose the scales; another run gives the same numbers."""
    for name in ("a", "b"):
        assert run(images, tmp_path / name, "--count", "136") == 0
    for entry in ("model.bin", "quantized.json"):
        contents = [zipfile.ZipFile(tmp_path / name).read(entry) for name in ("a", "b")]
        assert contents[0] == contents[1]
    out, err = capsys.readouterr()
    assert "cosine to fp32 over 34 test images: minimum 0.9" in out
    assert "choosing the scales of small:random-seed0:gray64-bilinear-imagenet on 102 images" in err
    with zipfile.ZipFile(tmp_path / "a") as archive:
        description = json.loads(archive.read("quantized.json"))
    assert (description["backbone"], description["calibration_images"], description["test_images"]) == (
        "small",
        102,
        34,
    )
    assert 0.9 < description["cosine_min"] <= description["cosine_median"] <= 1
    assert f"{description['cosine_min']:.4f}, median {description['cosine_median']:.4f}" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_floor_keeps_bad_networks_out(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Below the stated cosine nothing is written."""
    assert run(images, tmp_path / "out", "--min-cosine", "0.99999") == 2
    assert "--min-cosine allows 0.99999. Nothing was written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_too_few_images_are_refused(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The message says how many are needed, and how many of the files are no images."""
    assert run(images, tmp_path / "out", "--count", "120") == 2
    assert "120 readable images" in capsys.readouterr().err
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(images.iterdir())[-20:]:
        (few / path.name).symlink_to(path)
    assert run(few, tmp_path / "out") == 2
    err = capsys.readouterr().err
    assert "left out 1 unreadable images" in err
    assert "19 readable images" in err


def test_another_seed_draws_other_images(images: Path, tmp_path: Path, int8: Path) -> None:
    """The draw of the images changes the scales."""
    assert run(images, tmp_path / "out", "--seed", "1") == 0
    assert (tmp_path / "out").read_bytes() != int8.read_bytes()


def test_it_belongs_to_one_backbone_and_input(int8: Path) -> None:
    """Another backbone, another input and the engine torch are refused by name, on the driver."""
    with pytest.raises(WeightsError, match="network with input gray64-bilinear-imagenet; requested is gray224-"):
        check_encoder(spec_of(int8, input_size=None))
    with pytest.raises(WeightsError, match="quantised network with backbone small; requested is resnet50"):
        check_encoder(EncoderSpec("resnet50", find_weights(get_backbone("resnet50"), str(int8)), input_size=SIZE))
    with pytest.raises(ConfigError, match="is a quantised network, which needs --engine openvino"):
        check_encoder(spec_of(int8, engine=Engine.TORCH))
    assert FrozenEncoder(spec_of(int8, engine=Engine.OPENVINO)).precision == "int8"


def test_it_is_not_quantised_twice(
    int8: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message asks for the weights that it was made from."""
    assert run(images, tmp_path / "out", "--weights", str(int8)) == 2
    assert "is quantised already" in capsys.readouterr().err


def rewrite(source: Path, target: Path, **changes: bytes | None) -> Path:
    """Copy a file with changed entries; None leaves an entry out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        contents = {name: old.read(name) for name in old.namelist()} | {
            name.replace("_", "."): content for name, content in changes.items()
        }
        for name, content in contents.items():
            if content is not None:
                new.writestr(name, content)
    return target


DAMAGES: dict[str, Callable[[Path, Path], object]] = {
    "no model": lambda old, new: rewrite(old, new, model_xml=None),
    "a further entry": lambda old, new: rewrite(old, new, extra_txt=b"x"),
    "a description that is no JSON": lambda old, new: rewrite(old, new, quantized_json=b"{"),
    "a description that is a list": lambda old, new: rewrite(old, new, quantized_json=b"[]"),
    "a description without fields": lambda old, new: rewrite(old, new, quantized_json=b"{}"),
    "a model that is no XML": lambda old, new: rewrite(old, new, model_xml=b"hello"),
    "a model without tensors": lambda old, new: rewrite(old, new, model_bin=b""),
    "a later format": lambda old, new: rewrite(
        old, new, quantized_json=zipfile.ZipFile(old).read("quantized.json").replace(b'"format": 1', b'"format": 2')
    ),
    "a flipped byte": lambda old, new: new.write_bytes(
        old.read_bytes()[:5000] + bytes([old.read_bytes()[5000] ^ 255]) + old.read_bytes()[5001:]
    ),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_files_are_refused(kind: str, int8: Path, tmp_path: Path) -> None:
    """Every damage is a WeightsError that names the file."""
    DAMAGES[kind](int8, tmp_path / "damaged")
    path = find_quantized(Weights(tmp_path / "damaged", "0" * 64))
    assert path is not None
    with pytest.raises(WeightsError, match="damaged"):
        read_quantized(path, fakes.SMALL.with_input(SIZE))


def test_other_weights_are_not_quantised(tmp_path: Path) -> None:
    """Torch's files are zips too; a cut file is none."""
    torch.save({}, tmp_path / "w.pth")
    assert find_quantized(Weights(tmp_path / "w.pth", "0")) is None
    assert find_quantized(Weights(None, "random-seed0")) is None
