"""Tests of the bundle: exact round trip, errors that name the damage, and atomic writes."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from cxrfeat.errors import BundleError
from cxrfeat.head import bundle as bundle_module
from cxrfeat.head.bundle import FORMAT, Bundle, BundleFiles, load_bundle, parse_bundle, save_bundle
from cxrfeat.head.calibration import Calibration
from cxrfeat.head.inputs import Inputs
from cxrfeat.head.mlp import Head
from cxrfeat.head.predictor import Predictor
from cxrfeat.labels.findings import ANY_FINDING, FINDINGS
from cxrfeat.labels.label_set import LabelSet
from cxrfeat.labels.label_sets import LABEL_SETS, NIH14
from tests import fakes

EXTRACTOR = "resnet50:abc:pillow-224"


def make_bundle(seed: int = 0) -> Bundle:
    torch.manual_seed(seed)
    mean = np.linspace(-1, 1, 5, dtype=np.float32)
    inputs = Inputs(mean, np.full(5, 0.3, dtype=np.float32), {"age": 46.87654321, "sex": 1 / 3})
    calibration = Calibration(np.linspace(0.5, 2, 14), np.linspace(-1, 1, 14))
    thresholds: dict[str, float | None] = {**dict.fromkeys(FINDINGS, 0.25), "Hernia": None, ANY_FINDING: 0.75}
    training = {"seed": seed, "test": {"auroc": None}}
    return Bundle(Head(7, (4, 3), 14).eval(), inputs, (4, 3), EXTRACTOR, calibration, {"youden": thresholds}, training)


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "bundle.json"
    description = json.loads(path.read_text())
    change(description)
    path.write_text(json.dumps(description))


def test_a_bundle_comes_back_as_it_was(tmp_path: Path) -> None:
    """Weights, statistics and training record are restored bit for bit."""
    bundle = make_bundle()
    save_bundle(bundle, tmp_path / "run" / "head")
    loaded = load_bundle(tmp_path / "run" / "head")
    for name, tensor in bundle.head.state_dict().items():
        assert torch.equal(tensor, loaded.head.state_dict()[name])
    assert np.array_equal(loaded.inputs.mean, bundle.inputs.mean)
    assert np.array_equal(loaded.inputs.scale, bundle.inputs.scale)
    assert (loaded.inputs.imputed, loaded.hidden, loaded.extractor) == (bundle.inputs.imputed, (4, 3), EXTRACTOR)
    assert loaded.training == bundle.training
    assert np.array_equal(loaded.calibration.slope, bundle.calibration.slope)
    assert np.array_equal(loaded.calibration.intercept, bundle.calibration.intercept)
    assert loaded.thresholds == bundle.thresholds
    assert loaded.fingerprint == bundle.fingerprint
    assert not loaded.head.training


def test_the_same_bundle_is_the_same_bytes(tmp_path: Path) -> None:
    """Two writes of one head are identical; another head gives other bytes."""
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        save_bundle(make_bundle(seed), tmp_path / name)
    files = {name: {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "abc"}
    assert files["a"] == files["b"] != files["c"]
    assert sorted(files["a"]) == ["bundle.json", "head.safetensors"]


def test_the_extractor_must_be_the_one_of_the_training() -> None:
    """Embeddings of another extractor are rejected; the message contains both fingerprints."""
    make_bundle().check_extractor(EXTRACTOR)
    with pytest.raises(BundleError, match=f"'other'.*{EXTRACTOR}"):
        make_bundle().check_extractor("other")


def test_a_folder_without_a_bundle_is_named(tmp_path: Path) -> None:
    """If a run is given instead of its head, the message suggests the head."""
    with pytest.raises(BundleError, match=r"nowhere is not a bundle: bundle\.json is missing$"):
        load_bundle(tmp_path / "nowhere")
    save_bundle(make_bundle(), tmp_path / "run" / "head")
    with pytest.raises(BundleError, match=r"run is not a bundle: .*; did you mean .*run/head\?"):
        load_bundle(tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format=FORMAT + 1), f"format {FORMAT + 1}; this version reads formats up to {FORMAT}"),
        (lambda d: d.update(format="1"), "format '1'; expected a number"),
        (lambda d: d.update(format=True), "format True; expected a number"),
        (lambda d: d.update(dims=[]), r"dims is \[\]; expected an object"),
        (lambda d: d.update(thresholds=None), "thresholds is null; expected an object"),
        (lambda d: d.update(calibration="none"), 'calibration is "none"; expected an object'),
        (lambda d: d.update(extractor=3), "extractor is 3; expected a text"),
        (lambda d: d["dims"].update(hidden="4"), "expected whole numbers above 0"),
        (lambda d: d["dims"].update(hidden=[True]), "expected whole numbers above 0"),
        (lambda d: d["dims"].update(inputs=-7), "expected whole numbers above 0"),
        (lambda d: d["imputed"].update(age="46"), "imputed is .*expected finite numbers"),
        (lambda d: d["imputed"].update(age=-5), "imputed age is -5; expected 0 to 123"),
        (lambda d: d["imputed"].update(sex=7), "imputed sex is 7; expected 0 to 1"),
        (lambda d: d["dims"].update(hidden=[1] * 20), "20 hidden layers"),
        (lambda d: d["dims"].update(hidden=[10**9]), "up to 1000000000 units"),
        (lambda d: d["calibration"]["slope"].update(Mass=1e300), "invalid calibration: ValueError: a value is above"),
        (lambda d: d["imputed"].update(age=float("nan")), "imputed is .*expected finite numbers"),
        (lambda d: d["calibration"]["slope"].update(Mass="1"), "invalid calibration: TypeError: '1' is not a number"),
        (lambda d: d["calibration"]["slope"].update(Mass=True), "invalid calibration: TypeError: True is not a number"),
        (lambda d: d["calibration"]["intercept"].update(Mass=float("inf")), "invalid calibration: ValueError"),
        (lambda d: d["thresholds"]["youden"].update(Mass=True), "'youden' thresholds outside 0 to 1: Mass True"),
        (lambda d: d["thresholds"]["youden"].update(Mass=float("nan")), "'youden' thresholds outside 0 to 1: Mass nan"),
        (lambda d: d["thresholds"].update(youden=[]), r"thresholds of 'youden' are for \[\]; expected"),
        (lambda d: d.update(format=2), "label_set: a label set is NoneType; expected a table"),
        (lambda d: d.pop("dims"), "lacks dims$"),
        (lambda d: d["dims"].pop("hidden"), "hidden"),
        (lambda d: d["labels"].reverse(), "labels .*Hernia.*in this order"),
        (lambda d: d["dims"].update(hidden=[4, 2]), "do not match dims"),
        (lambda d: d["dims"].update(embedding=6), "5 and 5 embedding columns"),
        (lambda d: d["imputed"].pop("sex"), "1 covariates do not match"),
        (lambda d: d["imputed"].update(height=1.0), "height.*known covariates: age, sex"),
        (
            lambda d: d["calibration"]["slope"].update(Mass=-1.0),
            "invalid calibration: ValueError: slopes of labels 4 are 0 or below",
        ),
        (lambda d: d["calibration"]["intercept"].pop("Mass"), "invalid calibration: KeyError: 'Mass'"),
        (lambda d: d.pop("calibration"), "lacks calibration$"),
        (lambda d: d["thresholds"]["youden"].pop("any_finding"), "thresholds of 'youden' are for .*expected"),
        (lambda d: d["thresholds"]["youden"].update(Mass=1.5), "'youden' thresholds outside 0 to 1: Mass 1.5"),
        (lambda d: d.update(sha256="0" * 64), "sha256 [0-9a-f]{64}; bundle.json records 0000"),
    ],
)
def test_a_changed_description_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    """Each contradiction between the two files, or with this program, has its own message."""
    save_bundle(make_bundle(), tmp_path / "head")
    edit(tmp_path / "head", change)
    with pytest.raises(BundleError, match=message):
        load_bundle(tmp_path / "head")


@pytest.mark.parametrize("label_set", LABEL_SETS.values(), ids=LABEL_SETS)
def test_a_bundle_holds_its_label_set(label_set: LabelSet, tmp_path: Path) -> None:
    """Every set comes back; NIH's findings are written in the format of earlier programs, the others in a newer one."""
    bundle = fakes.bundle(5, label_set=label_set)
    save_bundle(bundle, tmp_path / "head")
    loaded = load_bundle(tmp_path / "head")
    assert loaded.label_set == label_set
    assert loaded.fingerprint == bundle.fingerprint
    description = json.loads((tmp_path / "head" / "bundle.json").read_text())
    assert description["labels"] == list(label_set.outputs)
    assert (description["format"], "label_set" in description) == ((1, False) if label_set == NIH14 else (FORMAT, True))
    edit(tmp_path / "head", lambda d: d["labels"].append("Zebra"))
    with pytest.raises(BundleError, match=r"labels .*Zebra.* in this order"):
        load_bundle(tmp_path / "head")


