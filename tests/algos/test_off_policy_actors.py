"""What SAC (both kinds), TD3, DDPG, CrossQ and TQC must do: learn, bootstrap only where an episode was cut
off, and resume bit for bit.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from faults import DIED
from short_runs import TINY, begun, differences, go, in_child, iterate, leaves, record
from test_kills import killed
from test_state import rewrite

from rl.config import ConfigError, RunConfig
from rl.config.compose import compose
from rl.training import torch_setup
from rl.training.build import Parts, build
from rl.training.evaluate import play
from rl.training.torch_setup import multiplies_bfloat16

ALGOS = ("sac", "sac_discrete", "td3", "ddpg", "crossq", "tqc")
HIDDEN = ("algo.network.hidden=[8]",)
CRITIC_HIDDEN = {
    "crossq": ("algo.critic_network.hidden=[8]", "algo.critic_network.warm_up=20", "algo.network.warm_up=5"),
    "tqc": ("algo.critic_network.hidden=[8]",),
}


class Endless(gym.Env):
    """Reward 1 for ever, cut off after 4 steps: the value of every state is 1 / (1 - gamma)."""

    observation_space = gym.spaces.Box(0, 1, (4,), np.float32)

    def __init__(self, discrete: bool, as_ends: bool = False) -> None:
        self.as_ends = as_ends
        self.action_space = gym.spaces.Discrete(2) if discrete else gym.spaces.Box(-1, 3, (1,), np.float32)

    def obs(self) -> Any:
        return np.eye(4, dtype=np.float32)[self.steps % 4]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self.obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        out = self.steps == 4
        return self.obs(), 1.0, out and self.as_ends, out and not self.as_ends, {}


class Follow(gym.Env):
    """The best action is what is seen; 10 steps."""

    def __init__(self, discrete: bool) -> None:
        self.discrete = discrete
        self.action_space = (
            gym.spaces.Discrete(3, start=5) if discrete else gym.spaces.Box(-1, 3, (1,), np.float32)
        )
        self.observation_space = gym.spaces.Box(-1, 3, (3,) if discrete else (1,), np.float32)

    def next(self) -> Any:
        if self.discrete:
            self.wanted = int(self.np_random.integers(3))
            return np.eye(3, dtype=np.float32)[self.wanted]
        self.wanted = self.np_random.uniform(-0.6, 2.6, 1).astype(np.float32)
        return self.wanted

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self.next(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        reward = (
            float(action - 5 == self.wanted)
            if self.discrete
            else -float(np.square(action - self.wanted).sum())
        )
        return self.next(), reward, self.steps == 10, False, {}


gym.register("EndlessForActors-v0", Endless)
gym.register("FollowForActors-v0", Follow)


def make(*overrides: str) -> Parts:
    return build(compose([*overrides, "progress=false"], RunConfig).config)


def train(parts: Parts, frames: int) -> Any:
    parts.collector.start()
    while parts.clock.frames < frames:
        parts.agent.learn(parts.collector.collect(parts.agent))
    parts.collector.envs.close()
    return parts.agent


def on(env: str, algo: str) -> list[str]:
    return [
        f"algo={algo}",
        "env=gym",
        f"env.id={env}ForActors-v0",
        f"+env.kwargs.discrete={algo == 'sac_discrete'}",
        "env.num_envs=4",
    ]


# --------------------------------------------------------------------------------------------------- learning


@pytest.mark.parametrize("algo", ["sac", "sac_discrete", "td3", "crossq", "tqc"])
@pytest.mark.parametrize("as_ends", [False, True])
def test_the_value_of_an_endless_env_is_reached_only_if_time_limits_are_no_ends(
    algo: str, as_ends: bool
) -> None:
    own = {
        "td3": ("algo.target_tau=0.2", "algo.policy_delay=1"),
        "crossq": ("algo.critic_network.hidden=[]", "algo.optimizer.betas=[0.9,0.999]"),
        "tqc": ("algo.critic_network.hidden=[]", "algo.num_critics=2", "algo.target_tau=0.2"),
    }
    no_entropy = () if algo == "td3" else ("algo.alpha=1e-9", "algo.alpha_lr=0")
    agent = train(
        make(
            *(
                *on("Endless", algo),
                f"+env.kwargs.as_ends={as_ends}",
                "algo.gamma=0.9",
                "algo.lr=[[0,5e-2],[1200,0]]",
                "algo.actor_lr=0",
            ),
            *("algo.batch_size=32", "algo.learning_starts=100", "algo.network.hidden=[]", *no_entropy),
            *own.get(algo, ("algo.target_tau=0.2",)),
        ),
        1_200,
    )
    critics = agent.critics if algo in ("td3", "crossq") else agent.networks.critics
    action = torch.zeros(4, 0 if algo == "sac_discrete" else 1)
    values = critics(torch.cat([torch.eye(4), action], -1)).mean(-1)  # [2, 4]
    by_hand = [3.439, 2.71, 1.9, 1.0] if as_ends else [10.0] * 4
    np.testing.assert_allclose(values.detach(), [by_hand] * 2, rtol=0.05)


@pytest.mark.parametrize("algo", ["sac", "sac_discrete", "td3", "crossq", "tqc"])
def test_what_is_seen_is_done(algo: str) -> None:
    parts = make(
        *(
            *on("Follow", algo),
            "algo.gamma=0",
            "algo.network.hidden=[32]",
            "algo.lr=5e-3",
            "algo.batch_size=64",
            "algo.learning_starts=200",
        ),
        *(("algo.critic_network.hidden=[32]",) if algo in ("crossq", "tqc") else ()),
        *(("algo.policy_delay=1",) if algo == "crossq" else ()),
        *(("algo.alpha=0.1",) if algo != "td3" else ()),
    )
    agent = train(parts, 1_500)
    score = play(agent, parts.make_env, 20, seed=1).mean
    assert score > (9.9 if algo == "sac_discrete" else -0.6)  # by chance: 3.3, and -19


# ----------------------------------------------------------------------------------------------- exact resume


def line_for(algo: str, *more: str) -> list[str]:
    env = "cartpole" if algo == "sac_discrete" else "pendulum"
    length = ("frames=320", "algo.rollout_length=16", "ckpt.every=64", "eval.every=160", "log_every=32")
    small = (
        "algo.learning_starts=40",
        "algo.batch_size=8",
        "algo.replay.capacity=200",
        "algo.lr=[[0,1e-2],[300,1e-3]]",
    )
    return [*TINY, *length, f"algo={algo}", f"env={env}", *small, *CRITIC_HIDDEN.get(algo, ()), *more]


OWN = {
    "sac": ("algo.normalize_obs=true", "algo.n_step=3"),
    "sac_discrete": ("algo.normalize_obs=true",),
    "td3": (
        "algo.policy_delay=3",
        "algo.updates_per_frame=0.3",
        "algo.exploration_noise=[[0,0.3],[300,0.1]]",
    ),
    "ddpg": ("algo.normalize_obs=true",),
    "crossq": ("algo.policy_delay=5", "algo.updates_per_frame=0.3"),
    "tqc": ("algo.normalize_obs=true", "algo.n_step=3"),
}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The record of an algorithm's run that nothing interrupts."""

    @functools.cache
    def recorded(algo: str) -> Any:
        folder = tmp_path_factory.mktemp("straight") / algo
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("rl.training.run.SCORE_EPISODES", 4)
            assert go(folder, *line_for(algo, *OWN[algo])) == 0
        return record(folder)

    return recorded


