"""Tests of the fit command: every option has its effect, and the end is reported."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from cxrfeat.head.bundle import load_bundle
from cxrfeat.head.predictor import Predictor
from cxrfeat.labels.label_sets import LABEL_SETS
from head_training.fit import parse
from head_training.training.history import TrainingHistory
from head_training.training.training_progress import TrainingProgress
from tests.head_training.runs import FAST, bundle_bytes, fit, record
from tests.head_training.samples import EXTRACTOR, change, random_table, write


def test_labels_are_chosen_when_a_head_is_trained(features: Path, tmp_path: Path) -> None:
    """The same embeddings train heads of other label sets, built in or from a file."""
    (tmp_path / "mine.toml").write_text('labels = ["Opacity"]\n[merges]\nOpacity = ["Mass", "Edema"]\n')
    merged = list(LABEL_SETS["nih-merged"].outputs)
    for name, outputs in (("nih-merged", merged), (str(tmp_path / "mine.toml"), ["Opacity"])):
        run = tmp_path / outputs[0]
        assert fit(features, run, *FAST, "--labels", name) == 0
        assert list(load_bundle(run / "head").label_set.outputs) == outputs
        assert list(record(run)["train_positives"]) == outputs
        assert f"score_{outputs[0]}" in pq.read_table(run / "predictions.parquet").column_names
    assert fit(features, tmp_path / "none", *FAST, "--labels", "none") == 2


@pytest.mark.parametrize("dim", [512, 768, 1024, 3072, 4096])
def test_embeddings_of_any_length_are_fitted(tmp_path: Path, dim: int) -> None:
    """The head has as many inputs as the embeddings have numbers, and predicts as it did in training."""
    rows = random_table(60, dim=dim)
    assert fit(write(rows, tmp_path / "features"), tmp_path / "run", *FAST) == 0
    bundle = load_bundle(tmp_path / "run" / "head")
    assert len(bundle.inputs.mean) == dim
    test = pq.read_table(tmp_path / "run" / "predictions.parquet").sort_by("image_index")
    rows = rows.filter(pc.is_in(rows["image_index"], test["image_index"])).sort_by("image_index")
    vectors = rows["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, dim)
    covariates = {
        "age": rows["age_years"].to_numpy().astype(np.float32),
        "sex": np.array([{"M": 1.0, "F": 0.0, None: np.nan}[sex] for sex in rows["sex"].to_pylist()], np.float32),
    }
    predictor = Predictor(bundle, "youden")
    found = predictor.to_columns(predictor.predict(vectors, covariates))
    np.testing.assert_allclose(found["probability_Mass"].to_numpy(), test["probability_Mass"].to_numpy(), atol=1e-5)


def test_labels_without_a_positive_are_an_error_or_dropped(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error names the labels and the option that leaves them out."""
    assert fit(features, tmp_path / "run", *FAST, "--labels", "chexpert") == 2
    assert "no image of the training split has the label Enlarged_Cardiomediastinum" in capsys.readouterr().err
    assert fit(features, tmp_path / "run", *FAST, "--labels", "chexpert", "--drop-empty") == 0
    outputs = load_bundle(tmp_path / "run" / "head").label_set.outputs
    assert "Pleural_Effusion" in outputs
    assert "Fracture" not in outputs


@pytest.mark.parametrize(
    "options",
    [
        ("--without", "age"),
        ("--without", "sex"),
        ("--without", "age,sex"),
        ("--no-standardise",),
        ("--preset", "2018"),
        ("--hidden", "8"),
        ("--dropout", "0.3"),
        ("--lr", "0.003"),
        ("--weight-decay", "0.1"),
        ("--batch-size", "64"),
        ("--epochs", "2"),
        ("--loss-weighting", "frequency"),
        ("--seed", "7"),
        ("--precision", "bf16"),
    ],
)
def test_every_option_of_training_changes_the_head(features: Path, tmp_path: Path, options: Sequence[str]) -> None:
    """No knob that does nothing: the weights differ from those without it."""
    assert fit(features, tmp_path / "base", *FAST) == 0
    assert fit(features, tmp_path / "changed", *FAST, *options) == 0
    name = "head.safetensors"
    assert bundle_bytes(tmp_path / "base")[name] != bundle_bytes(tmp_path / "changed")[name]


