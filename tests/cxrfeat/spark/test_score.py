"""Scoring in one process: the same predictions however drops come, each row once, and nothing lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pytest
from pyspark.sql import DataFrame, SparkSession

from cxrfeat.errors import BundleError, ConfigError, DatasetIntegrityError, DatasetMismatchError
from cxrfeat.head.bundle import save_bundle
from cxrfeat.io.refs import ImageRef
from cxrfeat.io.schema import predictions_schema
from cxrfeat.labels.findings import FINDINGS
from cxrfeat.labels.label_set import LabelSet
from cxrfeat.spark.embedding import EmbeddingConfig
from cxrfeat.spark.predictions_table import PredictionsTable, check, format_summary, quarantined_share
from cxrfeat.spark.rounds import to_handles
from cxrfeat.spark.score import ScoreConfig, score
from tests import fakes
from tests.cxrfeat.pipeline.drops import DIM, UNSOUND, damage_page, rows, write
from tests.cxrfeat.pipeline.test_parquet_drops import expected
from tests.cxrfeat.spark import samples

SIZES = (25, 1, 40, 7, 12)
KEY = [("image_index", "ascending"), ("drop_file", "ascending")]


@pytest.fixture
def head(tmp_path: Path) -> Path:
    save_bundle(fakes.bundle(DIM), tmp_path / "run" / "head")
    return tmp_path / "run" / "head"


def write_drops(folder: Path) -> pa.Table:
    """Write five drops in folders of different depth; return all their rows."""
    tables = [rows(size, seed=seed) for seed, size in enumerate(SIZES)]
    for seed, table in enumerate(tables):
        write(folder / f"ward{seed % 2}" / f"{seed}.parquet", table)
    return pa.concat_tables(tables)


def run(spark: SparkSession, tmp_path: Path, head: Path, **options: Any) -> dict[str, Any]:
    given = {"source": str(tmp_path / "drops"), "output": str(tmp_path / "out"), "round_size": 2, **options}
    return dict(score(spark, ScoreConfig(head=str(head), **given), fakes.make_fake))


def predictions(output: Path) -> pa.Table:
    return pads.dataset(str(output / "predictions"), partitioning="hive").to_table().sort_by(KEY)


def ok(table: pa.Table) -> pa.Table:
    return table.filter(pc.equal(table["status"], "ok"))


def probabilities(table: pa.Table) -> np.ndarray:
    return np.stack([table[f"probability_{finding}"].to_numpy() for finding in FINDINGS], axis=1)


@pytest.mark.parametrize(("round_size", "prefix"), [(1, ""), (2, "z"), (100, "")])
def test_predictions_are_those_of_a_plain_forward_pass(
    spark: SparkSession, tmp_path: Path, head: Path, round_size: int, prefix: str
) -> None:
    """To 1e-6 for any size of a round and order of files; every row once, with its place, head and extractor."""
    table = write_drops(tmp_path / "drops")
    first = tmp_path / "drops" / "ward0" / "0.parquet"
    first.rename(first.with_name(f"{prefix}0.parquet"))
    summary = run(spark, tmp_path, head, round_size=round_size)
    found = predictions(tmp_path / "out")
    assert set(found.column_names) == set(predictions_schema(FINDINGS).names)
    assert found["image_index"].to_pylist() == sorted(table["image_index"].to_pylist())
    np.testing.assert_allclose(probabilities(found), expected(table.sort_by("image_index")), rtol=0, atol=1e-6)
    assert len(set(found["round"].to_pylist())) == -(-len(SIZES) // round_size)
    assert set(found["head"].to_pylist()) == {fakes.bundle(DIM).fingerprint} == {summary["head"]}
    assert summary["files"] == {"listed": 5, "scored": 5, "with_quarantine": 0}
    assert summary["rows"] == {"listed": 85, "scored": 85, "quarantined": 0, "files_of_unknown_length": 0}
    missing = {"age": table["age_years"].null_count, "sex": table["sex"].null_count}
    assert summary["imputed"] == missing
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary


def test_only_new_drops_are_scored(spark: SparkSession, tmp_path: Path, head: Path) -> None:
    """A second run adds a round for the new file and leaves what was written alone; a third changes nothing."""
    write_drops(tmp_path / "drops")
    run(spark, tmp_path, head)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "predictions").rglob("*.parquet")}
    write(tmp_path / "drops" / "late.parquet", rows(9, seed=9))
    summary = run(spark, tmp_path, head)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    found = predictions(tmp_path / "out")
    assert set(found.filter(pc.equal(found["drop_file"], "late.parquet"))["round"].to_pylist()) == {3}
    assert (summary["files"]["listed"], summary["rows"]["scored"], len(found)) == (6, 94, 94)
    assert run(spark, tmp_path, head) == summary


def test_whatever_is_wrong_with_a_drop_the_others_are_scored(
    spark: SparkSession, tmp_path: Path, head: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every kind of unsound file beside sound ones: each with its reason, and files and rows add up."""
    table = write_drops(tmp_path / "drops")
    for name, (spoil, _) in UNSOUND.items():
        spoil(write(tmp_path / "drops" / "bad" / f"{name}.parquet", rows(20)))
    damage_page(write(tmp_path / "drops" / "bad" / "page.parquet", rows(30, seed=7)), 1)
    write(tmp_path / "drops" / "_temporary" / "0" / "part.parquet", rows(20))
    write(tmp_path / "drops" / "round=0" / "status=quarantined" / "old.parquet", rows(3))
    gone = write(tmp_path / "drops" / "gone.parquet", rows(20))

    def vanish(session: SparkSession, files: Sequence[ImageRef]) -> DataFrame:
        gone.unlink(missing_ok=True)
        return to_handles(session, files)

    monkeypatch.setattr("cxrfeat.spark.score.to_handles", vanish)
    summary = run(spark, tmp_path, head, round_size=4)
    found = predictions(tmp_path / "out")
    refused = found.filter(pc.equal(found["status"], "quarantined"))
    reasons = {f"bad/{name}.parquet": reason for name, (_, reason) in UNSOUND.items()}
    reasons |= {"bad/page.parquet": "not-parquet", "gone.parquet": "missing"}
    reasons["round=0/status=quarantined/old.parquet"] = "quarantined-before"
    assert dict(zip(refused["drop_file"].to_pylist(), refused["reason"].to_pylist(), strict=True)) == reasons
    assert all(refused["message"].to_pylist())
    sound = pa.concat_tables([table, rows(30, seed=7).slice(0, 10), rows(30, seed=7).slice(20)]).sort_by("image_index")
    np.testing.assert_allclose(probabilities(ok(found)), expected(sound), rtol=0, atol=1e-6)
    assert summary["files"] == {"listed": 5 + len(reasons), "scored": 6, "with_quarantine": len(reasons) - 1}
    quarantined = sum(count or 0 for count in refused["rows"].to_pylist())
    assert summary["rows"] == {
        "listed": len(sound) + quarantined,
        "scored": len(sound),
        "quarantined": quarantined,
        "files_of_unknown_length": 5,  # four that are no Parquet, or empty, and the one that is gone
    }
    assert sum(summary["reasons"].values()) == quarantined + 5 + 1  # the one without rows
    assert min(summary["reasons"].values()) >= 1
    assert quarantined_share(summary) == (len(reasons) - 1) / (5 + len(reasons))
    printed = format_summary(summary)
    assert f"{len(sound) + quarantined:,} listed = {len(sound):,} scored + {quarantined:,} quarantined" in printed
    assert "quarantined-before 3" in printed