@pytest.mark.usefixtures("few_scores", "composed_once")
@pytest.mark.parametrize("algo", ALGOS)
def test_a_run_killed_repeatedly_ends_equal(algo: str, tmp_path: Path, straight: Any) -> None:
    line = line_for(algo, *OWN[algo])
    for number in (40, 33):
        assert in_child(functools.partial(killed, tmp_path / "run", number, *line)) == DIED
    assert in_child(functools.partial(go, tmp_path / "run", *line)) == 0
    assert differences(straight(algo), record(tmp_path / "run")) == []


TRAINED = ["critics", "actor", "critic_optimizer", "actor_optimizer"]
PARTS = {
    "sac": [*TRAINED, "temperature", "temperature_optimizer", "target_critics", "obs_normalizer", "replay"],
    "sac_discrete": [
        *TRAINED,
        "temperature",
        "temperature_optimizer",
        "target_critics",
        "obs_normalizer",
        "replay",
    ],
    "td3": [*TRAINED, "target_critics", "target_actor", "replay"],
    "crossq": [*TRAINED, "temperature", "temperature_optimizer", "replay"],
}
PARTS["tqc"] = PARTS["sac"]


@pytest.mark.usefixtures("few_scores", "composed_once")
@pytest.mark.parametrize("algo", PARTS)
def test_without_any_one_part_the_continuation_differs(algo: str, tmp_path: Path, straight: Any) -> None:
    line = line_for(algo, *OWN[algo])
    begin = {name: part.state_dict() for name, part in begun(tmp_path / "start", *line).stateful.items()}
    assert {f"agent.{part}" for part in PARTS[algo]} == {name for name in begin if name.startswith("agent.")}
    assert go(tmp_path / "half", *line, "frames=160") == 0
    state: dict[str, Any] = {}
    rewrite(tmp_path / "half", state.update)

    def continued(saved: dict[str, Any]) -> torch.Tensor:
        rewrite(tmp_path / "half", lambda present: present.update(saved))
        run = begun(tmp_path / "half", *line)
        iterate(run, 2)
        return weights(run.agent.parts)

    whole = continued(state)
    assert torch.equal(continued(state), whole)
    for part in PARTS[algo]:
        if part != "replay":  # its rows are in chunks: tests of the memory leave them out
            name = f"agent.{part}"
            assert not torch.equal(continued({**state, name: begin[name]}), whole), part


