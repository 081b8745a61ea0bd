"""Weight decay of rl.optimizers.Adam: on weights of layers alone, eager and compiled."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from short_runs import begun
from torch import Tensor, nn

from rl.learning.gradient_step import GradientStep
from rl.learning.optimizers import Adam

DECAY = "+algo.optimizer.weight_decay=0.5"
CASES = {
    "sac": ("env=pendulum", "algo.network.hidden=[8]"),
    "crossq": ("env=pendulum", "algo.network.hidden=[8]", "algo.critic_network.hidden=[8]"),
    "tqc": ("env=pendulum", "algo.network.hidden=[8]", "algo.critic_network.hidden=[8]"),
    "ppo": ("env=pendulum", "algo.network.hidden=[8]"),
    "pqn": ("env=cartpole", "algo.network.hidden=[8]"),  # LayerNorm
    "rainbow": ("env=cartpole", "algo.network.hidden=[8]"),  # noisy
    "recurrent_ppo": ("env=cartpole",),
}


def steps_of(agent: Any) -> list[GradientStep]:
    return [value for value in vars(agent).values() if isinstance(value, GradientStep)]


@pytest.mark.parametrize("algo", CASES)
def test_weight_decay_acts_on_weights_of_layers_only(algo: str, tmp_path: Any) -> None:
    """Three steps of each optimizer along a gradient of 0: without decay nothing would move."""
    run = begun(tmp_path / "run", f"algo={algo}", *CASES[algo], DECAY)
    named = [(name, p) for step in steps_of(run.agent) for name, p in step.networks.named_parameters()]
    with torch.no_grad():
        for _, parameter in named:
            parameter.fill_(1.0)
    for step in steps_of(run.agent):
        step.set_lr(*[0.1] * len(step.optimizers))
        for optimizer, flat in zip(step.optimizers, step.flats, strict=True):
            for _ in range(3):
                optimizer.advance()
                optimizer.update(torch.zeros_like(flat))
    moved = {name for name, p in named if not torch.equal(p, torch.ones_like(p))}
    expected = {name for name, p in named if p.ndim >= 2 and "weight" in name and "sigma" not in name}
    assert moved == expected
    assert moved
    for name, parameter in named:
        if name in moved:
            torch.testing.assert_close(parameter, torch.full_like(parameter, 0.95**3))
    kept = {name.split(".")[-1] for name, _ in named if name not in moved}
    assert kept >= (
        {"log_alpha"} if algo in ("sac", "crossq", "tqc") else {"log_std"} if algo == "ppo" else {"bias"}
    )


class Small(nn.Module):
    """Three parameters: a layer's weight and bias, and a log standard deviation."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.log_std = nn.Parameter(torch.ones(1))
        with torch.no_grad():
            self.layer.weight.fill_(1.0)
            self.layer.bias.fill_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * self.log_std.exp()


def loss(networks: Any, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    return networks(x).square().mean(), {}


def stepped(module: Small, optimizer: Any, *, compile: bool) -> Small:
    step = GradientStep(module, [module], loss, optimizer=optimizer, max_grad_norm=None, compile=compile)
    generator = torch.Generator().manual_seed(0)
    for lr in (1e-2, 1e-2, 3e-3):
        step.set_lr(lr)
        step(torch.randn(8, 2, generator=generator))
    return module


@pytest.mark.parametrize("compile", [False, True])
def test_masked_decay_equals_torchs_two_parameter_groups(compile: bool) -> None:
    ours = stepped(Small(), functools.partial(Adam, weight_decay=0.1), compile=compile)
    theirs = Small()
    groups = [
        {"params": [theirs.layer.weight], "weight_decay": 0.1},
        {"params": [theirs.layer.bias, theirs.log_std], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups)
    generator = torch.Generator().manual_seed(0)
    for lr in (1e-2, 1e-2, 3e-3):
        for group in reference.param_groups:
            group["lr"] = lr
        reference.zero_grad()
        loss(theirs, torch.randn(8, 2, generator=generator))[0].backward()
        reference.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one.detach(), other.detach(), rtol=2e-6, atol=1e-7)
    everything = stepped(Small(), lambda p, lr: torch.optim.AdamW(p, lr, weight_decay=0.1), compile=False)
    assert not torch.allclose(everything.log_std, ours.log_std, rtol=1e-5)  # the comparison can fail


def test_no_decay_is_bit_equal_to_torchs_fused_adam() -> None:
    ours = stepped(Small(), Adam, compile=False)
    theirs = stepped(Small(), lambda p, lr: torch.optim.Adam(p, lr, fused=True), compile=False)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert Adam([nn.Parameter(torch.ones(3))], 0.1).decay is None  # so it costs nothing


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_step_of_one_thread_takes_subnormal_numbers_for_zero(threads: int, compile: bool) -> None:
    """Moments of weights without a gradient end as subnormal numbers, which are slow; outside they stay."""
    module, least = Small(), float.fromhex("0x1p-149")

    def loss(networks: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return networks.layer.weight.sum() * 0.0, {}

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        step = GradientStep(module, [module], loss, optimizer=Adam, max_grad_norm=None, compile=compile)
        adam = step.optimizers[0]
        adam.mean.fill_(8 * least)
        adam.mean_square.fill_(8 * least)
        step()
    finally:
        torch.set_num_threads(before)
    expected = 0.0 if threads == 1 else pytest.approx(8 * least, abs=2 * least)
    assert adam.mean.tolist() == [expected] * 4
    assert (torch.full((), 8 * least) * 0.5).item() == 4 * least
