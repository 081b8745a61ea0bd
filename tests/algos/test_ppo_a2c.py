"""What both actor-critics must do: learn, bootstrap only where an episode was cut off, and resume bit for
bit.
"""

import io

import gymnasium as gym
import numpy as np
import pytest
import torch

from rl.config import RunConfig
from rl.config.compose import compose
from rl.training.build import build
from rl.training.evaluate import play
from rl.training.metrics import Metrics

ALGOS = ("a2c", "ppo")


class Endless(gym.Env):
    """Reward 1 for ever, cut off after 4 steps: the value of every state is 1 / (1 - gamma)."""

    observation_space = gym.spaces.Box(0, 1, (4,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, as_ends=False):
        self.as_ends = as_ends

    def obs(self):
        return np.eye(4, dtype=np.float32)[self.steps % 4]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.obs(), {}

    def step(self, action):
        self.steps += 1
        out = self.steps == 4
        return self.obs(), 1.0, out and self.as_ends, out and not self.as_ends, {}


class Identity(gym.Env):
    """The best action is what is seen; every other costs."""

    def __init__(self, kind):
        self.kind = kind
        if kind == "discrete":
            self.sizes, self.action_space = [4], gym.spaces.Discrete(4, start=3)
        elif kind == "multi_discrete":
            self.sizes, self.action_space = [2, 3], gym.spaces.MultiDiscrete([2, 3])
        else:
            self.sizes, self.action_space = [], gym.spaces.Box(-1, 1, (1,), np.float32)
        self.observation_space = gym.spaces.Box(-1, 1, (sum(self.sizes) or 1,), np.float32)

    def next(self):
        if self.kind == "continuous":
            self.wanted = self.np_random.uniform(-0.8, 0.8, 1).astype(np.float32)
            return self.wanted
        self.wanted = np.array([self.np_random.integers(size) for size in self.sizes])
        return np.concatenate(
            [np.eye(size, dtype=np.float32)[w] for size, w in zip(self.sizes, self.wanted, strict=True)]
        )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.next(), {}

    def step(self, action):
        self.steps += 1
        if self.kind == "continuous":
            reward = -float(np.square(action - self.wanted).sum())
        else:
            start = self.action_space.start
            reward = float(np.mean(np.atleast_1d(action - start) == self.wanted))
        return self.next(), reward, self.steps == 10, False, {}


gym.register("EndlessForTests-v0", Endless)
gym.register("IdentityForTests-v0", Identity)


def make(*overrides):
    return build(compose([*overrides, "progress=false"], RunConfig).config)


def train(parts, frames):
    parts.collector.start()
    while parts.clock.frames < frames:
        parts.agent.learn(parts.collector.collect(parts.agent))
    parts.collector.envs.close()
    return parts.agent


# --------------------------------------------------------------------------------------------------- learning


@pytest.mark.parametrize("algo", ALGOS)
@pytest.mark.parametrize("as_ends", [False, True])
def test_the_value_of_an_endless_env_is_reached_only_if_time_limits_are_no_ends(algo, as_ends):
    agent = train(
        make(
            *(
                f"algo={algo}",
                "env=gym",
                "env.id=EndlessForTests-v0",
                f"+env.kwargs.as_ends={as_ends}",
                "algo.gamma=0.9",
            ),
            *(
                "algo.rollout_length=8",
                "env.num_envs=4",
                "algo.lr=1e-2",
                "algo.network.hidden=[]",
                "algo.max_grad_norm=null",
            ),
            *(
                ["algo.minibatch_size=32"]
                if algo == "ppo"
                else ["algo.optimizer._target_=rl.optimizers.Adam"]
            ),
        ),
        8_000 if algo == "ppo" else 40_000,
    )
    values = agent.value(np.eye(4, dtype=np.float32))
    by_hand = [3.439, 2.71, 1.9, 1.0] if as_ends else [10.0] * 4
    np.testing.assert_allclose(values, by_hand, rtol=0.02)


@pytest.mark.parametrize("algo", ALGOS)
@pytest.mark.parametrize("kind", ["discrete", "multi_discrete", "continuous"])
def test_an_identity_env_is_solved(algo, kind):
    own = (
        ["algo.rollout_length=32", "algo.minibatch_size=64", "algo.lr=2e-3"]
        if algo == "ppo"
        else [
            "algo.rollout_length=8",
            "algo.optimizer._target_=rl.optimizers.Adam",
            "algo.lr=3e-3",
            "algo.normalize_advantage=true",
        ]
    )
    parts = make(
        *(
            f"algo={algo}",
            "env=gym",
            "env.id=IdentityForTests-v0",
            f"+env.kwargs.kind={kind}",
            "env.num_envs=8",
        ),
        *("algo.gamma=0", "algo.network.hidden=[32]", *own),
    )
    agent = train(parts, 10_000 if algo == "ppo" else 30_000)
    score = play(agent, parts.make_env, 20, seed=1).mean
    assert score > (-0.1 if kind == "continuous" else 9.9)


# ----------------------------------------------------------------------------------------------- exact resume

SMALL = (
    *(
        "env.num_envs=2",
        "algo.rollout_length=16",
        "algo.network.hidden=[8,8]",
        "algo.normalize_obs=true",
        "algo.normalize_reward=true",
    ),
    *("algo.lr=[[0, 1e-2], [300, 1e-3]]", "algo.entropy_coef=[[0, 0.01], [200, 0]]"),
)
OWN = {"ppo": ("algo.minibatch_size=8", "algo.epochs=2", "algo.clip_range=[[0, 0.3], [250, 0.1]]"), "a2c": ()}


def record(parts, metrics, iterations):
    for _ in range(iterations):
        rollout = parts.collector.collect(parts.agent)
        metrics.add_episodes(parts.collector.ended_returns, parts.collector.ended_lengths)
        metrics.add(parts.agent.learn(rollout))
        metrics.write(parts.clock)


def all_state(parts, metrics):
    return {
        "metrics": metrics.state_dict(),
        **{name: part.state_dict() for name, part in parts.stateful.items()},
    }


def rows(metrics):
    return [
        {name: cell for name, cell in row.items() if name not in ("wall_s", "fps")}
        for row in metrics.table.rows()
    ]


def differences(one, other, path=""):
    """Where two trees of state differ by a bit."""
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return [path]
        return [d for key in one for d in differences(one[key], other[key], f"{path}.{key}")]
    if isinstance(one, list | tuple):
        if len(one) != len(other):
            return [path]
        return [
            d
            for n, (a, b) in enumerate(zip(one, other, strict=True))
            for d in differences(a, b, f"{path}[{n}]")
        ]
    same = torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    return [] if same else [path]


def interrupted_and_not(tmp_path, overrides, forget=(), stop=7, end=15):
    """Differences between a run that was saved and built anew in the middle and one that was not; and their
    rows.
    """
    whole, first, second = (make(*overrides) for _ in range(3))
    columns = whole.agent.columns
    books = [Metrics(tmp_path / f"{name}.csv", columns) for name in ("whole", "first", "second")]
    for book in books:
        book.table.start()
    whole.collector.start()
    record(whole, books[0], end)
    first.collector.start()
    record(first, books[1], stop)
    buffer = io.BytesIO()
    torch.save(all_state(first, books[1]), buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    for name, part in {"metrics": books[2], **second.stateful}.items():
        if name not in forget:
            part.load_state_dict(state[name])
    assert not second.collector.not_exact
    record(second, books[2], end - stop)
    for parts in (whole, first, second):
        parts.collector.envs.close()
    found = differences(all_state(whole, books[0]), all_state(second, books[2]))
    return found, rows(books[0]), rows(books[1]) + rows(books[2])


@pytest.mark.parametrize("algo", ALGOS)
@pytest.mark.parametrize("env", ["cartpole", "pendulum"])
@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path, algo, env, vectorization):
    found, whole, resumed = interrupted_and_not(
        tmp_path, (f"algo={algo}", f"env={env}", f"env.vectorization={vectorization}", *SMALL, *OWN[algo])
    )
    assert found == []
    assert resumed == whole
    assert len({row["lr"] for row in whole}) > 5  # the schedules moved


@pytest.mark.parametrize("algo", ALGOS)
def test_a_resumed_compiled_run_equals_the_uninterrupted_one(tmp_path, algo):
    found, whole, resumed = interrupted_and_not(
        tmp_path, (f"algo={algo}", "env=cartpole", "compile=true", *SMALL, *OWN[algo])
    )
    assert found == []
    assert resumed == whole


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (("algo.shared_network=true",), "shared"),
        (("algo.value_lr=[[0, 3e-3], [300, 1e-3]]",), "two optimizers"),
        (("algo.optimizer._target_=torch.optim.RMSprop",), "torch's optimizer"),
    ],
)
@pytest.mark.parametrize("algo", ALGOS)
def test_its_variants_resume_exactly_too(tmp_path, algo, overrides, name):
    found, whole, resumed = interrupted_and_not(
        tmp_path, (f"algo={algo}", "env=cartpole", *SMALL, *OWN[algo], *overrides)
    )
    assert found == []
    assert resumed == whole


