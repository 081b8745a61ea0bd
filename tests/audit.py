"""Compares object graphs value by value, to find what changes in training but is not in a checkpoint."""

from __future__ import annotations

import functools
import re
import tempfile
import types
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from rl.learning.replay import UniformReplay
from rl.training.collector import Tape

# What changes and need not be restored, each with the reason.
_VECTOR_ENV = r"\.envs\._?(env_obs|observations|rewards|terminations|truncations|autoreset_envs)\b"
RECOMPUTED = {
    r"\.rollout\.(action|reward|terminated|truncated|final_obs|state|extras)\b": "overwritten by every rollout",
    r"\.rollout\.obs\[:-1\]": "overwritten by every rollout, which starts from the last row",
    r"\.collector\.ended_(returns|lengths)\b": "of the last rollout; counted before a checkpoint is made",
    r"\.collector\.not_exact\b": "the result of the last load",
    r"\.clock\.(_frames_before|_started_at|wall_before_s)\b": "of this iteration, and the time of day",
    r"\.metrics\._row_(frames|wall_s)\b": "for fps, which is measured per session",
    r"\.replay\.written\b": "a load sets it to the end of the chunks, as a checkpoint does",
    r"\._saved_at\b": "the time of the last checkpoint, for ckpt.minutes",
    r"\.grad\b": "set to zero before every update",
    _VECTOR_ENV: "overwritten by every step of the vector env",
}


def forgotten(
    make: Callable[[], Any], step: Callable[[Any], None], stateful: Callable[[Any], Mapping[str, Any]]
) -> list[str]:
    """The names of the values that two steps change and that state_dicts do not restore in a new object."""
    one, fresh = make(), make()
    step(one)
    before = values(one)
    step(one)
    step(one)
    after = values(one)
    for name, part in stateful(fresh).items():
        part.load_state_dict(_copy(stateful(one)[name].state_dict()))
        if isinstance(part, UniformReplay):
            load_all_rows(part, stateful(one)[name])
    restored = values(fresh)
    changed = [name for name in after if after[name] != before.get(name)] + [
        name for name in before if name not in after
    ]
    lost = [name for name in changed if restored.get(name) != after.get(name)]
    return [name for name in lost if not any(re.search(pattern, name) for pattern in RECOMPUTED)]


def load_all_rows(memory: UniformReplay, other: Any) -> None:
    """Load all rows of another memory, as chunks do."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(rows_of(other))
        file.flush()
        memory.load_chunk(Path(file.name))


def rows_of(memory: UniformReplay) -> bytes:
    """All rows of a memory in order, wherever they are in its ring buffer."""
    if memory.end == memory.oldest:
        return b""
    return b"".join(bytes(part) for part in memory._buffers(memory.oldest, memory.end))


def _copy(state: Any) -> Any:
    if isinstance(state, torch.Tensor):
        return state.detach().clone()
    if isinstance(state, dict):
        return {key: _copy(value) for key, value in state.items()}
    return type(state)(map(_copy, state)) if isinstance(state, list | tuple) else state


def values(root: Any) -> dict[str, Any]:
    """Every value reachable from an object, by path, in a comparable form."""
    found: dict[str, Any] = {}
    _walk(root, "", found, {})
    return found


def _walk(value: Any, path: str, found: dict[str, Any], seen: dict[int, Any]) -> None:
    if value is None or isinstance(
        value, bool | int | float | complex | str | bytes | np.generic | type | types.ModuleType
    ):
        found[path] = repr(value)
        return
    if id(value) in seen:
        return
    seen[id(value)] = value  # kept, so that no other object gets its id
    if isinstance(value, torch.Tensor):
        found[path] = (str(value.dtype), tuple(value.shape), value.detach().cpu().numpy().tobytes())
        if value.grad is not None:
            _walk(value.grad, f"{path}.grad", found, seen)
    elif isinstance(value, np.ndarray) and value.dtype != object:
        if path.endswith(".rollout.obs"):
            found[f"{path}[:-1]"], found[f"{path}[-1]"] = value[:-1].tobytes(), value[-1].tobytes()
        else:
            found[path] = (str(value.dtype), value.shape, value.tobytes())
    elif isinstance(value, np.random.Generator):
        found[path] = repr(value.bit_generator.state)
    elif isinstance(value, torch.Generator):
        found[path] = value.get_state().numpy().tobytes()
    elif isinstance(value, UniformReplay):  # the ring's offset is not part of its value
        found[f"{path}.rows"] = rows_of(value)
        _walk(value.state_dict(), f"{path}.state", found, seen)
        for name, part in _parts(value):
            if name not in ("._rings", "._flat", ".ends"):
                _walk(part, f"{path}{name}", found, seen)
    elif isinstance(value, Tape):  # the block boundaries are not part of its value
        _walk([value.actions(n) for n in range(len(value.episode_begin))], f"{path}.actions", found, seen)
    else:
        for name, part in _parts(value):
            _walk(part, f"{path}{name}", found, seen)


def _parts(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [
            ("{len}", len(value)),
            *((f"[{key!r}]" if isinstance(key, str | int) else "[...]", part) for key, part in value.items()),
        ]
    if isinstance(value, list | tuple | deque | np.ndarray):
        return [("{len}", len(value)), *((f"[{index}]", part) for index, part in enumerate(value))]
    if isinstance(value, set | frozenset):
        return [("{set}", repr(sorted(map(repr, value))))]
    if isinstance(value, types.MethodType):
        return [("{self}", value.__self__)]
    if isinstance(value, functools.partial):
        return [("{func}", value.func), ("{args}", value.args), ("{keywords}", value.keywords)]
    if isinstance(value, types.FunctionType):
        return [
            (f"{{{cell}}}", part.cell_contents)
            for cell, part in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        ]
    if isinstance(value, gym.spaces.Space):
        return []
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    inside = {
        **getattr(value, "__dict__", {}),
        **{name: getattr(value, name) for name in slots if isinstance(name, str) and hasattr(value, name)},
    }
    return [(f".{name}", part) for name, part in inside.items() if name not in ("__weakref__", "__dict__")]
