"""The stacked optimiser takes the steps of torch's Adam on each head alone."""

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
    heads = [initial_head(INPUTS, (8, 5), 14, seed) for seed in range(3)]
    return HeadStack(heads, [0.0] * 3, torch.device("cpu"), torch.float64, torch.float64)


class SingleHead:
    """Copy of one head's parameters, and torch's Adam on it."""

    def __init__(self, stack: HeadStack, member: int) -> None:
        self.parameters = [torch.nn.Parameter(parameter[member].detach().clone()) for parameter in stack.parameters()]
        self.adam = Adam(
            self.parameters, lr=RATES[member], weight_decay=DECAYS[member], betas=BETAS, eps=EPS, fused=False
        )

    def step(self, gradients: list[torch.Tensor], member: int) -> None:
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient[member].clone()
        self.adam.step()


def step_all(stack: HeadStack, optimizer: StackedAdam, alone: dict[int, SingleHead], seed: int) -> None:
    """Give the heads of the stack and their copies the same gradients, and take one step with all."""
    torch.manual_seed(seed)
    gradients = [torch.randn(3, *parameter.shape[1:], dtype=torch.float64) for parameter in stack.parameters()]
    for parameter, gradient in zip(stack.parameters(), gradients, strict=True):
        parameter.grad = gradient[list(alone)]
    for member, copy in alone.items():
        copy.step(gradients, member)
    optimizer.step()


def assert_equal(stack: HeadStack, alone: dict[int, SingleHead]) -> None:
    for position, copy in enumerate(alone.values()):
        for stacked, parameter in zip(stack.parameters(), copy.parameters, strict=True):
            torch.testing.assert_close(stacked[position].data, parameter.data, rtol=1e-12, atol=1e-12)


def test_each_head_steps_as_alone() -> None:
    """To 1e-12 in float64, with different rates and decays, a change of rates, and a head that leaves."""
    stack = make_stack()
    alone = {member: SingleHead(stack, member) for member in range(3)}
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


@pytest.mark.parametrize("member", range(3))
def test_a_rate_of_zero_stops_one_head(member: int) -> None:
    """The other heads move."""
    stack = make_stack()
    before = [parameter.detach().clone() for parameter in stack.parameters()]
    optimizer = StackedAdam(stack, [0.0 if other == member else rate for other, rate in enumerate(RATES)], DECAYS)
    for parameter in stack.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for parameter, old in zip(stack.parameters(), before, strict=True):
        moved = (parameter != old).flatten(1).any(1).tolist()
        assert moved == [other != member for other in range(3)]
