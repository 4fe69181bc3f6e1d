"""dataset.json: which runs may write into one folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cxrfeat.errors import ConfigError, DatasetMismatchError
from cxrfeat.labels.splits import SplitLevel, SplitRule
from cxrfeat.spark.manifest import check_manifest, describe_split

SETTINGS = {
    "images": "/xrays",
    "extractor": "resnet50:abc:gray",
    "augmentations": ["none"],
    "split": describe_split(SplitRule()),
    "weights_sha256": "abcdef",
}


def test_the_first_run_writes_and_an_equal_one_passes(tmp_path: Path) -> None:
    """The file names settings and versions; a second run with the same settings leaves it alone."""
    check_manifest(str(tmp_path), SETTINGS)
    text = (tmp_path / "dataset.json").read_text()
    written = json.loads(text)
    assert (written["extractor"], written["augmentations"]) == ("resnet50:abc:gray", ["none"])
    assert {"cxrfeat", "torch", "torchvision", "pyspark"} <= set(written["created_with"])
    check_manifest(str(tmp_path), SETTINGS)
    assert (tmp_path / "dataset.json").read_text() == text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("images", "/other"),
        ("extractor", "resnet50:def:gray"),
        ("augmentations", ["none", "hflip"]),
        ("split", describe_split(SplitRule(SplitLevel.IMAGE))),
        ("weights_sha256", "fedcba"),
    ],
)
def test_each_setting_counts(tmp_path: Path, field: str, value: Any) -> None:
    """A run that differs in any one setting is refused, with both values, and changes nothing."""
    check_manifest(str(tmp_path), SETTINGS)
    before = (tmp_path / "dataset.json").read_text()
    found = f"was written with other settings.*\n  {field}\\S*: .* in dataset.json, .* in this run"
    with pytest.raises(DatasetMismatchError, match=found):
        check_manifest(str(tmp_path), {**SETTINGS, field: value})
    assert (tmp_path / "dataset.json").read_text() == before


def test_lists_count_by_content(tmp_path: Path) -> None:
    """The same official lists under other names are the same rule; one more name in them is another."""
    for name, text in (("a", "1.png\n"), ("b", "1.png\n"), ("c", "1.png\n2.png\n"), ("test", "3.png\n")):
        (tmp_path / name).write_text(text)
    rules = [describe_split(SplitRule(SplitLevel.PATIENT, str(tmp_path / n), str(tmp_path / "test"))) for n in "abc"]
    assert rules[0] == rules[1] != rules[2]


def test_an_output_that_cannot_be_is_refused(tmp_path: Path, bucket: str) -> None:
    """Below a file, or in a bucket that is not there: one line that names the output and the cause, before any work."""
    (tmp_path / "file").write_text("")
    for output, cause in ((str(tmp_path / "file" / "out"), "Not a directory"), (f"{bucket}-other/out", "not found")):
        with pytest.raises(ConfigError, match=f"cannot use '{output}': .*{cause}"):
            check_manifest(output, SETTINGS)
    check_manifest(f"{bucket}/out", SETTINGS)
    with pytest.raises(DatasetMismatchError, match="/xrays"):
        check_manifest(f"{bucket}/out", {**SETTINGS, "images": "/other"})
