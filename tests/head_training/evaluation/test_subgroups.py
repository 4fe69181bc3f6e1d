"""Tests of the samples: every image in one subgroup of each kind, and triage only if all findings are predicted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from cxrfeat.io.schema import METADATA, Split
from cxrfeat.labels.findings import ANY_FINDING, FINDINGS
from cxrfeat.labels.label_sets import NIH14
from head_training.evaluation.ground_truth import COLUMNS, LABEL_COLUMNS
from head_training.evaluation.labelled_predictions import LabelledPredictions
from head_training.evaluation.subgroups import SplitSamples

AGES = (0.5, 17.9, 18.0, 39.0, 40.0, 60.0, 79.99, 80.0, None)
SEXES = ("M", "F", None, "M", "F", "M", "F", "M", "F")
VIEWS = ("PA", "AP", "PA", None, "PA", "PA", "AP", "PA", "PA")


def view(findings: tuple[str, ...] = FINDINGS) -> SplitSamples:
    """Return nine images of nine patients, the first two without a finding."""
    random = np.random.default_rng(0)
    count, width = len(AGES), len(findings)
    columns: dict[str, Sequence[object]] = {
        "image_index": [f"{n}.png" for n in range(count)],
        "patient_id": [str(n) for n in range(count)],
        "age_years": AGES,
        "sex": SEXES,
        "view_position": VIEWS,
        **dict.fromkeys(LABEL_COLUMNS, [[]] * count),
    }
    table = pa.table({name: pa.array(columns[name], METADATA.field(name).type) for name in COLUMNS})
    labels = random.uniform(size=(count, width)) < 0.5
    scales = {"probability": random.uniform(size=(count, width)), "score": random.uniform(size=(count, width))}
    any_finding = (np.arange(count) >= 2).astype(np.float32)
    rows = LabelledPredictions(table, labels, np.ones_like(labels), scales, any_finding, without_prediction=0)
    return SplitSamples(Split.TEST, rows, findings, NIH14, resamples=5, seed=0)


def test_subgroups_divide_the_images() -> None:
    """Bands hold their first year and not the next band's; missing values are a group of their own, not dropped."""
    whole = view()
    found = {sample.key.group: sample for sample in whole.subgroups()}
    assert {group: len(sample.labels) for group, sample in found.items()} == {
        "age=0-17": 2, "age=18-39": 2, "age=40-59": 1, "age=60-79": 2, "age=80+": 1, "age=unknown": 1,
        "sex=F": 4, "sex=M": 4, "sex=unknown": 1, "view=AP": 2, "view=PA": 6, "view=unknown": 1,
    }  # fmt: skip
    women = [row for row, sex in enumerate(SEXES) if sex == "F"]
    np.testing.assert_array_equal(found["sex=F"].labels, whole.rows.labels[women])
    np.testing.assert_array_equal(found["sex=F"].probabilities, whole.rows.scales["probability"][women])
    assert found["sex=F"].bootstrap.counts.shape == (4, 5)
    assert {(sample.key.split, sample.key.scale) for sample in found.values()} == {("test", "probability")}


def test_triage_is_any_finding_against_none() -> None:
    """1 - Π(1 - p) on the evaluated scale, and the labels of all 14 findings."""
    whole = view()
    triage = whole.triage()
    assert triage is not None
    assert triage.findings == (ANY_FINDING,)
    np.testing.assert_array_equal(triage.labels[:, 0], np.arange(9) >= 2)
    expected = 1 - np.prod(1 - whole.rows.scales["probability"], axis=1)
    np.testing.assert_allclose(triage.probabilities[:, 0], expected, rtol=1e-12)
    assert view(FINDINGS[:13]).triage() is None


@pytest.mark.parametrize("scale", ["probability", "score"])
def test_a_sample_is_all_images_on_a_scale(scale: str) -> None:
    """The first scale is the evaluated one; the numbers of a baseline have none."""
    whole = view()
    assert whole.scale == "probability"
    np.testing.assert_array_equal(whole.sample(scale).probabilities, whole.rows.scales[scale])
    assert whole.sample(scale).key.scale == scale
    baseline = whole.baseline("view", np.zeros((9, 14)))
    assert (baseline.key.model, baseline.key.scale, baseline.key.group) == ("view", None, "all")
