"""Hindsight: which goals a transition gets, what it is worth with them, and that a resume knows episodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from audit import load_all_rows
from short_runs import begun, differences, iterate, leaves

from rl.algos.agent import Rollout
from rl.config import ConfigError
from rl.envs.goals import batched, goal_functions
from rl.learning.hindsight import HindsightReplay
from rl.learning.replay import Transitions
from rl.serialize import load, serialize
from rl.training.run import Run

pytestmark = pytest.mark.usefixtures("few_scores", "composed_once")
GAMMA = 0.9
GOAL = np.dtype([("achieved_goal", "f4", (1,)), ("desired_goal", "f4", (1,)), ("observation", "f4", (2,))])


class Bits(gym.Env):
    """Flips one bit a step, until they are as desired or 7 steps are over; -1 a step until there.

    `odd`: its rewards are not what compute_reward says; `plain`: it has no goals.
    """

    def __init__(
        self,
        render_mode: str | None = None,
        size: int = 5,
        steps: int = 7,
        continuous: bool = False,
        odd: bool = False,
        plain: bool = False,
    ) -> None:
        bits = gym.spaces.Box(0, 1, (size,), np.float32)
        spaces = {"observation": bits, "achieved_goal": bits, "desired_goal": bits}
        self.observation_space = gym.spaces.Dict({"observation": bits} if plain else spaces)
        self.action_space: gym.Space = gym.spaces.Discrete(size)
        if continuous:
            self.action_space = gym.spaces.Box(-1, 1, (size,), np.float32)
        self.size, self.steps, self.odd, self.plain = size, steps, odd, plain

    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> Any:
        return -np.any(achieved != desired, axis=-1).astype(np.float32)

    def compute_terminated(self, achieved: Any, desired: Any, info: Any) -> bool:
        return bool((achieved == desired).all())

    def _observe(self) -> dict[str, Any]:
        goals = {"achieved_goal": self.bits.copy(), "desired_goal": self.goal.copy()}
        return {"observation": self.bits.copy()} | ({} if self.plain else goals)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.bits, self.goal = self.np_random.integers(2, size=(2, self.size)).astype(np.float32)
        self.left = self.steps
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        which = int(np.argmax(action)) if isinstance(self.action_space, gym.spaces.Box) else int(action)
        self.bits[which] = 1 - self.bits[which]
        self.left -= 1
        reward = float(self.compute_reward(self.bits, self.goal, {})) + 0.5 * self.odd
        return self._observe(), reward, self.compute_terminated(self.bits, self.goal, {}), self.left <= 0, {}


gym.register("Bits-v0", Bits)


def distances() -> dict[str, Any]:
    """Minus the distance as reward; a goal that is reached ends the episode."""
    return {
        "compute_reward": lambda achieved, desired: -np.abs(achieved - desired)[:, 0],
        "compute_terminated": lambda achieved, desired: (achieved == desired)[:, 0],
    }


def memory(num_envs: int, capacity: int, on_resume: str = "restore", **more: Any) -> HindsightReplay:
    about = {"n_step": 1, "learning_starts": num_envs, "goal_functions": distances} | more
    told = Transitions((), GOAL, 1, (), np.int64, num_envs, GAMMA, **about)
    made = HindsightReplay(told, capacity=capacity, on_resume=on_resume)
    made.allocate(2**30)
    return made


class World:
    """N envs whose every observation achieves a number of its own, env * 1000 + how many came before it."""

    def __init__(self, num_envs: int, end: float = 0.2, seed: int = 0) -> None:
        self.rng, self.num_envs, self.end = np.random.default_rng(seed), num_envs, end
        self.seen = [0] * num_envs
        self.following: list[list[float]] = []  # [row][env]: what the step achieved
        self.episode: list[list[int]] = []  # [row][env]
        self.now = [0] * num_envs
        self.begun: list[int] = []  # what the next rollout says

    def observe(self, n: int) -> Any:
        place = 1000 * n + self.seen[n]
        return np.array(([place], [-1], [place, 0]), GOAL)

    def begin_another(self, n: int) -> None:
        self.seen[n] += 1
        self.now[n] += 1

    def lose(self, n: int) -> None:
        """As on a resume that cannot restore an env's episode."""
        self.begin_another(n)
        self.begun.append(n)

    def live(self, steps: int) -> Rollout:
        obs = np.zeros((steps + 1, self.num_envs), GOAL)
        terminated, truncated = np.zeros((2, steps, self.num_envs), np.bool_)
        finals = []
        for t in range(steps):
            self.following.append([])
            self.episode.append(list(self.now))
            for n in range(self.num_envs):
                obs[t, n] = self.observe(n)
                self.seen[n] += 1
                self.following[-1].append(1000 * n + self.seen[n])
                if self.rng.random() < self.end:
                    finals.append((t, n, self.observe(n)))
                    (terminated if self.rng.random() < 0.5 else truncated)[t, n] = True
                    self.begin_another(n)
                obs[t + 1, n] = self.observe(n)
        reward, action = np.full((steps, self.num_envs), 7, np.float32), np.zeros((steps, self.num_envs), int)
        begun, self.begun = self.begun, []
        return Rollout(obs, action, reward, terminated, truncated, final_obs=finals, begun=begun)

    def goals_of(self, number: int) -> set[float]:
        """What the episode of a transition achieved from its own step on."""
        row, n = divmod(number, self.num_envs)
        rows = range(row, len(self.episode))
        return {self.following[r][n] for r in rows if self.episode[r][n] == self.episode[row][n]}