def test_two_heads_side_by_side_do_not_disturb_each_other(spark: SparkSession, tmp_path: Path, head: Path) -> None:
    """One folder of drops, two heads, two outputs, in turn: each is what it is alone."""
    write_drops(tmp_path / "drops")
    other = tmp_path / "other" / "head"
    save_bundle(fakes.bundle(DIM, seed=1), other)
    for name, which in (("a", head), ("b", other)):
        run(spark, tmp_path, which, output=str(tmp_path / name), round_size=3)
    write(tmp_path / "drops" / "late.parquet", rows(9, seed=9))
    for name, which in (("b", other), ("a", head), ("alone", head)):
        run(spark, tmp_path, which, output=str(tmp_path / name), round_size=3)
    a, b, alone = (predictions(tmp_path / name).drop_columns(["round"]) for name in ("a", "b", "alone"))
    assert a.equals(alone)
    assert len(a) == len(b) == 94
    assert set(a["head"].to_pylist()).isdisjoint(b["head"].to_pylist())
    with pytest.raises(DatasetMismatchError, match=r"head: 'mlp-5-4:\w+' in dataset.json, 'mlp-5-4:\w+' in this run"):
        run(spark, tmp_path, other, output=str(tmp_path / "a"))


def test_the_operating_point_decides_what_is_positive(spark: SparkSession, tmp_path: Path, head: Path) -> None:
    """Lower thresholds, more positives; the probabilities are the same."""
    write_drops(tmp_path / "drops")
    for rule in ("youden", "f1"):
        run(spark, tmp_path, head, output=str(tmp_path / rule), operating_point=rule)
    high, low = (predictions(tmp_path / rule) for rule in ("youden", "f1"))
    assert np.array_equal(probabilities(high), probabilities(low))
    counts = [pc.sum(pc.list_value_length(table["positives"])).as_py() for table in (high, low)]
    assert counts[0] < counts[1]


