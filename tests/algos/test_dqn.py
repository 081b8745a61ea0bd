"""Sarsa, PQN and the DQN family: their targets, what they learn, and how their runs come back."""

from __future__ import annotations

import functools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_envs  # noqa: F401  registers them
import torch
from faults import DIED
from short_runs import TINY, begun, contents, differences, frames_of, go, in_child, iterate, record
from test_damage import DAMAGES
from test_kills import killed
from test_state import rewrite

from rl.algos.agent import Rollout
from rl.algos.dqn import DQN, quantile_loss
from rl.algos.pqn import PQN
from rl.algos.sarsa import Sarsa
from rl.config import ConfigError, RunConfig
from rl.config.compose import compose
from rl.learning.exploration import boltzmann, epsilon_greedy
from rl.learning.networks.mlp import DuelingMLP
from rl.learning.replay import Batch
from rl.runs.outcome import Refused
from rl.runs.plan import make_plan
from rl.state import Streams
from rl.training.build import build
from rl.training.evaluate import play

MEMORY = ["algo.learning_starts=40", "algo.batch_size=8", "algo.lr=1e-2"]
LINES = {
    "sarsa": ["algo=sarsa"],
    "sarsa, boltzmann": [
        "algo=sarsa",
        "algo.epsilon=null",
        "algo.temperature=[[0,1],[640,0.1]]",
        "algo.normalize_obs=true",
    ],
    "pqn": ["algo=pqn", "algo.minibatch_size=16", "algo.lr=[[0,1e-2],[640,1e-3]]", "algo.normalize_obs=true"],
    "dqn, all kept": ["algo=dqn", *MEMORY],
    "dqn, the ring has wrapped": [
        "algo=dqn",
        *MEMORY,
        "algo.replay.capacity=150",
        "algo.target_every=null",
        "algo.target_tau=0.1",
    ],
    "all of it, all kept": ["algo=ddqn_per", *MEMORY, "algo.normalize_obs=true"],
    "all of it, the ring has wrapped": [
        "algo=ddqn_per",
        *MEMORY,
        "algo.replay.capacity=150",
        "env.vectorization=async",
    ],
    "quantiles": [
        "algo=qr_dqn",
        *MEMORY,
        "algo.quantiles=5",
        "algo.double=true",
        "algo.n_step=3",
        "algo.normalize_obs=true",
    ],
    "rainbow": ["algo=rainbow", *MEMORY, "algo.quantiles=5", "algo.replay.capacity=150"],
}


# ------------------------------------------------------------------------------------------- how they explore


def test_epsilon_greedy_takes_the_best_but_for_a_share_of_epsilon() -> None:
    value = np.tile(np.array([[0.0, 3.0, 1.0]]), (30_000, 1))
    share = np.bincount(epsilon_greedy(value, 0.3, np.random.default_rng(0)), minlength=3) / 30_000
    np.testing.assert_allclose(share, [0.1, 0.8, 0.1], atol=0.01)
    assert (epsilon_greedy(value, 0.0, np.random.default_rng(0)) == 1).all()


def test_boltzmann_draws_by_the_softmax() -> None:
    value = np.array([[0.0, 1.0, -1.0]])
    share = (
        np.bincount(boltzmann(np.tile(value, (50_000, 1)), 0.5, np.random.default_rng(0)), minlength=3)
        / 50_000
    )
    expected = np.exp(value[0] / 0.5) / np.exp(value[0] / 0.5).sum()
    np.testing.assert_allclose(share, expected, atol=0.01)


@pytest.mark.parametrize("given", [["algo.temperature=1"], ["algo.epsilon=null"]])
def test_one_way_to_explore_is_wanted(given: list[str]) -> None:
    with pytest.raises(ConfigError, match="algo.epsilon or by algo.temperature"):
        build(compose(["algo=dqn", *given], RunConfig).config)


