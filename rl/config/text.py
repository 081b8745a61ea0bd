"""Tables and progress as text for people."""

from __future__ import annotations

from collections.abc import Sequence

from rl.config.counts import format_count


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A line for each row, its cells under those of the first."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def progress_text(frames: int, of: int, fps: float, average: float | None) -> str:
    """How far training is, and when it will be done."""
    minutes, s = divmod(max(int((of - frames) / max(fps, 1e-9)), 0), 60)
    hours, m = divmod(minutes, 60)
    reward = "-" if average is None else f"{average:.1f}"
    return (
        f"frames {format_count(frames)} of {format_count(of)}, fps {fps:.0f}, total_reward_ma "
        f"{reward}, eta {hours}:{m:02d}:{s:02d}"
    )
