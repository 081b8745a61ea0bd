"""Action distributions: sampled in NumPy where the agent acts, evaluated in torch where it learns.

`params` are what a policy network puts out: [..., num_params].
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import softplus

from rl.spaces import leaf_paths

Array = NDArray[Any]
BY_POLICY = "algo=reinforce, a2c, ppo and recurrent_ppo can act in it"


class Distribution(Protocol):
    """What a policy over one action space can do."""

    num_params: int
    num_means: int  # how many of the params depend on the observation
    action_shape: tuple[int, ...]
    action_dtype: Any

    def sample(self, params: Array, rng: np.random.Generator) -> Array:
        """Actions [N, ...] drawn from params [N, num_params]."""

    def mode(self, params: Array) -> Array:
        """The most likely actions [N, ...]."""

    def mode_in_torch(self, params: Tensor) -> Tensor:
        """The same, from and to tensors."""

    def log_prob(self, params: Tensor, action: Tensor) -> Tensor:
        """Log-probability (density) [B] of actions [B, ...]."""

    def entropy(self, params: Tensor) -> Tensor:
        """Entropy in nats [B]."""

    def log_prob_and_entropy(self, params: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Both at once, for less than the two apart."""


class Categorical:
    """One of `num_actions` actions; params are unnormalised log-probabilities."""

    action_shape: tuple[int, ...] = ()
    action_dtype = np.int64

    def __init__(self, num_actions: int, start: int = 0) -> None:
        self.num_params = self.num_means = num_actions
        self.start = start  # Discrete spaces may count from another number than 0

    def sample(self, params: Array, rng: np.random.Generator) -> Array:
        """By the Gumbel-max trick: argmax of params + Gumbel noise."""
        return self.mode(params + rng.gumbel(size=params.shape))

    def mode(self, params: Array) -> Array:
        """The most likely actions [N]."""
        best = params.argmax(-1)
        return best + self.start if self.start else best

    def mode_in_torch(self, params: Tensor) -> Tensor:
        """The same: of equal ones both take the first."""
        return params.argmax(-1) + self.start

    def log_prob(self, params: Tensor, action: Tensor) -> Tensor:
        """Log-probability [B]."""
        return params.log_softmax(-1).gather(-1, action.unsqueeze(-1) - self.start).squeeze(-1)

    def entropy(self, params: Tensor) -> Tensor:
        """Entropy in nats [B]."""
        log_prob = params.log_softmax(-1)
        return -(log_prob.exp() * log_prob).sum(-1)

    def log_prob_and_entropy(self, params: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability [B] and entropy [B] from one softmax."""
        log_prob = params.log_softmax(-1)
        index = action.unsqueeze(-1) - self.start if self.start else action.unsqueeze(-1)
        return log_prob.gather(-1, index).squeeze(-1), -(log_prob.exp() * log_prob).sum(-1)


class MultiCategorical:
    """Independent choices, the i-th among `choices[i]`; params are their log-probabilities side by side."""

    action_dtype = np.int64

    def __init__(self, choices: NDArray[np.integer], start: NDArray[np.integer]) -> None:
        self.action_shape = choices.shape
        self.parts = [
            Categorical(int(n), int(first)) for n, first in zip(choices.ravel(), start.ravel(), strict=True)
        ]
        self.sizes = [part.num_params for part in self.parts]
        self.num_params = self.num_means = sum(self.sizes)

    def sample(self, params: Array, rng: np.random.Generator) -> Array:
        """By the Gumbel-max trick, one draw of noise for all choices: [N, *action_shape]."""
        return self.mode(params + rng.gumbel(size=params.shape))

    def mode(self, params: Array) -> Array:
        """The most likely of each choice, [N, *action_shape]."""
        ends = np.cumsum(self.sizes)[:-1]
        best = [part.mode(own) for part, own in zip(self.parts, np.split(params, ends, -1), strict=True)]
        return np.stack(best, -1).reshape(-1, *self.action_shape)

    def mode_in_torch(self, params: Tensor) -> Tensor:
        """The same."""
        pairs = zip(self.parts, params.split(self.sizes, -1), strict=True)
        return torch.stack([part.mode_in_torch(own) for part, own in pairs], -1).unflatten(
            -1, self.action_shape
        )

    def log_prob(self, params: Tensor, action: Tensor) -> Tensor:
        """Log-probability [B], summed over the choices."""
        return self.log_prob_and_entropy(params, action)[0]

    def entropy(self, params: Tensor) -> Tensor:
        """Entropy in nats [B], summed over the choices."""
        pairs = zip(self.parts, params.split(self.sizes, -1), strict=True)
        return torch.stack([part.entropy(own) for part, own in pairs]).sum(0)

    def log_prob_and_entropy(self, params: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability [B] and entropy [B], summed over the choices."""
        triples = zip(self.parts, params.split(self.sizes, -1), action.flatten(1).unbind(-1), strict=True)
        both = [part.log_prob_and_entropy(own, taken) for part, own, taken in triples]
        log_prob, entropy = zip(*both, strict=True)
        return torch.stack(log_prob).sum(0), torch.stack(entropy).sum(0)


class Bernoulli:
    """Bits, each on its own; params are the log-odds of a 1."""

    action_dtype = np.int8

    def __init__(self, action_shape: tuple[int, ...]) -> None:
        self.action_shape = action_shape
        self.num_params = self.num_means = math.prod(action_shape)

    def sample(self, params: Array, rng: np.random.Generator) -> Array:
        """A 1 where params + logistic noise is above 0: [N, *action_shape]."""
        return self.mode(params + rng.logistic(size=params.shape))

    def mode(self, params: Array) -> Array:
        """The likelier value of each bit, [N, *action_shape]."""
        return (params > 0).astype(np.int8).reshape(-1, *self.action_shape)

    def mode_in_torch(self, params: Tensor) -> Tensor:
        """The same."""
        return (params > 0).to(torch.int8).unflatten(-1, self.action_shape)

    def log_prob(self, params: Tensor, action: Tensor) -> Tensor:
        """Log-probability [B], summed over the bits."""
        return (action.flatten(1) * params - softplus(params)).sum(-1)

    def entropy(self, params: Tensor) -> Tensor:
        """Entropy in nats [B], summed over the bits."""
        return (softplus(params) - params * params.sigmoid()).sum(-1)

    def log_prob_and_entropy(self, params: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability [B] and entropy [B]."""
        return self.log_prob(params, action), self.entropy(params)


class DiagonalGaussian:
    """Independent normals; params are the means [A] and then the log standard deviations [A].

    The density is that of the unclipped action; the environment's wrapper clips to its bounds.
    """

    action_dtype = np.float32

    def __init__(self, action_shape: tuple[int, ...]) -> None:
        self.action_shape = action_shape
        self.num_means = math.prod(action_shape)
        self.num_params = 2 * self.num_means

    def sample(self, params: Array, rng: np.random.Generator) -> Array:
        """Mean + standard deviation * normal noise, [N, *action_shape]."""
        mean, log_std = params[:, : self.num_means], params[:, self.num_means :]
        noise = rng.standard_normal(mean.shape, np.float32)
        return (mean + np.exp(log_std) * noise).reshape(-1, *self.action_shape)

    def mode(self, params: Array) -> Array:
        """The means, [N, *action_shape]."""
        return params[:, : self.num_means].reshape(-1, *self.action_shape)

    def mode_in_torch(self, params: Tensor) -> Tensor:
        """The same."""
        return params[:, : self.num_means].reshape(-1, *self.action_shape)

    def log_prob(self, params: Tensor, action: Tensor) -> Tensor:
        """Log-density [B], summed over the action's dimensions."""
        mean, log_std = params.chunk(2, -1)
        standard = (action.reshape(mean.shape) - mean) * torch.exp(-log_std)
        return (-0.5 * standard**2 - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self, params: Tensor) -> Tensor:
        """Differential entropy in nats [B]."""
        return (params[..., self.num_means :] + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def log_prob_and_entropy(self, params: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density [B] and entropy [B]."""
        return self.log_prob(params, action), self.entropy(params)


class IndependentHeads:
    """One distribution for each leaf of a Dict or Tuple space, independent of each other.

    Actions are vectors [N, D] of float32: the leaves' numbers side by side, in the order of the space. Params
    are all heads' means, and then all heads' log standard deviations.
    """

    action_dtype = np.float32

    def __init__(self, heads: Sequence[Distribution]) -> None:
        self.heads = heads
        self.num_means, self.num_params = (sum(getattr(head, name) for head in heads) for name in _NUMBERS)
        self.action_shape: tuple[int, ...] = (sum(math.prod(head.action_shape) for head in heads),)
        self._slices: list[tuple[slice, slice, slice]] = []  # means, log stds and numbers of the action
        mean, log_std, column = 0, self.num_means, 0
        for head in heads:
            ends = mean + head.num_means, log_std + head.num_params - head.num_means
            stop = column + math.prod(head.action_shape)
            self._slices.append((slice(mean, ends[0]), slice(log_std, ends[1]), slice(column, stop)))
            (mean, log_std), column = ends, stop

    def _split(self, params: Any) -> Iterator[tuple[Distribution, Any, slice]]:
        """Each head with its own params, and where its actions are."""
        join: Any = torch.cat if isinstance(params, Tensor) else np.concatenate
        for head, (means, log_stds, columns) in zip(self.heads, self._slices, strict=True):
            own = params[..., means]
            if head.num_params > head.num_means:
                own = join([own, params[..., log_stds]], -1)
            yield head, own, columns

    def sample(self, params: Array, rng: np.random.Generator) -> Array:
        """Of each head in its turn, [N, D]."""
        return self._join([head.sample(own, rng) for head, own, _ in self._split(params)])

    def mode(self, params: Array) -> Array:
        """The heads' modes, [N, D]."""
        return self._join([head.mode(own) for head, own, _ in self._split(params)])

    @staticmethod
    def _join(actions: Sequence[Array]) -> Array:
        return np.concatenate([part.reshape(len(part), -1).astype(np.float32) for part in actions], 1)

    def mode_in_torch(self, params: Tensor) -> Tensor:
        """The same."""
        modes = [head.mode_in_torch(own) for head, own, _ in self._split(params)]
        return torch.cat([mode.reshape(params.shape[0], -1).float() for mode in modes], 1)

    def log_prob(self, params: Tensor, action: Tensor) -> Tensor:
        """Log-probability (density) [B], the sum of the heads'."""
        return self.log_prob_and_entropy(params, action)[0]

    def entropy(self, params: Tensor) -> Tensor:
        """Entropy in nats [B], the sum of the heads'."""
        return torch.stack([head.entropy(own) for head, own, _ in self._split(params)]).sum(0)

    def log_prob_and_entropy(self, params: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Both, summed over the heads."""
        both = []
        for head, own, columns in self._split(params):
            taken = action[:, columns].reshape(-1, *head.action_shape)
            taken = taken.long() if np.issubdtype(head.action_dtype, np.integer) else taken
            both.append(head.log_prob_and_entropy(own, taken))
        log_prob, entropy = zip(*both, strict=True)
        return torch.stack(log_prob).sum(0), torch.stack(entropy).sum(0)


_NUMBERS = ("num_means", "num_params")


class SquashedGaussian:
    """tanh of independent normals, stretched over the bounds of a Box (Haarnoja et al. 2018, appendix C).

    Params are the means [A] and then the log standard deviations [A], both before the tanh. Where it learns,
    actions are in [-1, 1]^A, and densities are those of such actions; the environment's are in [low, high].
    """

    action_dtype = np.float32
    log_std_low, log_std_high = -20.0, 2.0

    def __init__(self, space: gym.Space) -> None:
        """ValueError for a space that is no bounded Box."""
        self.box = ActionBox(space)
        self.action_shape = self.box.shape
        self.num_actions = self.box.size
        self.num_params = self.num_means = 2 * self.num_actions

    def sample(self, params: Array, rng: np.random.Generator) -> Array:
        """Actions [N, *action_shape] drawn from params [N, num_params]."""
        mean, log_std = params[:, : self.num_actions], params[:, self.num_actions :]
        noise = rng.standard_normal(mean.shape, np.float32)
        std = np.exp(log_std.clip(self.log_std_low, self.log_std_high))
        return self.box.stretch(np.tanh(mean + std * noise))

    def mode(self, params: Array) -> Array:
        """Where the normals are densest, [N, *action_shape]."""
        return self.box.stretch(np.tanh(params[:, : self.num_actions]))

    def mode_in_torch(self, params: Tensor) -> Tensor:
        """The same."""
        return self.box.stretch_in_torch(params[:, : self.num_actions].tanh())

    def sample_with_log_prob(self, params: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions [B, A] in [-1, 1] from params and normal noise [B, A], and their log-density [B] over the
        dimensions that are free.

        log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u)), which is exact where tanh(u) rounds to 1.
        """
        mean, log_std = params.chunk(2, -1)
        log_std = log_std.clamp(self.log_std_low, self.log_std_high)
        u = mean + log_std.exp() * noise
        normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
        squash = 2 * (math.log(2) - u - softplus(-2 * u))
        return self.box.zero_fixed(u.tanh()), self.box.zero_fixed(normal - squash).sum(-1)


class ActionBox:
    """A bounded Box of actions, and the box [-1, 1]^A that algorithms learn in; 0 where low == high."""

    def __init__(self, space: gym.Space) -> None:
        """ValueError for a space that is no such box."""
        if not (isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating)):
            others = "algo=sac_discrete, dqn or ppo can act in a Discrete one"
            if not isinstance(space, gym.spaces.Box | gym.spaces.Discrete):
                others = BY_POLICY
            raise ValueError(f"it needs a continuous action space (Box), and this one is {space}; {others}")
        if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
            raise ValueError(
                f"it needs a bounded action space, and this one is {space}; algo=ppo can act in it"
            )
        self.shape, self.size = space.shape, math.prod(space.shape)
        low, high = (bound.astype(np.float32).reshape(-1) for bound in (space.low, space.high))
        self.center, self.half = (high + low) / 2, (high - low) / 2
        free = low < high
        self.num_free = int(free.sum())
        self._divisor = np.where(free, self.half, np.float32(1))
        self._free = None if free.all() else torch.from_numpy(free)

    def stretch(self, action: Array) -> Array:
        """[N, A] in [-1, 1] -> [N, *action_shape] as the environment takes it."""
        result: Array = (self.center + self.half * action).reshape(-1, *self.shape)
        return result

    def stretch_in_torch(self, action: Tensor) -> Tensor:
        """The same, from and to tensors."""
        center, half = (torch.as_tensor(array, device=action.device) for array in (self.center, self.half))
        return (center + half * action).reshape(-1, *self.shape)

    def shrink(self, action: Array) -> Array:
        """The other way: [B, *action_shape] -> [B, A]."""
        result: Array = (action.reshape(-1, self.size) - self.center) / self._divisor
        return result

    def zero_fixed(self, x: Tensor) -> Tensor:
        """x [B, A] with 0 in the dimensions where low == high."""
        return x if self._free is None else torch.where(self._free.to(x.device), x, 0.0)

    def uniform(self, count: int, rng: np.random.Generator) -> Array:
        """Random actions [count, *action_shape]."""
        return self.stretch(2 * rng.random((count, self.size), np.float32) - 1)


def distribution_for(space: gym.Space) -> Distribution:
    """The distribution over an action space. ValueError if there is none for it."""
    if isinstance(space, gym.spaces.Discrete):
        return Categorical(int(space.n), int(space.start))
    if isinstance(space, gym.spaces.MultiDiscrete):
        return MultiCategorical(space.nvec, space.start)
    if isinstance(space, gym.spaces.MultiBinary):
        return Bernoulli(space.shape)
    if isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return DiagonalGaussian(space.shape)
    if isinstance(space, gym.spaces.Dict | gym.spaces.Tuple):
        return IndependentHeads([distribution_for(leaf) for _, leaf in leaf_paths(space)])
    raise ValueError(
        f"no policy for the action space {space}: Discrete, MultiDiscrete, MultiBinary and floating-point Box"
        " spaces have one, and Dict and Tuple of them"
    )
