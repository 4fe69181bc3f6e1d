"""Choice of a configuration by its ranking metrics on validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cxrfeat.errors import TrainingError
from cxrfeat.head.mlp import Head
from head_training.evaluation.ranking import FindingAuroc, aurocs, mean_auroc
from head_training.training.history import TrainingHistory, TrainingStatus

_BATCH_SIZE = 4096


class SelectionMetric(StrEnum):
    """Metric on validation that picks the configuration, at its best epoch: mean AUROC or, as in 2018, loss."""

    AUROC = "auroc"
    VAL_LOSS = "val_loss"


@dataclass(frozen=True)
class Ranking:
    """AUROCs of a head on one split.

    Attributes:
        findings: AUROC of each finding.
        mean: mean over the findings with a defined AUROC; None without any.
        over: number of these findings.
    """

    findings: Sequence[FindingAuroc]
    mean: float | None
    over: int

    def describe(self) -> dict[str, Any]:
        """Return the AUROCs as JSON values."""
        return {
            "mean_auroc": self.mean,
            "mean_over_findings": self.over,
            "findings": {
                entry.finding: {"auroc": entry.auroc, "positives": entry.positives, "negatives": entry.negatives}
                for entry in self.findings
            },
        }


def rank(labels: NDArray[np.float32], scores: NDArray[np.float32], names: Sequence[str]) -> Ranking:
    """Return the ranking of (N, F) scores against (N, F) labels of 0 and 1, NaN where unknown, with F names."""
    found = aurocs(labels, scores, names)
    return Ranking(found, *mean_auroc(found))


@torch.inference_mode()
def infer(head: Head, inputs: torch.Tensor) -> NDArray[np.float32]:
    """Return the (N, F) float32 logits of a head, computed in batches on the device of the (N, inputs)."""
    head = head.to(inputs.device)
    parts = [head(part).float().cpu() for part in torch.split(inputs, _BATCH_SIZE)]
    scores: NDArray[np.float32] = torch.cat(parts).numpy()
    return scores


def choose(histories: Sequence[TrainingHistory], rankings: Sequence[Ranking | None], select: SelectionMetric) -> int:
    """Return the index of the best configuration on validation; ties go to the first in the grid.

    Args:
        histories: one per configuration.
        rankings: rankings on validation at the best epoch of each; None without a best epoch.
        select: metric to compare.

    Raises:
        TrainingError: no configuration has a value of the metric.
    """
    values: dict[int, float] = {}
    for history, ranking in zip(histories, rankings, strict=True):
        if history.best is None or ranking is None:
            continue
        value = ranking.mean if select == SelectionMetric.AUROC else -history.best.epoch.val_loss
        if value is not None:
            values[history.index] = value
    if not values:
        ends = sorted({str(history.status) for history in histories})
        raise TrainingError(
            f"none of {len(histories)} configurations can be ranked by {select}; they ended as: {', '.join(ends)}. "
            + (
                "Try a lower learning rate"
                if ends == [TrainingStatus.DIVERGED]
                else "No finding has both classes in val; try --select val_loss and --monitor val_loss"
            )
        )
    return max(values, key=lambda index: (values[index], -index))
