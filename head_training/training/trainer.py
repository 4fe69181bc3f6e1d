"""Trains any number of heads at once: shared batches and GEMMs, and for each its own Adam, schedule and end.

Every configuration ends with the weights that it would get alone: it starts from the weights of its shape and seed, sees
the same batches and the same dropout noise, and torch's Adam and ReduceLROnPlateau drive it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
"""Of ReduceLROnPlateau: the settings of 2018."""

_ROWS_AT_ONCE = 1024
"""Rows of a validation batch: larger ones are no faster, and 24 heads' activations stay small."""


@dataclass(frozen=True)
class Examples:
    """Inputs (N, inputs), labels (N, 14) and label weights (2, 14), for a negative and a positive, on one device."""

    inputs: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor

    def weigh(self, labels: torch.Tensor) -> torch.Tensor:
        """Return (B, 14) weights of (B, 14) labels."""
        return torch.where(labels > 0.5, self.weights[1], self.weights[0])


class StackedTrainer:
    """The running configurations of one shape."""

    def __init__(
        self,
        courses: Sequence[TrainingHistory],
        train: Examples,
        val: Examples,
        settings: TrainingSettings,
        on_step: OnStep,
    ) -> None:
        self.courses = list(courses)
        self._train_examples, self._val_examples, self._settings, self._on_step = train, val, settings, on_step
        configurations = [course.configuration for course in courses]
        head = initial_head(train.inputs.shape[1], configurations[0].hidden, settings.seed)
        dropout = [configuration.dropout for configuration in configurations]
        dtype = train.inputs.dtype
        operands = torch.bfloat16 if settings.precision == Precision.BF16 else dtype
        self.stack = HeadStack([head] * len(courses), dropout, train.inputs.device, dtype, operands)
        rates, decays = ([getattr(c, name) for c in configurations] for name in ("lr", "weight_decay"))
        self.optimizer = StackedAdam(self.stack, rates, decays)
        self.schedules = [_schedule(rate) for rate in rates]
        self.noise = torch.Generator(train.inputs.device).manual_seed(_derive(settings.seed, "dropout"))

    def run_epoch(self, number: int, order: torch.Tensor) -> None:
        """Train all configurations for an epoch, judge them, and let those go that have finished."""
        rates = [float(schedule.get_last_lr()[0]) for schedule in self.schedules]
        self.optimizer.set_rates(rates)
        train_losses = self._train(order)
        val_losses, logits = self._validate()
        for member, course in enumerate(self.courses):
            auroc, f1 = self._judge(logits[member]) if logits is not None else (None, None)
            epoch = Epoch(number, rates[member], train_losses[member], val_losses[member], auroc, f1)
            course.add(epoch, self.stack.parameters(member), self._settings)
            self.schedules[member].step(val_losses[member])
        self._keep([member for member, course in enumerate(self.courses) if course.status is None])

    def _train(self, order: torch.Tensor) -> list[float]:
        """Take a step with each batch of an order of the training rows, and return each member's mean loss."""
        examples, batch_size = self._train_examples, self._settings.batch_size
        total = torch.zeros(len(self.stack), dtype=torch.float64, device=order.device)
        buffer = examples.inputs.new_empty(min(batch_size, len(order)), examples.inputs.shape[1])
        for rows in torch.split(order, batch_size):
            inputs = torch.index_select(examples.inputs, 0, rows, out=buffer[: len(rows)])
            labels = examples.labels[rows]
            total += self.stack.backward(inputs, labels, examples.weigh(labels), self.noise) * len(rows)
            self.optimizer.step()
            self._on_step(len(rows) * len(self.courses))
        return [float(loss) for loss in total / len(order)]

    def _validate(self) -> tuple[list[float], torch.Tensor | None]:
        """Return each member's loss, and their (C, N, 14) logits if something else is monitored."""
        examples = self._val_examples
        total = torch.zeros(len(self.stack), dtype=torch.float64, device=examples.inputs.device)
        parts = []
        batches = (torch.split(tensor, _ROWS_AT_ONCE) for tensor in (examples.inputs, examples.labels))
        for inputs, labels in zip(*batches, strict=True):
            logits = self.stack.logits(inputs)
            losses = F.binary_cross_entropy_with_logits(
                logits, labels.expand_as(logits), examples.weigh(labels), reduction="none"
            )
            total += losses.sum((1, 2), dtype=torch.float64)
            if self._settings.monitor != Monitor.VAL_LOSS:
                parts.append(logits.cpu())
        return [float(loss) for loss in total / examples.labels.numel()], torch.cat(parts, 1) if parts else None

    def _judge(self, logits: torch.Tensor) -> tuple[float | None, float | None]:
        """Return mean AUROC or macro F1, whichever is monitored; None for both where the logits are not finite."""
        if not bool(logits.isfinite().all()):
            return None, None
        probabilities, labels = logits.sigmoid().numpy(), self._val_examples.labels.cpu().numpy()
        if self._settings.monitor == Monitor.AUROC:
            return mean_auroc(aurocs(labels, probabilities))[0], None
        return None, macro_f1(labels, probabilities)

    def _keep(self, members: Sequence[int]) -> None:
        if len(members) == len(self.courses):
            return
        self.courses = [self.courses[member] for member in members]
        self.schedules = [self.schedules[member] for member in members]
        if members:
            self.stack.keep(members)
            self.optimizer.keep(members)


OnStep = Callable[[int], None]
"""Told after each step how many rows were trained on, summed over the configurations that were."""

OnEpoch = Callable[[Sequence[TrainingHistory]], None]
"""Told after each epoch of all shapes how every configuration stands."""


def train(
    examples: Examples,
    val: Examples,
    configurations: Sequence[Configuration],
    settings: TrainingSettings,
    *,
    on_step: OnStep = lambda rows: None,
    on_epoch: OnEpoch = lambda courses: None,
) -> list[TrainingHistory]:
    """Train every configuration and return their courses in the order of the grid.

    Ctrl-C ends the training: configurations that still ran are ``interrupted`` and keep their best epoch so far.
    """
    courses = [TrainingHistory(index, configuration) for index, configuration in enumerate(configurations)]
    shapes = dict.fromkeys(configuration.hidden for configuration in configurations)
    teams = [
        StackedTrainer(
            [course for course in courses if course.configuration.hidden == shape], examples, val, settings, on_step
        )
        for shape in shapes
    ]
    shuffle = torch.Generator().manual_seed(_derive(settings.seed, "batches"))
    try:
        for number in range(1, settings.epochs + 1):
            order = torch.randperm(len(examples.inputs), generator=shuffle).to(examples.inputs.device)
            for team in teams:
                if team.courses:
                    team.run_epoch(number, order)
            on_epoch(courses)
            if all(course.status is not None for course in courses):
                break
    except KeyboardInterrupt:
        for course in courses:
            course.status = course.status or TrainingStatus.INTERRUPTED
    return courses


def initial_head(inputs: int, hidden: Sequence[int], seed: int) -> Head:
    """Return the head that every configuration of this shape starts from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_derive(seed, "weights"))
        return Head(inputs, hidden)


def _schedule(rate: float) -> ReduceLROnPlateau:
    """Return the schedule of a learning rate; it wants an optimiser, and gets one that holds nothing else."""
    holder = SGD([nn.Parameter(torch.empty(0))], lr=rate)
    return ReduceLROnPlateau(holder, factor=PLATEAU_FACTOR, patience=PLATEAU_PATIENCE)


def _derive(seed: int, purpose: str) -> int:
    """Return a seed of its own for each purpose, so that no two streams of random numbers run alike."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{purpose}".encode()).digest()[:7], "big")
