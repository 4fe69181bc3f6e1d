"""Selection: by validation alone, with defined ties, and never by a missing value."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cxrfeat.errors import TrainingError
from cxrfeat.head.mlp import Head
from cxrfeat.labels.findings import FINDINGS
from head_training.training.grid import Configuration
from head_training.training.history import BestEpoch, Epoch, TrainingHistory, TrainingStatus
from head_training.training.selection import Ranking, SelectionMetric, choose, infer, rank


def make_history(index: int, val_loss: float | None) -> TrainingHistory:
    """Return a complete history whose best epoch has this loss, or a diverged one."""
    if val_loss is None:
        return TrainingHistory(index, Configuration(), status=TrainingStatus.DIVERGED)
    return TrainingHistory(
        index,
        Configuration(),
        best=BestEpoch(Epoch(1, 0.1, 1.0, val_loss, None, None), 0, []),
        status=TrainingStatus.COMPLETE,
    )


@pytest.mark.parametrize(
    ("losses", "means", "select", "chosen"),
    [
        ([3.0, 2.0, 1.0], [0.7, 0.9, 0.8], SelectionMetric.AUROC, 1),
        ([3.0, 2.0, 1.0], [0.7, 0.9, 0.8], SelectionMetric.VAL_LOSS, 2),
        ([3.0, 2.0, 2.0], [0.7, 0.9, 0.9], SelectionMetric.AUROC, 1),
        ([2.0, 1.0, 1.0], [0.7, 0.9, 0.9], SelectionMetric.VAL_LOSS, 1),
        ([None, 2.0, 3.0], [None, 0.4, 0.3], SelectionMetric.AUROC, 1),
        ([None, 2.0, 3.0], [None, None, 0.3], SelectionMetric.AUROC, 2),
        ([None, 2.0, 3.0], [None, None, None], SelectionMetric.VAL_LOSS, 1),
    ],
)
def test_the_best_is_chosen_and_ties_go_to_the_first(
    losses: list[float | None], means: list[float | None], select: SelectionMetric, chosen: int
) -> None:
    """By mean AUROC or by loss; configurations without a value are skipped."""
    histories = [make_history(index, loss) for index, loss in enumerate(losses)]
    rankings = [
        None if history.best is None else Ranking([], mean, int(mean is not None))
        for history, mean in zip(histories, means, strict=True)
    ]
    assert choose(histories, rankings, select) == chosen


def test_nothing_to_choose_from_is_an_error() -> None:
    """The message names how the configurations ended, and what to try."""
    with pytest.raises(TrainingError, match=r"none of 2 configurations can be ranked by auroc.*as: diverged.*lower"):
        choose([make_history(0, None), make_history(1, None)], [None, None], SelectionMetric.AUROC)
    with pytest.raises(TrainingError, match=r"as: complete, diverged\. No finding has both classes in val"):
        choose([make_history(0, 1.0), make_history(1, None)], [Ranking([], None, 0), None], SelectionMetric.AUROC)


def test_logits_do_not_depend_on_batches() -> None:
    """More rows than one batch get the logits of the head itself."""
    head, inputs = Head(3, (4,), 14), torch.randn(5000, 3)
    logits = infer(head, inputs)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, head(inputs).detach().numpy(), rtol=1e-5, atol=1e-6)


def test_a_ranking_is_described_with_counts() -> None:
    """None where a class is absent, next to the counts of both classes."""
    labels = np.zeros((4, 14), dtype=np.float32)
    labels[:2, 1] = 1
    described = rank(labels, np.linspace(1, 0, 56, dtype=np.float32).reshape(4, 14), FINDINGS).describe()
    assert (described["mean_auroc"], described["mean_over_findings"]) == (1.0, 1)
    assert described["findings"]["Atelectasis"] == {"auroc": None, "positives": 0, "negatives": 4}
    assert described["findings"]["Cardiomegaly"] == {"auroc": 1.0, "positives": 2, "negatives": 2}
