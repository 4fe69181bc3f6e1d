"""Training of any number of heads together: shared batches and GEMMs, but separate learning rates, schedules and ends.

Every configuration ends with the weights that it gets when trained alone: it starts from the weights of its shape and
seed, sees the same batches and the same dropout noise, and torch's Adam and ReduceLROnPlateau update it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau

from cxrfeat.device import Precision
from cxrfeat.head.mlp import Head
from head_training.evaluation.ranking import aurocs, macro_f1, mean_auroc
from head_training.training.adam import StackedAdam
from head_training.training.grid import Configuration
from head_training.training.history import Epoch, Monitor, TrainingHistory, TrainingSettings, TrainingStatus
from head_training.training.stack import HeadStack

PLATEAU_PATIENCE, PLATEAU_FACTOR = 1, 0.2
"""Settings of ReduceLROnPlateau, from 2018."""

_VAL_BATCH_SIZE = 1024
"""Larger validation batches are no faster, and the activations of 24 heads stay small."""


@dataclass(frozen=True)
class Examples:
    """Rows of one split on one device.

    Attributes:
        inputs: (N, inputs).
        labels: (N, F) of 0 and 1; cells that are not known are 0.
        weights: (2, F) label weights, for a negative and a positive.
        known: (N, F) bool, False for cells without a label; None if all are known.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor
    known: torch.Tensor | None = None

    def targets(self, rows: torch.Tensor | slice) -> BatchTargets:
        """Return labels and weights of B rows."""
        labels = self.labels[rows]  # (B, F)
        weights = torch.where(labels > 0.5, self.weights[1], self.weights[0])  # (B, F)
        if self.known is None:
            return BatchTargets(labels, weights, None)
        known = self.known[rows]  # (B, F)
        return BatchTargets(labels, weights * known, int(known.sum()))


class BatchTargets(NamedTuple):
    """BatchTargets of B rows.

    Attributes:
        labels: (B, F) of 0 and 1.
        weights: (B, F), 0 for unknown cells.
        known: number of known cells; None if all are known.
    """

    labels: torch.Tensor
    weights: torch.Tensor
    known: int | None

    @property
    def share(self) -> int:
        """Weight of the rows in a mean over rows: their known cells, or their number if all cells are known."""
        return len(self.labels) if self.known is None else self.known


class StackedTrainer:
    """Trainer of the configurations of one shape that still run."""

    def __init__(
        self,
        histories: Sequence[TrainingHistory],
        train: Examples,
        val: Examples,
        settings: TrainingSettings,
        on_step: OnStep,
    ) -> None:
        self.histories = list(histories)
        self._train_examples, self._val_examples, self._settings, self._on_step = train, val, settings, on_step
        configurations = [history.configuration for history in histories]
        head = initial_head(train.inputs.shape[1], configurations[0].hidden, train.labels.shape[1], settings.seed)
        dropout = [configuration.dropout for configuration in configurations]
        dtype = train.inputs.dtype
        operand_dtype = torch.bfloat16 if settings.precision == Precision.BF16 else dtype
        self._stack = HeadStack([head] * len(histories), dropout, train.inputs.device, dtype, operand_dtype)
        rates, decays = ([getattr(c, name) for c in configurations] for name in ("lr", "weight_decay"))
        self._optimizer = StackedAdam(self._stack, rates, decays)
        self._schedules = [_make_schedule(rate) for rate in rates]
        self._noise = torch.Generator(train.inputs.device).manual_seed(_derive_seed(settings.seed, "dropout"))

    def run_epoch(self, number: int, order: torch.Tensor) -> None:
        """Train all configurations for one epoch, validate them, and drop those that have ended."""
        rates = [float(schedule.get_last_lr()[0]) for schedule in self._schedules]
        self._optimizer.set_rates(rates)
        train_losses = self._train(order)
        val_losses, logits = self._validate()
        for member, history in enumerate(self.histories):
            auroc, f1 = self._measure(logits[member]) if logits is not None else (None, None)
            epoch = Epoch(number, rates[member], train_losses[member], val_losses[member], auroc, f1)
            history.add(epoch, self._stack.head_parameters(member), self._settings)
            self._schedules[member].step(val_losses[member])
        self._keep([member for member, history in enumerate(self.histories) if history.status is None])

    def _train(self, order: torch.Tensor) -> list[float]:
        """Take one step per batch of the rows in ``order``, (N,), and return the mean loss of each head."""
        examples = self._train_examples
        noise = self._noise if any(history.configuration.dropout for history in self.histories) else None
        total = torch.zeros(len(self._stack), dtype=torch.float64, device=order.device)  # (C,)
        shares = 0
        for rows in torch.split(order, self._settings.batch_size):
            targets = examples.targets(rows)
            logits = self._stack(examples.inputs[rows], noise)  # (C, B, F)
            losses = _losses(logits, targets)  # (C,)
            # Heads share no weights, so each gets the gradients of its own loss.
            losses.sum().backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            total += losses.detach() * targets.share
            shares += targets.share
            self._on_step(len(rows) * len(self.histories))
        return [float(loss) for loss in total / max(1, shares)]

    @torch.no_grad()
    def _validate(self) -> tuple[list[float], torch.Tensor | None]:
        """Return the loss of each head, and their (C, N, F) logits on the CPU if another metric is monitored."""
        examples = self._val_examples
        total = torch.zeros(len(self._stack), dtype=torch.float64, device=examples.inputs.device)  # (C,)
        parts, shares = [], 0
        for start in range(0, len(examples.labels), _VAL_BATCH_SIZE):
            rows = slice(start, start + _VAL_BATCH_SIZE)
            targets = examples.targets(rows)
            logits = self._stack(examples.inputs[rows])  # (C, B, F)
            total += _losses(logits, targets) * targets.share
            shares += targets.share
            if self._settings.monitor != Monitor.VAL_LOSS:
                parts.append(logits.cpu())
        return [float(loss) for loss in total / max(1, shares)], torch.cat(parts, 1) if parts else None

    def _measure(self, logits: torch.Tensor) -> tuple[float | None, float | None]:
        """Return mean AUROC and macro F1 of (N, F) logits; None unless monitored, and where logits are not finite."""
        if not bool(logits.isfinite().all()):
            return None, None
        probabilities, labels = logits.sigmoid().numpy(), self._val_examples.labels.cpu().numpy()
        if self._val_examples.known is not None:
            labels = np.where(self._val_examples.known.cpu().numpy(), labels, np.nan)
        if self._settings.monitor == Monitor.AUROC:
            names = [str(column) for column in range(labels.shape[1])]
            return mean_auroc(aurocs(labels, probabilities, names))[0], None
        return None, macro_f1(labels, probabilities)

    def _keep(self, members: Sequence[int]) -> None:
        if len(members) == len(self.histories):
            return
        self.histories = [self.histories[member] for member in members]
        self._schedules = [self._schedules[member] for member in members]
        if members:
            self._stack.keep(members)
            self._optimizer.keep(members)