def weights(parts: Any) -> torch.Tensor:
    return torch.cat(
        [p.detach().flatten() for name in ("critics", "actor") for p in parts[name].parameters()]
    )


def test_the_batches_moments_come_back(tmp_path: Path) -> None:
    """Without them the continuation differs: they are buffers, and part of the networks in a checkpoint."""
    line = line_for("crossq", *OWN["crossq"])
    run = begun(tmp_path / "run", *line)
    iterate(run, 6)
    state = run.stateful["agent.critics"].state_dict()
    assert int(state["batches"]) == run.clock.updates > 20
    assert not torch.equal(
        state["moments"], begun(tmp_path / "other", *line).stateful["agent.critics"].state_dict()["moments"]
    )


@pytest.mark.usefixtures("few_scores", "composed_once")
@pytest.mark.parametrize("algo", ["sac", "crossq"])
def test_a_refilled_memory_learns_again_from_the_threshold(algo: str, tmp_path: Path) -> None:
    line = line_for(algo, "algo.replay.on_resume=refill", "algo.learning_starts=100")
    assert go(tmp_path / "run", *line, "frames=160") == 0
    run = begun(tmp_path / "run", *line)
    updates = run.clock.updates
    iterate(run, 3)
    assert run.clock.updates == updates == 160 - 100
    iterate(run)
    assert run.clock.updates == updates + 128 - 100


# -------------------------------------------------------------------------------------- warm-up and the ratio


@pytest.mark.parametrize("algo", ALGOS)
def test_actions_are_random_until_learning_starts(algo: str) -> None:
    env = "cartpole" if algo == "sac_discrete" else "pendulum"
    agent = make(f"algo={algo}", f"env={env}", "env.num_envs=4", "algo.learning_starts=100", *HIDDEN).agent
    obs = np.tile(np.linspace(-1, 1, 4 if env == "cartpole" else 3, dtype=np.float32), (2000, 1))

    def drawn(explore: bool) -> Any:
        action, _ = agent.act(obs, None, np.random.default_rng(0), explore)
        return np.histogram(action, bins=2 if env == "cartpole" else 4)[0] / len(obs)

    agent.clock.tick(99, 0)
    assert drawn(explore=True) == pytest.approx(0.5 if env == "cartpole" else 0.25, abs=0.04)
    assert drawn(explore=False).max() == 1.0  # all the same
    agent.clock.tick(1, 0)
    assert env == "cartpole" or drawn(explore=True) != pytest.approx(0.25, abs=0.04)


@pytest.mark.parametrize("algo", ALGOS)
def test_the_replay_ratio_does_not_depend_on_the_number_of_envs(algo: str) -> None:
    updates = []
    for num_envs, rollout_length in ((1, 40), (2, 20), (8, 5)):
        env = "cartpole" if algo == "sac_discrete" else "pendulum"
        sizes = (
            f"env.num_envs={num_envs}",
            f"algo.rollout_length={rollout_length}",
            "algo.learning_starts=80",
            "algo.batch_size=8",
        )
        parts = make(
            f"algo={algo}",
            f"env={env}",
            *sizes,
            "algo.updates_per_frame=0.5",
            *HIDDEN,
            *CRITIC_HIDDEN.get(algo, ()),
        )
        train(parts, 160)
        updates.append(parts.clock.updates)
    assert updates == [40, 40, 40]


