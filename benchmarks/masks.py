"""`python -m benchmarks.masks [frames=100k]`: masked actions that algorithms took in Taxi.

Every algorithm that respects masks trains for so many frames, exploring, and then plays as many greedily. A
wrapper beneath that of the masks counts the steps, and those whose action the state's mask did not allow. The
last row is of random actions without masks. Written to results/masks.csv; exit code 1 if one was taken.
"""

from __future__ import annotations

import sys
from typing import Any, ClassVar

import gymnasium as gym

from benchmarks.record import record
from rl.config import RunConfig
from rl.config.compose import compose
from rl.config.counts import parse_count
from rl.training.build import build
from rl.training.evaluate import play

COUNTED, MASKED = ("{_target_: benchmarks.masks.Count}", "{_target_: rl.wrappers.ActionMask}")
OFF_POLICY = ("algo.updates_per_frame=0.05", "algo.learning_starts=10k", "algo.replay.capacity=50k")
ALGORITHMS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("reinforce", "a2c", "ppo", "recurrent_ppo", "sarsa", "pqn"), ()),
    **dict.fromkeys(("dqn", "ddqn_per", "qr_dqn", "rainbow", "sac_discrete"), OFF_POLICY),
    "random": (),
}


class Count(gym.Wrapper):
    """Counts steps, and those whose action the mask in the info before did not allow."""

    steps: ClassVar[int] = 0
    masked: ClassVar[int] = 0

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        obs, info = self.env.reset(**options)
        self.mask = info["action_mask"].copy()
        return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step and count."""
        Count.steps += 1
        Count.masked += not self.mask[action]
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.mask = info["action_mask"].copy()
        return obs, reward, terminated, truncated, info


def measure(algo: str, own: tuple[str, ...], frames: int, wrappers: str) -> dict[str, Any]:
    """The steps and masked actions of one algorithm, exploring and greedy."""
    line = [
        f"algo={algo}",
        "env=taxi",
        "env.num_envs=8",
        f"env.wrappers=[{wrappers}]",
        f"frames={frames}",
        *own,
    ]
    parts = build(compose(line, RunConfig).config)
    parts.collector.start()
    row: dict[str, Any] = {"algo": algo, "masks": MASKED in wrappers}
    Count.steps = Count.masked = 0
    while parts.clock.frames < frames:
        parts.agent.learn(parts.collector.collect(parts.agent))
    row |= {"exploring_steps": Count.steps, "exploring_masked": Count.masked}
    Count.steps = Count.masked = 0
    seed = 0
    while Count.steps < frames:
        play(parts.agent, parts.make_env, 100, seed, width=50)
        seed += 1
    return row | {"greedy_steps": Count.steps, "greedy_masked": Count.masked, "updates": parts.clock.updates}


def main() -> None:
    """Measure all algorithms, and record."""
    words = dict(word.split("=", 1) for word in sys.argv[1:])
    frames = parse_count(words.get("frames", "100k"))
    rows = []
    for algo, own in ALGORITHMS.items():
        rows.append(measure(algo, own, frames, f"{COUNTED}, {MASKED}"))
        print(rows[-1], flush=True)
    wrong = sum(row["exploring_masked"] + row["greedy_masked"] for row in rows)
    rows.append(measure("random", (), frames, COUNTED))
    print(rows[-1], flush=True)
    record("masks", rows)
    raise SystemExit(1 if wrong or not rows[-1]["exploring_masked"] else 0)


if __name__ == "__main__":
    from benchmarks import masks  # the module whose `Count` the environments are wrapped by

    masks.main()
