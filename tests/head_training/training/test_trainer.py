"""Training: each configuration of a stack ends when it should, with the weights that torch alone would give it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from cxrfeat.device import Precision
from cxrfeat.errors import ConfigError
from cxrfeat.labels.findings import FINDINGS
from head_training.evaluation.ranking import aurocs, macro_f1, mean_auroc
from head_training.training.grid import Configuration
from head_training.training.history import PRECISIONS, Monitor, TrainingHistory, TrainingSettings, TrainingStatus
from head_training.training.stack import HeadStack
from head_training.training.trainer import Examples, _derive_seed, _losses, initial_head, train

WIDTH = 9


def examples(count: int, *, seed: int, dtype: torch.dtype = torch.float64) -> Examples:
    """Return inputs that are predictive of every finding, with different label weights."""
    random = np.random.default_rng(seed)
    coefficients = np.random.default_rng(0).normal(size=(WIDTH, len(FINDINGS)))
    inputs = random.normal(size=(count, WIDTH))
    labels = inputs @ coefficients + 2 * random.normal(size=(count, len(FINDINGS))) > 1
    weights = np.linspace(0.5, 4, 28).reshape(2, 14)
    return Examples(*(torch.tensor(array, dtype=dtype) for array in (inputs, labels.astype(float), weights)))


def train_alone(
    configuration: Configuration, data: Examples, val: Examples, settings: TrainingSettings
) -> tuple[list[tuple[float, float, float]], int, list[torch.Tensor]]:
    """Train one configuration as in torch's documentation, as the reference.

    Returns (lr, train loss, val loss) of each epoch, the number of the best epoch, and its parameters.
    """
    head = initial_head(WIDTH, configuration.hidden, 14, settings.seed).to(data.inputs.dtype)
    optimizer = torch.optim.Adam(
        head.parameters(), lr=configuration.lr, weight_decay=configuration.weight_decay, betas=(0.9, 0.999), eps=1e-8
    )
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="min", factor=0.2, patience=1)
    shuffle = torch.Generator().manual_seed(_derive_seed(settings.seed, "batches"))
    epochs: list[tuple[float, float, float]] = []
    best, best_epoch, kept = np.inf, 0, []
    for epoch in range(1, settings.epochs + 1):
        lr, losses = optimizer.param_groups[0]["lr"], []
        for rows in torch.randperm(len(data.inputs), generator=shuffle).split(settings.batch_size):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            loss = loss_of(head(data.inputs[rows]), data.labels[rows], data)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses += [loss.item()] * len(rows)
        with torch.no_grad():
            val_loss = loss_of(head(val.inputs), val.labels, val).item()
        epochs.append((lr, float(np.mean(losses)), val_loss))
        schedule.step(val_loss)
        if val_loss < best:
            best, best_epoch, kept = val_loss, epoch, [p.detach().clone() for p in head.parameters()]
        if settings.early_stop is not None and epoch - best_epoch >= settings.early_stop:
            break
    return epochs, best_epoch, kept


def loss_of(logits: torch.Tensor, labels: torch.Tensor, data: Examples) -> torch.Tensor:
    weights = torch.where(labels > 0.5, data.weights[1], data.weights[0])
    return F.binary_cross_entropy_with_logits(logits, labels, weights)


def backward(stack: HeadStack, data: Examples, noise: torch.Generator | None = None) -> torch.Tensor:
    """Compute the gradients of a stack on one batch, and return the loss of each head."""
    losses = _losses(stack(data.inputs, noise), data.targets(slice(None)))
    losses.sum().backward()  # type: ignore[no-untyped-call]
    return losses.detach()


def gradients_of(stack: HeadStack, member: int) -> list[torch.Tensor]:
    """Return the gradients of one head with padding, weight and bias of each layer in turn."""
    pairs = zip(stack.weights, stack.biases, strict=True)
    return [parameter.grad[member] for pair in pairs for parameter in pair]


CONFIGURATIONS = [
    Configuration((8, 5), 0.0, lr, weight_decay)
    for lr, weight_decay in ((3e-4, 1e-5), (3e-3, 0.0), (3e-2, 1e-2), (0.3, 1e-5), (1.0, 1e-3))
] + [Configuration((6,), 0.0, lr, 1e-4) for lr in (1e-3, 1e-1)]
SETTINGS = TrainingSettings(epochs=14, batch_size=16, early_stop=4, seed=3)


def assert_as_alone(histories: Sequence[TrainingHistory], data: Examples, val: Examples, tolerance: float) -> None:
    for history in histories:
        expected, best_epoch, kept = train_alone(history.configuration, data, val, SETTINGS)
        assert history.best is not None
        assert (len(history.epochs), history.best_epoch) == (len(expected), best_epoch)
        epochs = [(epoch.lr, epoch.train_loss, epoch.val_loss) for epoch in history.epochs]
        np.testing.assert_allclose(epochs, expected, rtol=tolerance)
        for parameter, reference in zip(history.best.parameters, kept, strict=True):
            torch.testing.assert_close(parameter, reference, rtol=tolerance, atol=tolerance)


def test_every_configuration_ends_as_alone() -> None:
    """Weights, losses, learning rates, best epoch and end: to 1e-9 in float64, with plateau steps and early stops."""
    data, val = examples(150, seed=1), examples(60, seed=2)
    histories = train(data, val, CONFIGURATIONS, SETTINGS)
    assert_as_alone(histories, data, val, 1e-9)
    ends = {history.status for history in histories}
    assert ends == {TrainingStatus.COMPLETE, TrainingStatus.STOPPED_EARLY}
    assert min(len(history.epochs) for history in histories) >= 5
    assert sum(history.epochs[-1].lr < history.configuration.lr for history in histories) >= 2, "no plateau step"


def test_float32_stays_close_to_alone() -> None:
    """To 1e-4 of torch's float32: the same sums in another order."""
    data = examples(150, seed=1, dtype=torch.float32)
    val = examples(60, seed=2, dtype=torch.float32)
    assert_as_alone(train(data, val, CONFIGURATIONS[:3], SETTINGS), data, val, 1e-4)