@pytest.mark.parametrize(
    ("algo", "env", "message"),
    [
        ("sac", "cartpole", "needs a continuous action space.*algo=sac_discrete"),
        ("td3", "cartpole", "needs a continuous action space.*algo=sac_discrete"),
        ("crossq", "cartpole", "needs a continuous action space.*algo=sac_discrete"),
        ("tqc", "cartpole", "needs a continuous action space.*algo=sac_discrete"),
        ("sac_discrete", "pendulum", "needs a Discrete action space.*algo=sac"),
    ],
)
def test_the_wrong_action_space_is_refused_with_what_to_type(algo: str, env: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(f"algo={algo}", f"env={env}")


def test_crossq_without_batch_renormalisation_is_refused_with_what_to_type() -> None:
    with pytest.raises(ConfigError, match="type algo.network._target_=rl.networks.BatchRenormMLP"):
        make("algo=crossq", "env=pendulum", "algo.network._target_=rl.networks.MLP", "~algo.network.warm_up")


# ------------------------------------------------------------------------------------------------- the losses


def filled(algo: str, *more: str) -> Parts:
    """An agent whose memory is ready for its first update."""
    env = "cartpole" if algo == "sac_discrete" else "pendulum"
    sizes = ("env.num_envs=1", "algo.rollout_length=64", "algo.learning_starts=64", "algo.batch_size=16")
    parts = make(f"algo={algo}", f"env={env}", *sizes, *HIDDEN, *CRITIC_HIDDEN.get(algo, ()), *more)
    train(parts, 64)
    assert parts.clock.updates == 0
    return parts


def batch_of(parts: Parts) -> Any:
    """What the losses take: a batch, and noise where the actor draws."""
    assert parts.agent.replay is not None
    return parts.agent._inputs(parts.agent.replay.sample(16, parts.streams.replay, 64))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("algo", "is_frozen"),
    [("sac", True), ("sac", False), ("sac_discrete", True), ("tqc", True)],
    ids=["sac", "control", "discrete", "tqc"],
)
def test_only_their_own_loss_moves_the_critics(
    algo: str, is_frozen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = filled(algo)
    if not is_frozen:
        monkeypatch.setattr("rl.algos.sac.frozen", lambda module: module)
    agent: Any = parts.agent
    batch = batch_of(parts)
    inputs = [batch] if algo == "sac_discrete" else batch
    loss, report = agent._loss(agent.networks, *inputs)
    critic_loss = report["loss"]
    weights = list(agent.networks.critics.parameters())
    of_all, own = (torch.autograd.grad(one, weights, retain_graph=True) for one in (loss, critic_loss))
    assert is_frozen == all(torch.equal(a, b) for a, b in zip(of_all, own, strict=True))
    moved = torch.autograd.grad(loss, list(agent.networks.actor.parameters()))
    assert any(g.any() for g in moved)


@pytest.mark.parametrize("algo", ["sac", "td3"])
def test_the_actor_follows_critics_of_any_network(algo: str) -> None:
    """Its gradient with SimBa critics, against that of the loss written out."""
    parts = filled(algo, "algo.network._target_=rl.networks.SimBa")
    agent: Any = parts.agent
    batch, noise = batch_of(parts)
    critics = agent.networks.critics if algo == "sac" else agent.critics

    def value(action: torch.Tensor) -> torch.Tensor:
        return critics(torch.cat([batch.obs, action], -1)).squeeze(-1)

    if algo == "sac":
        actor = agent.networks.actor
        _, report = agent._loss(agent.networks, batch, noise)
        found = report["policy_loss"]
        action, log_prob = agent.distribution.sample_with_log_prob(actor(batch.obs), noise[0])
        expected = (report["alpha"] * log_prob - value(action).amin(0)).mean()
    else:
        actor = agent.actor
        found, _ = agent._actor_loss(actor, batch.obs)
        expected = -value(actor(batch.obs).tanh())[0].mean()
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(loss, list(actor.parameters())) for loss in (found, expected)]
    for ours, by_hand in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, by_hand)


