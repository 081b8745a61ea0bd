"""Action masks and hybrid actions in whole runs: what is chosen, learned, resumed, exported and refused."""

from __future__ import annotations

import functools
import types
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import tiny_envs
import torch
from faults import DIED
from short_runs import TINY, begun, differences, go, in_child, iterate, record
from test_kills import killed

from rl import api
from rl.config import ConfigError
from rl.config.compose import compose, options
from rl.config.schema import ExportConfig
from rl.envs.wrappers import ActionMask
from rl.export import export, read
from rl.learning.gradient_step import GradientStep
from rl.learning.masks import LOWEST
from rl.spaces import MASK
from rl.training.build import make_agent
from rl.training.evaluate import play

WRAPPER = "env.wrappers=[{_target_: rl.wrappers.ActionMask}]"
ENV = ("env=gym", "env.id=tiny_envs:Masking-v0", "env.num_envs=2", "algo.rollout_length=16", "frames=10k")
SMALL = "algo.network.hidden=[8]"
REPLAY = ("algo.learning_starts=64", "algo.batch_size=16", "algo.replay.capacity=500", SMALL)
MASKED: dict[str, tuple[str, ...]] = {
    "reinforce": (SMALL,),
    "a2c": (SMALL,),
    "ppo": (SMALL, "algo.minibatch_size=16"),
    "ppo, shared": (SMALL, "algo.minibatch_size=16", "algo.shared_network=true"),
    "recurrent_ppo": (SMALL, "algo.minibatch_size=16"),
    "recurrent_ppo, LSTM": (SMALL, "algo.minibatch_size=16", "algo.memory._target_=rl.networks.LSTM"),
    "sarsa": (SMALL,),
    "sarsa, temperature": (SMALL, "algo.epsilon=null", "algo.temperature=1"),
    "dqn": REPLAY,
    "ddqn_per": REPLAY,
    "qr_dqn": REPLAY,
    "rainbow": REPLAY,
    "pqn": (SMALL, "algo.minibatch_size=16"),
    "sac_discrete": REPLAY,
    "random": (),
}
MULTI = ("reinforce", "a2c", "ppo", "recurrent_ppo", "random")


def line(case: str, *overrides: str) -> list[str]:
    return [f"algo={case.partition(',')[0]}", *ENV, *MASKED[case], WRAPPER, *overrides]


def test_every_algorithm_with_masks_is_here() -> None:
    assert {case.partition(",")[0] for case in MASKED} == set(options("algo")) - {
        "sac",
        "td3",
        "ddpg",
        "crossq",
        "tqc",
    }


# --------------------------------------------------------------------- what is chosen


@pytest.mark.parametrize("case", MASKED)
def test_no_masked_action_in_training_and_evaluation(case: str, tmp_path: Path) -> None:
    """The environment fails at the first one; rewards differ, so that something is learned."""
    run = begun(tmp_path / "run", *line(case))
    iterate(run, 12)
    assert run.clock.updates > 0 or case == "random"
    for explore in (False, True):
        assert play(run.agent, run.parts.make_env, 12, 0, explore=explore).mean >= 10


@pytest.mark.parametrize("case", MULTI)
def test_no_masked_choice_of_several(case: str, tmp_path: Path) -> None:
    run = begun(tmp_path / "run", *line(case, "+env.kwargs.multi=true"))
    iterate(run, 6)
    for explore in (False, True):
        assert play(run.agent, run.parts.make_env, 10, 0, explore=explore).mean >= 10


@pytest.mark.parametrize("case", MASKED)
def test_one_allowed_action_makes_the_first_frame_optimal(case: str, tmp_path: Path) -> None:
    run = begun(tmp_path / "run", *line(case, "+env.kwargs.one=true"))
    for explore in (False, True):
        assert play(run.agent, run.parts.make_env, 5, 0, explore=explore).returns == [10.0] * 5
    rollout = run.collector.collect(run.agent)
    assert (rollout.reward == 1).all()