def test_the_preset_of_2018_sets_what_is_not_given() -> None:
    """Batch size 10, raw embeddings, weighted loss, selection by loss; what is given wins."""
    base = ("--features", "f", "--output", "o")
    (plain, _), (preset, _) = parse(base), parse([*base, "--preset", "2018"])
    assert (plain.settings.batch_size, plain.standardise, plain.select) == (256, True, "auroc")
    assert (preset.settings.batch_size, preset.standardise, preset.select) == (10, False, "val_loss")
    assert (plain.loss_weighting, preset.loss_weighting) == ("none", "frequency")
    assert preset.configurations == plain.configurations
    assert preset.settings.epochs == 50
    assert parse([*base, "--preset", "2018", "--batch-size", "20"])[0].settings.batch_size == 20


def test_early_stop_and_monitor_have_their_effect(features: Path, tmp_path: Path) -> None:
    """A patience of one epoch ends a run that would go on; the monitor is what the history shows."""
    options = (*FAST, "--epochs", "30", "--lr", "0.1")
    for name, more in {"plain": (), "stop": ("--early-stop", "1"), "auroc": ("--monitor", "auroc")}.items():
        assert fit(features, tmp_path / name, *options, *more) == 0
    histories = {name: pq.read_table(tmp_path / name / "history.parquet") for name in ("plain", "stop", "auroc")}
    assert len(histories["stop"]) < len(histories["plain"]) == 30
    assert histories["plain"]["val_auroc"].null_count == 30
    aurocs_by_epoch = histories["auroc"]["val_auroc"].to_pylist()
    assert record(tmp_path / "auroc")["best_epoch"] == 1 + int(np.argmax(aurocs_by_epoch))
    assert record(tmp_path / "stop")["status"] == "stopped early"


def test_select_decides_the_configuration(features: Path, tmp_path: Path) -> None:
    """By AUROC and by loss the choice is the best row of the grid in that column."""
    grid = tmp_path / "grid.toml"
    grid.write_text("lr = [0.3, 0.1, 0.03, 0.01, 0.003]\n")
    options = ("--quiet", "--epochs", "2", "--batch-size", "32", "--grid", str(grid), "--hidden", "8")
    for select, best in (("auroc", max), ("val_loss", min)):
        assert fit(features, tmp_path / select, *options, "--select", select) == 0
        rows = pq.read_table(tmp_path / select / "grid.parquet").to_pylist()
        column = {"auroc": "val_auroc", "val_loss": "val_loss"}[select]
        assert [row["selected"] for row in rows] == [row[column] == best(r[column] for r in rows) for row in rows]


