"""A live bar for a running training: epoch, configurations that still run, the best so far, time left."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

from tqdm import tqdm

from head_training.training.history import TrainingHistory


class TrainingProgress:
    """Told of steps and epochs by :func:`head_training.training.trainer.train`; use it as a context manager.

    The bar counts rows times configurations, so that its estimate knows who has left.
    """

    def __init__(self, *, rows: int, configurations: int, epochs: int, quiet: bool) -> None:
        """Make a bar for ``epochs`` passes of so many configurations over so many training rows."""
        self._rows, self._epochs, self._epoch = rows, epochs, 1
        self._bar: tqdm[Any] = tqdm(
            total=rows * configurations * epochs,
            disable=quiet,
            bar_format="{desc} {percentage:3.0f}%|{bar:20}| {elapsed}<{remaining}{postfix}",
            smoothing=0.1,
        )
        self._show(running=configurations, best="none yet")

    def __enter__(self) -> TrainingProgress:
        """Keep the bar until the end."""
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        """Leave the bar on the screen."""
        self._bar.close()

    def on_step(self, rows: int) -> None:
        """Count rows that were trained on, summed over configurations."""
        self._bar.update(rows)

    def on_epoch(self, courses: Sequence[TrainingHistory]) -> None:
        """Show how the configurations stand after an epoch."""
        running = sum(course.status is None for course in courses)
        self._bar.total = int(self._bar.n) + self._rows * running * (self._epochs - self._epoch)
        self._epoch = min(self._epoch + 1, self._epochs)
        ranked = [course for course in courses if course.best is not None]
        best = max(ranked, key=lambda course: course.best.value if course.best else 0.0, default=None)
        shown = "none yet"
        if best is not None and best.best is not None:
            epoch = best.best.epoch
            shown = f"{best.name} in epoch {epoch.epoch}, val loss {epoch.val_loss:.4f}"
        self._show(running=running, best=shown)

    def _show(self, *, running: int, best: str) -> None:
        self._bar.set_description_str(f"epoch {self._epoch}/{self._epochs}", refresh=False)
        self._bar.set_postfix_str(f"{running} running, best so far {best}")