@pytest.mark.parametrize("algo", ["ppo", "sarsa", "sac_discrete"])
def test_a_noisy_network_is_refused_where_nobody_draws_its_noise(algo: str) -> None:
    with pytest.raises(ConfigError, match="it draws no noise for NoisyMLP; type algo=rainbow"):
        build(
            compose(
                [f"algo={algo}", "env=cartpole", "algo.network._target_=rl.networks.NoisyMLP"], RunConfig
            ).config
        )


@pytest.mark.parametrize("algo", ["dqn", "sarsa", "pqn"])
def test_continuous_actions_are_refused(algo: str) -> None:
    with pytest.raises(ConfigError, match="Discrete action space"):
        build(compose([f"algo={algo}", "env=pendulum"], RunConfig).config)


def test_a_dueling_network_has_the_mean_advantage_0_and_the_same_values_in_numpy() -> None:
    network = DuelingMLP((4,), 3, hidden=[8], activation="relu", init="default")
    obs = torch.randn(5, 4)
    heads = super(DuelingMLP, network).forward(obs)
    q = network(obs)
    torch.testing.assert_close(q.mean(-1), heads[:, 0])
    torch.testing.assert_close(
        q - q.mean(-1, keepdim=True), heads[:, 1:] - heads[:, 1:].mean(-1, keepdim=True)
    )
    np.testing.assert_allclose(network.numpy_forward()(obs.numpy()), q.detach().numpy(), rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------------------------------------------- targets


def dqn(*overrides: str) -> DQN:
    agent = build(compose(["algo=dqn", "env=cartpole", *overrides], RunConfig).config).agent
    assert isinstance(agent, DQN)
    return agent


def batch_of(size: int, **given: Any) -> Batch:
    """Tensors; of each field what is given, else zeros. The last transition terminated."""
    fields: dict[str, Any] = {
        "number": torch.arange(size),
        "obs": torch.zeros(size, 4),
        "action": torch.zeros(size, dtype=torch.int64),
        "reward": torch.full((size,), 2.0),
        "discount": torch.tensor([0.5] * (size - 1) + [0.0]),
        "next_obs": torch.ones(size, 4),
        "weight": torch.ones(size),
    }
    return Batch(**fields | given)


VALUES = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])


@pytest.mark.parametrize("double", [False, True])
def test_the_target_is_of_the_target_networks_values_of_the_best_action(double: bool) -> None:
    agent: Any = dqn(f"algo.double={double}")
    agent.q_network.forward = lambda obs: VALUES
    agent.target_network.forward = lambda obs: torch.tensor([[3.0, 5.0], [3.0, 5.0], [7.0, 9.0]])
    _, target = agent._chosen(agent.q_network, batch_of(3), ())
    # the last one terminated
    assert target.tolist() == [[2 + 0.5 * (3 if double else 5)], [2 + 0.5 * 5], [2.0]]


@pytest.mark.parametrize(
    ("loss", "expected"), [("huber", (0.5 * 0.25 + 2 * 2.5) / 2), ("squared", (0.25 + 2 * 9) / 2)]
)
def test_the_loss_is_the_weighted_mean_over_the_batch(loss: str, expected: float) -> None:
    agent = dqn(f"algo.loss={loss}")
    network = lambda obs: torch.tensor([[1.0, 0.0], [0.0, 3.0]])  # noqa: E731
    given = {"action": torch.tensor([0, 1]), "weight": torch.tensor([1.0, 2.0])}
    given |= {"reward": torch.tensor([0.5, 6.0]), "discount": torch.zeros(2)}
    value, report = agent._loss(network, batch_of(2, **given))
    q_mean, td_error = report["q_mean"], report["td_error"]
    assert value.item() == pytest.approx(expected)
    assert (q_mean.item(), td_error.tolist()) == (2.0, [-0.5, 3.0])