@pytest.mark.parametrize("case", ["ppo", "dqn", "random"])
def test_without_the_wrapper_masked_actions_are_taken(case: str, tmp_path: Path) -> None:
    """The negative control: the environment's failure is noticed, in the trial before the run already."""
    overrides = [override for override in line(case) if override != WRAPPER]
    with pytest.raises((AssertionError, ConfigError), match="is masked by"):
        iterate(begun(tmp_path / "run", *overrides), 12)


@pytest.mark.parametrize("give", ["info", "method", "key"])
@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_masks_come_the_same_however_they_are_given(give: str, vectorization: str, tmp_path: Path) -> None:
    overrides = [override for override in line("ppo") if give != "key" or override != WRAPPER]
    overrides += [f"+env.kwargs.give={give}", f"env.vectorization={vectorization}"]
    run = begun(tmp_path / "run", *overrides)
    iterate(run, 2)
    run.collector.envs.close()
    expected = begun(tmp_path / "expected", *line("ppo"))
    iterate(expected, 2)
    np.testing.assert_array_equal(run.collector.rollout.obs[MASK], expected.collector.rollout.obs[MASK])
    assert torch.equal(run.agent.step.flats[0], expected.agent.step.flats[0])


# --------------------------------------------------------------------- learning


def test_targets_take_the_best_allowed_action_of_the_successor(tmp_path: Path) -> None:
    """Of DQN, by hand: r + gamma * max over what next_obs allows, of the target network."""
    run = begun(tmp_path / "run", *line("dqn", "algo.gamma=0.9", "algo.double=false"))
    iterate(run, 3)
    agent: Any = run.agent
    batch = agent.replay.sample(64, np.random.default_rng(0), run.clock.frames)
    target = agent._chosen(agent.q_network, *agent._inputs(batch), ())[1][:, 0].numpy()
    free = agent.target_network.network(torch.from_numpy(batch.next_obs["obs"].copy())).detach().numpy()
    allowed = batch.next_obs[MASK] == 1
    best = np.array([row[mask].max() for row, mask in zip(free, allowed, strict=True)])
    np.testing.assert_allclose(target, batch.reward + batch.discount * best, rtol=1e-5)
    assert (
        np.abs(target - (batch.reward + batch.discount * free.max(-1))) > 1e-6
    ).any()  # else no mask counts


@pytest.mark.parametrize("case", ["pqn", "sarsa"])
def test_values_of_on_policy_targets_are_of_allowed_actions(case: str, tmp_path: Path) -> None:
    run = begun(tmp_path / "run", *line(case))
    agent: Any = run.agent
    rollout = run.collector.collect(agent)
    target = agent._batch(rollout)[2] if case == "pqn" else agent._batch(rollout, 0.5)[2]
    assert float(target.abs().max()) < 1e3
    value = agent.values(agent.obs_normalizer(rollout.obs.reshape(-1)))
    assert ((value < LOWEST) == (rollout.obs[MASK].reshape(len(value), -1) == 0)).all()


def test_discrete_sac_sums_over_allowed_actions(tmp_path: Path) -> None:
    """Its target, by hand, and the highest entropy that the temperature can aim at."""
    run = begun(tmp_path / "run", *line("sac_discrete"))
    iterate(run, 3)
    agent: Any = run.agent
    batch = agent._inputs(agent.replay.sample(16, np.random.default_rng(0), run.clock.frames))
    _, report = agent._loss(agent.networks, batch)
    obs, mask = batch.next_obs[:, :3], batch.next_obs[:, 3:]
    expected = []
    for row in range(16):
        which = mask[row] == 1
        log_prob = agent.networks.actor.network(obs[row : row + 1])[0, which].log_softmax(-1)
        q = torch.stack(
            [member.network(obs[row : row + 1])[0, which] for member in agent.target_critics.members]
        )
        alpha = agent.networks.temperature["log_alpha"].exp()
        soft = (log_prob.exp() * (q.amin(0) - alpha * log_prob)).sum()
        expected.append(float(batch.reward[row] + batch.discount[row] * soft))
    q = agent.networks.critics(batch.obs).gather(-1, batch.action.expand(2, -1).unsqueeze(-1)).squeeze(-1)
    error = (q - torch.tensor(expected)).abs().mean(0)
    torch.testing.assert_close(report["td_error"], error.detach(), rtol=1e-4, atol=1e-5)
    assert float(report["q_mean"].abs()) < 1e3
    counts = (batch.obs[:, 3:] == 1).sum(-1).float()
    aim = agent._target_entropy(agent.networks.actor(batch.obs).log_softmax(-1))
    assert float(aim) == pytest.approx(run.config.algo.target_entropy_ratio * float(counts.log().mean()))


