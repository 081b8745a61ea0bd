"""Comparison of two runs, bit for bit, for instance of a resumed with an uninterrupted one."""

from __future__ import annotations

import ast
import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rl.runs.manifest import Manifest
from rl.serialize import load

TIMES = {"wall_s", "fps"}  # only these may differ


def differences(one: Path, other: Path) -> list[str]:
    """The differences between two finished runs: checkpoints and best files, metric rows, results."""
    found = []
    names = [{path.name for path in (run / "ckpt").glob("ckpt-*.pt")} for run in (one, other)]
    if names[0] != names[1]:
        found.append(f"files: {sorted(names[0] ^ names[1])}")
    for name in sorted(names[0] & names[1]):
        states = [load((run / "ckpt" / name).read_bytes(), "cpu") for run in (one, other)]
        found += [f"{name}: {where}" for where in differing(states[0], states[1])]
    for frames in sorted({int(name[5:-3]) for name in names[0] & names[1] if "best" not in name}):
        rows = [replay_rows(run, frames) for run in (one, other)]
        if any(map(bool, rows)) and not _same_rows(*rows):
            found.append(f"replay memory at {frames}")
    for table in ("metrics.csv", "eval.csv"):
        if _rows(one / table) != _rows(other / table):
            found.append(table)
    results = [_without_times(json.loads((run / "result.json").read_text())) for run in (one, other)]
    return found + (["result.json"] if results[0] != results[1] else [])


def replay_rows(run: Path, frames: int) -> dict[int, list[bytes]]:
    """The replay rows of a checkpoint's chunks: the bytes of each array, then those at episode ends."""
    rows: dict[int, list[bytes]] = {}
    for name in Manifest.read(run / "ckpt" / f"ckpt-{frames}.json").replay:
        data = io.BytesIO((run / "replay" / name).read_bytes())
        head = json.loads(data.readline())
        num_envs, layout = head["layout"]
        sizes = [num_envs * math.prod(shape) * _dtype(kind).itemsize for _, shape, kind in layout]
        numbers = range(head["first"], head["end"])
        rows |= {row: [] for row in numbers}
        for size in sizes:
            for row in numbers:
                rows[row].append(data.read(size))
        ends = np.frombuffer(data.read(8 * head["ends"]), np.int64)
        for end in ends:
            rows[int(end) // num_envs].append(data.read(sizes[0] // num_envs))
        assert not data.read()
    return rows


def _dtype(kind: str) -> np.dtype[Any]:
    """The dtype that a chunk's layout names; a structured one by its fields."""
    return np.dtype(ast.literal_eval(kind) if kind.startswith("[") else kind)


def differing(one: Any, other: Any, path: str = "") -> list[str]:
    """The paths at which two states differ by at least one bit."""
    if type(one) is not type(other):
        return [path]
    if isinstance(one, torch.Tensor):
        same = one.shape == other.shape and one.dtype == other.dtype and torch.equal(_bits(one), _bits(other))
        return [] if same else [path]
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return [f"{path} keys"]
        return [where for key in one for where in differing(one[key], other[key], f"{path}/{key}")]
    if isinstance(one, list | tuple):
        if len(one) != len(other):
            return [f"{path} length"]
        return [
            where
            for n, pair in enumerate(zip(one, other, strict=True))
            for where in differing(*pair, f"{path}/{n}")
        ]
    return [] if repr(one) == repr(other) else [path]


def _same_rows(one: dict[int, list[bytes]], other: dict[int, list[bytes]]) -> bool:
    """Whether two memories end at the same row and agree in all rows that both have."""
    both = one.keys() & other.keys()
    return bool(both) and max(one) == max(other) and all(one[row] == other[row] for row in both)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.numel():  # an episode that has just begun has no actions
        return torch.empty(0, dtype=torch.uint8)
    return tensor.contiguous().view(torch.uint8) if tensor.dim() else tensor.reshape(-1).view(torch.uint8)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [_without_times(row) for row in csv.DictReader(file)]


def _without_times(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in TIMES}