@pytest.mark.parametrize("double", [False, True])
def test_the_target_of_quantiles_is_of_all_those_of_the_action_whose_mean_is_best(double: bool) -> None:
    agent: Any = dqn(f"algo.double={double}", "algo.quantiles=3")
    agent.q_network.forward = lambda obs: VALUES.unsqueeze(-1) + torch.tensor([-9.0, 0.0, 9.0])
    agent.target_network.forward = lambda obs: torch.tensor([[[3.0, 4.0, 5.0], [0.0, 6.0, 9.0]]] * 3)
    _, target = agent._chosen(agent.q_network, batch_of(3), ())
    first, second = [2 + 1.5, 2 + 2, 2 + 2.5], [2 + 0, 2 + 3, 2 + 4.5]
    assert target.tolist() == [first if double else second, second, [2.0] * 3]  # the last one terminated


def test_no_gradient_goes_through_the_target() -> None:
    agent = dqn("algo.double=true")
    taken, target = agent._chosen(agent.q_network, batch_of(3), ())
    assert taken.requires_grad
    assert not target.requires_grad


def by_loops(quantiles: list[float], target: list[float], kappa: float) -> float:
    """Equations 9 and 10 of Dabney et al. 2018, and the loss in their algorithm 1."""
    total = 0.0
    for i, quantile in enumerate(quantiles):
        tau = (2 * (i + 1) - 1) / (2 * len(quantiles))
        for sample in target:
            u = sample - quantile
            huber = u**2 / 2 if abs(u) <= kappa else kappa * (abs(u) - kappa / 2)
            total += abs(tau - (1 if u < 0 else 0)) * huber / len(target)
    return total


@pytest.mark.parametrize("kappa", [1.0, 0.3])
def test_the_quantile_loss_is_that_of_the_paper(kappa: float) -> None:
    torch.manual_seed(0)
    quantiles, target = 2 * torch.randn(2, 2, 3), 2 * torch.randn(2, 3)  # [B, A, N], [B, N]
    expected = [by_loops(quantiles[b, a].tolist(), target[b].tolist(), kappa) for b, a in ((0, 1), (1, 0))]
    agent = dqn("algo.quantiles=3", f"algo.kappa={kappa}")
    agent._chosen = lambda q_network, batch, noise: (quantiles[[0, 1], batch.action], target)  # type: ignore[method-assign]
    given = {"action": torch.tensor([1, 0]), "weight": torch.tensor([1.0, 3.0])}
    loss, report = agent._loss(agent.q_network, batch_of(2, **given))
    q_mean, priority = report["q_mean"], report["td_error"]
    assert priority.tolist() == pytest.approx(expected)
    assert loss.item() == pytest.approx((expected[0] + 3 * expected[1]) / 2)
    assert q_mean.item() == pytest.approx((quantiles[0, 1].mean() + quantiles[1, 0].mean()).item() / 2)


