"""Which configuration is chosen, on validation alone, and how well it ranks."""

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

_ROWS_AT_ONCE = 4096


class SelectionMetric(StrEnum):
    """What the chosen configuration is best in: mean AUROC of its best epoch, or, as in 2018, its validation loss."""

    AUROC = "auroc"
    VAL_LOSS = "val_loss"


@dataclass(frozen=True)
class Ranking:
    """How well a head ranks the rows of a split.

    Attributes:
        findings: one by one.
        mean: AUROC over the findings that have one; None where there is none.
        over: how many these are.
    """

    findings: Sequence[FindingAuroc]
    mean: float | None
    over: int

    def describe(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "mean_auroc": self.mean,
            "mean_over_findings": self.over,
            "findings": {
                entry.finding: {"auroc": entry.auroc, "positives": entry.positives, "negatives": entry.negatives}
                for entry in self.findings
            },
        }


def rank(labels: NDArray[np.float32], scores: NDArray[np.float32]) -> Ranking:
    """Measure (N, 14) scores against (N, 14) labels of 0 and 1."""
    found = aurocs(labels, scores)
    return Ranking(found, *mean_auroc(found))


@torch.inference_mode()
def infer(head: Head, inputs: torch.Tensor) -> NDArray[np.float32]:
    """Return the (N, 14) float32 logits of a head for (N, inputs), on the inputs' device."""
    head = head.to(inputs.device)
    parts = [head(part).float().cpu() for part in torch.split(inputs, _ROWS_AT_ONCE)]
    scores: NDArray[np.float32] = torch.cat(parts).numpy()
    return scores


def choose(courses: Sequence[TrainingHistory], rankings: Sequence[Ranking | None], select: SelectionMetric) -> int:
    """Return the index of the best configuration on validation; of equals the first in the grid.

    Args:
        courses: of all configurations.
        rankings: on validation, at each one's best epoch; None where there is no such epoch.
        select: what is compared.

    Raises:
        TrainingError: none can be ranked.
    """
    values: dict[int, float] = {}
    for course, ranking in zip(courses, rankings, strict=True):
        if course.best is None or ranking is None:
            continue
        value = ranking.mean if select == SelectionMetric.AUROC else -course.best.epoch.val_loss
        if value is not None:
            values[course.index] = value
    if not values:
        ends = sorted({str(course.status) for course in courses})
        raise TrainingError(
            f"none of {len(courses)} configurations can be ranked by {select}; they ended as {ends}. "
            + (
                "Try a lower learning rate"
                if ends == [TrainingStatus.DIVERGED]
                else "No finding has both classes in val: --select and --monitor val_loss"
            )
        )
    return max(values, key=lambda index: (values[index], -index))
