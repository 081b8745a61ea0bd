"""What a training cannot do without, and nothing else: `python floor.py '<JSON>'`.

The steps of its environments, the draws of its random numbers, and the matrix products or convolutions of its
networks, forwards and backwards, on random numbers: no activation, no loss, no optimizer, no memory. The JSON
names the program below and its arguments.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor
from turns import Turns

rng = np.random.default_rng(0)


class Envs:
    """Environments that are stepped one after the other; each begins anew when its episode ends."""

    def __init__(self, env_id: str, num_envs: int) -> None:
        self.all = [gym.make(env_id, disable_env_checker=True) for _ in range(num_envs)]
        space = self.all[0].action_space
        self.discrete = isinstance(space, gym.spaces.Discrete)
        self.actions = (
            int(space.n) if isinstance(space, gym.spaces.Discrete) else int(np.prod(space.shape or ()))
        )
        self.obs = np.stack([env.reset(seed=n)[0] for n, env in enumerate(self.all)]).astype(np.float32)

    def step(self) -> None:
        """One step of all, with random actions: a draw for each."""
        many = len(self.all)
        if self.discrete:
            actions = (rng.random(many) * self.actions).astype(np.int64)
        else:
            actions = rng.standard_normal((many, self.actions)).clip(-1, 1)
        for n, (env, action) in enumerate(zip(self.all, actions, strict=True)):
            obs, _, ended, cut, _ = env.step(action)
            self.obs[n] = env.reset()[0] if ended or cut else obs


class Products:
    """The products of an MLP, or of two at once, for batches of one size."""

    def __init__(self, sizes: Sequence[int], rows: int, copies: int = 1) -> None:
        lead = () if copies == 1 else (copies,)
        self.weights = [torch.randn(*lead, m, n) for m, n in zip(sizes, sizes[1:], strict=False)]
        self.values = [torch.randn(*lead, rows, n) for n in sizes]
        self.grads = [torch.empty_like(weight) for weight in self.weights]
        self.product: Callable[..., Tensor] = torch.mm if copies == 1 else torch.bmm

    def forward(self) -> None:
        """A product a layer."""
        for weight, x, y in zip(self.weights, self.values, self.values[1:], strict=False):
            self.product(x, weight, out=y)

    def backward(self, *, weights: bool = True, to_input: bool = False) -> None:
        """Towards the weights, and towards the layers' inputs; the first one's only if it is asked for."""
        for n in reversed(range(len(self.weights))):
            if weights:
                self.product(self.values[n].mT, self.values[n + 1], out=self.grads[n])
            if n or to_input:
                self.product(self.values[n + 1], self.weights[n].mT, out=self.values[n])


def act(networks: Sequence[Products], obs: Any) -> None:
    """Forward products in NumPy: faster than torch for a few rows."""
    for network in networks:
        x = obs
        for weight in network.weights:
            x = x @ weight.numpy()


def on_policy(
    env_id: str, num_envs: int, n_steps: int, n_epochs: int, batch_size: int, hidden: Sequence[int]
) -> None:
    """PPO and A2C, with separate networks for policy and value."""
    envs = Envs(env_id, num_envs)
    networks = [Products([envs.obs.shape[1], *hidden, n], batch_size) for n in (envs.actions, 1)]
    turns, frames, size = Turns(), 0, num_envs * n_steps
    while True:
        turns(frames)
        for _ in range(n_steps):
            act(networks, envs.obs)
            envs.step()
        for _ in range(n_epochs):
            rng.permutation(size)
            for _ in range(size // batch_size):
                for network in networks:
                    network.forward()
                    network.backward()
        frames += size


def dqn(env_id: str, batch_size: int, capacity: int, train_freq: int, hidden: Sequence[int]) -> None:
    """An update every `train_freq` steps of one environment."""
    envs = Envs(env_id, 1)
    network = Products([envs.obs.shape[1], *hidden, envs.actions], batch_size)
    turns, frames = Turns(), 0
    while True:
        turns(frames)
        for _ in range(train_freq):
            rng.random()
            act([network], envs.obs)
            envs.step()
        rng.integers(capacity, size=batch_size)
        network.forward()  # the target network's
        network.forward()
        network.backward()
        frames += train_freq


def sac(env_id: str, batch_size: int, capacity: int, hidden: Sequence[int]) -> None:
    """An update a step of one environment, with two critics."""
    envs = Envs(env_id, 1)
    size, number = envs.obs.shape[1], envs.actions
    both = Products([size, *hidden, 2 * number], 2 * batch_size)  # the actor in obs and in next_obs
    actor = Products([size, *hidden, 2 * number], batch_size)
    critics = Products([size + number, *hidden, 1], batch_size, copies=2)
    turns, frames = Turns(), 0
    while True:
        turns(frames)
        act([actor], envs.obs)
        envs.step()
        rng.integers(capacity, size=batch_size)
        rng.standard_normal((2, batch_size, number), np.float32)
        both.forward()
        critics.forward()  # the target's
        critics.forward()
        critics.backward()
        critics.forward()  # of the new actions
        critics.backward(weights=False, to_input=True)
        actor.backward()
        frames += 1


def pong(num_envs: int, n_steps: int, n_epochs: int, batch_size: int) -> None:
    """PPO on Pong by the rules of 2015: the emulator, and the network of Mnih et al."""
    from ale_py.vector_env import AtariVectorEnv

    rules: Any = {"repeat_action_probability": 0.0, "noop_max": 30, "use_fire_reset": True}
    envs: Any = AtariVectorEnv("pong", num_envs, frameskip=4, num_threads=1, **rules)
    envs.reset(seed=0)
    network: Any = torch.nn.Sequential(
        torch.nn.Conv2d(4, 32, 8, 4), torch.nn.Conv2d(32, 64, 4, 2), torch.nn.Conv2d(64, 64, 3),
        torch.nn.Flatten(), torch.nn.Linear(3136, 512), torch.nn.Linear(512, 7),
    )  # fmt: skip
    network = network.to(memory_format=torch.channels_last)
    images = torch.randn(batch_size, 4, 84, 84).contiguous(memory_format=torch.channels_last)
    turns, frames, size = Turns(), 0, num_envs * n_steps
    while True:
        turns(frames)
        with torch.inference_mode():
            for _ in range(n_steps):
                network(images[:num_envs])
                envs.step(rng.integers(6, size=num_envs))
        for _ in range(n_epochs):
            rng.permutation(size)
            for _ in range(size // batch_size):
                network(images).sum().backward()
        frames += size


if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    torch.set_num_threads(options.pop("threads"))
    programs: dict[str, Callable[..., None]] = {"on_policy": on_policy, "dqn": dqn, "sac": sac, "pong": pong}
    programs[options.pop("program")](**options)
