"""Counts as people write them: 20M, 500k, 1.5M, 1e6, 10_000_000."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

_COUNT = re.compile(r"([+-]?\d[\d_]*(?:\.\d+)?(?:[eE][+-]?\d{1,2})?)\s*([kKmMgGbB]?)")
_SCALE = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}
FORMS = "a whole count such as 20M, 500k, 1.5M, 1e6 or 10_000_000"


def parse_count(value: Any) -> int:
    """The whole number that `value` stands for. ValueError with the allowed forms if there is none."""
    match = _COUNT.fullmatch(str(value).strip()) if isinstance(value, int | float | str) else None
    if match is None or isinstance(value, bool):
        raise ValueError(f"expected {FORMS}")
    number = Fraction(match[1].replace("_", "")) * _SCALE[match[2].lower()]
    if number.denominator != 1:
        raise ValueError(f"expected {FORMS}")
    return int(number)


def format_count(number: int) -> str:
    """The short way to write a count, exactly: 20M, 1.5M, 200k, 100_352."""
    for letter, scale in (("M", 10**6), ("k", 10**3)):
        whole, tenths = divmod(number // (scale // 10), 10)
        if number >= scale and number % (scale // 10) == 0:
            return f"{whole}.{tenths}{letter}" if tenths else f"{whole}{letter}"
    return f"{number:_}"
