"""The course of one configuration's training: its epochs, the best of them, and when it ends."""

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
    """What a better epoch is better in, on validation: lower loss, higher mean AUROC, higher macro F1."""

    VAL_LOSS = "val_loss"
    AUROC = "auroc"
    F1 = "f1"


class TrainingStatus(StrEnum):
    """How a configuration's training ended."""

    COMPLETE = "complete"
    STOPPED_EARLY = "stopped early"
    DIVERGED = "diverged"
    INTERRUPTED = "interrupted"


PRECISIONS = (Precision.FP32, Precision.BF16)


@dataclass(frozen=True)
class TrainingSettings:
    """What all configurations of a run share.

    Attributes:
        epochs: at most.
        batch_size: rows of a step.
        early_stop: epochs without a better one after which a configuration ends; None: never.
        monitor: what decides which epoch is better, for the one that is kept and for the early stop.
        seed: of initial weights, batches and dropout.
        precision: of the first layer's products; everything else is in the precision of the inputs.

    Raises ConfigError for values that can't be carried out.
    """

    epochs: int = 50
    batch_size: int = 256
    early_stop: int | None = None
    monitor: Monitor = Monitor.VAL_LOSS
    seed: int = 0
    precision: Precision = Precision.FP32

    def __post_init__(self) -> None:
        """Check every number."""
        for name, lowest in (("epochs", 1), ("batch_size", 1), ("early_stop", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise ConfigError(f"{name} is {value}; expected at least {lowest}")
        if self.precision not in PRECISIONS:
            # No "auto": a head would depend on the machine it was trained on without a word.
            raise ConfigError(f"precision is {self.precision}; expected one of {[p.value for p in PRECISIONS]}")


@dataclass(frozen=True)
class Epoch:
    """One epoch of one configuration; the learning rate is the one it was trained with."""

    epoch: int
    lr: float
    train_loss: float
    val_loss: float
    val_auroc: float | None
    val_f1: float | None


@dataclass(frozen=True)
class BestEpoch:
    """The best epoch so far and the parameters after it, layer by layer weight and bias."""

    epoch: Epoch
    value: float
    parameters: Sequence[torch.Tensor]


@dataclass
class TrainingHistory:
    """The training of one configuration.

    Attributes:
        index: its place in the grid.
        configuration: what is trained.
        history: its epochs.
        best: None before the first epoch that can be ranked.
        status: None while it runs.
    """

    index: int
    configuration: Configuration
    history: list[Epoch] = field(default_factory=list)
    best: BestEpoch | None = None
    status: TrainingStatus | None = None

    @property
    def name(self) -> str:
        """Of the configuration."""
        return self.configuration.name(self.index)

    def add(self, epoch: Epoch, parameters: Sequence[torch.Tensor], settings: TrainingSettings) -> None:
        """Take in an epoch: keep it if it is better than all before (not equal), and decide whether it was the last."""
        self.history.append(epoch)
        value = {Monitor.VAL_LOSS: -epoch.val_loss, Monitor.AUROC: epoch.val_auroc, Monitor.F1: epoch.val_f1}[
            settings.monitor
        ]
        if not math.isfinite(epoch.train_loss + epoch.val_loss):
            self.status = TrainingStatus.DIVERGED
            return
        if value is not None and (self.best is None or value > self.best.value):
            self.best = BestEpoch(epoch, value, [parameter.detach().clone() for parameter in parameters])
        stale = epoch.epoch - (self.best.epoch.epoch if self.best else 0)
        if settings.early_stop is not None and stale >= settings.early_stop:
            self.status = TrainingStatus.STOPPED_EARLY
        elif epoch.epoch == settings.epochs:
            self.status = TrainingStatus.COMPLETE

    def head(self) -> Head:
        """Return the head of the best epoch in eval mode, on the CPU.

        Raises:
            ValueError: there is none.
        """
        if self.best is None:
            raise ValueError(f"configuration {self.index} has no best epoch")
        head = Head(self.best.parameters[0].shape[1], self.configuration.hidden)
        for parameter, value in zip(head.parameters(), self.best.parameters, strict=True):
            parameter.data = value.cpu()
        return head.eval()
