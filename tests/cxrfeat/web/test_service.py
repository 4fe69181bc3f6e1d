"""Predictions of the service equal those of the batch jobs, with a list of assumptions."""

from __future__ import annotations

import csv
import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cxrfeat.backbones.encoder import EncoderSpec, FrozenEncoder
from cxrfeat.backbones.registry import BACKBONES, get_backbone
from cxrfeat.backbones.weights import find_weights
from cxrfeat.device import Precision
from cxrfeat.errors import BundleError, ImageError
from cxrfeat.head.bundle import load_bundle, save_bundle
from cxrfeat.head.predictor import Predictor
from cxrfeat.images.preprocess import Fit, to_model_input
from cxrfeat.labels.findings import ANY_FINDING, FINDINGS
from cxrfeat.pipeline.embed import embed_batches
from cxrfeat.pipeline.score import score_rows
from cxrfeat.web.schemas import Answer
from cxrfeat.web.service import Service, ServiceSettings, open_service
from tests import fakes

Patients = list[tuple[float | None, str | None]]


def batch_score(settings: ServiceSettings, root: Path, names: list[str], patients: Patients) -> list[dict[str, object]]:
    """Score images as the jobs do: in batches of eight, through Arrow."""
    backbone = settings.backbone or "resnet50"
    weights = find_weights(get_backbone(backbone), settings.weights)
    encoder = FrozenEncoder(EncoderSpec(backbone, weights, settings.precision))
    embedded = pa.Table.from_batches(embed_batches(fakes.handles(names), encoder=encoder, root=str(root)))
    ages, sexes = zip(*patients, strict=True)
    table = embedded.append_column("age_years", pa.array(ages, pa.float32()))
    (batch,) = table.append_column("sex", pa.array(sexes, pa.string())).combine_chunks().to_batches()
    return list(score_rows(batch, {}, Predictor(load_bundle(settings.head), settings.operating_point)).to_pylist())


def assert_same(answer: Answer, row: dict[str, object]) -> None:
    found = {f"probability_{entry.finding}": entry.probability for entry in answer.findings}
    assert found == pytest.approx({name: row[name] for name in found}, rel=0, abs=1e-5)
    assert answer.any_finding.score == pytest.approx(row[ANY_FINDING], abs=1e-5)
    assert [entry.finding for entry in answer.findings] == list(FINDINGS)
    assert [entry.finding for entry in answer.findings if entry.positive] == row["positives"]
    assert answer.any_finding.positive == row["any_finding_positive"]
    assert [entry.input for entry in answer.assumptions] == row["imputed"]
    assert (answer.extractor, answer.head) == (row["extractor"], row["head"])


def test_a_prediction_equals_the_batch_score(settings: ServiceSettings, service: Service, tmp_path: Path) -> None:
    """Every pixel format, with and without age and sex, to 1e-5."""
    patients: Patients = [(58.0, "F"), (None, "M"), (0.5, None), (None, None)]
    patients = (patients * len(fakes.LEGAL))[: len(fakes.LEGAL)]
    names = [f"{number}.png" for number in range(len(fakes.LEGAL))]
    for seed, (name, (_, write)) in enumerate(zip(names, fakes.LEGAL.values(), strict=True)):
        (tmp_path / name).write_bytes(write(fakes.gray_image(90, 70, seed=seed)))
    rows = batch_score(settings, tmp_path, names, patients)
    for name, (age, sex), row, (kind, _) in zip(names, patients, rows, fakes.LEGAL.values(), strict=True):
        answer = service.predict((tmp_path / name).read_bytes(), age=age, sex=sex)
        assert_same(answer, row)
        assert (answer.film.width, answer.film.height, answer.film.pixel_format) == (70, 90, kind)


@pytest.mark.shared
def test_real_images_get_their_batch_score(shared: Path, tmp_path: Path) -> None:
    """Real NIH images, gray and RGBA, with their ages and sexes, under real weights in fp32: to 1e-5."""
    weights = next((shared / "weights").glob("resnet50_v1*.pth"))
    backbone = get_backbone("resnet50-v1")
    extractor = EncoderSpec(backbone.name, find_weights(backbone, str(weights))).fingerprint
    save_bundle(fakes.bundle(2048, extractor=extractor), tmp_path / "head")
    settings = ServiceSettings(str(tmp_path / "head"), str(weights), backbone.name, Precision.FP32)
    paths = sorted((shared / "nih").rglob("*.png"))[::25]
    with gzip.open(shared / "nih" / "Data_Entry_2017_v2020.csv.gz", "rt") as lines:
        known = {line["Image Index"]: line for line in csv.DictReader(lines)}
    lines_of = [known[path.name] for path in paths]
    patients: Patients = [(float(line["Patient Age"].rstrip("Y")), line["Patient Gender"]) for line in lines_of]
    rows = batch_score(settings, shared / "nih", [str(path.relative_to(shared / "nih")) for path in paths], patients)
    service = open_service(settings)
    for path, (age, sex), row in zip(paths, patients, rows, strict=True):
        assert_same(service.predict(path.read_bytes(), age=age, sex=sex), row)


def test_assumptions_are_listed(service: Service, png: bytes) -> None:
    """Imputed age and sex, as numbers and as text; none if both are given."""
    age, sex = service.predict(png).assumptions
    assert (age.input, age.value, sex.input, sex.value) == ("age", 46.875, "sex", 0.5625)
    assert "47 years" in age.text
    assert "56\u00a0%" in sex.text
    assert service.predict(png, age=30, sex="F").assumptions == []
    assert [entry.input for entry in service.predict(png, sex="F").assumptions] == ["age"]


