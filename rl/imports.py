"""Importing what is heavy."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """A context in which garbage is not collected: for work that makes much and drops little."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """A context of the imports of torch: what they make stays, so the garbage collector need not look at it,
    then or later. It would take a tenth of their time.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    with collector_paused():
        try:
            yield
        finally:
            gc.freeze()