@pytest.mark.parametrize("case", MASKED)
def test_reports_and_weights_stay_finite(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no report is of the size of what stands for masked actions."""
    seen: list[float] = []
    reports = GradientStep.report

    def noted(self: GradientStep) -> dict[str, float]:
        report = reports(self)
        seen.extend(report.values())
        return report

    monkeypatch.setattr(GradientStep, "report", noted)
    run = begun(tmp_path / "run", *line(case))
    iterate(run, 6)
    assert all(np.isfinite(value) and abs(value) < 1e6 for value in seen)
    for part in run.agent.parts.values():
        if isinstance(part, torch.nn.Module):
            assert all(torch.isfinite(p).all() and p.abs().max() < 1e3 for p in part.parameters())


# --------------------------------------------------------------------- resume

RESUMED = ("ppo", "recurrent_ppo, LSTM", "ddqn_per", "sac_discrete")
SHORT = [override for override in TINY if "hidden" not in override]


@pytest.mark.usefixtures("few_scores", "composed_once")
@pytest.mark.parametrize("case", RESUMED)
def test_a_killed_masked_run_ends_as_if_it_never_was(case: str, tmp_path: Path) -> None:
    overrides = [*line(case), *SHORT, "env.wrappers=[{_target_: rl.wrappers.ActionMask}]"]
    assert go(tmp_path / "straight", *overrides) == 0
    assert in_child(functools.partial(killed, tmp_path / "run", 80, *overrides)) == DIED
    assert go(tmp_path / "run", *overrides) == 0
    assert differences(record(tmp_path / "straight"), record(tmp_path / "run")) == []


@pytest.mark.parametrize("case", ["ppo", "dqn"])
@pytest.mark.parametrize("dropped", [False, True])
def test_without_its_masks_the_continuation_differs(case: str, dropped: bool, tmp_path: Path) -> None:
    """The negative control: what is learned from a rollout or memory without masks is something else."""
    weights = []
    for drop in (False, dropped):
        run = begun(tmp_path / f"run-{len(weights)}", *line(case))
        iterate(run, 5)
        obs = run.agent.replay._rings["frames"] if case == "dqn" else run.collector.rollout.obs
        if case == "dqn":
            obs[MASK] = 1 if drop else obs[MASK]
            iterate(run, 1)
        else:
            rollout = run.collector.collect(run.agent)
            rollout.obs[MASK] = 1 if drop else rollout.obs[MASK]
            run.agent.learn(rollout)
        weights.append(run.agent.step.flats[0].detach().clone())
    assert torch.equal(*weights) is not dropped


@pytest.mark.usefixtures("few_scores", "composed_once")
def test_a_mask_that_comes_back_differently_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = [*line("ppo"), *SHORT, WRAPPER]
    assert go(tmp_path / "run", *overrides, "frames=320") == 0
    same = begun(tmp_path / "run", *overrides)
    assert same.collector.not_exact == []
    add = ActionMask._add

    def other(self: ActionMask, *given: Any, **options: Any) -> dict[str, Any]:
        obs = add(self, *given, **options)
        first = np.eye(5, dtype=np.int8)[obs[MASK].argmax()]  # of what is allowed, one action alone
        return {**obs, MASK: first * obs[MASK].max()}

    monkeypatch.setattr(ActionMask, "_add", other)
    assert "its observation differs" in str(begun(tmp_path / "run", *overrides).collector.not_exact)


# --------------------------------------------------------------------- enjoy, load_policy and export


@pytest.mark.usefixtures("few_scores")
@pytest.mark.parametrize("case", ["ppo", "recurrent_ppo", "dqn", "qr_dqn", "sac_discrete"])
def test_a_loaded_and_an_exported_policy_respect_masks(case: str) -> None:
    assert go(Path("run"), *line(case), "frames=320", "eval.every=64", "eval.episodes=1") == 0
    assert api.enjoy("run", ckpt="last", episodes=3, deterministic=False).returns
    path = export(compose(["run=run", "ckpt=last", "format=torch"], ExportConfig, "export").config)
    exported = read(path.read_bytes())
    assert set(exported.metadata["obs_dtype"]) == {"obs", MASK}
    for explore in (False, True):
        policy = api.load_policy("run", "last", explore=explore)
        env = policy.make_env()
        (obs, _), done = env.reset(seed=0), False
        while not done:
            obs, _, done, *_ = env.step(policy(obs))
    rng = np.random.default_rng(0)
    batch = {
        "obs": rng.uniform(-1, 1, (50, 3)).astype(np.float32),
        MASK: rng.integers(2, size=(50, 5), dtype=np.int8),
    }
    batch[MASK][np.arange(50), rng.integers(5, size=50)] = 1
    policy.reset()
    for action in policy(batch):
        assert 2 <= action < 7
    policy.reset()
    assert batch[MASK][np.arange(50), policy(batch) - 2].all()


# --------------------------------------------------------------------- refusals


@pytest.mark.parametrize("algo", ["sac", "td3", "crossq"])
def test_algorithms_that_take_no_masks_refuse_them(algo: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=TAKERS):
        begun(tmp_path / "run", f"algo={algo}", "env=gym", "env.id=tiny_envs:Masking-v0", WRAPPER)


def test_an_algorithm_of_ones_own_takes_masks_if_it_says_so() -> None:
    """One that was made before there were masks does not know of them."""
    context: Any = types.SimpleNamespace(mask_size=5)
    with pytest.raises(ValueError, match=TAKERS):
        make_agent({"_target_": "test_masks.Unmasked"}, context)


TAKERS = "masks actions.*algo=reinforce, a2c, ppo, recurrent_ppo, sarsa, dqn"


class Unmasked:
    """An algorithm of one's own, made before there were masks."""

    def __init__(self, context: Any) -> None:
        raise AssertionError


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("CartPole-v1", "no method action_masks, and its info no action_mask"),
        ("Pendulum-v1", "Discrete and MultiDiscrete can be masked"),
    ],
)
def test_an_env_without_masks_is_refused(env: str, message: str, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, ValueError), match=message):
        iterate(begun(tmp_path / "run", "env=gym", f"env.id={env}", WRAPPER))