@pytest.mark.parametrize("algo", ALGOS)
@pytest.mark.parametrize(
    "part",
    [
        "agent.networks",
        "agent.optimizer",
        "agent.obs_normalizer",
        "agent.reward_normalizer",
        "streams",
        "clock",
    ],
)
def test_forgetting_any_part_is_noticed(tmp_path, algo, part):
    found, whole, resumed = interrupted_and_not(
        tmp_path, (f"algo={algo}", "env=cartpole", *SMALL, *OWN[algo]), forget=(part,)
    )
    assert any(".agent.networks" in path for path in found) or part == "clock"
    assert resumed != whole


@pytest.mark.parametrize("algo", ALGOS)
def test_evaluation_leaves_the_statistics_as_they_were(algo):
    parts = make(f"algo={algo}", "env=cartpole", *SMALL, *OWN[algo])
    train(parts, 64)
    before = parts.policy_state()
    frozen = torch.load(io.BytesIO(_bytes(before)), weights_only=True)
    play(parts.agent, parts.make_env, 3, seed=0)
    assert "obs_normalizer" in frozen
    assert differences(frozen, parts.policy_state()) == []


def _bytes(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


# ---------------------------------------------------------------------------------------------------- compile


@pytest.mark.parametrize(
    ("algo", "optimizer"),
    [("a2c", "rl.optimizers.RMSprop"), ("ppo", "rl.optimizers.Adam"), ("ppo", "torch.optim.AdamW")],
)
def test_compiled_and_eager_updates_agree(algo, optimizer):
    overrides = (f"algo={algo}", "env=pendulum", *SMALL, *OWN[algo], f"algo.optimizer._target_={optimizer}")
    eager, compiled = make(*overrides), make(*overrides, "compile=true")
    eager.collector.start()
    for _ in range(4):
        rollout = eager.collector.collect(eager.agent)
        compiled.clock.tick(rollout.reward.size, 0)
        expected, report = eager.agent.learn(rollout), compiled.agent.learn(rollout)
        assert report == pytest.approx(expected, rel=1e-3, abs=1e-5)
    for one, other in zip(eager.agent.step.flats, compiled.agent.step.flats, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
