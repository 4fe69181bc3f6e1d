"""Tests of the baselines: what metadata predicts, learnt from training images only."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from cxrfeat.io.schema import COHORT
from cxrfeat.labels.findings import FINDINGS, from_multi_hot
from cxrfeat.labels.label_sets import NIH14
from head_training.evaluation.baselines import BASELINES, fit_baselines
from head_training.evaluation.ground_truth import COLUMNS


def metadata(count: int, seed: int) -> tuple[pa.Table, np.ndarray]:
    """Make images whose finding 0 depends on the view, 1 on the age, 2 on the sex, and the others on nothing."""
    random = np.random.default_rng(seed)
    views, sexes = random.choice(["AP", "PA"], size=count), random.choice(["M", "F"], size=count)
    ages = random.uniform(1, 95, size=count)
    chances = np.full((count, len(FINDINGS)), 0.3)
    chances[:, 0], chances[:, 1] = np.where(views == "AP", 0.7, 0.2), ages / 100
    chances[:, 2] = np.where(sexes == "M", 0.6, 0.2)
    labels = random.uniform(size=chances.shape) < chances
    columns = {
        "image_index": [f"{number}.png" for number in range(count)],
        "patient_id": [str(number) for number in range(count)],
        "age_years": ages,
        "sex": sexes.tolist(),
        "view_position": views.tolist(),
        "findings": from_multi_hot(labels),
        "findings_unknown": [[]] * count,
        "findings_uncertain": [[]] * count,
    }
    return pa.table({name: pa.array(columns[name], COHORT.field(name).type) for name in COLUMNS}), labels


def test_each_model_sees_its_columns_and_no_others() -> None:
    """Baselines with a column detect its finding; the others are at chance."""
    train, _ = metadata(3000, 0)
    test, labels = metadata(3000, 1)
    aurocs = {
        name: [roc_auc_score(labels[:, column], model.predict(test)[:, column]) for column in range(4)]
        for name, model in fit_baselines(train, FINDINGS, NIH14).items()
    }
    assert list(aurocs) == list(BASELINES)
    assert aurocs["view"] == pytest.approx([0.75, 0.5, 0.5, 0.5], abs=0.04)
    assert aurocs["age+sex"] == pytest.approx([0.5, 0.79, 0.71, 0.5], abs=0.04)
    assert aurocs["view+age+sex"] == pytest.approx([0.75, 0.79, 0.71, 0.5], abs=0.04)


def test_missing_and_new_values_are_no_obstacle() -> None:
    """Null age, sex and view in training or test, and a view that training never had."""
    train, _ = metadata(300, 2)
    holes = [None if row % 3 else value for row, value in enumerate(train["age_years"].to_pylist())]
    train = train.set_column(2, COHORT.field("age_years"), pa.array(holes, pa.float32()))
    test, _ = metadata(3, 3)
    test = test.set_column(2, COHORT.field("age_years"), pa.array([None, 50, None], pa.float32()))
    test = test.set_column(3, "sex", pa.array([None, "M", "F"])).set_column(
        4, "view_position", pa.array(["LL", None, "PA"])
    )
    for model in fit_baselines(train, FINDINGS[:2], NIH14).values():
        found = model.predict(test)
        assert found.shape == (3, 2)
        assert ((found > 0) & (found < 1)).all()


def test_no_age_at_all_is_no_obstacle() -> None:
    """A file without ages leaves the sex as the only input."""
    train, _ = metadata(300, 4)
    train = train.set_column(2, COHORT.field("age_years"), pa.nulls(300, pa.float32()))
    assert fit_baselines(train, FINDINGS[:1], NIH14)["age+sex"].predict(train).shape == (300, 1)


def test_a_finding_that_training_lacks_has_no_model() -> None:
    """Its predictions are all 0: chance."""
    train, _ = metadata(300, 5)
    findings = [[name for name in names if name != "Mass"] for names in train["findings"].to_pylist()]
    train = train.set_column(5, COHORT.field("findings"), pa.array(findings, COHORT.field("findings").type))
    model = fit_baselines(train, ("Mass", "Edema"), NIH14)["view"]
    assert [entry is None for entry in model.models] == [True, False]
    assert (model.predict(train)[:, 0] == 0).all()
