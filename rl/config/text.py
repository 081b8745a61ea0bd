"""Tables: as aligned text for people, and the last row of a CSV file that grows."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from rl.config.counts import format_count


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A line for each row, its cells under those of the first."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def last_row(path: Path) -> dict[str, str] | None:
    """The last whole row of a table that grows, or None."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        head = file.readline()
        file.seek(max(len(head), os.path.getsize(path) - 4096))
        whole = [line for line in file.read().splitlines(keepends=True) if line.endswith(b"\n")]
    return next(csv.DictReader([head.decode(), whole[-1].decode()])) if whole else None


def progress_text(frames: int, of: int, fps: float, average: float | None) -> str:
    """How far training is, and when it will be done."""
    minutes, s = divmod(max(int((of - frames) / max(fps, 1e-9)), 0), 60)
    hours, m = divmod(minutes, 60)
    reward = "-" if average is None else f"{average:.1f}"
    return f"frames {format_count(frames)} of {format_count(of)}, fps {fps:.0f}, total_reward_ma {reward}, eta {hours}:{m:02d}:{s:02d}"