def test_images_are_scored_as_their_embeddings_are(spark: SparkSession, tmp_path: Path) -> None:
    """Scoring images directly gives the same probabilities and quarantine as extraction followed by scoring."""
    bundle = fakes.bundle(DIM, extractor="resnet50:random:pillow-224")
    samples.write_images(tmp_path / "in", 9)
    (tmp_path / "in" / "bad.png").write_text("not an image")
    metadata = samples.write_metadata(tmp_path / "metadata.csv", list(range(6)))
    samples.run(spark, tmp_path, metadata=metadata, output=str(tmp_path / "features"))
    embeddings = pads.dataset(str(tmp_path / "features" / "embeddings"), partitioning="hive").to_table()
    made_by = ok(embeddings)["extractor"][0].as_py()
    save_bundle(replace(bundle, extractor=made_by), tmp_path / "head")
    config = EmbeddingConfig(str(tmp_path / "in"), (metadata,), weights="random")
    output = str(tmp_path / "images")
    direct = run(spark, tmp_path, tmp_path / "head", source=config.images, output=output, embedding=config)
    stored = run(spark, tmp_path, tmp_path / "head", source=str(tmp_path / "features" / "embeddings"))
    left, right = (predictions(folder) for folder in (tmp_path / "images", tmp_path / "out"))
    np.testing.assert_allclose(probabilities(ok(left)), probabilities(ok(right)), rtol=0, atol=1e-5)
    for name in ("image_index", "patient_id", "augmentation", "extractor", "positives", "imputed"):
        assert ok(left)[name].to_pylist() == ok(right)[name].to_pylist(), name
    assert set(ok(left)["drop_file"].to_pylist()) == set(ok(embeddings)["image_path"].to_pylist())
    (refused,) = left.filter(pc.equal(left["status"], "quarantined")).to_pylist()
    assert (refused["drop_file"], refused["reason"], refused["rows"]) == ("bad.png", "not-png-or-jpeg", 1)
    assert direct["imputed"] == stored["imputed"] == {"age": 3, "sex": 3}
    assert (direct["files"]["listed"], direct["files"]["with_quarantine"]) == (10, 1)
    assert stored["files"]["with_quarantine"] == 0


