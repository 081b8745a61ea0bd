"""A floor with Encore's own gradient steps in place of the bare products: `python steps.py '<JSON>'`.

The steps of the environments, the products of acting, and the gradient steps of one real iteration, made
again and again on the same inputs with a learning rate of 0. What it takes beyond the floor is the loss, its
gradient and the optimizer; what a training takes beyond it is all else: activations and draws of acting,
memory, advantages, metrics.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from floor import Envs, Products, act
from turns import Turns

from benchmarks.costs import make_parts, training
from rl.learning.gradient_step import GradientStep


def inputs_of_an_iteration(parts: Any) -> list[tuple[Any, ...]]:
    """What each gradient step of the first iteration that learns is given."""
    given: list[tuple[Any, ...]] = []
    call, iterate = GradientStep.__call__, training(parts)

    def recording(step: GradientStep, *inputs: Any) -> Any:
        given.append(inputs)
        return call(step, *inputs)

    GradientStep.__call__ = recording  # type: ignore[method-assign, assignment]
    while not given:
        iterate()
    GradientStep.__call__ = call  # type: ignore[method-assign]
    return given


def main(threads: int, overrides: str, program: str, env_id: str, hidden: Sequence[int]) -> None:
    """`program`: which networks act, by the floor's names."""
    parts = make_parts(*overrides.split(), f"threads={threads}")
    envs = Envs(env_id, parts.config.env.num_envs)
    outputs = {"on_policy": (envs.actions, 1), "dqn": (envs.actions,), "sac": (2 * envs.actions,)}[program]
    networks = [Products([envs.obs.shape[1], *hidden, n], 1) for n in outputs]
    given, step = inputs_of_an_iteration(parts), parts.agent.step  # type: ignore[attr-defined]
    step.set_lr(*[0.0] * len(step.optimizers))
    turns, frames, length = Turns(), 0, parts.agent.rollout_length
    while True:
        turns(frames)
        for _ in range(length):
            act(networks, envs.obs)
            envs.step()
        for inputs in given:
            step(*inputs)
        frames += length * parts.config.env.num_envs


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
