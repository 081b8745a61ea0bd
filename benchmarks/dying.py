"""`python -m benchmarks.dying CALL N ARGS...`: train.py with ARGS, killed at its N-th call of os.CALL."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from typing import Any


def main() -> None:
    """Patch the call, then run train.py."""
    call, number = sys.argv[1], int(sys.argv[2])
    sys.argv = ["train.py", *sys.argv[3:]]
    real, count = getattr(os, call), itertools.count(1)

    def dying(*args: Any, **kwargs: Any) -> Any:
        if next(count) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    setattr(os, call, dying)
    from rl.train import main as train

    train()


if __name__ == "__main__":
    main()