def test_whatever_changes_a_prediction_changes_the_fingerprint() -> None:
    """The fingerprint covers weights, inputs, calibration, thresholds and extractor, but not the training record."""
    bundle = make_bundle()
    assert bundle.fingerprint.startswith("mlp-4-3:")
    changed = [
        make_bundle(seed=1),
        replace(bundle, inputs=replace(bundle.inputs, imputed={"age": 1.0, "sex": 0.5})),
        replace(bundle, calibration=replace(bundle.calibration, intercept=np.zeros(14))),
        replace(bundle, thresholds={"f1": bundle.thresholds["youden"]}),
        replace(bundle, extractor="other"),
    ]
    assert len({each.fingerprint for each in [bundle, *changed]}) == 6
    assert replace(bundle, training={}).fingerprint == bundle.fingerprint


@pytest.mark.parametrize("name", ["bundle.json", "head.safetensors"])
def test_a_missing_or_cut_file_is_refused(tmp_path: Path, name: str) -> None:
    """A bundle with a missing or truncated file is rejected."""
    save_bundle(make_bundle(), tmp_path / "head")
    path = tmp_path / "head" / name
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(BundleError, match=r"not a bundle|sha256"):
        load_bundle(tmp_path / "head")
    path.unlink()
    with pytest.raises(BundleError, match=name):
        load_bundle(tmp_path / "head")


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    """A head that would predict NaN is not loaded."""
    bundle = make_bundle()
    with torch.no_grad():
        next(bundle.head.parameters())[0, 0] = torch.nan
    save_bundle(bundle, tmp_path / "head")
    with pytest.raises(BundleError, match="NaN"):
        load_bundle(tmp_path / "head")


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors of a bundle, and its checksum with them."""
    tensors = safetensors.torch.load_file(folder / "head.safetensors")
    change(tensors)
    data = safetensors.torch.save(tensors)
    (folder / "head.safetensors").write_bytes(data)
    edit(folder, lambda d: d.update(sha256=hashlib.sha256(data).hexdigest()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["inputs.mean"].fill_(torch.nan), "contains NaN"),
        (lambda t: t["inputs.scale"].fill_(0.0), "a scale is 0; expected at least"),
        (lambda t: t["inputs.scale"].fill_(1e-40), "a scale is .*; expected at least"),
        (lambda t: t["inputs.scale"].neg_(), "a scale is -.*; expected at least"),
        (lambda t: t["layers.0.weight"].fill_(1e38), "contains 1e\\+38; the limit is 1e\\+12"),
        (lambda t: t.update({"inputs.mean": t["inputs.mean"].bfloat16()}), "bfloat16; expected float32"),
        (lambda t: t.update({"inputs.mean": t["inputs.mean"].unsqueeze(0)}), "2 dimensions; expected 1"),
        (lambda t: t.update({"layers.1.bias": t["layers.1.bias"][:1].clone()}), "layers.1.bias is \\(1,\\); expected"),
        (lambda t: t.update({"stranger": torch.zeros(3)}), "stranger is \\(3,\\); expected none"),
        (lambda t: t.pop("layers.0.bias"), "layers.0.bias is missing"),
        (
            lambda t: [tensor.fill_(9e11) for name, tensor in t.items() if "weight" in name],
            "NaN or infinity for finite",
        ),
    ],
)
def test_weights_that_cannot_score_are_refused(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    """Tampered tensors with a matching checksum do not load."""
    save_bundle(make_bundle(), tmp_path / "head")
    rewrite(tmp_path / "head", change)
    with pytest.raises(BundleError, match=message):
        load_bundle(tmp_path / "head")


def test_files_of_absurd_size_or_depth_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes are checked before a file is read, and nesting ends in one line."""
    save_bundle(make_bundle(), tmp_path / "head")
    (tmp_path / "head" / "bundle.json").write_text("[" * 100_000)
    with pytest.raises(BundleError, match="not valid JSON"):
        load_bundle(tmp_path / "head")
    monkeypatch.setattr(bundle_module, "MAX_WEIGHTS_BYTES", 10)
    with pytest.raises(BundleError, match="the limit is 10"):
        load_bundle(tmp_path / "head")


