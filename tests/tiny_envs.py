"""Environments of a few lines, each with one trait that a test needs."""

from __future__ import annotations

import functools
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode


class Identity(gym.Env):
    """Reward 1 for the action that equals the observed bit; 10 steps."""

    def __init__(self, render_mode: str | None = None, continuous: bool = False) -> None:
        self.observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
        self.continuous = continuous
        self.action_space = gym.spaces.Box(-2, 2, (1,), np.float32) if continuous else gym.spaces.Discrete(2)

    def _observe(self) -> Any:
        self.bit = int(self.np_random.integers(2))
        return np.array([2 * self.bit - 1], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        reward = (
            -abs(float(action[0]) - (2 * self.bit - 1)) if self.continuous else float(int(action) == self.bit)
        )
        return self._observe(), reward, self.steps >= 10, False, {}


class Anything(gym.Env):
    """Draws observations from a space: nested dicts and lists (for tuples) whose leaves are [class, *its
    arguments]. Episodes of 5 steps are cut or end; the reward is drawn too.
    """

    def __init__(self, space: Any, continuous: bool = False, render_mode: str | None = None) -> None:
        self.observation_space = self.space_of(space)
        self.action_space = gym.spaces.Box(-1, 2, (2,), np.float32) if continuous else gym.spaces.Discrete(3)

    @classmethod
    def space_of(cls, words: Any) -> gym.Space:
        if isinstance(words, dict):
            return gym.spaces.Dict({name: cls.space_of(part) for name, part in words.items()})
        if not isinstance(words[0], str):
            return gym.spaces.Tuple([cls.space_of(part) for part in words])
        kind, *arguments = words
        return getattr(gym.spaces, kind)(*arguments)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        self.steps = 0
        return self._observe(), {}

    def _observe(self) -> Any:
        obs = self.observation_space.sample()
        if isinstance(obs, dict) and "action_mask" in obs:
            obs["action_mask"][0] = 1  # something is allowed
        return obs

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        cut = bool(self.steps == 5 and self.np_random.integers(2))
        reward = float(self.np_random.normal() + np.sum(action))
        return self._observe(), reward, self.steps == 5 and not cut, cut, {}


class HalfFixed(Identity):
    """The continuous identity with a second action of which only 3 is valid."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(continuous=True)
        self.action_space = gym.spaces.Box(np.array([-2, 3]), np.array([2, 3]), dtype=np.float32)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action[1] == 3
        return super().step(action)


class Recall(Identity):
    """Shows the bit only in the first of 4 steps, and rewards it in the last."""

    def _observe(self) -> Any:
        return super()._observe() if self.steps == 0 else np.zeros(1, np.float32)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        last = self.steps == 4
        return self._observe(), float(last and int(action) == self.bit), last, False, {}


class Masking(gym.Env):
    """Allows some actions at each step, `one` or more, and fails where another is taken; 10 steps.

    An allowed action is worth 1, and an even one among them 0.5 more. `give` says how the mask is given: by
    the `info`, the `method` action_masks or as a `key` of the observations. `multi`: there are two choices.
    """

    def __init__(
        self, render_mode: str | None = None, give: str = "info", one: bool = False, multi: bool = False
    ) -> None:
        box, self.give, self.one = gym.spaces.Box(-1, 1, (3,), np.float32), give, one
        self.sizes = [3, 2] if multi else [5]
        self.observation_space: gym.Space = box
        if give == "key":
            self.observation_space = gym.spaces.Dict(
                obs=box, action_mask=gym.spaces.Box(0, 1, (sum(self.sizes),), np.int8)
            )
        if give == "method":
            self.action_masks = lambda: self.mask.astype(np.bool_)
        self.action_space = gym.spaces.MultiDiscrete(self.sizes) if multi else gym.spaces.Discrete(5, start=2)
        self.first = 0 if multi else 2

    def _observe(self) -> Any:
        parts = []
        for size in self.sizes:
            part = self.np_random.random(size) < (0.0 if self.one else 0.5)
            part[self.np_random.integers(size)] = True
            parts.append(part)
        self.mask = np.concatenate(parts).astype(np.int8)
        obs = self.np_random.uniform(-1, 1, 3).astype(np.float32)
        return {"obs": obs, "action_mask": self.mask} if self.give == "key" else obs

    def _info(self) -> dict[str, Any]:
        return {"action_mask": self.mask} if self.give == "info" else {}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        obs = self._observe()
        return obs, self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        values = np.atleast_1d(action) - self.first
        begins = np.cumsum([0, *self.sizes[:-1]])
        assert self.mask[begins + values].all(), f"{action} is masked by {self.mask}"
        self.steps += 1
        obs = self._observe()
        reward = 1.0 if self.one else 1.0 + 0.5 * float(values[0] % 2 == 0)
        return obs, reward, self.steps >= 10, False, self._info()


class Hybrid(Identity):
    """A Dict of actions of every kind, nested; the reward is the share that matches the observed bit."""

    def __init__(self, render_mode: str | None = None, flat: bool = False) -> None:
        super().__init__()
        self.action_space: gym.Space = gym.spaces.Dict(
            which=gym.spaces.Discrete(2, start=1),
            rest=gym.spaces.Tuple(
                [gym.spaces.MultiBinary(2), gym.spaces.MultiDiscrete([2, 3]), gym.spaces.Box(-1, 1, (1,))]
            ),
        )
        if flat:
            self.action_space = gym.spaces.MultiBinary(2)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        if isinstance(self.action_space, gym.spaces.Dict):
            bits, choices, number = action["rest"]
            hits = [action["which"] - 1 == self.bit, choices[0] == self.bit, choices[1] == 2 * self.bit]
            hits += [*(bits == self.bit), bool(number[0] > 0) == self.bit]
        else:
            hits = list(action == self.bit)
        self.steps += 1
        return self._observe(), float(np.mean(hits)), self.steps >= 10, False, {}


class Endless(gym.Env):
    """Reward 1 at every step, for ever; `lying` reports the end of 20 steps as a termination."""

    def __init__(self, render_mode: str | None = None, lying: bool = False) -> None:
        self.observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
        self.action_space = gym.spaces.Discrete(2)
        self.lying = lying

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return np.ones(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        over = self.steps >= 20
        return np.ones(1, np.float32), 1.0, over and self.lying, over and not self.lying, {}


class Counting(gym.Env):
    """Observes the numbers of its episode and step; ends after `length` steps."""

    def __init__(
        self, render_mode: str | None = None, length: int = 5, truncate: bool = False, in_place: bool = False
    ) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = gym.spaces.Discrete(2)
        self.length, self.truncate, self.in_place = length, truncate, in_place
        self.obs = np.zeros(2, np.float32)
        self.episode = -1

    def _observe(self) -> Any:
        self.obs[:] = self.episode, self.steps
        return self.obs if self.in_place else self.obs.copy()

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.steps = self.episode + 1, 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        over = self.steps >= self.length
        return self._observe(), float(self.steps), over and not self.truncate, over and self.truncate, {}


class LuckyEnd(Counting):
    """The reward of an episode's last step comes from NumPy's global generator."""

    def _observe(self) -> Any:
        return np.array([0, self.steps], np.float32)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, _, terminated, truncated, info = super().step(action)
        return obs, float(np.random.random()) if terminated else 1.0, terminated, truncated, info


class Forgetful(Counting):
    """Not reproducible: its observations depend on how often it was reset."""


class Bytes(Identity):
    """The identity with observations in uint8."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__()
        self.observation_space = gym.spaces.Box(0, 255, (3,), np.uint8)

    def _observe(self) -> Any:
        bit = super()._observe()
        return np.array([200 if bit[0] > 0 else 0, 100, 50], np.uint8)


class Broken(Identity):
    """Raises OSError at step `at`."""

    def __init__(self, render_mode: str | None = None, at: int = 40) -> None:
        super().__init__()
        self.left = at

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        if self.left < 0:
            raise OSError("the simulator is gone")
        return super().step(action)


class GlobalDice(Identity):
    """Draws its observations from NumPy's global generator."""

    def _observe(self) -> Any:
        super()._observe()
        return np.array([np.random.uniform(-1, 1)], np.float32)


class Unseeded(Identity):
    """Draws its observations from its own unseeded generator."""

    dice = np.random.default_rng()

    def _observe(self) -> Any:
        super()._observe()
        return np.array([self.dice.uniform(-1, 1)], np.float32)


class Sloppy(Identity):
    """Its observations have the wrong dtype and exceed the bounds of its space."""

    def _observe(self) -> Any:
        return super()._observe().astype(np.float64) * 2


class OldFashioned(Identity):
    """Steps as Gym did."""

    def step(self, action: Any) -> Any:
        obs, reward, terminated, _, info = super().step(action)
        return obs, reward, terminated, info


class Spaces(gym.Env):
    """Has the given observation and action space: a box, a dict, a tuple or a discrete space."""

    def __init__(self, render_mode: str | None = None, obs: str = "box", action: str = "discrete") -> None:
        box, discrete = gym.spaces.Box(-1, 1, (2,), np.float32), gym.spaces.Discrete(3)
        known = {
            "box": box,
            "discrete": discrete,
            "dict": gym.spaces.Dict(a=box, b=discrete),
            "tuple": gym.spaces.Tuple([box, discrete]),
        }
        self.observation_space, self.action_space = known[obs], known[action]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, bool(self.np_random.random() < 0.1), False, {}


class Centred(gym.ObservationWrapper):
    """Subtracts the mean of all observations so far; if `forgetful`, its state lacks their sum."""

    def __init__(self, env: gym.Env, forgetful: bool = False) -> None:
        super().__init__(env)
        self.forgetful, self.count = forgetful, 0
        self.total = np.zeros(env.observation_space.shape or ())

    def observation(self, observation: Any) -> Any:
        self.count += 1
        self.total += observation
        return (observation - self.total / self.count).astype(np.float32)

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count} | ({} if self.forgetful else {"total": self.total.tolist()})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]
        self.total[...] = state.get("total", 0.0)


