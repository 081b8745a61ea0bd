"""The agent: what every algorithm is to the loop, which knows no more of it than this."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rl.algos.context import AgentContext
from rl.learning.replay import UniformReplay
from rl.learning.rollout import Recurrent, Rollout
from rl.state import Stateful

Array = NDArray[Any]
Extras = Mapping[str, Array]  # what `act` tells `learn` of a step: arrays [N, ...] by name
Actions = tuple[Array, Recurrent] | tuple[Array, Recurrent, Extras]


Setting = AgentContext  # its earlier name


class Agent(ABC):
    """An algorithm, made from its context and its keys: `(context, cfg)`, where cfg is of its `Config`.

    A subclass sets these in its constructor and implements `act` and `learn`. Without a `Config` its keys
    are keywords.
    """

    # the dataclass of its keys; `network`, `optimizer` ... are functions that make them
    Config: type | None = None

    # whether it respects action masks; where there are some, `cfg.network` is an IgnoringMask
    masks: bool = False
    rollout_length: int  # T, steps of every env in one iteration
    columns: Sequence[str] = ()  # what `learn` reports
    parts: Mapping[str, Stateful]  # all that changes in training: what a checkpoint holds
    policy_parts: Sequence[str] = ()  # the names of the parts that acting needs
    playing: Sequence[str] = ()  # the earlier name of `policy_parts`
    replay: UniformReplay | None = None  # its memory, if it has one: a checkpoint keeps it in chunks
    action_shape: tuple[int, ...]  # of one action as `act` gives it
    action_dtype: Any

    @property
    def learned_parts(self) -> dict[str, Stateful]:
        """The parts that hold what was learned: all but optimizers and the replay memory. A fork starts with
        them, so a best file holds them too.
        """
        return {
            name: part
            for name, part in self.parts.items()
            if part is not self.replay
            and not (hasattr(part, "advance") or isinstance(part, torch.optim.Optimizer))
        }

    @abstractmethod
    def act(self, obs: Array, state: Recurrent, rng: np.random.Generator, explore: bool = True) -> Actions:
        """Actions [N, *action_shape] for observations [N, *obs_shape], and the recurrent state after them.

        With `explore` they are drawn with `rng`; without, they are what the policy thinks best. What it tells
        `learn` of the step may come third, by name, always the same names: `rollout.extras` holds it.
        """

    @abstractmethod
    def learn(self, rollout: Rollout) -> dict[str, float]:
        """Make every update that this experience earns, counting them on the clock; return what to report."""

    def greedy(self) -> nn.Module:
        """What `act` does without `explore`, as a module that torch can export.

        Its inputs are obs [B, *obs_shape] as `act` takes them, and where it is recurrent the state [B, S]; it
        gives the actions, and the state after them. NotImplementedError: this algorithm has none.
        """
        raise NotImplementedError

    def initial_state(self, num_envs: int) -> Recurrent:
        """The recurrent state [N, S] where episodes begin."""
        return None
