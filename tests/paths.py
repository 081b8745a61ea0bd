"""`python tests/paths.py`: the code of rl/ behind one iteration and behind one resume, traced while it runs.

It prints the section of docs/architecture.md that lists both.
"""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- paths: made by `python tests/paths.py` -->", "<!-- end of paths -->"

TINY = [
    *("algo=ppo", "frames=64", "eval.every=null", "algo.rollout_length=8"),
    *("algo.minibatch_size=16", "progress=false"),
]

# the files that a reader must open, in the order of the calls; whatever else is entered is vocabulary: its
# names say what it does, and it is the same for every path
READ = {
    "iteration": [
        *(
            "rl/training/loop.py",
            "rl/training/collector.py",
            "rl/algos/ppo.py",
            "rl/learning/gradient_step.py",
        ),
        "rl/learning/rollout.py",
    ],
    "resume": [
        *("rl/train.py", "rl/runs/plan.py", "rl/runs/find.py", "rl/runs/history.py", "rl/runs/manifest.py"),
        *("rl/config/compare.py", "rl/training/session.py", "rl/training/run.py", "rl/runs/checkpoints.py"),
    ],
}
TITLES = {
    "iteration": "One iteration of PPO (an MLP, discrete actions)",
    "resume": "One `python train.py resume=latest frames=2M`, up to the loop",
}
Entered = dict[str, dict[str, int]]  # file -> function -> its lines


class Trace:
    """A context that notes every function of rl/ that is entered."""

    def __init__(self) -> None:
        self.codes: dict[CodeType, None] = {}

    def __enter__(self) -> Trace:
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _note(self, frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(ROOT / "rl")):
            self.codes[frame.f_code] = None

    def entered(self) -> Entered:
        """Functions and methods by file, in the order of their first call, with those inside them."""
        found: Entered = {}
        for code in self.codes:
            if "<" not in code.co_qualname:
                file = str(Path(code.co_filename).relative_to(ROOT))
                found.setdefault(file, {})[code.co_qualname] = len(inspect.getsourcelines(code)[0])
        return found


def trace(path: str, place: Path) -> Entered:
    """Trace one of the two paths in a process of its own, in the folder `place`."""
    script = [sys.executable, str(Path(__file__)), path]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(script, cwd=place, env=environment, capture_output=True, text=True, check=True)
    result: Entered = json.loads(done.stdout.splitlines()[-1])
    return result


def _run_main(*arguments: str, loop: Callable[..., None] | None = None) -> None:
    import rl.train
    import rl.training.run
    import rl.training.session

    rl.training.run.SCORE_EPISODES = 1
    if loop is not None:
        rl.training.session.train = loop  # type: ignore[attr-defined]
    sys.argv = ["train.py", *arguments]
    try:
        rl.train.main()
    except SystemExit as stop:
        if stop.code:
            raise RuntimeError(f"{arguments}: exit code {stop.code}") from stop


def _iteration() -> Entered:
    from rl.training.loop import train

    traced = Trace()

    def loop(run: Any, *given: Any) -> None:
        run.save = lambda: None  # the loop's last call, behind the last iteration
        with traced:
            train(run, *given)

    _run_main(*TINY, "log_every=32", "ckpt.every=null", "ckpt.minutes=null", loop=loop)
    return traced.entered()


def _resume() -> Entered:
    from rl.training.loop import train

    _run_main(*TINY)
    traced = Trace()

    def loop(*given: Any) -> None:
        sys.setprofile(None)
        train(*given)

    with traced:
        _run_main("resume=latest", "frames=128", loop=loop)
    return traced.entered()


def section(entered: dict[str, Entered]) -> str:
    """The lists for docs/architecture.md."""
    lines = [BEGIN, ""]
    for path, found in entered.items():
        read = {file: found[file] for file in READ[path]}
        size = sum(sum(functions.values()) for functions in read.values())
        lines += [f"{TITLES[path]}: {len(read)} files, about {round(size, -1)} lines to read.", ""]
        lines += [
            f"- {file}: {', '.join(f'`{name}`' for name in functions)}" for file, functions in read.items()
        ]
        others = {file: functions for file, functions in found.items() if file not in read}
        size = sum(sum(functions.values()) for functions in others.values())
        names = ", ".join(sorted(file.removeprefix("rl/") for file in others))
        lines += [
            "",
            f"Vocabulary that it enters, {len(others)} files and about {round(size, -1)} lines: {names}.",
            "",
        ]
    return "\n".join([*lines, END])


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps({"iteration": _iteration, "resume": _resume}[sys.argv[1]]()))
    else:
        import tempfile

        with tempfile.TemporaryDirectory() as place:
            print(section({path: trace(path, Path(place)) for path in READ}))
