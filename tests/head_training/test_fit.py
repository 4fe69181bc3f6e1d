"""What the command promises: a whole run in a folder, heads as good as can be, and every option with its effect."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from cxrfeat.findings import FINDINGS, to_multi_hot
from cxrfeat.head import Head, load_bundle
from cxrfeat.metrics import aurocs, mean_auroc
from cxrfeat.schema import GRID, HEAD_PREDICTIONS, HISTORY
from head_training import evaluate
from head_training import run as run_module
from head_training.course import Course
from head_training.fit import main, parse
from head_training.progress import Progress
from tests.head_training import samples
from tests.head_training.samples import change, random_table, two_gaussians, write

FAST = ("--quiet", "--epochs", "3", "--batch-size", "32", "--hidden", "8", "4", "--lr", "0.01", "--device", "cpu")


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 400 rows, three without age."""
    rows = two_gaussians(400, seed=3)
    for row in (0, 7, 8):
        rows = change(rows, "age_years", row, None)
    return write(rows, tmp_path_factory.mktemp("features"))


def fit(features: Path, output: Path, *options: str) -> int:
    return main(["--features", str(features), "--output", str(output), *options])


def bundle_bytes(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (output / "head").iterdir()}


def record(output: Path) -> dict[str, Any]:
    training: dict[str, Any] = json.loads((output / "head" / "bundle.json").read_text())["training"]
    return training