def check(made: HindsightReplay, world: World) -> None:
    """Every transition gets all goals that it can get, and no other."""
    batch = made.sample(40_000, np.random.default_rng(1), 0)
    found: dict[int, set[float]] = {}
    for number, goal in zip(batch.number.tolist(), batch.obs["desired_goal"][:, 0].tolist(), strict=True):
        found.setdefault(number, set()).add(goal)
    numbers = range(made._low * made.num_envs, made._high * made.num_envs)
    assert found == {number: world.goals_of(number) | {-1.0} for number in numbers}


# ----------------------------------------------------------------------------------------- goals and rewards


def test_rewards_for_other_goals_equal_hand_numbers() -> None:
    made, world = memory(1, 100), World(1, end=0)
    made.add(world.live(3))  # achieves 1, 2 and 3
    batch = made.sample(60_000, np.random.default_rng(0), 0)
    assert np.array_equal(batch.obs["desired_goal"], batch.next_obs["desired_goal"])
    goal, after = batch.obs["desired_goal"][:, 0], batch.next_obs["achieved_goal"][:, 0]
    assert np.array_equal(after, batch.number + 1)
    table = {
        (int(number), int(g)): (float(reward), round(float(discount), 6))
        for number, g, reward, discount in zip(batch.number, goal, batch.reward, batch.discount, strict=True)
    }
    assert table == {
        **{(number, -1): (7.0, 0.9) for number in range(3)},  # as they were
        (0, 1): (0.0, 0.0),
        (0, 2): (-1.0, 0.9),
        (0, 3): (-2.0, 0.9),
        (1, 2): (0.0, 0.0),
        (1, 3): (-1.0, 0.9),
        (2, 3): (0.0, 0.0),
    }
    # 4 of 5 have another goal, and of the first transition's three each is as likely
    assert np.mean(goal != -1) == pytest.approx(0.8, abs=0.01)
    first = goal[(batch.number == 0) & (goal != -1)]
    assert np.bincount(first.astype(int))[1:] / len(first) == pytest.approx([1 / 3] * 3, abs=0.02)


def test_goals_are_of_the_same_episode_and_later() -> None:
    made, world = memory(3, 60), World(3)
    for steps in (4, 1, 9, 30, 1, 7):  # the ring of 20 rows begins again
        made.add(world.live(steps))
        check(made, world)


def test_the_memory_holds_what_was_lived() -> None:
    made = memory(3, 60)
    made.add(World(3).live(15))
    before = {name: ring.tobytes() for name, ring in made._rings.items()}
    made.sample(1000, np.random.default_rng(0), 0)
    assert before == {name: ring.tobytes() for name, ring in made._rings.items()}