def test_a_state_where_nothing_is_allowed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begun(tmp_path / "run", *line("ppo"))
    observe = tiny_envs.Masking._observe

    def nothing(self: tiny_envs.Masking) -> Any:
        obs = observe(self)
        self.mask *= self.steps < 10
        return obs

    monkeypatch.setattr(tiny_envs.Masking, "_observe", nothing)
    iterate(run)  # at an episode's end nothing need be allowed
    monkeypatch.setattr(tiny_envs.Masking, "_info", lambda self: {MASK: np.zeros(5, np.int8)})
    with pytest.raises(ValueError, match="allows no action though its episode has not ended"):
        iterate(run)


def test_a_mask_around_stacked_frames_leaves_them_single() -> None:
    """The replay memory keeps single frames of the stack, and the mask whole."""
    env = ActionMask(gym.wrappers.FrameStackObservation(gym.make("tiny_envs:Masking-v0"), 3))
    assert (env.frame_stack, env.stacked_keys) == (3, ["obs"])
    assert ActionMask(gym.make("tiny_envs:Masking-v0")).stacked_keys is None
    with pytest.raises(ValueError, match="without it; remove the wrapper"):
        ActionMask(gym.make("tiny_envs:Masking-v0", give="key"))


# --------------------------------------------------------------------- hybrid actions