def test_neighbours_do_not_matter_with_dropout() -> None:
    """A configuration gets the same dropout masks alone and next to others, and the rate changes its history."""
    data, val = examples(150, seed=1), examples(60, seed=2)
    settings = TrainingSettings(epochs=3, batch_size=16)
    grid = [Configuration((8, 5), dropout) for dropout in (0.0, 0.2, 0.5)]
    together = train(data, val, grid, settings)
    for history in together:
        (alone,) = train(data, val, [history.configuration], settings)
        for left, right in zip(alone.epochs, history.epochs, strict=True):
            np.testing.assert_allclose(left.val_loss, right.val_loss, rtol=1e-9)
    assert len({round(history.epochs[-1].val_loss, 6) for history in together}) == 3


def test_dropout_keeps_the_mean_and_drops_its_share() -> None:
    """Units are zero as often as the rate says, and the others are scaled so that the expectation stays."""
    head = initial_head(WIDTH, (64,), 14, 0)
    *_, weight, bias = head.parameters()
    weight.data, bias.data = torch.eye(14, 64), torch.zeros(14)  # logits are the first 14 hidden units
    stack = HeadStack([head, head], [0.0, 0.4], torch.device("cpu"), torch.float32, torch.float32)
    with torch.no_grad():
        clean, dropped = stack(torch.ones(5000, WIDTH), torch.Generator().manual_seed(1))  # (B, 14) each
        torch.testing.assert_close(clean, head(torch.ones(5000, WIDTH)))
    active = clean[0] > 0
    assert active.sum() >= 5
    torch.testing.assert_close((dropped[:, active] == 0).float().mean(), torch.tensor(0.4), atol=0.01, rtol=0)
    torch.testing.assert_close(dropped[:, active].mean(), clean[:, active].mean(), rtol=0.03, atol=0)
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], clean[kept] / 0.6)


def test_bf16_rounds_the_first_products_alone() -> None:
    """Logits and gradients are those of rounded weights and inputs; the weights themselves are not rounded."""
    data = examples(20, seed=4, dtype=torch.float32)
    head = initial_head(WIDTH, (8, 5), 14, 0)
    rounded = initial_head(WIDTH, (8, 5), 14, 0)
    rounded.layers[0].weight.data = rounded.layers[0].weight.data.bfloat16().float()
    stack = HeadStack([head], [0.0], torch.device("cpu"), torch.float32, torch.bfloat16)
    inputs = data.inputs.bfloat16().float()
    torch.testing.assert_close(stack(data.inputs)[0], rounded(inputs), rtol=0.02, atol=0.02)
    assert not torch.equal(stack(data.inputs)[0], head(data.inputs))
    backward(stack, data)
    loss_of(rounded(inputs), data.labels, data).backward()  # type: ignore[no-untyped-call]
    for stacked, original in zip(stack.head_parameters(0), head.parameters(), strict=True):
        torch.testing.assert_close(stacked.data, original.data, rtol=0, atol=0)
    for gradient, theirs in zip(gradients_of(stack, 0), rounded.parameters(), strict=True):
        torch.testing.assert_close(gradient[..., : theirs.shape[-1]], theirs.grad, rtol=0.05, atol=0.002)


