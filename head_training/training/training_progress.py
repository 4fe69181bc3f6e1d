"""Progress bar of a training: epoch, running configurations, best one so far, time left."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

from tqdm import tqdm

from head_training.training.history import TrainingHistory


class TrainingProgress:
    """Progress bar with callbacks for :func:`head_training.training.trainer.train`; use it as a context manager.

    The bar counts rows times configurations, so that its estimate accounts for configurations that have ended.
    """

    def __init__(self, *, rows: int, configurations: int, epochs: int, quiet: bool) -> None:
        """Make a bar for ``epochs`` passes of ``configurations`` over ``rows`` training rows."""
        self._rows, self._epochs, self._epoch = rows, epochs, 1
        self._bar: tqdm[Any] = tqdm(
            total=rows * configurations * epochs,
            disable=quiet,
            bar_format="{desc} {percentage:3.0f}%|{bar:20}| {elapsed}<{remaining}{postfix}",
            smoothing=0.1,
        )
        self._show(running=configurations, best="none yet")

    def __enter__(self) -> TrainingProgress:
        """Return the open bar."""
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        """Close the bar; its last state stays on the screen."""
        self._bar.close()

    def on_step(self, rows: int) -> None:
        """Count the rows of a step, summed over configurations."""
        self._bar.update(rows)

    def on_epoch(self, histories: Sequence[TrainingHistory]) -> None:
        """Show the number of running configurations and the best one so far."""
        running = sum(history.status is None for history in histories)
        self._bar.total = int(self._bar.n) + self._rows * running * (self._epochs - self._epoch)
        self._epoch = min(self._epoch + 1, self._epochs)
        candidates = [(history.best.value, history.name, history.best.epoch) for history in histories if history.best]
        shown = "none yet"
        if candidates:
            _, name, epoch = max(candidates, key=lambda candidate: candidate[0])
            shown = f"{name} in epoch {epoch.epoch}, val loss {epoch.val_loss:.4f}"
        self._show(running=running, best=shown)

    def _show(self, *, running: int, best: str) -> None:
        self._bar.set_description_str(f"epoch {self._epoch}/{self._epochs}", refresh=False)
        self._bar.set_postfix_str(f"{running} running, best so far {best}")
