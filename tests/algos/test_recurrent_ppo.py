"""Recurrent PPO: what it remembers while it acts and learns, what it values, what it learns, and how its runs
come back.
"""

from __future__ import annotations

import functools
import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import tiny_envs  # noqa: F401  registers them
import torch
from faults import DIED
from short_runs import TINY, begun, differences, frames_of, go, in_child, iterate, record
from test_kills import killed
from test_state import rewrite

from rl import api
from rl.algos.agent import Rollout
from rl.algos.recurrent_ppo import Batch, RecurrentPPO
from rl.config import ConfigError, RunConfig
from rl.config.compose import compose
from rl.envs.wrappers import Keep
from rl.learning.gradient_step import flatten_parameters
from rl.learning.networks.mlp import MLP
from rl.learning.networks.recurrent import GRU, LSTM, Memory
from rl.training.build import Parts, build
from rl.training.evaluate import play

SIZE = 8
SMALL = ["algo=recurrent_ppo", "algo.sequence_length=8", "algo.minibatch_size=32", f"algo.state_size={SIZE}"]
# cut off, or fallen before
LSTMS = "algo.memory._target_=rl.networks.LSTM"
SHORT = ["env=cartpole", "env.num_envs=3", "+env.kwargs.max_episode_steps=13", "algo.rollout_length=32"]


def made(*overrides: str) -> tuple[Parts, RecurrentPPO]:
    parts = build(compose([*SMALL, *overrides], RunConfig).config)
    assert isinstance(parts.agent, RecurrentPPO)
    return parts, parts.agent


# ------------------------------------------------------------------------------------------------ the network


MEMORIES: list[type[Memory]] = [GRU, LSTM]


def memory(kind: type[Memory] = GRU) -> Memory:
    torch.manual_seed(0)
    network = kind(functools.partial(MLP, hidden=[5], activation="tanh", init="default"), (3,), 4)
    torch.nn.init.normal_(network.recurrent.bias)
    return network


