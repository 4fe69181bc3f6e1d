"""Settings of a training, and the history of each configuration: its epochs, the best one, and its status."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import torch

from cxrfeat.device import Precision
from cxrfeat.errors import ConfigError
from cxrfeat.head.mlp import Head
from head_training.training.grid import Configuration


class Monitor(StrEnum):
    """Metric on validation that picks the best epoch: loss (lowest), mean AUROC or macro F1 (highest)."""

    VAL_LOSS = "val_loss"
    AUROC = "auroc"
    F1 = "f1"


class TrainingStatus(StrEnum):
    """Final status of the training of a configuration."""

    COMPLETE = "complete"
    STOPPED_EARLY = "stopped early"
    DIVERGED = "diverged"
    INTERRUPTED = "interrupted"


PRECISIONS = (Precision.FP32, Precision.BF16)


@dataclass(frozen=True)
class TrainingSettings:
    """Settings shared by all configurations of a run.

    Attributes:
        epochs: maximum number of epochs.
        batch_size: rows per step.
        early_stop: stop a configuration after this many epochs without improvement; None: never.
        monitor: metric that picks the best epoch, for its weights and for the early stop.
        seed: seed of initial weights, batches and dropout.
        precision: precision of the first layer's products; everything else has the precision of the inputs.

    Raises ConfigError for invalid values.
    """

    epochs: int = 50
    batch_size: int = 256
    early_stop: int | None = None
    monitor: Monitor = Monitor.VAL_LOSS
    seed: int = 0
    precision: Precision = Precision.FP32

    def __post_init__(self) -> None:
        """Check every value."""
        for name, lowest in (("epochs", 1), ("batch_size", 1), ("early_stop", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise ConfigError(f"{name} is {value}; expected at least {lowest}")
        if self.precision not in PRECISIONS:
            # "auto" is excluded: the head would depend on the machine without any record of it.
            raise ConfigError(f"precision is {self.precision}; expected one of: {', '.join(PRECISIONS)}")


@dataclass(frozen=True)
class Epoch:
    """One epoch of one configuration.

    Attributes:
        epoch: its number, from 1.
        lr: learning rate during the epoch.
        train_loss: mean loss over the batches.
        val_loss: loss after the epoch.
        val_auroc, val_f1: mean AUROC and macro F1 after the epoch; None unless monitored.
    """

    epoch: int
    lr: float
    train_loss: float
    val_loss: float
    val_auroc: float | None
    val_f1: float | None


@dataclass(frozen=True)
class BestEpoch:
    """The best epoch so far.

    Attributes:
        epoch: its metrics.
        value: value of the monitored metric; higher is better (the loss is negated).
        parameters: weight and bias of each layer in turn, after the epoch.
    """

    epoch: Epoch
    value: float
    parameters: Sequence[torch.Tensor]


@dataclass
class TrainingHistory:
    """Training history of one configuration.

    Attributes:
        index: position of the configuration in the grid.
        configuration: the configuration.
        epochs: its epochs so far.
        best: its best epoch; None before the first epoch with a value of the monitored metric.
        status: final status; None while it runs.
    """

    index: int
    configuration: Configuration
    epochs: list[Epoch] = field(default_factory=list)
    best: BestEpoch | None = None
    status: TrainingStatus | None = None

    @property
    def name(self) -> str:
        """Name of the configuration."""
        return self.configuration.name(self.index)

    @property
    def best_epoch(self) -> int | None:
        """Number of the best epoch."""
        return self.best.epoch.epoch if self.best else None

    def add(self, epoch: Epoch, parameters: Sequence[torch.Tensor], settings: TrainingSettings) -> None:
        """Append an epoch; copy the parameters if it is better than all before (not equal), and update the status."""
        self.epochs.append(epoch)
        value = {Monitor.VAL_LOSS: -epoch.val_loss, Monitor.AUROC: epoch.val_auroc, Monitor.F1: epoch.val_f1}[
            settings.monitor
        ]
        if not math.isfinite(epoch.train_loss + epoch.val_loss):
            self.status = TrainingStatus.DIVERGED
            return
        if value is not None and (self.best is None or value > self.best.value):
            self.best = BestEpoch(epoch, value, [parameter.detach().clone() for parameter in parameters])
        epochs_without_improvement = epoch.epoch - (self.best_epoch or 0)
        if settings.early_stop is not None and epochs_without_improvement >= settings.early_stop:
            self.status = TrainingStatus.STOPPED_EARLY
        elif epoch.epoch == settings.epochs:
            self.status = TrainingStatus.COMPLETE

    def head(self) -> Head:
        """Return the head after its best epoch, in eval mode and on the CPU.

        Raises:
            ValueError: no epoch is the best one yet.
        """
        if self.best is None:
            raise ValueError(f"configuration {self.index} has no best epoch")
        first, *_, last = self.best.parameters  # (width, inputs), …, (F,)
        head = Head(first.shape[1], self.configuration.hidden, len(last))
        for parameter, value in zip(head.parameters(), self.best.parameters, strict=True):
            parameter.data = value.cpu()
        return head.eval()