def test_bf16_ends_close_to_fp32_but_not_at_it() -> None:
    """The option has an effect: other weights, nearly the same validation loss."""
    data, val = (examples(count, seed=count, dtype=torch.float32) for count in (300, 100))
    losses = {}
    for precision in PRECISIONS:
        (history,) = train(data, val, [Configuration((8, 5), lr=3e-3)], TrainingSettings(epochs=5, precision=precision))
        losses[precision] = history.epochs[-1].val_loss
    fp32, bf16 = losses.values()
    assert fp32 != bf16
    assert abs(fp32 - bf16) < 0.01 * fp32


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_gradients_are_those_of_each_head_alone(dropout: float) -> None:
    """Losses and gradients of the stack agree with those of each head alone, dropout included."""
    data = examples(20, seed=4)
    heads = [initial_head(WIDTH, (8, 5), 14, seed).double() for seed in (0, 1)]
    stack = HeadStack(heads, [dropout, 0.0], torch.device("cpu"), torch.float64, torch.float64)
    losses = backward(stack, data, torch.Generator().manual_seed(5))
    for member, head in enumerate(heads):
        noise = torch.Generator().manual_seed(5)
        hidden, rate = data.inputs, (dropout, 0.0)[member]
        for layer in list(head.layers)[:-1]:
            hidden = torch.relu(layer(hidden))
            draw = torch.rand(hidden.T.shape, generator=noise, dtype=torch.float64)
            hidden = hidden * (rate <= draw.T) / (1 - rate)
        loss = loss_of(head.layers[-1](hidden), data.labels, data)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.testing.assert_close(losses[member], loss.detach())
        for gradient, theirs in zip(gradients_of(stack, member), head.parameters(), strict=True):
            torch.testing.assert_close(gradient[..., : theirs.shape[-1]], theirs.grad)
            assert not gradient[..., theirs.shape[-1] :].any(), "the padding has a gradient"


def test_finished_configurations_leave_the_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work shrinks with the number of configurations that still run."""
    sizes = []
    original = HeadStack.forward

    def record_size(self: HeadStack, inputs: torch.Tensor, noise: torch.Generator | None = None) -> torch.Tensor:
        if torch.is_grad_enabled():
            sizes.append(len(self))
        return original(self, inputs, noise)

    monkeypatch.setattr(HeadStack, "forward", record_size)
    histories = train(examples(150, seed=1), examples(60, seed=2), CONFIGURATIONS[:5], SETTINGS)
    assert sum(sizes) == sum(10 * len(history.epochs) for history in histories)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0] == 5


def test_a_diverging_configuration_leaves_and_the_others_continue() -> None:
    """NaN in one head ends that head alone."""
    data, val = examples(150, seed=1), examples(60, seed=2)
    settings = TrainingSettings(epochs=3, batch_size=16)
    grid = [Configuration((8, 5)), Configuration((8, 5), lr=1e308)]
    good, bad = train(data, val, grid, settings)
    assert (good.status, bad.status) == (TrainingStatus.COMPLETE, TrainingStatus.DIVERGED)
    assert bad.best is None
    (alone,) = train(data, val, grid[:1], settings)
    assert [epoch.val_loss for epoch in good.epochs] == pytest.approx([epoch.val_loss for epoch in alone.epochs])


@pytest.mark.parametrize("monitor", list(Monitor))
def test_the_monitor_picks_the_best_epoch(monitor: Monitor) -> None:
    """The best epoch is the first one with the best value, and its parameters reproduce that value."""
    data, val = examples(150, seed=1), examples(60, seed=2)
    (history,) = train(
        data, val, [Configuration((8, 5), lr=0.1)], TrainingSettings(epochs=8, batch_size=16, monitor=monitor)
    )
    values = [
        {Monitor.VAL_LOSS: -epoch.val_loss, Monitor.AUROC: epoch.val_auroc, Monitor.F1: epoch.val_f1}[monitor]
        for epoch in history.epochs
    ]
    assert history.best is not None
    assert history.best_epoch == 1 + int(np.argmax(values))  # type: ignore[arg-type]
    with torch.no_grad():
        logits = history.head()(val.inputs)
    scores, labels = logits.sigmoid().numpy(), val.labels.numpy()
    recomputed = {
        Monitor.VAL_LOSS: -loss_of(logits, val.labels, val).item(),
        Monitor.AUROC: mean_auroc(aurocs(labels, scores, FINDINGS))[0],
        Monitor.F1: macro_f1(labels, scores),
    }
    assert history.best.value == pytest.approx(recomputed[monitor])


def test_the_same_seed_gives_the_same_bits_and_another_does_not() -> None:
    """Training is deterministic, and the seed matters."""
    data, val = (examples(n, seed=n, dtype=torch.float32) for n in (150, 60))
    ends = []
    for seed in (0, 0, 1):
        settings = TrainingSettings(epochs=2, batch_size=16, seed=seed)
        (history,) = train(data, val, [Configuration((8, 5), 0.3)], settings)
        assert history.best is not None
        ends.append([parameter.numpy().tobytes() for parameter in history.best.parameters])
    assert ends[0] == ends[1] != ends[2]


def test_ctrl_c_keeps_the_best_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt in the middle of an epoch keeps the results of the epochs before it."""
    data, val = examples(150, seed=1), examples(60, seed=2)
    steps = 0

    def interrupt(rows: int) -> None:
        nonlocal steps
        steps += 1
        if steps == 25:
            raise KeyboardInterrupt

    histories = train(data, val, CONFIGURATIONS[:2], TrainingSettings(batch_size=16), on_step=interrupt)
    whole = train(data, val, CONFIGURATIONS[:2], TrainingSettings(epochs=2, batch_size=16))
    for history, expected in zip(histories, whole, strict=True):
        assert history.status == TrainingStatus.INTERRUPTED
        assert history.epochs == expected.epochs
        assert history.best is not None
        assert expected.best is not None
        assert history.best.epoch == expected.best.epoch


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainingSettings(epochs=0), "epochs is 0; expected at least 1"),
        (lambda: TrainingSettings(batch_size=0), "batch_size is 0; expected at least 1"),
        (lambda: TrainingSettings(precision=Precision.AUTO), "precision is auto; expected one of: fp32, bf16"),
        (lambda: TrainingSettings(early_stop=0), "early_stop is 0; expected at least 1"),
        (lambda: TrainingSettings(seed=-1), "seed is -1; expected at least 0"),
    ],
)
def test_invalid_settings_are_refused(make: Callable[[], TrainingSettings], message: str) -> None:
    """The error names setting, value and expected value."""
    with pytest.raises(ConfigError, match=message):
        make()


