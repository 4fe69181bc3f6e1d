"""The stacked optimiser takes the steps that torch's Adam takes with each head alone."""

from __future__ import annotations

import pytest
import torch
from torch.optim import Adam

from head_training.training.adam import BETAS, EPS, StackedAdam
from head_training.training.stack import HeadStack
from head_training.training.trainer import initial_head

RATES, DECAYS = [1e-3, 3e-2, 1e-1], [0.0, 1e-2, 1e-5]
INPUTS = 9


def make_stack() -> HeadStack:
    heads = [initial_head(INPUTS, (8, 5), seed) for seed in range(3)]
    return HeadStack(heads, [0.0] * 3, torch.device("cpu"), torch.float64, torch.float64)


class Alone:
    """A copy of one head's parameters, and torch's Adam on it."""

    def __init__(self, stack: HeadStack, number: int) -> None:
        self.parameters = [torch.nn.Parameter(value[number].clone()) for value in stack.values]
        self.adam = Adam(
            self.parameters, lr=RATES[number], weight_decay=DECAYS[number], betas=BETAS, eps=EPS, fused=False
        )

    def step(self, gradients: list[torch.Tensor], number: int) -> None:
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient[number].clone()
        self.adam.step()


def step_all(stack: HeadStack, optimizer: StackedAdam, alone: dict[int, Alone], seed: int) -> None:
    """Give the heads that are left, and their copies, the same gradients, and let all take a step."""
    torch.manual_seed(seed)
    drawn = [torch.randn(3, *gradient.shape[1:], dtype=torch.float64) for gradient in stack.gradients]
    for gradient, values in zip(stack.gradients, drawn, strict=True):
        gradient.copy_(values[list(alone)])
    for number, copy in alone.items():
        copy.step(drawn, number)
    optimizer.step()


def assert_equal(stack: HeadStack, alone: dict[int, Alone]) -> None:
    for position, copy in enumerate(alone.values()):
        for value, parameter in zip(stack.values, copy.parameters, strict=True):
            torch.testing.assert_close(value[position], parameter.data, rtol=1e-12, atol=1e-12)


def test_each_head_steps_as_alone() -> None:
    """Rates, decays, a change of rates, and a head that leaves in the middle: to 1e-12 in float64."""
    stack = make_stack()
    alone = {number: Alone(stack, number) for number in range(3)}
    optimizer = StackedAdam(stack, RATES, DECAYS)
    for seed in range(4):
        step_all(stack, optimizer, alone, seed)
    assert_equal(stack, alone)
    for copy in alone.values():
        copy.adam.param_groups[0]["lr"] *= 0.2
    optimizer.set_rates([0.2 * rate for rate in RATES])
    step_all(stack, optimizer, alone, 4)
    stack.keep([0, 2])
    optimizer.keep([0, 2])
    del alone[1]
    for seed in range(5, 8):
        step_all(stack, optimizer, alone, seed)
    assert_equal(stack, alone)


@pytest.mark.parametrize("number", range(3))
def test_a_rate_of_zero_stands_still(number: int) -> None:
    """And moves none but its own head."""
    stack = make_stack()
    before = [value.clone() for value in stack.values]
    optimizer = StackedAdam(stack, [0.0 if other == number else rate for other, rate in enumerate(RATES)], DECAYS)
    for gradient in stack.gradients:
        gradient.fill_(1.0)
    optimizer.step()
    for value, old in zip(stack.values, before, strict=True):
        moved = (value != old).flatten(1).any(1).tolist()
        assert moved == [other != number for other in range(3)]
