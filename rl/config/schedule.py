"""Schedules: values that are functions of the clock, such as a learning rate. They have no state.

A schedule is written as a number, as knots `[[0, 2e-3], [10M, 0]]` (straight lines between them, constant
outside; two knots at one frame make a jump), or as `{kind: linear|cosine|exponential, from: a, to: b, frames:
n}`.
"""

from __future__ import annotations

import bisect
import math
from fractions import Fraction
from typing import Any

from rl.config.counts import parse_count

KINDS = ("linear", "cosine", "exponential")
FORMS = (
    "a number, knots such as [[0, 2e-3], [10M, 0]], "
    "or {kind: linear|cosine|exponential, from: 2e-3, to: 0, frames: 10M}"
)


class Schedule:
    """A value over frames, called with the clock's frames.

    Knots are evaluated in exact fractions and rounded once. So the same line gives the same bits however it
    is written, and a run whose schedule gains a knot in the future stays the run it was.
    """

    def __init__(self, value: Any) -> None:
        """ValueError, with the forms that are allowed, if `value` is not a schedule."""
        self.written = value
        self.curve: tuple[str, float, float, int] | None = None
        if isinstance(value, dict):
            self._read_kind(value)
        elif isinstance(value, list | tuple):
            self._read_knots(value)
        else:
            self._set_knots([(0, _exact(value))])

    def _read_kind(self, value: dict[str, Any]) -> None:
        if set(value) != {"kind", "from", "to", "frames"} or value["kind"] not in KINDS:
            raise ValueError(f"expected {FORMS}")
        kind, start, end, frames = value["kind"], value["from"], value["to"], parse_count(value["frames"])
        if frames < 1:
            raise ValueError("expected frames of at least 1 in a schedule")
        if kind == "exponential" and not (_exact(start) > 0 and _exact(end) > 0):
            raise ValueError("an exponential schedule goes between two numbers above 0")
        self._set_knots([(0, _exact(start)), (frames, _exact(end))])
        if kind != "linear":
            self.curve = (kind, float(start), float(end), frames)

    def _read_knots(self, value: list[Any] | tuple[Any, ...]) -> None:
        if not value or not all(isinstance(knot, list | tuple) and len(knot) == 2 for knot in value):
            raise ValueError(f"expected {FORMS}")
        knots = [(parse_count(frame), _exact(height)) for frame, height in value]
        frames = [frame for frame, _ in knots]
        if frames != sorted(frames) or frames[0] < 0:
            raise ValueError("expected the knots in the order of their frames, from 0 on")
        self._set_knots(knots)

    def _set_knots(self, knots: list[tuple[int, Fraction]]) -> None:
        self.frames = [frame for frame, _ in knots]
        self.heights = [height for _, height in knots]
        self._last = float(self.heights[-1])  # fractions are slow, and one per action adds up

    def __call__(self, frames: int) -> float:
        """The value once `frames` frames have been seen."""
        if self.curve is None:
            return self._last if frames >= self.frames[-1] else float(self.exact(frames))
        kind, start, end, length = self.curve
        if frames >= length:
            return end
        if kind == "cosine":
            return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * frames / length))
        return start * (end / start) ** (frames / length)

    def exact(self, frames: int) -> Fraction:
        """The value of the knots as a fraction; at a jump, the value after it."""
        right = bisect.bisect_right(self.frames, frames)
        if right == 0:
            return self.heights[0]
        if right == len(self.frames):
            return self.heights[-1]
        begin, end = self.frames[right - 1], self.frames[right]
        low, high = self.heights[right - 1], self.heights[right]
        return low + (high - low) * (frames - begin) / (end - begin)

    @property
    def lowest(self) -> float:
        """The least value it ever takes."""
        return float(min(self.heights))

    @property
    def highest(self) -> float:
        """The greatest value it ever takes."""
        return float(max(self.heights))

    def first_difference(self, other: Schedule, until: int) -> int | None:
        """The first frame of 0 ... `until` at which the two differ, or None.

        Between neighbouring breakpoints two straight lines that agree at two frames agree at all. Curves are
        compared frame by frame at the start of each such piece and at its end: two that are not the same part
        there.
        """
        breaks = sorted({0, until, *(frame for s in (self, other) for frame in s.frames if frame <= until)})
        straight = self.curve is None and other.curve is None
        if not straight and self.curve == other.curve and self.heights == other.heights:
            return None
        for begin, end in zip(breaks, [*breaks[1:], until + 1], strict=True):
            near = range(begin, min(end, begin + (2 if straight else 1000)))
            for frame in [*near, end - 1]:
                if (self.exact(frame) != other.exact(frame)) if straight else (self(frame) != other(frame)):
                    return frame
        return None

    def followed_by(self, other: Schedule, at: int) -> list[list[Any]] | None:
        """Knots that are this schedule before frame `at` and the other from there on; None for curves."""
        if self.curve is not None or other.curve is not None:
            return None
        past = [
            (frame, height) for frame, height in zip(self.frames, self.heights, strict=True) if frame < at
        ]
        if not past:
            past = [(0, self.heights[0])]
        future = zip(other.frames, other.heights, strict=True)
        knots = [*past, (at, self.exact(at)), (at, other.exact(at)), *(k for k in future if k[0] > at)]
        return [[frame, _written(height)] for frame, height in knots]

    def __repr__(self) -> str:
        return f"Schedule({self.written!r})"


def _exact(value: Any) -> Fraction:
    """The decimal number that was written, without the rounding of binary floats."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"expected {FORMS}")
    try:
        number = Fraction(repr(value) if isinstance(value, float) else value)
        float(number)
    except (ValueError, ZeroDivisionError, OverflowError):
        raise ValueError(f"expected {FORMS}") from None
    return number


def _written(number: Fraction) -> float | str:
    """A number as one types it, so that it is read as exactly this one."""
    return float(number) if _exact(float(number)) == number else str(number)
