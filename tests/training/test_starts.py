"""What a start does not import, and that torch.optim's optimizers step as ever without their compiler."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from short_runs import environment, typed
from torch.optim.optimizer import register_optimizer_step_pre_hook

from rl.learning.gradient_step import GradientStep
from rl.training.run import Run

# of each the first that is imported would bring the rest of its package
NEEDLESS = [
    *("torch._dynamo", "torch._inductor", "torch.onnx", "torch.utils.tensorboard", "sympy"),
    *("pandas", "rich", "matplotlib", "av", "PIL", "optuna", "submitit", "ray", "wandb", "mlflow"),
    *("pygame", "mujoco", "ale_py", "Box2D", "cv2", "scipy", "tensorboard", "IPython", "rl.sweeps.plan"),
]


def write_modules(run: Run) -> None:
    """A callback: what is loaded after the first frames."""
    del run
    Path("modules").write_text("\n".join(sys.modules))


@pytest.mark.parametrize("algo", ["reinforce", "ppo"])
def test_a_start_imports_nothing_needless(algo: str) -> None:
    words = [f"algo={algo}", "env.num_envs=1", "algo.rollout_length=256", "frames=256", "eval.every=null"]
    done = typed(*words, "callbacks=[{_target_: test_starts.write_modules}]")
    assert done.returncode == 0, done.stderr
    loaded = set(Path("modules").read_text().split("\n"))
    assert {"torch", "numpy", "gymnasium", "rl.training.run"} <= loaded
    assert loaded & set(NEEDLESS) == set()


def test_the_command_line_is_judged_without_torch() -> None:
    code = "import sys, rl.train; sys.exit(bool({'torch', 'numpy', 'gymnasium'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], env=environment(), check=False).returncode == 0


OPTIMIZERS: list[Callable[..., torch.optim.Optimizer]] = [
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.RMSprop,
    torch.optim.RAdam,
    torch.optim.SGD,
]


class Halved(torch.optim.Optimizer):
    """A user's optimizer, whose `step` has no decorator of torch.optim."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for p in self.param_groups[0]["params"]:
            p.sub_(p.grad, alpha=0.5 * self.param_groups[0]["lr"])


def loss(network: Any, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    return network(x).square().mean(), {}


@pytest.mark.parametrize("maker", [*OPTIMIZERS, Halved])
def test_a_torch_optimizer_steps_as_torch_steps_it(maker: Callable[..., torch.optim.Optimizer]) -> None:
    torch.manual_seed(0)
    ours, theirs = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    theirs.load_state_dict(ours.state_dict())
    step = GradientStep(ours, [ours], loss, optimizer=maker, max_grad_norm=None, compile=False)
    flat = torch.nn.Parameter(torch.cat([p.detach().flatten() for p in theirs.parameters()]))
    optimizer = maker([flat], lr=0.01)
    step.set_lr(0.01)
    for seed in range(3):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))
        step(x)
        weights = flat.split([12, 3])
        loss(lambda x, w=weights: x @ w[0].view(3, 4).T + w[1], x)[0].backward()
        assert torch.equal(step.flats[0].grad, flat.grad)
        optimizer.step()
        assert torch.equal(step.flats[0], flat)
        flat.grad = None


def test_hooks_of_an_optimizer_are_called() -> None:
    called = []
    network = torch.nn.Linear(4, 3)
    step = GradientStep(
        network, [network], loss, optimizer=torch.optim.Adam, max_grad_norm=None, compile=False
    )
    step(torch.ones(1, 4))
    hook = step.optimizers[0].optimizer.register_step_post_hook(lambda *_: called.append("own"))
    step(torch.ones(1, 4))
    hook.remove()
    step(torch.ones(1, 4))
    hook = register_optimizer_step_pre_hook(lambda *_: called.append("everyone's"))
    step(torch.ones(1, 4))
    hook.remove()
    assert called == ["own", "everyone's"]