@pytest.mark.parametrize("seed", range(4))
def test_mutated_bundles_are_refused_or_finite(tmp_path: Path, seed: int) -> None:
    """50 mutated descriptions and weights a seed, with matching checksums: BundleError, or finite probabilities."""
    chance = random.Random(seed)
    save_bundle(make_bundle(), tmp_path / "head")
    weights, description = ((tmp_path / "head" / name).read_bytes() for name in ("head.safetensors", "bundle.json"))
    loaded = 0
    for _ in range(50):
        data, text = bytearray(weights), json.loads(description)
        if chance.random() < 0.5:
            for _ in range(chance.randrange(1, 5)):
                data[chance.randrange(len(data))] = chance.randrange(256)
        else:
            place = text
            while isinstance(place, dict) and place and chance.random() < 0.8:
                key = chance.choice(sorted(place))
                if not isinstance(place[key], dict) or chance.random() < 0.3:
                    place[key] = chance.choice([None, -1, 1e300, float("nan"), "x", [], {}, [[[]]], True, 2**70])
                    break
                place = place[key]
        if isinstance(text, dict) and chance.random() < 0.9:
            text["sha256"] = hashlib.sha256(data).hexdigest()
        files = BundleFiles("head", bytes(data), json.dumps(text).encode())
        try:
            bundle = parse_bundle(files)
        except BundleError:
            continue
        loaded += 1
        rule = next(iter(bundle.thresholds), None)
        if rule is not None:
            embeddings = np.random.default_rng(seed).normal(size=(4, len(bundle.inputs.mean))).astype(np.float32)
            missing = np.full(4, np.nan, np.float32)
            made = Predictor(bundle, rule).predict(embeddings, {"age": missing, "sex": missing})
            assert np.isfinite(made.probabilities).all()
    assert loaded


