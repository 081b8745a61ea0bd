"""The collector: steps the environments with an agent, and records the actions that a resume replays."""

from __future__ import annotations

import logging
from collections import deque
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rl.algos.agent import Agent, Extras, Rollout
from rl.clock import Clock
from rl.envs.vector import VectorEnv
from rl.serialize import from_tensors, to_tensors
from rl.spaces import obs_dtype
from rl.state import EpisodeSeeds, Streams

log = logging.getLogger(__name__)


class Tape:
    """Each env's actions since its episode began, kept as one block [T, N, ...] per rollout."""

    def __init__(self, num_envs: int) -> None:
        self.blocks: deque[NDArray[Any]] = deque()
        self.begin = 0  # the step number of the first block's first row
        self.end = 0  # the step number after the last block
        self.episode_begin = [0] * num_envs  # the step number at which each env's episode began

    def record(self, actions: NDArray[Any], episode_begin: list[int]) -> None:
        """Add a rollout's actions, and drop the blocks that precede all current episodes."""
        self.blocks.append(actions.copy())
        self.end += len(actions)
        self.episode_begin = episode_begin
        while self.blocks and self.begin + len(self.blocks[0]) <= min(episode_begin):
            self.begin += len(self.blocks.popleft())

    def actions(self, env: int) -> NDArray[Any]:
        """The actions of `env` since its episode began, [L, *action_shape]."""
        skip = self.episode_begin[env] - self.begin
        rows = [block[:, env] for block in self.blocks]
        return np.concatenate(rows)[skip:] if rows else np.empty(0)

    def load(self, actions: list[NDArray[Any]]) -> None:
        """Restore a tape from each env's actions in its current episode."""
        self.begin, self.end = 0, max(map(len, actions))
        self.episode_begin = [self.end - len(tape) for tape in actions]
        block = np.zeros((self.end, len(actions), *actions[0].shape[1:]), actions[0].dtype)
        for n, tape in enumerate(actions):
            block[self.end - len(tape) :, n] = tape
        self.blocks = deque([block] if self.end else [])


