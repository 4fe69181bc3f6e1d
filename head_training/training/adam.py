"""Adam for a stack of heads, each with its own learning rate and weight decay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn
from torch.optim import Adam

from head_training.training.stack import HeadStack

BETAS, EPS = (0.9, 0.999), 1e-8
"""Settings of 2018."""


class StackedAdam:
    """One torch Adam for all heads of a stack.

    One parameter group per head would be one pass per head: on a GPU, 24 groups take seven times as long. So Adam runs
    with learning rate 1 on tensors of zeros in the shapes of the stack's parameters, which turns the zeros into update
    directions; each head then moves along its direction at its own learning rate. The weight decay is coupled, as in
    Adam: it is part of the gradient.
    """

    def __init__(self, stack: HeadStack, rates: Sequence[float], weight_decays: Sequence[float]) -> None:
        """Start without momentum.

        Args:
            stack: C heads.
            rates: learning rate of each head.
            weight_decays: L2 penalty of each head.
        """
        self._decays = stack.dropout.new_tensor(weight_decays)  # (C,)
        self._pairs = [(parameter, nn.Parameter(torch.zeros_like(parameter))) for parameter in stack.parameters()]
        # fused: one pass over the memory instead of ten; memory traffic is the cost of an Adam step
        self._adam = Adam([direction for _, direction in self._pairs], lr=1.0, betas=BETAS, eps=EPS, fused=True)
        self.set_rates(rates)

    def set_rates(self, rates: Sequence[float]) -> None:
        """Set the learning rate of each head."""
        self._rates = self._decays.new_tensor(rates)  # (C,)

    @torch.no_grad()
    def step(self) -> None:
        """Take one step along the gradients of the stack, and clear the gradients."""
        for parameter, direction in self._pairs:
            gradient = cast(torch.Tensor, parameter.grad)
            direction.grad = gradient.addcmul_(parameter, _per_head(self._decays, parameter))
            parameter.grad = None
        self._adam.step()
        self._adam.zero_grad()
        for parameter, direction in self._pairs:
            parameter.addcmul_(direction, _per_head(self._rates, parameter))
            direction.zero_()

    def keep(self, members: Sequence[int]) -> None:
        """Drop the state of all heads but these, which the stack has kept."""
        chosen = torch.tensor(members, device=self._decays.device)
        self._decays, self._rates = self._decays[chosen], self._rates[chosen]
        for _, direction in self._pairs:
            state = self._adam.state[direction]
            for moment in ("exp_avg", "exp_avg_sq"):
                state[moment] = state[moment][chosen]
            direction.data = direction.data[chosen]


def _per_head(values: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """Return (C,) values as (C, 1, ...), to broadcast with a parameter of C heads."""
    return values.view(-1, *[1] * (parameter.dim() - 1))