def test_a_bundle_is_never_overwritten(tmp_path: Path) -> None:
    """The existing bundle is kept, and no temporary folder remains."""
    save_bundle(make_bundle(0), tmp_path / "head")
    with pytest.raises(BundleError, match="cannot write the bundle"):
        save_bundle(make_bundle(1), tmp_path / "head")
    assert load_bundle(tmp_path / "head").training["seed"] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["head"]


def test_no_pickle_is_inside(tmp_path: Path) -> None:
    """The weights file is a plain safetensors file."""
    save_bundle(make_bundle(), tmp_path / "head")
    names = set(safetensors.torch.load_file(tmp_path / "head" / "head.safetensors"))
    assert names == {"inputs.mean", "inputs.scale"} | {f"layers.{n}.{k}" for n in range(3) for k in ("weight", "bias")}


@pytest.mark.slow
def test_a_kill_at_any_line_leaves_a_complete_bundle_or_none(tmp_path: Path) -> None:
    """The writer is killed with SIGKILL before each of its lines in turn, until one finishes."""
    bundle = make_bundle()
    outcomes = []
    for line in range(200):
        folder = tmp_path / str(line) / "head"
        killed = _save_and_die(bundle, folder, line)
        outcomes.append(folder.exists())
        if folder.exists():
            load_bundle(folder)
        if not killed:
            break
    assert outcomes[-1]
    assert outcomes.count(False) > 10
    assert outcomes == sorted(outcomes)


def _save_and_die(bundle: Bundle, folder: Path, lines: int) -> bool:
    """Save in a child that kills itself before the given line of bundle.py; return whether it did."""
    child = os.fork()
    if child == 0:
        left = lines

        def trace(frame: FrameType, event: str, _: object) -> Any:
            nonlocal left
            if frame.f_code.co_filename != bundle_module.__file__:
                return None
            if event == "line":
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        save_bundle(bundle, folder)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)
