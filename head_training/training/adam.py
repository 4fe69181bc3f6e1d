"""Adam over a stack of heads, each with its own learning rate and weight decay."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.optim import Adam

from head_training.training.stack import HeadStack

BETAS, EPS = (0.9, 0.999), 1e-8
"""The settings of 2018."""


class StackedAdam:
    """One torch Adam for all heads of a stack.

    Its parameter groups would each be a pass of their own: on a GPU 24 of them take seven times as long. So it works at
    rate 1 on zeros that lie as the weights do; what it makes of them is each weight's step, and every head takes
    it at its own rate. The weight decay is coupled, as Adam's is: a part of the gradient.
    """

    def __init__(self, stack: HeadStack, rates: Sequence[float], weight_decays: Sequence[float]) -> None:
        """Start with no momentum.

        Args:
            stack: C heads.
            rates: each one's learning rate.
            weight_decays: each one's L2 penalty.
        """
        self._stack = stack
        self._decays = torch.tensor(weight_decays, dtype=stack.dtype, device=stack.device)
        self._steps = [nn.Parameter(torch.zeros_like(value)) for value in stack.values]
        # fused: one pass over the memory instead of ten, which is what a step of Adam costs
        self._adam = Adam(self._steps, lr=1.0, betas=BETAS, eps=EPS, fused=True)
        self._bind()
        self.set_rates(rates)

    def set_rates(self, rates: Sequence[float]) -> None:
        """Go on with other learning rates, one for each head."""
        self._rates = torch.tensor(rates, dtype=self._stack.dtype, device=self._stack.device)

    @torch.no_grad()
    def step(self) -> None:
        """Take a step along the stack's gradients, which are changed."""
        for value, gradient in zip(self._stack.values, self._stack.gradients, strict=True):
            gradient.addcmul_(value, _spread(self._decays, value))
        self._adam.step()
        for value, step in zip(self._stack.values, self._steps, strict=True):
            value.addcmul_(step, _spread(self._rates, value))
            step.zero_()

    def keep(self, numbers: Sequence[int]) -> None:
        """Forget all heads but these, which the stack has kept; they go on with their momentum."""
        chosen = torch.tensor(numbers, device=self._stack.device)
        self._decays, self._rates = self._decays[chosen], self._rates[chosen]
        for step in self._steps:
            state = self._adam.state[step]
            for moment in ("exp_avg", "exp_avg_sq"):
                state[moment] = state[moment][chosen]
            step.data = step.data[chosen]
        self._bind()

    def _bind(self) -> None:
        for step, gradient in zip(self._steps, self._stack.gradients, strict=True):
            step.grad = gradient


def _spread(numbers: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return (C,) numbers as (C, 1, …), to go with a value of C heads."""
    return numbers.view(-1, *[1] * (value.dim() - 1))