class Collector:
    """Owns the environments and the state of their episodes.

    Environments cannot be pickled reliably, so `state_dict` holds for each env the number of its episode
    (which gives the seed), the state of its wrappers when the episode began, and the actions since. Loading
    replays the actions and compares the result.
    """

    def __init__(
        self,
        envs: VectorEnv,
        agent: Agent,
        *,
        streams: Streams,
        clock: Clock,
        tape_max: int,
        clip_rewards: bool,
        carries: bool,
    ) -> None:
        n, t = envs.num_envs, agent.rollout_length
        space = envs.single_observation_space
        self.envs, self.streams, self.clock = envs, streams, clock
        self.tape_max, self.clip_rewards = tape_max, clip_rewards
        self.rollout = Rollout(
            obs=np.zeros((t + 1, n, *(space.shape or ())), obs_dtype(space)),
            action=np.zeros((t, n, *agent.action_shape), agent.action_dtype),
            reward=np.zeros((t, n), np.float32),
            terminated=np.zeros((t, n), np.bool_),
            truncated=np.zeros((t, n), np.bool_),
        )
        self.carries = carries  # whether an env or a wrapper learns across episodes
        self.tape = Tape(n)
        self.episode = [0] * n  # the number of each env's current episode
        self.seed_schemes = [EpisodeSeeds.NEWEST] * n
        self.returns = np.zeros(n, np.float64)  # of the current episodes so far
        self.state = agent.initial_state(n)
        self.ended_returns: list[float] = []  # episodes that ended in the last rollout
        self.ended_lengths: list[int] = []
        self.not_exact: list[str] = []  # what the last load could not restore
        self.begun: list[int] = []  # the envs whose episode it could not, until the next rollout
        self.first_env = 0  # the number of the first env among all of the run
        self._warned_long = False

    def start(self) -> None:
        """Begin every env's first episode."""
        self._use_seeds([EpisodeSeeds.NEWEST] * len(self.episode))
        self.rollout.obs[-1], _ = self.envs.reset()

    def _use_seeds(self, schemes: list[int]) -> None:
        self.seed_schemes = schemes
        self.envs.call("use_seeds", schemes)

    def collect(self, agent: Agent) -> Rollout:
        """Step every env T times, and advance the clock."""
        rollout, rng, step, act = self.rollout, self.streams.action, self.envs.step, agent.act
        obs, actions, rewards = rollout.obs, rollout.action, rollout.reward
        terminated, truncated = rollout.terminated, rollout.truncated
        state, returns = self.state, self.returns
        begins = list(self.tape.episode_begin)
        now = self.tape.end
        obs[0] = obs[-1]
        rollout.state = None if state is None else state.copy()
        rollout.final_obs = []
        rollout.begun, self.begun = self.begun, []
        self.ended_returns, self.ended_lengths = [], []
        for t in range(len(actions)):
            action, state, *extras = act(obs[t], state, rng)
            actions[t] = action
            if extras:
                self._store(t, extras[0])
            obs[t + 1], reward, terminated[t], truncated[t], infos = step(action)
            rewards[t] = np.sign(reward) if self.clip_rewards else reward
            returns += reward
            if "life_lost" in infos:  # an end for learning; the episode, its return and its tape go on
                terminated[t] |= infos["life_lost"]
            if "final_obs" in infos:
                for n in np.flatnonzero(infos["_final_obs"]):
                    rollout.final_obs.append((t, int(n), infos["final_obs"][n]))
                    self.ended_returns.append(float(returns[n]))
                    self.ended_lengths.append(now + t + 1 - begins[n])
                    returns[n] = 0.0
                    begins[n] = now + t + 1
                    self.episode[n] += 1
                    if state is not None:
                        state[n] = 0.0
        self.state = state
        self.tape.record(actions, begins)
        self.clock.tick(rewards.size, len(self.ended_returns))
        self._warn_about_long_episodes()
        return rollout

    def _store(self, t: int, extras: Extras) -> None:
        for name, value in extras.items():
            if name not in self.rollout.extras:
                self.rollout.extras[name] = np.empty((len(self.rollout.action), *value.shape), value.dtype)
            self.rollout.extras[name][t] = value

    def _warn_about_long_episodes(self) -> None:
        longest = self.tape.end - min(self.tape.episode_begin)
        if longest > self.tape_max and not self._warned_long:
            self._warned_long = True
            per_step_s = self.clock.wall_s / max(self.clock.frames, 1)
            log.warning(
                "an episode is longer than env.tape_max=%d steps;"
                " a resume within it plays it back, in up to %.0f s",
                self.tape_max,
                longest * per_step_s,
            )

    def state_dict(self) -> dict[str, Any]:
        """The state of every env's episode."""
        state = {
            "episode": list(self.episode),
            "seed_schemes": list(self.seed_schemes),
            "actions": [torch.from_numpy(self.tape.actions(n).copy()) for n in range(len(self.episode))],
            "returns": self.returns.tolist(),
            "obs": to_tensors(self.rollout.obs[-1]),
            "state": None if self.state is None else torch.from_numpy(self.state.copy()),
        }
        return state | ({"carried": list(self.envs.call("carried"))} if self.carries else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Replay every env's tape; if the result differs, begin its next episode and add to `not_exact`."""
        actions = [tape.numpy() for tape in state["actions"]]
        expected = from_tensors(state["obs"], self.rollout.obs.dtype)
        self.episode = list(state["episode"])
        self._use_seeds(list(state.get("seed_schemes", [1] * len(self.episode))))
        self.state = None if state["state"] is None else state["state"].numpy().copy()
        self.not_exact, self.begun = [], []
        carried = state.get("carried", [None] * len(actions))
        replayed = self.envs.call("play_tape", self.episode, actions, carried)
        for n, (obs, total, problem) in enumerate(replayed):
            self.rollout.obs[-1, n] = obs
            self.returns[n] = total
            if not problem and not _equal(self.rollout.obs[-1, n], expected[n]):
                problem = "its observation differs"
            if not problem and total != state["returns"][n]:
                problem = f"its return is {total!r}, not {state['returns'][n]!r}"
            if problem:
                where = f"env {self.first_env + n}, {len(actions[n])} steps into its episode"
                self.not_exact.append(f"{where}: {problem}; it begins a new episode")
                self._begin_next_episode(n)
                self.begun.append(n)
                actions[n] = actions[n][:0]
        self.tape.load(actions)

    def _begin_next_episode(self, n: int) -> None:
        self.episode[n] += 1
        self.rollout.obs[-1, n] = self.envs.call("begin_episode", n, self.episode[n])[n]
        self.returns[n] = 0.0
        if self.state is not None:
            self.state[n] = 0.0


def _equal(a: NDArray[Any], b: NDArray[Any]) -> bool:
    if a.dtype.names:  # a structured dtype, whose bytes are its values
        return a.tobytes() == b.tobytes()
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
