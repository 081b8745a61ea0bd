"""Accepted and refused changes as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rl.config.compare import MISSING, Change
from rl.config.text import aligned


def change_table(changes: Sequence[Change]) -> str:
    """Changes as aligned text."""
    head = ("key", "was", "now", "policy", "why")
    rows = [head, *((c.key, _short(c.was), _short(c.now), c.policy, c.note) for c in changes)]
    return "\n".join(f"  {line}" for line in aligned(rows))


def _short(value: Any) -> str:
    return "null" if value is None else MISSING if value is MISSING else str(value)