class Unsaveable(Centred):
    """Its state is an array, which a checkpoint cannot hold."""

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total}


class NormalizedAndSaved(gym.wrappers.NormalizeObservation):
    """Gymnasium's wrapper, with the state that it lacks."""

    def state_dict(self) -> dict[str, Any]:
        return {
            "mean": self.obs_rms.mean.tolist(),
            "var": self.obs_rms.var.tolist(),
            "count": float(self.obs_rms.count),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.obs_rms.mean, self.obs_rms.var = np.array(state["mean"]), np.array(state["var"])
        self.obs_rms.count = state["count"]


class Dice(gym.Env):
    """Observes a random number, rewards the action (at most 1), and ends when the number is high."""

    def __init__(self, render_mode: str | None = None) -> None:
        self.observation_space = gym.spaces.Box(0, 1, (1,), np.float64)
        self.action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.np_random.random(1), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs = self.np_random.random(1)
        return obs, float(action[0]), bool(obs[0] > 0.9), bool(obs[0] < 0.03), {}


class NaNReward(Identity):
    """The last reward of an episode is NaN."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, float("nan") if terminated else reward, terminated, truncated, info


class ManyDice(gym.vector.VectorEnv):
    """N `Dice`, which must be reset by a mask; `autoreset_mode` may claim otherwise."""

    def __init__(self, num_envs: int, autoreset_mode: str = "Disabled") -> None:
        self.num_envs, self.dice = num_envs, [Dice() for _ in range(num_envs)]
        self.metadata = {"autoreset_mode": AutoresetMode(autoreset_mode)}
        self.single_observation_space = self.dice[0].observation_space
        self.single_action_space = self.dice[0].action_space
        self.obs = np.zeros((num_envs, 1))
        self.over = np.ones(num_envs, np.bool_)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        for n in np.flatnonzero(options.pop("reset_mask")):  # as gymnasium's own do
            self.obs[n] = self.dice[n].reset(seed=seed[n])[0]
            self.over[n] = False
        return self.obs, {}

    def step(self, actions: Any) -> Any:
        assert not self.over.any()
        assert np.abs(actions).max() <= 1
        obs, reward, terminated, truncated, _ = zip(
            *[one.step(action) for one, action in zip(self.dice, actions, strict=True)], strict=True
        )
        self.obs[:] = obs
        self.over = np.array(terminated) | np.array(truncated)
        return self.obs, np.array(reward), np.array(terminated), np.array(truncated), {}


for _class in (
    *(
        Masking,
        Hybrid,
        Identity,
        HalfFixed,
        Recall,
        Anything,
        Endless,
        Counting,
        LuckyEnd,
        Forgetful,
        Bytes,
        Broken,
    ),
    *(GlobalDice, Unseeded, Sloppy, OldFashioned, Spaces, NaNReward),
):
    gym.register(f"{_class.__name__}-v0", _class)
gym.register("Dice-v0", Dice, vector_entry_point=ManyDice)
gym.register(
    "DiceOfTheirOwn-v0", Dice, vector_entry_point=functools.partial(ManyDice, autoreset_mode="SameStep")
)
