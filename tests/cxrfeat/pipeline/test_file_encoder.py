"""Tests of load_encoder: files become the embeddings of the jobs, and every option has its effect."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cxrfeat
from cxrfeat.backbones.registry import get_backbone
from cxrfeat.errors import ConfigError, ImageError, WeightsError
from cxrfeat.pipeline.embed import embed_batches
from cxrfeat.pipeline.file_encoder import FileEncoder
from tests import fakes


def load(name: str = "resnet18", **options: Any) -> FileEncoder:
    return cxrfeat.load_encoder(name, **{"weights": "random", "precision": "fp32", **options})


@pytest.fixture(scope="module")
def encoder() -> FileEncoder:
    return load()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Write 18 images, more than a batch: the last one is 16 bits deep."""
    folder = tmp_path_factory.mktemp("images")
    kinds = ["gray8 png"] * 17 + ["gray16 png"]
    for index, kind in enumerate(kinds):
        (folder / f"{index}.png").write_bytes(fakes.LEGAL[kind][1](fakes.gray_image(seed=index)))
    return [folder / f"{index}.png" for index in range(len(kinds))]


def test_files_get_the_embeddings_of_the_jobs(encoder: FileEncoder, files: list[Path]) -> None:
    """The same bits as the worker function gives, in the order of the paths, as text or Path."""
    made = encoder.embed_files(files)
    assert made.shape == (18, 512)
    assert made.dtype == np.float32
    root = str(files[0].parent)
    handles = fakes.handles([path.name for path in files])
    batches = embed_batches(handles, encoder=encoder._encoder, root=root)
    expected = [row for batch in batches for row in batch.to_pylist()]
    np.testing.assert_array_equal(made, np.array([row["embedding"] for row in expected], np.float32))
    assert {row["extractor"] for row in expected} == {encoder.fingerprint}
    np.testing.assert_array_equal(encoder.embed_files(map(str, files[::-1])), made[::-1])
    assert encoder.embed_files([]).shape == (0, 512)


def test_unreadable_files_raise_or_are_nan(encoder: FileEncoder, files: list[Path], tmp_path: Path) -> None:
    """The error names the file and the reason; with ``on_error="nan"`` the other rows are as without it."""
    (tmp_path / "text.png").write_text("no image")
    paths = [files[0], tmp_path / "text.png", tmp_path / "gone.png", files[1]]
    with pytest.raises(ImageError, match=r"text\.png: no PNG, JPEG or DICOM"):
        encoder.embed_files(paths)
    made = encoder.embed_files(paths, on_error="nan")
    assert np.isnan(made[1:3]).all()
    np.testing.assert_array_equal(made[[0, 3]], encoder.embed_files(files[:2]))
    assert np.isnan(encoder.embed_files([tmp_path / "gone.png"], on_error="nan")).all()
    with pytest.raises(ValueError, match="'ignore'; expected 'raise' or 'nan'"):
        encoder.embed_files(paths, on_error="ignore")  # type: ignore[arg-type]


def test_every_option_changes_the_encoder(encoder: FileEncoder) -> None:
    """Backbone, input size, fit, precision and batch size arrive."""
    assert load("mobilenet_v2").fingerprint.startswith("mobilenet_v2:")
    assert load(input_size=64).input.size == 64
    assert load(fit="pad").fingerprint == "resnet18:random-seed0:gray224-pad-bilinear-imagenet"
    assert load(precision="bf16").precision == "bf16" != encoder.precision
    assert load(batch_size=3)._encoder.batch_size == 3


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("resnet19", {}, ConfigError, "unknown backbone 'resnet19', did you mean resnet18"),
        (get_backbone("resnet18"), {}, ConfigError, "name is a Backbone; expected the name of a backbone"),
        ("resnet18", {"precision": "fp8"}, ConfigError, "unknown precision 'fp8'; expected one of auto, fp32, bf16"),
        ("resnet18", {"fit": "stretch"}, ConfigError, "unknown fit 'stretch'; expected one of squash, crop, pad"),
        ("resnet18", {"device": "tpu"}, ConfigError, "unknown device 'tpu'; expected one of auto, cpu, cuda"),
        ("resnet18", {"input_size": 8}, ConfigError, "input size 8; expected 32 to 2048"),
        ("resnet18", {"batch_size": 0}, ConfigError, "batch size 0"),
        ("resnet18", {"weights": "nowhere.pth"}, WeightsError, "neither a file nor a known name"),
    ],
)
def test_invalid_options_are_refused(name: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    """The message contains the value and what is expected."""
    with pytest.raises(error, match=message):
        load(name, **options)


def test_the_package_names_its_public_functions() -> None:
    """``dir`` and ``__all__`` have them, and another name is an AttributeError."""
    assert all(hasattr(cxrfeat, name) for name in cxrfeat.__all__)
    with pytest.raises(AttributeError, match="'cxrfeat' has no attribute 'load_everything'"):
        _ = cxrfeat.load_everything


def test_no_spark_is_loaded() -> None:
    """``load_encoder`` works where there is no Java and no Spark."""
    code = (
        "import sys; sys.modules['pyspark'] = None; import cxrfeat; "
        "print(cxrfeat.load_encoder('resnet18', weights='random').embed_files([]).shape)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "(0, 512)"