def test_the_quantile_loss_is_least_at_the_quantiles() -> None:
    # exponential: its tau-quantile is -log(1 - tau)
    sample = -torch.rand(1, 20_000, generator=torch.manual_seed(0)).log()
    quantiles = torch.zeros(1, 5, requires_grad=True)
    optimizer = torch.optim.Adam([quantiles], lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        quantile_loss(quantiles, sample, torch.nn.functional.l1_loss).sum().backward()
        optimizer.step()
    expected = [-math.log(1 - tau) for tau in (0.1, 0.3, 0.5, 0.7, 0.9)]
    assert quantiles.detach()[0].tolist() == pytest.approx(expected, abs=0.06)


def test_noise_explores_and_greedy_actions_are_without() -> None:
    agent = build(compose(["algo=rainbow", "env=cartpole", "env.num_envs=4"], RunConfig).config).agent
    assert isinstance(agent, DQN)
    obs = np.full((500, 4), 0.1, np.float32)
    greedy = [agent.act(obs, None, np.random.default_rng(seed), explore=False)[0] for seed in (0, 1)]
    assert len(np.unique(greedy)) == 1
    explored = [agent.act(obs, None, np.random.default_rng(seed))[0] for seed in (0, 0, 1)]
    assert len(np.unique(explored[0])) == 2  # every env has noise of its own
    assert np.array_equal(explored[0], explored[1])
    assert not np.array_equal(explored[0], explored[2])


def test_every_evaluation_of_a_noisy_network_has_noise_of_its_own() -> None:
    agent = dqn("algo.network._target_=rl.networks.NoisyMLP", "algo.double=true")
    transitions = Batch(*(tensor.numpy() for tensor in batch_of(3)))
    _, *drawn = agent._inputs(transitions)
    assert {noise.shape for noise in drawn} == {(1, agent.q_network.noise_size)}
    given: list[Any] = []
    for network in (agent.q_network, agent.target_network):
        network.forward = lambda obs, noise: given.append(noise) or torch.zeros(3, 2)  # type: ignore[func-returns-value,method-assign]
    agent._chosen(agent.q_network, batch_of(3), drawn)
    assert len({noise.numpy().tobytes() for noise in given}) == 3


def test_the_target_network_is_copied_by_frames_and_follows_by_tau(tmp_path: Path) -> None:
    line = [*TINY, *LINES["dqn, all kept"], "algo.rollout_length=4", "algo.updates_per_frame=0.25"]
    run = begun(tmp_path / "run", *line, "algo.target_every=64")
    agent = run.agent
    assert isinstance(agent, DQN)
    equal = []
    for _ in range(20):  # 8 frames and 2 updates each
        iterate(run)
        equal.append(
            bool(torch.equal(agent.target_weights.weights, agent.target_weights.target))
            and run.clock.updates > 0
        )
    assert [8 * (n + 1) for n, same in enumerate(equal) if same] == [64, 128]
    agent.target_weights.weights.data.fill_(1.0)
    agent.target_weights.target.data.fill_(0.0)
    agent.target_weights.update(0.25)
    assert set(agent.target_weights.target.tolist()) == {0.25}


@pytest.mark.parametrize("per_frame", ["0.05", "0.3", "1", "3"])
def test_the_target_network_is_due_once_in_so_many_frames_whatever_the_updates_are(per_frame: str) -> None:
    agent = dqn(f"algo.updates_per_frame={per_frame}", "algo.target_every=100")
    updates = int(float(per_frame) * 1000)
    assert sum(agent._target_is_due(update) for update in range(1, updates + 1)) == 10


def sarsa_rollout() -> Rollout:
    obs = np.zeros((4, 1, 4), np.float32)
    obs[:, 0, 0] = [0, 1, 2, 3]
    ends = [(0, 0, np.array([9, 0, 0, 0], np.float32))]
    flags = np.array([[True], [False], [False]]), np.array([[False], [False], [False]])
    return Rollout(
        obs, np.array([[0], [1], [0]]), np.ones((3, 1), np.float32), flags[1].copy(), flags[0], final_obs=ends
    )


def test_sarsas_target_is_of_the_action_that_is_taken_next() -> None:
    line = [
        "algo=sarsa",
        "env=cartpole",
        "env.num_envs=1",
        "algo.rollout_length=3",
        "algo.gamma=0.5",
        "algo.td_lambda=0",
    ]
    agent = build(compose(line, RunConfig).config).agent
    assert isinstance(agent, Sarsa)
    agent.values = lambda obs: np.stack([10 * obs[:, 0], 10 * obs[:, 0] + 1], -1)  # Q(s, a) = 10 s + a
    obs, action, target = agent._batch(sarsa_rollout(), explore=0.0)
    assert action.tolist() == [0, 1, 0]
    # a limit cut the first episode at state 9, where 1 is best; then 0 is taken in state 2; in state 3, 1
    # would be
    assert target.tolist() == [1 + 0.5 * 91, 1 + 0.5 * 20, 1 + 0.5 * 31]


def test_pqns_targets_are_the_recursion_that_defines_them() -> None:
    line = [
        "algo=pqn",
        "env.num_envs=3",
        "algo.rollout_length=40",
        "algo.minibatch_size=40",
        "algo.gamma=0.9",
        "algo.td_lambda=0.7",
    ]
    parts = build(compose([*line, "env=cartpole", "+env.kwargs.max_episode_steps=13"], RunConfig).config)
    agent = parts.agent
    assert isinstance(agent, PQN)
    parts.collector.start()
    rollout = parts.collector.collect(agent)
    assert rollout.terminated.any()
    assert rollout.truncated.any()
    best = agent.values(rollout.next_obs.reshape(-1, 4)).max(-1).reshape(40, 3)
    expected = np.zeros((40, 3))
    for t, n in sorted(np.ndindex(40, 3), reverse=True):
        goes_on = t < 39 and not rollout.done[t, n]
        ahead = 0.7 * expected[t + 1, n] + 0.3 * best[t, n] if goes_on else best[t, n]
        expected[t, n] = rollout.reward[t, n] + 0.9 * (0.0 if rollout.terminated[t, n] else ahead)
    np.testing.assert_allclose(agent._batch(rollout)[2], expected.ravel(), rtol=1e-5, atol=1e-5)


# --------------------------------------------------------------------------------------------------- learning

IDENTITY = [
    "env=gym",
    "env.id=tiny_envs:Identity-v0",
    "env.num_envs=4",
    "algo.network.hidden=[16]",
    "algo.gamma=0.5",
    "algo.lr=1e-2",
]
QUICK = [
    "algo.learning_starts=100",
    "algo.batch_size=32",
    "algo.updates_per_frame=0.5",
    "algo.target_every=50",
]
WAYS = {
    "sarsa": ["algo=sarsa", "algo.epsilon=0.2", "algo.rollout_length=20"],
    "sarsa, boltzmann": ["algo=sarsa", "algo.epsilon=null", "algo.temperature=0.3", "algo.rollout_length=20"],
    "pqn": [
        "algo=pqn",
        "algo.epsilon=0.2",
        "algo.rollout_length=20",
        "algo.minibatch_size=40",
        "algo.epochs=2",
    ],
    "dqn": ["algo=dqn", "algo.epsilon=0.2", *QUICK, "algo.rollout_length=10"],
    "all of it": ["algo=ddqn_per", "algo.epsilon=0.2", *QUICK, "algo.rollout_length=10"],
    "quantiles": ["algo=qr_dqn", "algo.epsilon=0.2", *QUICK, "algo.rollout_length=10", "algo.quantiles=5"],
    "rainbow": ["algo=rainbow", *QUICK, "algo.rollout_length=10", "algo.quantiles=5"],
}


@pytest.mark.parametrize("way", WAYS)
def test_the_action_that_equals_the_observation_is_learned(way: str, tmp_path: Path) -> None:
    run = begun(tmp_path / "run", *IDENTITY, *WAYS[way])
    iterate(run, 40)
    assert play(run.agent, run.parts.make_env, 20, 0).mean == 10.0


@pytest.mark.parametrize("lying", [False, True], ids=["truncated", "reported as terminated"])
@pytest.mark.parametrize("way", ["sarsa", "pqn", "dqn", "quantiles"])
def test_the_value_of_an_endless_env_is_what_it_is_worth_unless_time_limits_count_as_ends(
    way: str, lying: bool, tmp_path: Path
) -> None:
    line = [
        *IDENTITY,
        *WAYS[way],
        "env.id=tiny_envs:Endless-v0",
        "algo.gamma=0.9",
        f"+env.kwargs.lying={lying}",
        "algo.target_every=20",
        "algo.loss=squared",
    ]
    run = begun(
        tmp_path / "run",
        *(key for key in line if way in ("dqn", "quantiles") or "target" not in key),
        "algo.lr=[[0,1e-2],[10k,1e-3]]",
    )
    iterate(run, 250)
    assert isinstance(run.agent, DQN | Sarsa | PQN)
    value, worth = run.agent.values(np.ones((1, 1), np.float32)).mean(), 1 / (1 - 0.9)
    if lying:
        assert value < 0.9 * worth
    else:
        assert value == pytest.approx(worth, rel=0.05)


@pytest.mark.parametrize("line", ["all of it, all kept", pytest.param("rainbow", marks=pytest.mark.slow)])
def test_compiled_updates_are_the_same_to_the_last_bits(line: str, tmp_path: Path) -> None:
    runs = [
        begun(tmp_path / compiled, *TINY, *LINES[line], f"compile={compiled}")
        for compiled in ("true", "false")
    ]
    for run in runs:
        iterate(run, 4)
    one, other = (run.agent.step.flats[0].detach() for run in runs if isinstance(run.agent, DQN))
    assert runs[0].clock.updates > 20
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


# ----------------------------------------------------------------------------------------------------- resume

resuming = pytest.mark.usefixtures("few_scores", "composed_once")


COMPILED = [
    ("all of it, the ring has wrapped", ["compile=true"]),
    pytest.param("rainbow", ["compile=true"], marks=pytest.mark.slow),
]


@resuming
@pytest.mark.parametrize(("line", "more"), [*((line, []) for line in LINES), *COMPILED])
def test_a_run_in_parts_is_the_run_in_one(line: str, more: list[str], tmp_path: Path) -> None:
    whole = [*TINY, *LINES[line], *more]
    assert go(tmp_path / "straight", *whole) == 0
    assert go(tmp_path / "parts", *whole, "frames=320") == 0
    assert go(tmp_path / "parts", *whole, "frames=448") == 0
    assert go(tmp_path / "parts", *whole) == 0
    assert differences(record(tmp_path / "straight"), record(tmp_path / "parts")) == []


@resuming
@pytest.mark.parametrize("line", ["quantiles", "rainbow"])
def test_a_run_killed_repeatedly_ends_equal(line: str, tmp_path: Path) -> None:
    whole = [*TINY, *LINES[line], "frames=320"]
    assert go(tmp_path / "straight", *whole) == 0
    for number in (40, 33):
        assert in_child(functools.partial(killed, tmp_path / "run", number, *whole)) == DIED
    assert in_child(functools.partial(go, tmp_path / "run", *whole)) == 0
    assert differences(record(tmp_path / "straight"), record(tmp_path / "run")) == []


@resuming
@pytest.mark.parametrize("line", ["rainbow", "all of it, all kept"])
def test_without_the_stream_of_its_noise_a_noisy_network_learns_otherwise(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, load, at_the_start = (
        [*TINY, *LINES[line]],
        Streams.load_state_dict,
        Streams(0).state_dict()["minibatch"],
    )
    assert go(tmp_path / "straight", *whole) == 0
    assert go(tmp_path / "run", *whole, "frames=320") == 0
    monkeypatch.setattr(
        Streams, "load_state_dict", lambda self, state: load(self, state | {"minibatch": at_the_start})
    )
    assert go(tmp_path / "run", *whole) == 0
    differing = differences(record(tmp_path / "straight"), record(tmp_path / "run"))
    assert any("ckpt-640.pt/agent.q_network" in name for name in differing) == (line == "rainbow")


@pytest.fixture(scope="module")
def halves(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, dict[str, Any], dict[str, Any], list[str]]:
    """A run stopped half way, the record of the same run to the end, its state at the start, and its command
    line.
    """
    folder, line = (
        tmp_path_factory.mktemp("halves"),
        [*TINY, *LINES["all of it, the ring has wrapped"], "env.vectorization=sync", "algo.target_every=100"],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rl.training.run.SCORE_EPISODES", 4)
        start = {name: part.state_dict() for name, part in begun(folder / "start", *line).stateful.items()}
        assert go(folder / "straight", *line) == 0
        assert go(folder / "half", *line, "frames=320") == 0
    return folder / "half", record(folder / "straight"), start, line


@resuming
@pytest.mark.parametrize(
    "part", ["agent.q_network", "agent.target_network", "agent.optimizer", "agent.replay", "streams", "none"]
)
def test_without_any_one_part_the_continuation_differs(part: str, halves: Any, tmp_path: Path) -> None:
    half, expected, start, line = halves
    shutil.copytree(half, tmp_path / "run", symlinks=True)

    def forget(state: dict[str, Any]) -> None:
        if part == "agent.replay":  # its priorities
            state[part]["leaves"] = (state[part]["leaves"] > 0).float()
        elif part != "none":
            state[part] = start[part]

    rewrite(tmp_path / "run", forget)
    assert go(tmp_path / "run", *line) == 0
    assert bool(differences(expected, record(tmp_path / "run"))) == (part != "none")


@resuming
def test_without_what_a_chunk_holds_the_continuation_differs(
    halves: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half, expected, _, line = halves
    shutil.copytree(half, tmp_path / "run", symlinks=True)
    monkeypatch.setattr("rl.learning.replay.UniformReplay.load_chunk", lambda self, path: None)
    assert go(tmp_path / "run", *line) == 0
    assert differences(expected, record(tmp_path / "run"))


@resuming
@pytest.mark.parametrize("damage", DAMAGES)
def test_after_a_damaged_chunk_the_checkpoint_before_is_used_loudly_and_the_run_ends_the_same(
    damage: Any, halves: Any, tmp_path: Path
) -> None:
    half, expected, _, line = halves
    shutil.copytree(half, tmp_path / "run", symlinks=True)
    assert frames_of(half) == [256, 320]
    damage(tmp_path / "run" / "replay" / "chunk-320.bin")
    assert in_child(functools.partial(go, tmp_path / "run", *line), tmp_path / "output") == 0
    assert "DAMAGED CHECKPOINT" in (tmp_path / "output").read_text()
    assert "chunk-320.bin" in (tmp_path / "output").read_text()
    assert "going on at frame 256" in (tmp_path / "output").read_text()
    assert differences(expected, record(tmp_path / "run")) == []


@resuming
def test_with_a_chunk_damaged_that_all_checkpoints_need_the_way_on_is_named_and_works(
    halves: Any, tmp_path: Path
) -> None:
    half, _, _, line = halves
    run = shutil.copytree(half, tmp_path / "run", symlinks=True)
    (run / "replay" / "chunk-256.bin").unlink()
    before = contents(run)
    with pytest.raises(Refused, match=f"resume={run} algo.replay.on_resume=refill"):
        make_plan([*line, f"hydra.run.dir={run}"])
    assert contents(run) == before
    assert (
        in_child(functools.partial(go, run, *line, "algo.replay.on_resume=refill"), tmp_path / "output") == 0
    )
    assert "NOT EXACT from frame 320: the replay memory fills again" in (tmp_path / "output").read_text()
    assert not list((run / "replay").glob("chunk-*"))


@resuming
def test_refill_goes_on_with_an_empty_memory_says_so_and_is_not_taken_back(
    halves: Any, tmp_path: Path
) -> None:
    half, _, _, line = halves
    run = shutil.copytree(half, tmp_path / "run", symlinks=True)
    refill = [*line, "algo.replay.on_resume=refill", "algo.learning_starts=40"]
    assert in_child(functools.partial(go, run, *refill, "frames=384"), tmp_path / "output") == 0
    said = (tmp_path / "output").read_text()
    assert "about 40 frames pass without training" in said
    assert "algo.replay.on_resume  restore  refill  one way" in said
    last = json.loads((run / "history.jsonl").read_text().splitlines()[-1])
    assert "not exact from frame 320: the replay memory fills again" in last["exactness"]
    with pytest.raises(Refused, match="what restore needs was not kept"):
        make_plan([*refill, f"hydra.run.dir={run}", "algo.replay.on_resume=restore"])


@resuming
def test_the_disk_holds_the_capacity_and_what_the_kept_checkpoints_differ_in(tmp_path: Path) -> None:
    line = [*TINY, *LINES["dqn, all kept"], "algo.replay.capacity=256", "frames=1920"]
    assert go(tmp_path / "run", *line) == 0
    chunks = sorted(int(path.stem.partition("-")[2]) for path in (tmp_path / "run" / "replay").iterdir())
    assert chunks == [1664, 1792, 1920]  # 128 frames each: the capacity and one interval


def test_a_memory_beyond_ram_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    assert go(tmp_path / "run", "algo=dqn", "algo.replay.capacity=100G") == 2
    assert not (tmp_path / "run").exists()