def test_a_run_is_whole_and_agrees_with_itself(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All files are there, and bundle, predictions, grid and printed report tell the same story."""
    grid = tmp_path / "grid.toml"
    grid.write_text("hidden = [[8, 4], [6]]\nlr = [1e-2, 1e-3]\n")
    options = ("--quiet", "--epochs", "3", "--batch-size", "32", "--grid", str(grid), "--device", "cpu")
    assert fit(features, tmp_path / "run", *options) == 0
    names = {"config.json", "grid.parquet", "head", "history.parquet", "predictions.parquet"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == names
    tables = {name: pq.read_table(tmp_path / "run" / f"{name}.parquet") for name in ("grid", "history", "predictions")}
    assert tables["grid"].schema == GRID
    assert tables["history"].schema == HISTORY
    assert tables["predictions"].schema == HEAD_PREDICTIONS
    rows = tables["grid"].to_pylist()
    assert [(row["index"], row["hidden"], row["lr"]) for row in rows] == [
        (0, [8, 4], 0.01), (1, [8, 4], 0.001), (2, [6], 0.01), (3, [6], 0.001)
    ]  # fmt: skip
    assert [len(rows), len(tables["history"])] == [4, 12]
    (selected,) = [row for row in rows if row["selected"]]
    assert selected["val_auroc"] == max(row["val_auroc"] for row in rows)
    training = record(tmp_path / "run")
    assert training["configuration"]["name"] == selected["name"]
    assert training["val"]["mean_auroc"] == selected["val_auroc"]
    assert training["val"]["findings"]["Hernia"]["auroc"] == selected["val_auroc_Hernia"]
    best = [row for row in tables["history"].to_pylist() if row["name"] == selected["name"]]
    assert min(best, key=lambda row: row["val_loss"])["epoch"] == selected["best_epoch"] == training["best_epoch"]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert {key: config[key] for key in training} == training
    assert config["features"] == str(features)
    assert len(config["grid"]) == 4
    printed = capsys.readouterr().out
    assert f"chosen: {selected['name']}" in printed
    assert f"mean                   {selected['val_auroc']:.3f}" in printed
    assert "imputed: 3 missing values of age" in printed


def test_predictions_are_those_of_the_bundle(features: Path, tmp_path: Path) -> None:
    """The saved head, fed by hand, gives the saved scores, and these the saved AUROC, on test as on val."""
    assert fit(features, tmp_path / "run", *FAST) == 0
    bundle = load_bundle(tmp_path / "run" / "head")
    bundle.check_extractor(samples.EXTRACTOR)
    predictions = pq.read_table(tmp_path / "run" / "predictions.parquet")
    assert predictions["split"].to_pylist() == ["val"] * 40 + ["test"] * 80
    raw = {row["image_index"]: row for row in pq.read_table(features).to_pylist()}
    rows = [raw[name] for name in predictions["image_index"].to_pylist()]
    ages = [math.nan if row["age_years"] is None else row["age_years"] for row in rows]
    inputs = np.array(
        [[*row["embedding"], age, row["sex"] == "M"] for row, age in zip(rows, ages, strict=True)], dtype=np.float32
    )
    assert bundle.inputs.apply(inputs) == {"age": 2, "sex": 0}
    with torch.no_grad():
        expected = bundle.head(torch.from_numpy(inputs)).sigmoid().numpy()
    scores = np.stack([predictions[f"score_{finding}"].to_numpy() for finding in FINDINGS], axis=1)
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    labels = to_multi_hot(predictions["findings"].to_pylist())
    for split, part in (("val", slice(0, 40)), ("test", slice(40, 120))):
        mean, over = mean_auroc(aurocs(labels[part], scores[part]))
        described = record(tmp_path / "run")[split]
        assert (described["mean_auroc"], described["mean_over_findings"]) == (mean, over)


def test_the_same_data_gives_the_same_bundle_however_it_is_cut(features: Path, tmp_path: Path) -> None:
    """Byte for byte, with dropout, in another folder, from other files; another seed gives another."""
    shuffled = pq.read_table(features).drop_columns(["round", "status"]).take(np.random.default_rng(0).permutation(400))
    write(shuffled, tmp_path / "other", files=3)
    options = (*FAST, "--dropout", "0.2")
    assert fit(features, tmp_path / "a", *options) == 0
    assert fit(tmp_path / "other", tmp_path / "b", *options) == 0
    assert fit(features, tmp_path / "c", *options, "--seed", "1") == 0
    assert bundle_bytes(tmp_path / "a") == bundle_bytes(tmp_path / "b") != bundle_bytes(tmp_path / "c")


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
        ("--loss-weighting", "none"),
        ("--seed", "7"),
    ],
)
def test_every_option_of_training_changes_the_head(features: Path, tmp_path: Path, options: Sequence[str]) -> None:
    """No knob that does nothing: the weights differ from those without it."""
    assert fit(features, tmp_path / "base", *FAST) == 0
    assert fit(features, tmp_path / "changed", *FAST, *options) == 0
    name = "head.safetensors"
    assert bundle_bytes(tmp_path / "base")[name] != bundle_bytes(tmp_path / "changed")[name]


def test_the_preset_of_2018_sets_what_is_not_given() -> None:
    """Batch size 10, raw embeddings, selection by loss; what is given wins."""
    base = ("--features", "f", "--output", "o")
    plain, preset = parse(base), parse([*base, "--preset", "2018"])
    assert (plain.settings.batch_size, plain.standardise, plain.select) == (256, True, "auroc")
    assert (preset.settings.batch_size, preset.standardise, preset.select) == (10, False, "val_loss")
    assert preset.configurations == plain.configurations
    assert preset.settings.epochs == 50
    assert parse([*base, "--preset", "2018", "--batch-size", "20"]).settings.batch_size == 20


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


def test_the_head_is_nearly_as_good_as_can_be(tmp_path: Path) -> None:
    """On classes whose best possible AUROC is known, the chosen head's mean on test is within 0.01 of it."""
    distance = 1.5
    folder = write(two_gaussians(12_000, distance=distance), tmp_path / "features")
    assert fit(folder, tmp_path / "run", "--quiet", "--lr", "1e-3", "--epochs", "25", "--early-stop", "4") == 0
    bayes = 0.5 * (1 + math.erf(distance / 2))  # Φ(d / √2)
    assert record(tmp_path / "run")["test"]["mean_auroc"] == pytest.approx(bayes, abs=0.01)


def test_age_reaches_the_head_and_can_be_kept_from_it(tmp_path: Path) -> None:
    """Where age alone predicts, AUROC is above 0.7 with it, and chance without."""
    random = np.random.default_rng(0)
    ages = random.uniform(5, 90, size=6000)
    labels = (random.uniform(size=(6000, 14)) < (1 / (1 + np.exp(-(ages - 50) / 10)))[:, None]).astype(np.float32)
    embeddings = random.normal(size=(6000, 8)).astype(np.float32)
    folder = write(samples.table(embeddings, labels, ages=list(ages)), tmp_path / "features")
    options = ("--quiet", "--epochs", "8", "--lr", "1e-3")
    assert fit(folder, tmp_path / "with", *options) == 0
    assert fit(folder, tmp_path / "without", *options, "--without", "age,sex") == 0
    assert record(tmp_path / "with")["test"]["mean_auroc"] > 0.7
    assert record(tmp_path / "without")["test"]["mean_auroc"] == pytest.approx(0.5, abs=0.05)


def test_a_finding_that_val_lacks_is_null_with_its_counts(tmp_path: Path) -> None:
    """No positive in val: no AUROC there, and the mean is over the others."""
    rows = random_table(300)
    findings = [
        [name for name in names if name != "Edema" or split != "val"]
        for names, split in zip(rows["findings"].to_pylist(), rows["split"].to_pylist(), strict=True)
    ]
    column = rows.schema.get_field_index("findings")
    rows = rows.set_column(column, rows.schema.field(column), pa.array(findings, rows.schema.field(column).type))
    assert fit(write(rows, tmp_path / "f"), tmp_path / "run", *FAST) == 0
    (row,) = pq.read_table(tmp_path / "run" / "grid.parquet").to_pylist()
    assert (row["val_auroc_Edema"], row["val_auroc_findings"]) == (None, 13)
    val = record(tmp_path / "run")["val"]
    assert val["findings"]["Edema"] == {"auroc": None, "positives": 0, "negatives": 30}
    assert val["mean_over_findings"] == 13
    assert record(tmp_path / "run")["test"]["mean_over_findings"] == 14


def test_the_test_split_is_touched_once_and_last(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores of test are computed for the chosen head alone, after the choice."""
    events: list[object] = []

    def watched_score(head: Head, inputs: torch.Tensor) -> np.ndarray:
        events.append(len(inputs))
        return evaluate.score(head, inputs)

    def watched_choose(*given: Any) -> int:
        events.append("chosen")
        return evaluate.choose(*given)

    monkeypatch.setattr(run_module, "score", watched_score)
    monkeypatch.setattr(run_module, "choose", watched_choose)
    grid = tmp_path / "grid.toml"
    grid.write_text("lr = [0.01, 0.001]\n")
    assert fit(features, tmp_path / "run", "--quiet", "--epochs", "1", "--grid", str(grid)) == 0
    assert events == [40, 40, "chosen", 40, 80]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--grid", "none.toml"), 2, "none.toml can't be read"),
        (("--lr", "-1"), 2, "lr is -1.0; expected a number above 0"),
        (("--epochs", "0"), 2, "epochs is 0; expected at least 1"),
        (("--lr", "0.1", "--grid"), 2, "lr is 0.1 on the command line, but the grid has its own"),
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
    assert "is there already; give another --output" in capsys.readouterr().err
    assert bundle_bytes(tmp_path / "run") == before


@pytest.mark.parametrize("option", [("--without", "height"), ("--loss-weighting", "x"), ("--preset", "2017")])
def test_choices_are_checked_by_the_parser(option: tuple[str, str]) -> None:
    """A wrong word ends with the usage and code 2."""
    with pytest.raises(SystemExit) as end:
        parse(["--features", "f", "--output", "o", *option])
    assert end.value.code == 2


def interrupt_after(epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Press Ctrl-C after so many epochs."""
    original = Progress.on_epoch

    def on_epoch(self: Progress, courses: Sequence[Course]) -> None:
        original(self, courses)
        if len(courses[0].history) == epochs:
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "on_epoch", on_epoch)


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

    def interrupt(self: Progress, rows: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "on_step", interrupt)
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
    for part in ("epoch 3/3", "100%", "1 running, best 000-", "0 running", "val loss", "<00:0"):
        assert part in shown
    assert fit(features, tmp_path / "quiet", *FAST) == 0
    assert capsys.readouterr().err == ""