def test_the_default_grid_has_24_configurations_and_takes_a_shape(features: Path, tmp_path: Path) -> None:
    """--grid without a file; what the grid does not vary can be given."""
    assert fit(features, tmp_path / "run", "--quiet", "--epochs", "1", "--grid", "--hidden", "4") == 0
    grid = pq.read_table(tmp_path / "run" / "grid.parquet")
    assert len(grid) == 24
    assert grid["hidden"].to_pylist() == [[4]] * 24


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--grid", "none.toml"), 2, "cannot read the grid file"),
        (("--lr", "-1"), 2, "lr is -1.0; expected a number above 0"),
        (("--epochs", "0"), 2, "epochs is 0; expected at least 1"),
        (("--lr", "0.1", "--grid"), 2, "lr is 0.1 on the command line, but the grid sets it to"),
        (("--lr", "1e308"), 1, "none of 1 configurations can be ranked"),
    ],
)
def test_what_cannot_be_done_ends_with_its_code(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: Sequence[str], code: int, message: str
) -> None:
    """One line, the right exit code, and nothing written."""
    assert fit(features, tmp_path / "run", "--quiet", *options) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_features_that_cannot_be_used_end_with_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The loader's refusal reaches the user as one line."""
    folder = write(change(random_table(), "patient_id", 7, "0"), tmp_path / "f")
    assert fit(folder, tmp_path / "run", *FAST) == 2
    assert "in more than one split" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_gpu_that_is_asked_for_must_be_there(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Never a silent fallback to the CPU."""
    assert fit(features, tmp_path / "run", "--device", "cuda") == 1
    assert "no GPU" in capsys.readouterr().err


def test_a_run_is_never_overwritten(features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second run into the same folder is refused before it costs anything."""
    assert fit(features, tmp_path / "run", *FAST) == 0
    before = bundle_bytes(tmp_path / "run")
    assert fit(features, tmp_path / "run", *FAST, "--seed", "1") == 2
    assert "already exists; choose another --output" in capsys.readouterr().err
    assert bundle_bytes(tmp_path / "run") == before


@pytest.mark.parametrize("option", [("--without", "height"), ("--loss-weighting", "x"), ("--preset", "2017")])
def test_choices_are_checked_by_the_parser(option: tuple[str, str]) -> None:
    """A wrong word ends with the usage and code 2."""
    with pytest.raises(SystemExit) as end:
        parse(["--features", "f", "--output", "o", *option])
    assert end.value.code == 2


def interrupt_after(epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Press Ctrl-C after so many epochs."""
    original = TrainingProgress.on_epoch

    def on_epoch(self: TrainingProgress, histories: Sequence[TrainingHistory]) -> None:
        original(self, histories)
        if len(histories[0].epochs) == epochs:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingProgress, "on_epoch", on_epoch)


def test_ctrl_c_keeps_the_best_so_far_and_says_so(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bundle is that of a run with as many epochs, but for its record; the exit code is 130."""
    assert fit(features, tmp_path / "two", *FAST, "--epochs", "2") == 0
    interrupt_after(2, monkeypatch)
    assert fit(features, tmp_path / "cut", *FAST, "--epochs", "9") == 130
    assert "interrupted: the best head so far was kept" in capsys.readouterr().err
    assert record(tmp_path / "cut")["status"] == "interrupted"
    name = "head.safetensors"
    assert bundle_bytes(tmp_path / "cut")[name] == bundle_bytes(tmp_path / "two")[name]


def test_ctrl_c_before_there_is_anything_leaves_nothing(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No epoch is over: exit code 130, and no folder."""

    def interrupt(self: TrainingProgress, rows: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TrainingProgress, "on_step", interrupt)
    assert fit(features, tmp_path / "run", *FAST) == 130
    assert "no head was written" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_display_lives_and_quiet_is_quiet(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Epoch, running configurations, the best so far and the time left are on stderr; nothing with --quiet."""
    options = [option for option in FAST if option != "--quiet"]
    assert fit(features, tmp_path / "shown", *options) == 0
    shown = capsys.readouterr().err
    for part in ("epoch 3/3", "100%", "1 running, best so far 000-", "0 running", "val loss", "<00:0"):
        assert part in shown
    assert fit(features, tmp_path / "quiet", *FAST) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "code", "message"), [(OSError("disk full"), 1, "disk full"), (KeyboardInterrupt(), 130, "")]
)
def test_a_report_that_fails_leaves_the_head_and_says_so(
    features: Path,
    tmp_path: Path,
    error: BaseException,
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A full disk or Ctrl-C after the training costs the report alone: one line, a code, a whole bundle."""

    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr("head_training.fit.write_report", refuse)
    assert fit(features, tmp_path / "run", *FAST, report=True) == code
    assert re.search(rf"head was written, but the report failed.*{message}", capsys.readouterr().err)
    assert load_bundle(tmp_path / "run" / "head").extractor == EXTRACTOR
