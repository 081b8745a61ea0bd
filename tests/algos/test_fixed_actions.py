"""A Box action space with low == high in one dimension: nothing is NaN, and the free dimension is learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from short_runs import begun, iterate

from rl.state import not_finite
from rl.training.evaluate import play

SMALL = (
    *("env=gym", "env.id=tiny_envs:HalfFixed-v0", "env.num_envs=2", "algo.rollout_length=16", "frames=10k"),
    *("algo.network.hidden=[8]", "algo.lr=1e-2"),
)
OFF_POLICY = ("algo.learning_starts=32", "algo.batch_size=32", "algo.gamma=0")
CONTINUOUS = {
    "reinforce": ("algo.network.hidden=[8]",),
    "a2c": ("algo.gamma=0",),
    "ppo": ("algo.minibatch_size=32",),
    "recurrent_ppo": ("algo.minibatch_size=32",),
    "sac": (*OFF_POLICY, "algo.alpha=0.1"),
    "td3": OFF_POLICY,
    "ddpg": OFF_POLICY,
    "crossq": (*OFF_POLICY, "algo.critic_network.hidden=[8]", "algo.alpha=0.1"),
    "tqc": (*OFF_POLICY, "algo.critic_network.hidden=[8]", "algo.alpha=0.1"),
}


@pytest.mark.parametrize(
    ("algo", "compiled"),
    [*((algo, False) for algo in CONTINUOUS), ("sac", True), ("td3", True), ("crossq", True)],
)
def test_a_fixed_action_dimension_leaves_everything_finite(algo: str, compiled: bool, tmp_path: Path) -> None:
    """Losses, weights and optimizers, after several updates."""
    run = begun(tmp_path / "run", f"algo={algo}", *SMALL, *CONTINUOUS[algo], f"compile={compiled}")
    for _ in range(4):
        rollout = run.collector.collect(run.agent)
        report = run.agent.learn(rollout)
        assert all(np.isfinite(value) for value in report.values()), report
    assert run.clock.updates > 0
    assert not_finite({name: part.state_dict() for name, part in run.agent.parts.items()}) == []


@pytest.mark.parametrize("algo", ["sac", "td3", "crossq", "tqc"])
def test_what_is_taken_for_a_fixed_dimension_is_its_value(algo: str, tmp_path: Path) -> None:
    """The environment refuses anything else; the critics see 0 there, of rollouts and of policies alike."""
    run = begun(tmp_path / "run", f"algo={algo}", *SMALL, *CONTINUOUS[algo])
    iterate(run, 3)
    box = run.agent.box if algo == "td3" else run.agent.distribution.box
    action = run.agent.replay.sample(32, np.random.default_rng(0), run.clock.frames).action
    assert (action[:, 1] == 3).all()
    unit = box.shrink(action)
    assert (unit[:, 1] == 0).all()
    assert np.abs(unit[:, 0]).max() > 0.5
    assert box.stretch(unit) == pytest.approx(action, abs=1e-6)
    seen: list[np.ndarray] = []
    critics = run.agent.networks.critics if algo in ("sac", "tqc") else run.agent.critics
    critics.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach().numpy()))
    iterate(run, 1)
    assert seen
    assert all((inputs[:, -1] == 0).all() for inputs in seen)
    assert any(np.unique(inputs[:, -2]).size > 2 for inputs in seen)


@pytest.mark.parametrize("algo", ["sac", "td3", "crossq", "tqc"])
def test_the_free_dimension_is_learned(algo: str, tmp_path: Path) -> None:
    more = ("algo.policy_delay=1", "algo.network.warm_up=5") if algo == "crossq" else ()
    run = begun(tmp_path / "run", f"algo={algo}", *SMALL, *CONTINUOUS[algo], *more)
    iterate(run, 40)
    assert play(run.agent, run.parts.make_env, 20, 0).mean > -3.0  # by chance: -10