def test_age_and_sex_change_the_prediction(service: Service, png: bytes) -> None:
    """They reach the head."""
    answers = [service.predict(png, age=age, sex=sex) for age, sex in ((20, "F"), (90, "F"), (20, "M"))]
    probabilities = [[entry.probability for entry in answer.findings] for answer in answers]
    assert probabilities[0] != probabilities[1]
    assert probabilities[0] != probabilities[2]


def test_an_age_that_the_head_ignores_is_an_assumption(settings: ServiceSettings, tmp_path: Path, png: bytes) -> None:
    """An input that is neither given nor used is not."""
    extractor = load_bundle(settings.head).extractor
    save_bundle(fakes.bundle(2048, covariates=(), extractor=extractor), tmp_path / "head")
    service = open_service(replace(settings, head=str(tmp_path / "head")))
    assert service.predict(png).assumptions == []
    (only,) = service.predict(png, age=50).assumptions
    assert (only.input, only.value) == ("age", None)
    assert "does not use age" in only.text


def test_thresholds_are_those_of_the_operating_point(settings: ServiceSettings, png: bytes) -> None:
    """Each rule has its thresholds; a finding without one is never positive."""
    youden, f1 = (open_service(replace(settings, operating_point=rule)).predict(png) for rule in ("youden", "f1"))
    assert {entry.threshold for entry in f1.findings} == {0.25}
    assert (f1.operating_point, f1.any_finding.threshold) == ("f1", 0.25)
    hernia = youden.findings[-1]
    assert (hernia.finding, hernia.threshold, hernia.positive) == ("Hernia", None, False)
    assert all(entry.positive == (entry.probability >= 0.25) for entry in f1.findings)


def test_heat_maps_are_cells_of_the_image(service: Service) -> None:
    """The maps are 7 × 7, and mirrored pixels give another map."""
    image = fakes.gray_image(224, 224)
    maps = [
        np.array([entry.heat_map for entry in service.predict(fakes.png(pixels)).findings])
        for pixels in (image, np.ascontiguousarray(image[:, ::-1]))
    ]
    assert maps[0].shape == (14, 7, 7)
    assert not np.allclose(maps[0], maps[1])


@pytest.mark.parametrize(("fit", "region"), [(Fit.CROP, [0, 0.25, 1, 0.75]), (Fit.PAD, [-0.5, 0, 1.5, 1])])
def test_backbone_and_input_are_those_of_the_head(
    settings: ServiceSettings, tmp_path: Path, fit: Fit, region: list[float]
) -> None:
    """Without ``--backbone`` the head names it, its input size and its fit; the answer says what the model sees."""
    spec = EncoderSpec("small", find_weights(fakes.SMALL, "random"), Precision.FP32, input_size=96, fit=fit)
    save_bundle(fakes.bundle(2048, extractor=spec.fingerprint), tmp_path / "head")
    service = open_service(replace(settings, head=str(tmp_path / "head"), backbone=None))
    pixels = fakes.gray_image(120, 60)
    answer = service.predict(fakes.png(pixels))
    assert answer.film.region == region
    predictor = Predictor(load_bundle(str(tmp_path / "head")), "youden")
    encoder = FrozenEncoder(replace(spec, batch_size=1))
    unknown = np.array([np.nan], np.float32)
    embedding = encoder.embed(to_model_input(pixels, encoder.input)[np.newaxis])
    expected = predictor.to_columns(predictor.predict(embedding, {"age": unknown, "sex": unknown}))
    for finding in answer.findings:
        assert finding.probability == pytest.approx(expected[f"probability_{finding.finding}"][0].as_py(), abs=1e-6)
        assert np.array(finding.heat_map).shape == (3, 3)


def test_a_backbone_without_a_map_has_no_heat_maps(settings: ServiceSettings, tmp_path: Path) -> None:
    """Predictions are the same as with maps; the card and the answer say that there are none."""
    BACKBONES["small-vector"] = fakes.SMALL_VECTOR
    spec = EncoderSpec("small-vector", find_weights(fakes.SMALL_VECTOR, "random"))
    save_bundle(fakes.bundle(2048, extractor=spec.fingerprint), tmp_path / "head")
    service = open_service(replace(settings, head=str(tmp_path / "head"), backbone=None))
    del BACKBONES["small-vector"]
    assert service.card.heat_maps is False
    assert {finding.heat_map for finding in service.predict(fakes.png(fakes.gray_image())).findings} == {None}


def test_a_head_of_another_extractor_is_refused(settings: ServiceSettings, tmp_path: Path) -> None:
    """Another backbone fails before its weights are looked up; other weights fail with both fingerprints."""
    save_bundle(fakes.bundle(2048, extractor="other:0:fake"), tmp_path / "other")
    with pytest.raises(BundleError, match="'other:0:fake': it needs --backbone other, not small"):
        open_service(replace(settings, head=str(tmp_path / "other"), weights="nowhere.pth"))
    save_bundle(fakes.bundle(2048, extractor="small:0:fake"), tmp_path / "head")
    with pytest.raises(BundleError, match=r"'small:random-seed0.*'small:0:fake'"):
        open_service(replace(settings, head=str(tmp_path / "head")))


def test_a_refused_image_keeps_its_reason(service: Service) -> None:
    """The reason is the same as in the jobs."""
    with pytest.raises(ImageError) as caught:
        service.predict(b"plain text")
    assert caught.value.reason == "not-png-or-jpeg"