@pytest.mark.parametrize("algo", ["sac", "sac_discrete", "crossq", "tqc"])
@pytest.mark.parametrize("more_wanted", [True, False])
def test_the_temperature_rises_where_entropy_is_lacking(algo: str, more_wanted: bool) -> None:
    if algo == "sac_discrete":  # at the start it is between the two
        target = f"algo.target_entropy_ratio={1.0 if more_wanted else 0.1}"
    else:
        target = f"algo.target_entropy={20 if more_wanted else -20}"
    env = "cartpole" if algo == "sac_discrete" else "pendulum"
    sizes = (
        "algo.learning_starts=64",
        "algo.batch_size=16",
        "algo.alpha=0.5",
        *HIDDEN,
        *CRITIC_HIDDEN.get(algo, ()),
    )
    agent: Any = train(make(f"algo={algo}", f"env={env}", *sizes, target), 100)
    alpha = float(agent.parts["temperature"]["log_alpha"].detach().exp())
    assert alpha > 0.5 if more_wanted else alpha < 0.5


def test_the_target_of_td3_is_the_lower_critic_at_a_smoothed_action() -> None:
    parts = filled("td3", "algo.num_critics=3", "algo.target_noise=0.4", "algo.target_noise_clip=0.3")
    agent: Any = parts.agent
    batch, noise = batch_of(parts)
    noise = noise * 10  # so that some actions meet their bounds
    _, report = agent._critic_loss(agent.critics, batch, noise)
    error = report["td_error"]
    next_action = np.clip(np.tanh(agent.target_actor(batch.next_obs).detach().numpy()) + noise.numpy(), -1, 1)
    assert (np.abs(next_action) == 1).any()
    next_q = (
        agent.target_critics(torch.cat([batch.next_obs, torch.from_numpy(next_action)], -1))
        .squeeze(-1)
        .detach()
    )
    target = batch.reward + batch.discount * next_q.min(0).values
    q = agent.critics(torch.cat([batch.obs, batch.action], -1)).squeeze(-1).detach()
    torch.testing.assert_close(error, (q - target).abs().mean(0))


@pytest.mark.parametrize("dropped", [0, 2])
def test_the_target_of_tqc_leaves_out_the_highest_quantiles(dropped: int) -> None:
    """Of all critics together, so many for each critic; the loss is computed pair by pair."""
    parts = filled("tqc", "algo.num_critics=3", "algo.quantiles=5", f"algo.dropped_quantiles={dropped}")
    agent: Any = parts.agent
    batch, noise = batch_of(parts)
    _, report = agent._loss(agent.networks, batch, noise)
    with torch.no_grad():
        params = agent.networks.actor(batch.next_obs)
        next_action, log_prob = agent.distribution.sample_with_log_prob(params, noise[1])
        atoms = agent.target_critics(torch.cat([batch.next_obs, next_action], -1)).numpy()  # [3, 16, 5]
        quantiles = agent.networks.critics(torch.cat([batch.obs, batch.action], -1)).numpy()
    losses = np.zeros((3, 16))
    for row in range(16):
        kept = np.sort(atoms[:, row].flatten())[: 15 - 3 * dropped] - float(report["alpha"] * log_prob[row])
        target = float(batch.reward[row]) + float(batch.discount[row]) * kept
        for critic in range(3):
            for i, quantile in enumerate(quantiles[critic, row]):
                u = target - quantile
                huber = np.where(np.abs(u) < 1, u**2 / 2, np.abs(u) - 0.5)
                losses[critic, row] += (np.abs((i + 0.5) / 5 - (u < 0)) * huber).mean() / 5
    np.testing.assert_allclose(report["td_error"], losses.mean(0), rtol=1e-4)
    assert float(report["loss"].detach()) == pytest.approx(losses.mean(1).sum(), rel=1e-4)


def test_tqc_must_keep_a_quantile() -> None:
    with pytest.raises(ConfigError, match="algo.dropped_quantiles=25 leaves none of algo.quantiles=25"):
        make("algo=tqc", "env=pendulum", "algo.dropped_quantiles=25")