def test_batch_size_and_epochs_have_an_effect() -> None:
    """More epochs extend the history; another batch size changes it."""
    data, val = examples(150, seed=1), examples(60, seed=2)
    (base,) = train(data, val, [Configuration((8, 5))], TrainingSettings(epochs=2, batch_size=16))
    (longer,) = train(data, val, [Configuration((8, 5))], TrainingSettings(epochs=3, batch_size=16))
    (larger,) = train(data, val, [Configuration((8, 5))], TrainingSettings(epochs=2, batch_size=50))
    assert longer.epochs[:2] == base.epochs
    assert len(longer.epochs) == 3
    assert larger.epochs[0].val_loss != base.epochs[0].val_loss


def test_unknown_cells_have_no_part_in_the_training() -> None:
    """With half of a label's cells unknown, the head is that of plain torch with those cells removed from the loss."""
    data, val = examples(300, seed=1), examples(100, seed=2)
    masks = []
    for part in (data, val):
        known = torch.ones_like(part.labels, dtype=torch.bool)
        known[::2, 4] = False
        masks.append(known)
    masked, masked_val = (
        Examples(part.inputs, part.labels * known, part.weights, known)
        for part, known in zip((data, val), masks, strict=True)
    )
    configuration, settings = Configuration((8, 5), lr=3e-3), TrainingSettings(epochs=4, batch_size=32)
    (history,) = train(masked, masked_val, [configuration], settings)
    head = initial_head(WIDTH, (8, 5), 14, settings.seed).to(data.inputs.dtype)
    optimizer = torch.optim.Adam(head.parameters(), lr=configuration.lr, weight_decay=configuration.weight_decay)
    shuffle = torch.Generator().manual_seed(_derive_seed(settings.seed, "batches"))

    def loss_of_known(part: Examples, rows: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        cells = known[rows]
        labels, logits = part.labels[rows][cells], head(part.inputs[rows])[cells]
        weights = torch.where(part.labels > 0.5, part.weights[1], part.weights[0])[rows][cells]
        return F.binary_cross_entropy_with_logits(logits, labels, weights)

    for epoch in range(history.best_epoch or 0):
        for rows in torch.randperm(len(data.inputs), generator=shuffle).split(settings.batch_size):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            loss_of_known(data, rows, masks[0]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            val_loss = loss_of_known(val, torch.arange(len(val.inputs)), masks[1]).item()
        assert history.epochs[epoch].val_loss == pytest.approx(val_loss, rel=1e-6)
    for found, expected in zip(history.head().parameters(), head.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    (complete,) = train(data, val, [configuration], settings)
    assert complete.epochs[-1].val_loss != history.epochs[-1].val_loss