OnStep = Callable[[int], None]
"""Called after each step with the number of rows trained on, summed over the configurations."""

OnEpoch = Callable[[Sequence[TrainingHistory]], None]
"""Called with all histories after each epoch of all shapes."""


def train(
    examples: Examples,
    val: Examples,
    configurations: Sequence[Configuration],
    settings: TrainingSettings,
    *,
    on_step: OnStep = lambda rows: None,
    on_epoch: OnEpoch = lambda histories: None,
) -> list[TrainingHistory]:
    """Train every configuration, and return the histories in the order of the grid.

    Ctrl-C ends the training: configurations that still run become ``interrupted`` and keep their best epoch so far.
    """
    histories = [TrainingHistory(index, configuration) for index, configuration in enumerate(configurations)]
    shapes = dict.fromkeys(configuration.hidden for configuration in configurations)
    trainers = [
        StackedTrainer([h for h in histories if h.configuration.hidden == shape], examples, val, settings, on_step)
        for shape in shapes
    ]
    shuffle = torch.Generator().manual_seed(_derive_seed(settings.seed, "batches"))
    try:
        for number in range(1, settings.epochs + 1):
            order = torch.randperm(len(examples.inputs), generator=shuffle).to(examples.inputs.device)
            for trainer in trainers:
                if trainer.histories:
                    trainer.run_epoch(number, order)
            on_epoch(histories)
            if all(history.status is not None for history in histories):
                break
    except KeyboardInterrupt:
        for history in histories:
            history.status = history.status or TrainingStatus.INTERRUPTED
    return histories


def initial_head(inputs: int, hidden: Sequence[int], outputs: int, seed: int) -> Head:
    """Return the head that every configuration of this shape starts from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_derive_seed(seed, "weights"))
        return Head(inputs, hidden, outputs)


def _losses(logits: torch.Tensor, targets: BatchTargets) -> torch.Tensor:
    """Return the (C,) weighted binary cross-entropies of (C, B, F) logits, averaged over the known cells."""
    labels = targets.labels.expand_as(logits)
    losses = F.binary_cross_entropy_with_logits(logits, labels, targets.weights, reduction="none")  # (C, B, F)
    if targets.known is None:
        return losses.mean((1, 2), dtype=torch.float64)
    return losses.sum((1, 2), dtype=torch.float64) / max(1, targets.known)


def _make_schedule(rate: float) -> ReduceLROnPlateau:
    """Return the schedule of one learning rate; its optimizer holds nothing else."""
    holder = SGD([nn.Parameter(torch.empty(0))], lr=rate)
    return ReduceLROnPlateau(holder, factor=PLATEAU_FACTOR, patience=PLATEAU_PATIENCE)


def _derive_seed(seed: int, purpose: str) -> int:
    """Return a different seed for each purpose, so that no two random streams are equal."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{purpose}".encode()).digest()[:7], "big")