def test_without_compute_terminated_ends_stay() -> None:
    made = memory(2, 60, goal_functions=lambda: {"compute_reward": distances()["compute_reward"]})
    made.add(World(2).live(20))
    batch = made.sample(500, np.random.default_rng(0), 0)
    ended = made._flat["terminated"][batch.number]
    assert np.array_equal(batch.discount == 0, ended)
    assert ended.any()


def test_single_goals_are_computed_one_by_one() -> None:
    env = Bits()
    functions = goal_functions(env, clip_rewards=False)
    assert functions["compute_reward"].__name__ == "at_once"
    assert functions["compute_terminated"].__name__ == "one_by_one"  # it gives one answer for all
    achieved, desired = np.array([[0, 1], [1, 1], [1, 0]]), np.array([[0, 1], [0, 1], [1, 0]])
    for name, expected in (("compute_reward", [0, -1, 0]), ("compute_terminated", [True, False, True])):
        assert functions[name](achieved, desired).tolist() == expected

    def fails(achieved: Any, desired: Any, info: Any) -> float:
        return -1.0 if achieved[0] != desired[0] else 0.0

    assert batched(fails, achieved, desired)(achieved, desired).tolist() == [0, -1, 0]


# ----------------------------------------------------------------------------------------------- on a resume


def loaded(made: HindsightReplay) -> HindsightReplay:
    """Another memory with the same content, by its state and one chunk."""
    other = memory(made.num_envs, made.capacity * made.num_envs)
    other.load_state_dict(load(serialize(made.state_dict()), "cpu"))
    load_all_rows(other, made)
    return other


@pytest.mark.parametrize("steps", [(5, 6), (40, 30), (1, 1)])
def test_a_loaded_memory_gives_the_same_bits(steps: tuple[int, int]) -> None:
    made, world = memory(3, 60), World(3)
    made.add(world.live(steps[0]))
    again = loaded(made)
    rollout = world.live(steps[1])
    for one in (made, again):
        one.add(rollout)
    pairs = zip(*(one.sample(500, np.random.default_rng(2), 0) for one in (made, again)), strict=True)
    assert all(a.tobytes() == b.tobytes() for a, b in pairs)
    check(again, world)


def test_an_episode_that_cannot_be_played_again_ends() -> None:
    """Its last transition leads to what it had led to, a goal like others."""
    made, world = memory(2, 60), World(2, end=0)
    made.add(world.live(6))
    made = loaded(made)
    world.lose(1)
    for _ in range(2):  # the second resume knows it from the state
        made.add(world.live(3))
        check(made, world)
        made = loaded(made)
    made.add(world.live(40))
    assert not made.cuts
    check(made, world)


def line(algo: str, *more: str) -> list[str]:
    continuous = [] if algo in ("dqn", "qr_dqn", "sac_discrete") else ["+env.kwargs.continuous=true"]
    hidden = ["algo.critic_network.hidden=[8]"] if algo == "crossq" else []
    sizes = [
        "algo.rollout_length=8",
        "algo.batch_size=16",
        "algo.learning_starts=8",
        "algo.replay.capacity=64",
    ]
    return [
        *(
            f"algo={algo}",
            "algo.replay._target_=rl.replay.HindsightReplay",
            "algo.network.hidden=[8]",
            *hidden,
        ),
        *("env=gym", "env.id=test_hindsight:Bits-v0", "env.num_envs=2", *continuous, *sizes),
        *("algo.updates_per_frame=0.25", "frames=1M", *more),
    ]


def state(run: Run) -> dict[str, Any]:
    found = {name: load(serialize(part.state_dict()), "cpu") for name, part in run.stateful.items()}
    del found["clock"]
    return leaves(found, "")


def resumed_differences(folder: Path, overrides: list[str]) -> list[str]:
    """Where 6 iterations and 3 with 3 more after a resume, within episodes, differ."""
    iterate(straight := begun(folder / "straight", *overrides), 6)
    iterate(run := begun(folder / "resumed", *overrides), 1)
    run.save()
    iterate(run, 2)
    run.save()
    assert all(len(run.collector.tape.actions(n)) for n in range(2))
    iterate(again := begun(folder / "resumed", *overrides), 3)
    assert again.collector.not_exact == []
    return differences(state(straight), state(again))