def test_the_smoothing_noise_is_clipped() -> None:
    parts = filled("td3", "algo.target_noise=0.4", "algo.target_noise_clip=0.3")
    noise = torch.cat([batch_of(parts)[-1] for _ in range(300)])
    assert float(noise.abs().max()) == pytest.approx(0.3)
    # of a normal within 0.75 deviations
    assert float((noise.abs() < 0.299).float().mean()) == pytest.approx(0.547, abs=0.03)


@pytest.mark.parametrize("algo", ["td3", "crossq"])
def test_the_actor_moves_at_every_third_update_alone(algo: str) -> None:
    parts = filled(algo, "algo.policy_delay=3")
    agent: Any = parts.agent
    agent.rollout_length = 1
    moved = []
    for frame in range(65, 80):
        before = {
            name: part.state_dict()
            for name, part in agent.parts.items()
            if "actor" in name and "optimizer" not in name
        }
        before = {
            name: {key: value.clone() for key, value in state.items()} for name, state in before.items()
        }
        parts.clock.tick(1, 0)
        rollout = parts.collector.rollout
        single = type(rollout)(
            rollout.obs[:2],
            *(getattr(rollout, n)[:1] for n in ("action", "reward", "terminated", "truncated")),
        )
        agent.learn(single)
        now = {name: agent.parts[name].state_dict() for name in before}
        changed = {
            any(not torch.equal(now[name][key], value) for key, value in state.items())
            for name, state in before.items()
        }
        assert len(changed) == 1  # the targets with the actor
        moved += [frame] if changed == {True} else []
    assert moved == [66, 69, 72, 75, 78]


# ---------------------------------------------------------------------------------------------------- compile


@pytest.mark.parametrize(
    "algo",
    [
        "sac",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("sac_discrete", "td3", "crossq", "tqc")),
    ],
)
def test_compiled_updates_agree_with_eager_ones_and_resume_exactly(algo: str, tmp_path: Path) -> None:
    line = line_for(algo, "algo.rollout_length=8", "algo.normalize_obs=true")
    runs = [
        begun(tmp_path / name, *line, f"compile={name != 'eager'}") for name in ("eager", "whole", "half")
    ]
    for run in runs[:2]:
        iterate(run, 6)
    eager, whole = runs[0].agent, runs[1].agent
    torch.testing.assert_close(weights(whole.parts), weights(eager.parts), rtol=1e-3, atol=1e-5)
    if algo == "crossq":
        assert whole.parts["critics"].batches.tolist() == [runs[1].clock.updates]
        torch.testing.assert_close(
            whole.parts["critics"].moments, eager.parts["critics"].moments, rtol=1e-3, atol=1e-4
        )
    iterate(runs[2], 3)
    runs[2].save()
    resumed = begun(tmp_path / "half", *line, "compile=true")
    iterate(resumed, 3)
    assert torch.equal(weights(resumed.agent.parts), weights(whole.parts))
    optimizers = [
        {n: p.state_dict() for n, p in run.agent.parts.items() if "optimizer" in n}
        for run in (resumed, runs[1])
    ]
    assert differences(*(leaves(state, "") for state in optimizers)) == []


@pytest.mark.skipif(not multiplies_bfloat16(), reason="this CPU has no instructions for bfloat16")
@pytest.mark.parametrize("compiled", [False, True])
def test_rounded_products_resume_exactly(compiled: bool, tmp_path: Path) -> None:
    line = line_for("sac", "algo.network.hidden=[64,64]", "algo.batch_size=64", f"compile={compiled}")
    medium = [*line, "matmul_precision=medium"]
    highest, whole, half = (
        begun(tmp_path / name, *words) for name, words in (("1", line), ("2", medium), ("3", medium))
    )
    assert torch.get_float32_matmul_precision() == "medium"
    iterate(whole, 6)
    iterate(half, 4)
    half.save()
    resumed = begun(tmp_path / "3", *medium)
    iterate(resumed, 2)
    assert torch.equal(weights(resumed.agent.parts), weights(whole.agent.parts))
    torch.set_float32_matmul_precision("highest")  # what the first run had set
    iterate(highest, 6)
    assert not torch.equal(weights(highest.agent.parts), weights(whole.agent.parts))


def test_rounded_products_are_refused_where_the_cpu_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_setup, "multiplies_bfloat16", lambda: False)
    with pytest.raises(ConfigError, match=r"no instructions for bfloat16; type matmul_precision=highest"):
        begun(tmp_path / "run", *line_for("sac"), "matmul_precision=medium")