def step_of_torchs_gru(network: Memory, obs: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
    cell = torch.nn.GRUCell(12, 4)
    recurrent = {"weight_hh": network.recurrent.weight, "bias_hh": network.recurrent.bias}
    cell.load_state_dict({"weight_ih": torch.eye(12), "bias_ih": torch.zeros(12), **recurrent})
    return cell(network.encoder(obs), state)


def step_of_torchs_lstm(network: Memory, obs: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
    """Its gates come as i, f, g, o; ours as i, f, o, g."""
    order, cell = [0, 1, 3, 2], torch.nn.LSTMCell(16, 4)
    sorted_parts = {
        "weight_ih": torch.eye(16),
        "bias_ih": torch.zeros(16),
        "weight_hh": network.recurrent.weight,
        "bias_hh": network.recurrent.bias,
    }
    for name, value in sorted_parts.items():
        sorted_parts[name] = torch.cat([value.detach().chunk(4)[gate] for gate in order])
    cell.load_state_dict(sorted_parts)
    return torch.cat(cell(network.encoder(obs), (state[:, :4], state[:, 4:])), -1)


@pytest.mark.parametrize(("kind", "step"), [(GRU, step_of_torchs_gru), (LSTM, step_of_torchs_lstm)])
def test_a_step_is_that_of_torchs_cell_in_torch_and_in_numpy(kind: type[Memory], step: Any) -> None:
    network = memory(kind)
    obs, state = torch.randn(6, 3), torch.randn(6, network.state_size)
    expected = step(network, obs, state)
    torch.testing.assert_close(network(obs, state), expected)
    flatten_parameters(network)
    np.testing.assert_allclose(
        network.numpy_forward()(obs.numpy(), state.numpy()), expected.detach(), rtol=1e-5, atol=1e-6
    )


def test_an_lstm_forgets_nothing_at_first() -> None:
    network = LSTM(functools.partial(MLP, hidden=[5], activation="tanh", init="default"), (3,), 4)
    assert network.recurrent.bias.tolist() == [0] * 4 + [1] * 4 + [0] * 8


@pytest.mark.parametrize("kind", MEMORIES)
def test_gates_far_from_0_do_not_overflow(kind: type[Memory]) -> None:
    network = memory(kind)
    state = np.full((1, network.state_size), -1e6, np.float32)
    with np.errstate(all="raise"):
        after = network.numpy_forward()(np.full((1, 3), 1e6, np.float32), state)
    assert np.isfinite(after).all()


def steps_one_by_one(
    network: Memory, obs: torch.Tensor, state: torch.Tensor, begins: torch.Tensor
) -> torch.Tensor:
    states = torch.empty(*obs.shape[:2], network.state_size)
    for t, n in np.ndindex(*obs.shape[:2]):
        before = torch.zeros(network.state_size) if begins[t, n] else states[t - 1, n] if t else state[n]
        states[t, n] = network(obs[t, n].unsqueeze(0), before.unsqueeze(0))[0]
    return states


@pytest.mark.parametrize("kind", MEMORIES)
def test_a_sequence_is_its_steps_one_by_one_from_zeros_where_an_episode_begins(kind: type[Memory]) -> None:
    network, obs = memory(kind), torch.randn(7, 3, 3)
    state = torch.randn(3, network.state_size)
    begins = torch.zeros(7, 3, dtype=torch.bool)
    begins[0, 0] = begins[3, 1] = begins[4, 1] = True
    expected = steps_one_by_one(network, obs, state, begins)
    torch.testing.assert_close(network.sequence(obs, state, begins), expected)
    unreset = network.sequence(obs, state, torch.zeros_like(begins))
    assert not torch.allclose(unreset[0, 0], expected[0, 0])
    assert not torch.allclose(unreset[6, 1], expected[6, 1])
    torch.testing.assert_close(unreset[:, 2], expected[:, 2])


@pytest.mark.parametrize("kind", MEMORIES)
def test_no_gradient_goes_beyond_an_episodes_beginning(kind: type[Memory]) -> None:
    network = memory(kind)
    state = torch.randn(1, network.state_size)
    obs = torch.randn(6, 1, 3, requires_grad=True)
    begins = torch.tensor([False, False, True, False, False, False]).unsqueeze(1)
    network.sequence(obs, state, begins)[4].sum().backward()
    assert [bool(step.any()) for step in obs.grad] == [False, False, True, True, True, False]


# ---------------------------------------------------------------------------------------- what it learns from


def acted(parts: Parts, agent: RecurrentPPO, rollouts: int = 2) -> tuple[Rollout, list[np.ndarray]]:
    """The last of some rollouts, and the state after each of its steps, before any is set to zero: [N, H]
    each.
    """
    states: list[np.ndarray] = []
    act = agent.act

    def noting(*given: Any) -> Any:
        action, state = act(*given)
        states.append(state.copy())
        return action, state

    agent.act = noting  # type: ignore[method-assign]
    parts.collector.start()
    for _ in range(rollouts):
        rollout = parts.collector.collect(agent)
    agent.act = act  # type: ignore[method-assign]
    return rollout, states[-len(rollout.reward) :]


@pytest.mark.parametrize("kind", [[], [LSTMS]], ids=["GRU", "LSTM"])
def test_over_the_sequences_the_policy_is_as_it_acted(kind: list[str]) -> None:
    parts, agent = made(*SHORT, *kind)
    rollout, states = acted(parts, agent)
    assert rollout.state is not None
    assert rollout.state.any()  # an episode went on
    assert len({t % 8 for t, _, _ in rollout.final_obs}) > 4  # ends within sequences and between them
    (obs, action, numbers, begins, starts), _ = agent._batch(rollout)
    assert obs.shape == (8, 12, 4)

    inputs = agent.obs_normalizer(rollout.obs[:-1])
    pairs = zip(states, inputs, strict=True)
    params = torch.from_numpy(np.stack([agent.policy_params(state, seen) for state, seen in pairs]))
    value = torch.from_numpy(np.stack([agent.value(state) for state in states]))
    log_prob = agent.distribution.log_prob(params.flatten(0, 1), action_of(rollout)).view(32, 3)
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(numbers[..., 2], agent._sequences(value), **close)
    torch.testing.assert_close(numbers[..., 3], agent._sequences(log_prob), **close)

    def again(starts: torch.Tensor, begins: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            params, value, _ = agent.networks(obs, starts, begins)
        return agent.distribution.log_prob(params, action.flatten(0, 1)).view(8, 12), value.view(8, 12)

    for one, other in zip(again(starts, begins), (numbers[..., 3], numbers[..., 2]), strict=True):
        torch.testing.assert_close(one, other, **close)
    for wrong in (again(torch.zeros_like(starts), begins), again(starts, torch.zeros_like(begins))):
        assert not torch.allclose(wrong[1], numbers[..., 2], **close)


def action_of(rollout: Rollout) -> torch.Tensor:
    return torch.from_numpy(rollout.action).flatten(0, 1)


@pytest.mark.parametrize("kind", [[], [LSTMS]], ids=["GRU", "LSTM"])
def test_advantages_are_of_the_values_in_the_states_that_were_reached(kind: list[str]) -> None:
    parts, agent = made(*SHORT, *kind, "algo.gamma=0.9", "algo.gae_lambda=0.8")
    rollout, states = acted(parts, agent)
    last = {(t, n): obs for t, n, obs in rollout.final_obs}
    assert rollout.truncated.any()
    assert rollout.terminated.any()
    expected = np.zeros((32, 3))
    for n in range(3):
        ahead = 0.0
        for t in reversed(range(32)):
            obs = last.get((t, n), rollout.obs[t + 1, n])
            # of the episode that was cut off, not of the next
            after = agent.remember(obs[None], states[t][n : n + 1])
            worth = 0.0 if rollout.terminated[t, n] else agent.value(after)[0]
            delta = rollout.reward[t, n] + 0.9 * worth - agent.value(states[t])[n]
            ahead = delta + 0.9 * 0.8 * (0.0 if rollout.done[t, n] else ahead)
            expected[t, n] = ahead
    numbers = agent._batch(rollout)[0][2]
    np.testing.assert_allclose(
        numbers[..., 0], agent._sequences(torch.from_numpy(expected)), rtol=1e-4, atol=1e-4
    )


def test_a_lost_life_is_no_end_of_what_is_remembered() -> None:
    parts, agent = made(*SHORT)
    rollout, _ = acted(parts, agent)
    before = agent._batch(rollout)[0][3].sum()
    where = next(t for t in range(32) if not rollout.done[t, 0])
    rollout.terminated[where, 0] = True  # where nothing was reset
    assert agent._batch(rollout)[0][3].sum() == before


def test_the_first_pass_over_the_whole_rollout_finds_a_ratio_of_1() -> None:
    parts, agent = made(*SHORT, "algo.epochs=1", "algo.minibatch_size=96")
    parts.collector.start()
    report = agent.learn(parts.collector.collect(agent))
    assert report["approx_kl"] == pytest.approx(0, abs=1e-6)
    assert report["clip_fraction"] == 0.0
    assert report["policy_loss"] == pytest.approx(0, abs=1e-6)


def test_the_loss_of_a_minibatch_is_the_sum_over_its_steps_one_by_one() -> None:
    parts, agent = made(
        *SHORT, "algo.normalize_advantage=false", "algo.entropy_coef=0.1", "algo.value_coef=0.5"
    )
    rollout, _ = acted(parts, agent)
    (obs, action, numbers, begins, starts), _ = agent._batch(rollout)
    with torch.no_grad():
        agent.step.flats[0].add_(0.1 * torch.randn_like(agent.step.flats[0]))  # the policy has moved on
    index = torch.tensor([7, 2, 9])
    assert begins[1:, index].any()
    expected = 0.0
    for c in index:
        states = steps_one_by_one(
            agent.networks.memory, obs[:, c : c + 1], starts[c : c + 1], begins[:, c : c + 1]
        )
        params, value = agent.networks.heads(states[:, 0])
        for t in range(8):
            advantage, target, _, old_log_prob = numbers[t, c].tolist()
            probabilities = params[t].softmax(-1)
            ratio = float(probabilities[action[t, c]]) / np.exp(old_log_prob)
            policy_loss = -min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)
            entropy = -float((probabilities * probabilities.log()).sum())
            expected += (policy_loss + 0.5 * (float(value[t]) - target) ** 2 - 0.1 * entropy) / 24
    loss, _ = agent._loss(agent.networks, Batch(obs, action, numbers, begins, starts), index, 0.2, None, 0.1)
    assert loss.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "algo.sequence_length=12",
            "algo.sequence_length=12 does not divide algo.rollout_length=32; try algo.rollout_length=36",
        ),
        (
            "algo.minibatch_size=12",
            "algo.sequence_length=8 does not divide algo.minibatch_size=12; try algo.minibatch_size=16",
        ),
        ("algo.minibatch_size=7", "algo.minibatch_size=7 does not divide rollout_length"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_type(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(*SHORT, override)


# --------------------------------------------------------------------------------------------------- learning


@pytest.mark.parametrize("algo", ["recurrent_ppo", "LSTM", "ppo"])
def test_what_only_the_past_shows_is_learned_with_a_memory_alone(algo: str, tmp_path: Path) -> None:
    own = {"recurrent_ppo": SMALL, "LSTM": [*SMALL, LSTMS], "ppo": ["algo=ppo"]}[algo]
    line = [
        *own,
        "env=gym",
        "env.id=tiny_envs:Recall-v0",
        "env.num_envs=8",
        "algo.rollout_length=32",
        "algo.network.hidden=[16]",
    ]
    run = begun(
        tmp_path / "run", *line, "algo.minibatch_size=128", "algo.epochs=4", "algo.lr=1e-2", "algo.gamma=0.5"
    )
    iterate(run, 20)
    score = play(run.agent, run.parts.make_env, 40, 0).mean
    assert score < 0.8 if algo == "ppo" else score == 1.0


def test_the_value_of_an_endless_env_is_what_it_is_worth(tmp_path: Path) -> None:
    line = [
        *SMALL,
        "env=gym",
        "env.id=tiny_envs:Endless-v0",
        "env.num_envs=4",
        "algo.rollout_length=40",
        "algo.network.hidden=[16]",
    ]
    run = begun(
        tmp_path / "run", *line, "algo.gamma=0.9", "algo.lr=[[0,3e-2],[6k,1e-3]]", "algo.minibatch_size=160"
    )
    iterate(run, 40)
    agent = run.agent
    assert isinstance(agent, RecurrentPPO)
    state = agent.initial_state(1)
    for _ in range(20):
        state = agent.remember(np.ones((1, 1), np.float32), state)
        assert agent.value(state)[0] == pytest.approx(10, rel=0.05)


def test_components_that_are_not_kept_are_hidden() -> None:
    env = Keep(gym.make("CartPole-v1"), [2, 0])
    obs, _ = env.reset(seed=0)
    assert obs.tolist() == env.unwrapped.reset(seed=0)[0][[2, 0]].tolist()
    assert env.observation_space.contains(obs)
    for indices in ([4], [-1]):
        with pytest.raises(ValueError, match="not components"):
            Keep(gym.make("CartPole-v1"), indices)


# ----------------------------------------------------------------------------------------------------- resume

HIDDEN = "env.wrappers=[{_target_: rl.wrappers.Keep, indices: [0, 2]}]"
LINES = {
    "discrete": [
        *TINY,
        *SMALL,
        HIDDEN,
        "algo.normalize_obs=true",
        "algo.normalize_reward=true",
        "algo.value_clip_range=[[0,1],[640,0.1]]",
    ],
    "LSTM": [*TINY, *SMALL, HIDDEN, LSTMS],
    "continuous, async": [*TINY, *SMALL, "env=pendulum", "env.vectorization=async", "algo.target_kl=0.01"],
}


@pytest.mark.usefixtures("few_scores", "composed_once")
@pytest.mark.parametrize("line", LINES)
def test_a_killed_run_ends_as_if_it_never_was(line: str, tmp_path: Path) -> None:
    assert go(tmp_path / "straight", *LINES[line]) == 0
    assert in_child(functools.partial(killed, tmp_path / "run", 80, *LINES[line])) == DIED
    assert frames_of(tmp_path / "run")[-1] > 0
    assert go(tmp_path / "run", *LINES[line]) == 0
    assert differences(record(tmp_path / "straight"), record(tmp_path / "run")) == []


@pytest.mark.usefixtures("few_scores", "composed_once")
@pytest.mark.parametrize("forgetful", [False, True])
@pytest.mark.parametrize("kind", ["discrete", "LSTM"])
def test_without_what_it_remembers_the_continuation_differs(
    kind: str, forgetful: bool, tmp_path: Path
) -> None:
    line = LINES[kind]
    assert go(tmp_path / "run", *line, "frames=320") == 0
    shutil.copytree(tmp_path / "run", tmp_path / "other", symlinks=True)

    def forget(state: dict[str, Any]) -> None:
        assert state["collector"]["state"].any()
        if forgetful:
            state["collector"]["state"][:, -SIZE:].zero_()  # of an LSTM what no policy sees

    rewrite(tmp_path / "other", forget)
    assert go(tmp_path / "run", *line) == 0
    assert go(tmp_path / "other", *line) == 0
    assert bool(differences(record(tmp_path / "run"), record(tmp_path / "other"))) == forgetful


@pytest.mark.slow
def test_compiled_and_eager_updates_agree() -> None:
    (eager, agent), (compiled, other) = (
        made(*SHORT, "algo.sequence_length=2"),
        made(*SHORT, "algo.sequence_length=2", "compile=true"),
    )
    eager.collector.start()
    for _ in range(3):
        rollout = eager.collector.collect(agent)
        compiled.clock.tick(rollout.reward.size, 0)
        expected, report = agent.learn(rollout), other.learn(rollout)
        assert report == pytest.approx(expected, rel=1e-3, abs=1e-5)
    torch.testing.assert_close(agent.step.flats[0], other.step.flats[0], rtol=1e-4, atol=1e-6)


# ------------------------------------------------------------------------------------------------ load_policy


@pytest.mark.usefixtures("few_scores")
def test_a_loaded_policy_remembers_until_it_is_reset() -> None:
    assert go(Path("run"), *LINES["continuous, async"], "env.vectorization=sync", "eval.every=64") == 0
    policy = api.load_policy("run", "last")
    obs = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    first = [policy(one) for one in obs]
    assert policy(obs[0]) != first[0]
    policy.reset()
    assert [policy(one) for one in obs] == first
    with pytest.raises(ValueError, match="4 observations, after 1 at a time"):
        policy(obs)
    policy.reset()
    assert policy(obs).shape == (4, 1)