@pytest.mark.parametrize("algo", ["dqn", "qr_dqn", "sac_discrete", "sac", "td3", "ddpg", "crossq", "tqc"])
def test_every_off_policy_algorithm_comes_back(algo: str, tmp_path: Path) -> None:
    assert resumed_differences(tmp_path, line(algo)) == []


def test_forgotten_ends_show_in_the_continuation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the test above would show nothing."""
    load_all = HindsightReplay.load_state_dict

    def forgetful(self: HindsightReplay, state: dict[str, Any]) -> None:
        load_all(self, state)
        self._closed = self.end * self.num_envs

    monkeypatch.setattr(HindsightReplay, "load_state_dict", forgetful)
    assert any("q_network" in name for name in resumed_differences(tmp_path, line("dqn")))


def test_with_refill_it_begins_with_new_episodes(tmp_path: Path) -> None:
    overrides = line("dqn", "algo.replay.on_resume=refill")
    iterate(run := begun(tmp_path / "run", *overrides), 3)
    run.save()
    again = begun(tmp_path / "run", *overrides)
    made: Any = again.agent.replay
    assert made.begin == made.end == 24
    iterate(again, 3)
    assert made.begin == 24
    assert (made._begin >= np.array(24)).all()


# -------------------------------------------------------------------------------------------------- learning


@pytest.mark.parametrize(("memory", "reached"), [("Hindsight", True), ("Uniform", False)])
def test_ten_bits_are_learned_in_hindsight_alone(memory: str, reached: bool, tmp_path: Path) -> None:
    """Bit flipping (Andrychowicz et al. 2017, section 3.1): without, no reward is ever seen."""
    run = begun(
        tmp_path / "run",
        *("algo=dqn", f"algo.replay._target_=rl.replay.{memory}Replay", "algo.replay.capacity=40k"),
        *("env=gym", "env.id=test_hindsight:Bits-v0", "+env.kwargs.size=10", "+env.kwargs.steps=10"),
        *("env.num_envs=8", "frames=40k", "algo.rollout_length=1", "algo.updates_per_frame=0.25"),
        *("algo.batch_size=64", "algo.learning_starts=500", "algo.network.hidden=[64]", "algo.lr=1e-3"),
        *("algo.epsilon=0.2", "algo.gamma=0.98", "algo.target_every=400"),
    )
    iterate(run, 1500)
    successes = []
    for _ in range(300):
        iterate(run)
        successes += [total > -10 for total in run.collector.ended_returns]
    assert len(successes) > 200
    assert (np.mean(successes) > 0.7) == reached
    assert reached or np.mean(successes) < 0.05


# ------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["algo.n_step=3"], r"type algo\.n_step=1"),
        (["+env.kwargs.plain=true"], "achieved_goal and desired_goal, both goals of one shape"),
        (["+env.kwargs.odd=true"], "where compute_reward gives"),
        (
            ["env.wrappers=[{_target_: gymnasium.wrappers.FrameStackObservation, stack_size: 2}]"],
            "type algo.replay._target_=rl.replay.UniformReplay",
        ),
    ],
    ids=["n_step", "goals", "rewards", "frames"],
)
def test_what_hindsight_cannot_do_is_refused(more: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        begun(tmp_path / "run", *line("dqn", *more))
    assert not (tmp_path / "run").exists()


def test_a_box_has_no_goals(tmp_path: Path) -> None:
    target = "algo.replay._target_=rl.replay.HindsightReplay"
    with pytest.raises(ConfigError, match="such as env=point_maze"):
        begun(tmp_path / "run", "algo=dqn", "env=cartpole", target)


def test_priorities_are_refused(tmp_path: Path) -> None:
    target = "algo.replay._target_=rl.replay.HindsightReplay"
    with pytest.raises(ConfigError, match="alpha"):
        begun(tmp_path / "run", *line("dqn"), "algo=ddqn_per", target)