def test_what_cannot_be_scored_is_refused_before_any_work(spark: SparkSession, tmp_path: Path, head: Path) -> None:
    """One line each: no files, no file system, no bundle or operating point, output among drops, another extractor."""
    (tmp_path / "drops").mkdir()
    with pytest.raises(ConfigError, match=r"no drop found in .*drops; expected \.parquet"):
        run(spark, tmp_path, head)
    with pytest.raises(ConfigError, match="cannot open 'gopher://host'"):
        run(spark, tmp_path, head, source="gopher://host/drops")
    write_drops(tmp_path / "drops")
    with pytest.raises(BundleError, match=r"nowhere is not a bundle: bundle\.json is missing"):
        run(spark, tmp_path, tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"no operating point 'best'; it has f1, youden"):
        run(spark, tmp_path, head, operating_point="best")
    with pytest.raises(ConfigError, match="round size 0; expected at least 1"):
        run(spark, tmp_path, head, round_size=0)
    with pytest.raises(ConfigError, match="is inside the folder to score"):
        run(spark, tmp_path, head, output=str(tmp_path / "drops" / "out"))
    samples.write_images(tmp_path / "in", 1)
    config = EmbeddingConfig(str(tmp_path / "in"), weights="random")
    with pytest.raises(ConfigError, match="unknown backbone 'fake'"):
        run(spark, tmp_path, head, source=config.images, embedding=config)
    given = replace(config, backbone="resnet50")
    with pytest.raises(BundleError, match="'fake:0:fake': it needs --backbone fake, not resnet50, and weights"):
        run(spark, tmp_path, head, source=config.images, embedding=given)
    save_bundle(fakes.bundle(DIM, extractor="resnet50:0:fake"), tmp_path / "other")
    with pytest.raises(BundleError, match=r"the embeddings come from .* but the head was trained on 'resnet50:0:fake'"):
        run(spark, tmp_path, tmp_path / "other", source=config.images, embedding=config)
    assert not (tmp_path / "out").exists()


def test_violations_are_found(spark: SparkSession, tmp_path: Path, head: Path) -> None:
    """A listed file without a row, and a file in two rounds, are errors that name it."""
    write_drops(tmp_path / "drops")
    run(spark, tmp_path, head)
    table = PredictionsTable(spark, str(tmp_path / "out"), FINDINGS)
    with pytest.raises(DatasetIntegrityError, match=r"1 listed files have no row; the first: lost\.parquet"):
        check(table.count(), ["ward0/0.parquet", "lost.parquet"])
    folder = tmp_path / "out" / "predictions"
    shutil.copytree(folder / "round=0", folder / "round=9")
    with pytest.raises(DatasetIntegrityError, match=r"2 files are in more than one round.*ward0/0.parquet"):
        check(table.count(), [])


def test_columns_are_named_by_the_label_set(spark: SparkSession, tmp_path: Path) -> None:
    """Labels with blanks, slashes, dots and commas, as data sets have them, are written, read back and counted."""
    label_set = LabelSet("odd", ("Nodule/Mass", "a.b", "x, y (z)"), negative="No finding", negative_output=True)
    save_bundle(fakes.bundle(DIM, label_set=label_set), tmp_path / "head")
    write_drops(tmp_path / "drops")
    summary = run(spark, tmp_path, tmp_path / "head", operating_point="f1")
    found = predictions(tmp_path / "out")
    assert set(found.column_names) == set(predictions_schema(label_set.outputs).names)
    assert list(summary["positives"]) == list(label_set.outputs)
    for label in label_set.outputs:
        positive = [label in names for names in found["positives"].to_pylist()]
        assert summary["positives"][label] == sum(positive)
        assert positive == [value >= 0.25 for value in found[f"probability_{label}"].to_pylist()]
