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


def score_text(score: float | None) -> str:
    """A score as every table shows it: 497.3, 48.0, 9.46, 0.0125, and - for none."""
    if score is None or score != score:
        return "-"
    return f"{score:.1f}" if abs(score) >= 10 else f"{score:.3g}"


def progress_text(
    frames: int,
    of: int,
    fps: float,
    average: float | None,
    eta_s: float,
    solved: float | None = None,
    width: int | None = None,
) -> str:
    """How far training is, and when it will be done; in a narrow `width` the eta is what stays longest.

    `solved`: the return that counts as solved.
    """
    parts = {
        "frames": f"frames {format_count(frames)} of {format_count(of)}",
        "fps": f"fps {fps:.0f}",
        "average": f"total_reward_ma {'-' if average is None else f'{average:.1f}'}",
        **({} if solved is None else {"solved": f"solved at {solved:g}"}),
        "eta": f"eta {duration(eta_s)}",
    }
    for dropped in ("solved", "fps", "average", "frames"):
        if dropped in parts and width is not None and len(", ".join(parts.values())) > width:
            del parts[dropped]
    return ", ".join(parts.values())


def duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, s = divmod(max(int(seconds), 0), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}"


def counted(number: int, noun: str) -> str:
    """`1 episode`, `5 episodes`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")
