"""Compiled graphs of losses, and what must stay constant for them."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rl.imports import collector_paused

_PLAIN = (bool, int, float, str, types.NoneType)


def compile_graph(function: Any, device: torch.device) -> Callable[..., Any]:
    """Graphs of a function of tensors, one for each shape of its inputs; its surroundings must never change.

    A graph is made ahead of time and called as it is, without the checks of torch.compile: 16 us a call where
    those take 60.
    """
    options: dict[str, Any] = {"guard_filter_fn": torch.compiler.skip_all_guards_unsafe}
    if device.type == "cpu":  # on a GPU it would need CUDA's own headers
        options["cpp_wrapper"] = True  # the kernels are the same, and called from C++: up to 7 % of a step
        options["pattern_matcher"] = False  # it would join a layer's bias to its product (see layers.linear)
        # what is the same for a whole batch is computed once, not for each element: 20 % of CrossQ's step
        options["realize_reads_threshold"] = 2
    compiler: Any = torch.compile(function, dynamic=False, fullgraph=True, options=options)
    graphs: dict[Any, Callable[..., Any]] = {}

    def call(*inputs: Any) -> Any:
        kind = _kind(inputs)
        if (graph := graphs.get(kind)) is None:
            with collector_paused():  # a tenth of a start
                graph = graphs[kind] = compiler.aot_compile((inputs, {})).fn
        return graph(*inputs)

    return call


def _kind(value: Any) -> Any:
    """What a graph is made for: shape, strides and dtype of each tensor."""
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype
    return tuple(map(_kind, value)) if isinstance(value, tuple) else None


class Constants:
    """What is a constant in the graph of a loss. An error names what changes nevertheless."""

    def __init__(self, loss: Callable[..., Any], device: torch.device) -> None:
        self.device = device
        self.attributes = [(*found, getattr(*found[1:])) for found in _attributes_read_by(loss)]
        # position -> its value, and what the graph is given for it
        self._inputs: dict[int, tuple[Any, Any]] = {}

    def check(self) -> None:
        """RuntimeError if a plain attribute that the loss reads has changed since the graph was made."""
        for path, owner, name, value in self.attributes:
            if getattr(owner, name) != value:
                raise RuntimeError(
                    f"{path} was {value} and is {getattr(owner, name)} now, but under compile=true it is a"
                    " constant of the loss; give it to the step as an argument"
                )

    def inputs(self, inputs: Sequence[Any]) -> list[Any]:
        """Tensors and records of tensors as they are, numbers as tensors []: these may change.

        RuntimeError if another input does.
        """
        return [x if _is_tensor(x) else self._input(n, x) for n, x in enumerate(inputs)]

    def _input(self, position: int, value: Any) -> Any:
        before, given = self._inputs.get(position, (value, None))
        is_number = type(value) in (int, float)
        if type(before) is not type(value) or not (is_number or before == value):
            raise RuntimeError(
                f"argument {position} of the step was {before} and is {value} now, but under compile=true"
                " only numbers and tensors may change"
            )
        if given is None or before != value:
            given = torch.tensor(value, device=self.device) if is_number else value
            self._inputs[position] = value, given
        return given


def _is_tensor(value: Any) -> bool:
    """Whether it is a tensor, or a (named) tuple of tensors."""
    return isinstance(value, Tensor) or (isinstance(value, tuple) and all(map(_is_tensor, value)))


def _attributes_read_by(loss: Callable[..., Any]) -> Iterator[tuple[str, Any, str]]:
    """(path, owner, name) of the plain attributes that a method names, of its object and what that holds.

    Names are looked for in its code, and in the code of the object's methods that it names.
    """
    owner = getattr(loss, "__self__", None)
    names: set[str] = set()
    codes = [loss.__func__.__code__] if isinstance(loss, types.MethodType) else []
    while codes:
        code = codes.pop()
        methods = [getattr(type(owner), name, None) for name in set(code.co_names) - names]
        names |= set(code.co_names)
        codes += [method.__code__ for method in methods if isinstance(method, types.FunctionType)]
        codes += [const for const in code.co_consts if isinstance(const, types.CodeType)]
    for path, holder in [("", owner), *((f"{name}.", getattr(owner, name, None)) for name in sorted(names))]:
        if hasattr(holder, "__dict__") and not isinstance(
            holder, nn.Module | Tensor | type | types.FunctionType
        ):
            for name in sorted(names):
                if isinstance(getattr(type(holder), name, None), property):
                    continue
                if isinstance(getattr(holder, name, holder), _PLAIN):
                    yield f"{type(owner).__name__}.{path}{name}", holder, name
