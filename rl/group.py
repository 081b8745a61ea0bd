"""The processes that train one run together, as each of them sees them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class Group:
    """A process alone: its share is the whole. `rl.training.processes.ProcessGroup` is one of several."""

    rank, size = 0, 1

    def part(self, count: int) -> slice:
        """Which of `count` things in a row are this process's. ValueError if they cannot be shared evenly."""
        return slice(0, count)

    def share(self, values: Any, axis: int = 0) -> Any:
        """This process's part of a tensor, or of each tensor of a (named) tuple, along an axis."""
        return values

    def whole(self, values: Tensor) -> Tensor:
        """From values [B / size] of this process's share what `average` makes those of the whole [B]."""
        return values

    def average(
        self, grads: Sequence[Tensor], report: dict[str, Tensor]
    ) -> tuple[Sequence[Tensor], dict[str, Tensor]]:
        """Gradients and reported values, averaged over all processes."""
        return grads, report

    def gather(self, value: Any) -> list[Any]:
        """What each process gives, in order."""
        return [value]

    def gather_arrays(self, arrays: Sequence[NDArray[Any]]) -> list[list[NDArray[Any]]]:
        """The same for arrays, whose shapes and types are the same in all processes."""
        return [list(arrays)]

    def from_first(self, value: Any) -> Any:
        """What the first process gives."""
        return value

    def check_same(self, parts: Callable[[], Mapping[str, Any]], frames: int, hint: str) -> None:
        """SystemExit, with `hint` in the log, if the states by name are not the same in all processes."""

    def share_stop(self, stop: Any, run: Any) -> Any:
        """A request to stop (`rl.runs.outcome.Stop`) as all processes that train a run know it."""
        return stop


ALONE = Group()

# where the methods of a generator that may be used for some of the envs have their `size`
_POSITION = {
    **dict.fromkeys(("random", "standard_normal", "standard_exponential"), 0),
    **dict.fromkeys(("choice", "exponential", "poisson"), 1),
    **dict.fromkeys(("gumbel", "integers", "laplace", "logistic", "normal", "uniform"), 2),
}


class SharedDraws:
    """A generator for some of a run's envs: it draws for all of them, and gives what belongs to these.

    So each env acts as it does in one process, and the generators of all processes stay in step.
    """

    def __init__(
        self, rng: np.random.Generator, part: slice, num_envs: int, group: Group | None = None
    ) -> None:
        """`group`: where what is drawn depends on the envs of all processes, those that use it together."""
        self.rng, self.part, self.num_envs, self.group = rng, part, num_envs, group
        self.last: NDArray[Any] = np.empty(0)  # what was drawn last, for all envs

    def anywhere(self, fact: bool) -> bool:
        """Whether it is so in any process; in this one, without a group."""
        if self.group is None:
            return fact
        return any(said.any() for (said,) in self.group.gather_arrays([np.array([fact])]))

    def __getattr__(self, name: str) -> Callable[..., NDArray[Any]]:
        """A method of numpy.random.Generator. AttributeError for one that is not offered."""
        if name not in _POSITION:
            raise AttributeError(
                f"with processes > 1 the generator that `act` is given has no {name}; it has"
                f" {', '.join(sorted(_POSITION))}"
            )
        position, draw = _POSITION[name], getattr(self.rng, name)

        def shared(*arguments: Any, size: Any = None, **options: Any) -> NDArray[Any]:
            if len(arguments) > position:
                before, (size, *after) = arguments[:position], arguments[position:]
                self.last = draw(*before, self._for_all(size, name), *after, **options)
            else:
                self.last = draw(*arguments, size=self._for_all(size, name), **options)
            return self.last[self.part]

        setattr(self, name, shared)
        return shared

    def _for_all(self, size: Any, name: str) -> tuple[int, ...]:
        count = self.part.stop - self.part.start
        shape = (size,) if isinstance(size, int | np.integer) else tuple(size or ())
        if not shape or shape[0] != count:
            raise ValueError(
                f"with processes > 1 `act` must draw for all envs at once: {name}(size={size}) does not"
                f" begin with the number of observations, {count}"
            )
        return (self.num_envs, *shape[1:])
