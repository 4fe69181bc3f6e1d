"""Tests of the engine openvino: torch's embeddings, equal bits, a cache that cannot be wrong, clear refusals."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cxrfeat.backbones import openvino_runner
from cxrfeat.backbones.backbone import Backbone, RunnerSettings
from cxrfeat.backbones.encoder import EncoderSpec, FrozenEncoder, check_encoder
from cxrfeat.backbones.registry import BACKBONES, get_backbone
from cxrfeat.backbones.weights import Weights, find_weights
from cxrfeat.device import Engine, Precision, has_native_bf16
from cxrfeat.errors import ConfigError, DeviceError
from cxrfeat.images.preprocess import to_model_input
from tests import fakes
from tests.cxrfeat.backbones.test_encoder import cosines
from tests.cxrfeat.backbones.test_networks import FILMS, needs_timm, needs_xrv

RANDOM = Weights(None, "random-seed0")
needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs the extra openvino")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use an empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cxrfeat" / "openvino"


@pytest.fixture
def small() -> Iterator[str]:
    """Keep the small backbone in the registry."""
    BACKBONES["small"] = fakes.SMALL
    yield "small"
    del BACKBONES["small"]


@needs_openvino
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet50", 64),
        ("densenet121", 64),
        ("vit_b_16", 64),
        pytest.param("timm:tf_efficientnet_lite0", 128, marks=needs_timm),
        pytest.param("xrv:densenet121-res224-nih", 64, marks=needs_xrv),
    ],
)
def test_embeddings_are_torchs(name: str, size: int) -> None:
    """Cosines to torch in fp32, equal bits for any order and number of images, and maps where torch has them."""
    spec = EncoderSpec(name, RANDOM, Precision.FP32, input_size=size)
    torch_encoder = FrozenEncoder(spec)
    inputs = np.stack([to_model_input(film, torch_encoder.input) for film in FILMS])
    expected = torch_encoder.embed(inputs)
    encoder = FrozenEncoder(replace(spec, engine=Engine.OPENVINO))
    assert (encoder.fingerprint, encoder.precision) == (torch_encoder.fingerprint, "fp32")
    order = [2, 0, 0, 1, 2]
    made = encoder.embed(inputs[order])
    assert cosines(made, expected[order]).min() >= 0.9999
    np.testing.assert_array_equal(made[[1, 0]], made[[2, 4]])
    np.testing.assert_array_equal(encoder.embed(inputs), made[[1, 3, 0]])
    assert encoder.has_maps == torch_encoder.has_maps
    if encoder.has_maps:
        embeddings, maps = encoder.embed_with_maps(inputs)
        np.testing.assert_array_equal(embeddings, made[[1, 3, 0]])
        assert maps.shape == torch_encoder.embed_with_maps(inputs)[1].shape
    if has_native_bf16():
        half = FrozenEncoder(replace(spec, engine=Engine.OPENVINO, precision=Precision.BF16))
        assert half.precision == "bf16"
        found = half.embed(inputs)
        assert cosines(found, expected).min() >= 0.995
        assert not np.array_equal(found, made[[1, 3, 0]])


@needs_openvino
def test_the_cache_is_read_where_nothing_changed(
    small: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second encoder converts nothing and gives the same bits; other weights, inputs and versions are converted."""
    inputs = np.stack([to_model_input(film) for film in FILMS])
    spec = EncoderSpec(small, RANDOM, Precision.FP32, engine=Engine.OPENVINO)
    first = FrozenEncoder(spec).embed(inputs)
    assert [path.name for path in (cache).rglob("*.xml")] == ["model.xml"]
    torch.manual_seed(5)
    torch.save(fakes.build_small().init_weights().state_dict(), tmp_path / "w.pth")
    converted: list[str] = []
    convert = openvino_runner.convert

    def record(backbone: Backbone, network: nn.Module) -> object:
        converted.append(backbone.name)
        return convert(backbone, network)

    monkeypatch.setattr(openvino_runner, "convert", record)
    np.testing.assert_array_equal(FrozenEncoder(spec).embed(inputs), first)
    assert converted == []
    other = FrozenEncoder(replace(spec, weights=find_weights(fakes.SMALL, str(tmp_path / "w.pth"))))
    assert not np.allclose(other.embed(inputs), first, rtol=0.1)
    FrozenEncoder(replace(spec, input_size=64))
    monkeypatch.setattr(openvino_runner, "__version__", "next")
    FrozenEncoder(spec)
    assert len(converted) == 3
    assert len(list(cache.iterdir())) == 4


@needs_openvino
def test_a_cache_that_cannot_be_written_is_left_out(
    small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The encoder works, and the log says why each start will convert the network."""
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    spec = EncoderSpec(small, RANDOM, Precision.FP32, engine=Engine.OPENVINO)
    assert FrozenEncoder(spec).embed(np.zeros((1, 224, 224), np.uint8)).shape == (1, 2048)
    assert "so every start converts it" in caplog.text


@needs_openvino
def test_threads_are_not_pinned(small: str) -> None:
    """Pinned threads of two workers share a core: each then takes twice as long."""
    settings = RunnerSettings(torch.device("cpu"), torch.float32, 4, fakes.SMALL.input)
    runner = openvino_runner.OpenVinoRunner(openvino_runner.open_model(get_backbone(small), RANDOM), settings)
    assert runner.compiled.get_property("ENABLE_CPU_PINNING") is False
    assert runner.compiled.get_property("INFERENCE_NUM_THREADS") == torch.get_num_threads()


@needs_openvino
def test_a_gpu_is_refused(small: str) -> None:
    """OpenVINO runs on the CPU here: the message names both ways out."""
    model = openvino_runner.open_model(get_backbone(small), RANDOM)
    settings = RunnerSettings(torch.device("cuda", 0), torch.float32, 4, fakes.SMALL.input)
    with pytest.raises(DeviceError, match="--device cpu, or --engine torch"):
        openvino_runner.OpenVinoRunner(model, settings)


def test_without_the_package_its_extra_is_named(small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error comes on the driver, before any image is read."""
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ConfigError, match=r"pip install 'cxrfeat\[openvino\]'"):
        check_encoder(EncoderSpec(small, RANDOM, engine=Engine.OPENVINO))


@needs_openvino
def test_telemetry_is_never_loaded() -> None:
    """OpenVINO's package for usage data cannot be imported, so nothing is sent."""
    openvino_runner.import_openvino()
    assert sys.modules.get("openvino_telemetry") is None