HYBRID = ("env=gym", "env.id=tiny_envs:Hybrid-v0", "env.num_envs=2", "algo.rollout_length=64")
LEARNING = (SMALL, "algo.lr=1e-2", "algo.gamma=0")
POLICIES = {
    "reinforce": (SMALL, "algo.lr=2e-2", "algo.baseline=true"),
    "a2c": LEARNING,
    "ppo": (*LEARNING, "algo.minibatch_size=64"),
    "recurrent_ppo": (*LEARNING, "algo.minibatch_size=64"),
}


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("algo", POLICIES)
def test_every_head_of_hybrid_actions_is_learned(algo: str, flat: bool, tmp_path: Path) -> None:
    run = begun(tmp_path / "run", f"algo={algo}", *HYBRID, *POLICIES[algo], f"+env.kwargs.flat={flat}")
    before = play(run.agent, run.parts.make_env, 20, 0).mean
    iterate(run, 40 if algo == "reinforce" else 25)
    after = play(run.agent, run.parts.make_env, 20, 0).mean
    assert after > max(8.0, before)


@pytest.mark.parametrize("algo", ["random", "ppo"])
def test_hybrid_actions_are_the_same_sync_and_async(algo: str, tmp_path: Path) -> None:
    actions = []
    for vectorization in ("sync", "async"):
        own = (SMALL, "algo.minibatch_size=64") if algo == "ppo" else ()
        run = begun(
            tmp_path / vectorization, f"algo={algo}", *HYBRID, *own, f"env.vectorization={vectorization}"
        )
        iterate(run, 2)
        actions.append(run.collector.rollout.action.copy())
        run.collector.envs.close()
    np.testing.assert_array_equal(*actions)
    assert actions[0].shape == (64, 2, 6)


@pytest.mark.usefixtures("few_scores", "composed_once")
def test_a_killed_run_with_hybrid_actions_ends_as_if_it_never_was(tmp_path: Path) -> None:
    overrides = ["algo=ppo", *HYBRID[:2], *TINY, "algo.minibatch_size=32"]
    assert go(tmp_path / "straight", *overrides) == 0
    assert in_child(functools.partial(killed, tmp_path / "run", 80, *overrides)) == DIED
    assert go(tmp_path / "run", *overrides) == 0
    assert differences(record(tmp_path / "straight"), record(tmp_path / "run")) == []


@pytest.mark.usefixtures("few_scores")
def test_a_loaded_hybrid_policy_acts_in_its_spaces_form() -> None:
    assert go(Path("run"), "algo=ppo", *HYBRID[:2], *TINY, "algo.minibatch_size=32", "frames=64") == 0
    policy = api.load_policy("run", "last")
    action = policy(np.zeros(1, np.float32))
    assert policy.action_space.contains(action)
    batch = policy(np.zeros((4, 1), np.float32))
    assert batch["rest"][1].shape == (4, 2)
    path = export(compose(["run=run", "ckpt=last", "format=torch"], ExportConfig, "export").config)
    exported = read(path.read_bytes())
    (vectors,) = exported.call(np.zeros((4, 1), np.float32))
    np.testing.assert_array_equal(vectors[:, 1:3], batch["rest"][0])
    np.testing.assert_array_equal(vectors[:, 0], batch["which"])
    assert exported.metadata["action_space"]["spaces"]["which"]["type"] == "Discrete"


@pytest.mark.parametrize("algo", ["sac", "td3", "crossq", "dqn", "sac_discrete", "sarsa", "pqn"])
@pytest.mark.parametrize("flat", [False, True])
def test_other_algorithms_refuse_hybrid_actions(algo: str, flat: bool, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="algo=reinforce, a2c, ppo and recurrent_ppo can act in it"):
        begun(tmp_path / "run", f"algo={algo}", *HYBRID[:2], f"+env.kwargs.flat={flat}")
