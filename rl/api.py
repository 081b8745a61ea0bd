"""Encore in a notebook or a script: the command line's runs, in the same folders, to be resumed from either.

A run trains in a process of its own: `train.py` with the same overrides. So it equals the command line's bit
for bit, works in any thread, and changes nothing here: no random generator, thread count or signal handler.
It does not outlive this process, which prints what it prints. Ctrl-C (in a notebook: interrupt) has it save,
and then raises KeyboardInterrupt; a second one ends it at once.

`enjoy` and `load_policy` play in this process. They restore its random generators and torch's settings.
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.singleton import Singleton

from rl.config import ConfigError, EnjoyConfig
from rl.config.compose import compose
from rl.config.overrides import Overrides, quote
from rl.enjoy import Enjoyed, Player, load_player
from rl.enjoy import enjoy as play
from rl.runs.find import latest_run, new_folder, read_result
from rl.runs.lock import LockedError
from rl.runs.manifest import DamagedError
from rl.runs.outcome import FINISHED, INTERRUPTED, REFUSED, TO_BE_CONTINUED, Finished, Refused
from rl.runs.plan import Plan, make_plan
from rl.runs.tables import complete_text
from rl.sweeps.launchers import Process

if TYPE_CHECKING:
    import gymnasium as gym
    import numpy as np
    import pandas as pd

    from rl.algos.agent import Agent, Recurrent
    from rl.envs.make import EnvFactory
    from rl.learning.action_forms import ActionForm


__all__ = [
    "ConfigError",
    "DamagedError",
    "Enjoyed",
    "Failed",
    "LockedError",
    "Policy",
    "Refused",
    "Run",
    "enjoy",
    "fork",
    "load_evaluations",
    "load_metrics",
    "load_policy",
    "resume",
    "train",
]
Typed = str | Sequence[str]  # overrides: one string as it is typed, or a list of them
RunPath = str | os.PathLike[str]  # a run's folder, a Run, or "latest"


class Failed(RuntimeError):
    """Training ended by an error, or was killed. The last checkpoint stands."""


@dataclass(frozen=True)
class Run:
    """A run in its folder. It can be given wherever a path can."""

    folder: Path

    def __fspath__(self) -> str:
        return str(self.folder)

    @property
    def finished(self) -> bool:
        """Whether it has reached its end; else it was stopped, and `resume` goes on with it."""
        return self.result is not None

    @property
    def result(self) -> dict[str, Any] | None:
        """The score of the last and of the best weights on fresh episodes, once it is finished.

        DamagedError if it cannot be read; resuming the run writes it again.
        """
        return read_result(self.folder)


def train(overrides: Typed = (), *, config_dir: str | None = None) -> Run:
    """`python train.py ...`: train a run until it is finished, or until a signal stops it.

    ConfigError, Refused, LockedError or DamagedError say why it cannot be; Failed, why it did not end.
    """
    return _train(_split(overrides), config_dir)


def resume(run: RunPath = "latest", overrides: Typed = (), *, config_dir: str | None = None) -> Run:
    """`python train.py resume=<run> ...`: go on with a run. One that is finished is given back as it is."""
    return _train([f"resume={quote(os.fspath(run))}", *_split(overrides)], config_dir)


def fork(
    run: RunPath = "latest", overrides: Typed = (), *, ckpt: str = "best", config_dir: str | None = None
) -> Run:
    """`python train.py fork=<run>@<ckpt> ...`: a new run from old weights; `ckpt`: best, last, or frames."""
    return _train([f"fork={quote(f'{os.fspath(run)}@{ckpt}')}", *_split(overrides)], config_dir)


def _split(overrides: Typed) -> Sequence[str]:
    return shlex.split(overrides) if isinstance(overrides, str) else overrides


def _train(typed: Sequence[str], config_dir: str | None) -> Run:
    overrides = Overrides(typed)
    try:
        planned = _validate(overrides, config_dir)
    except Finished as message:
        print(message)
        return Run(message.folder)
    folder = new_folder(planned.folder) if planned.unnamed else planned.folder
    key = "hydra.run.dir" if overrides.get("resume") is None else "resume"
    flags = ["--config-dir", config_dir] if config_dir else []
    arguments = [*flags, *overrides.drop(key).texts, f"{key}={quote(str(folder))}"]
    process = Process(arguments, output=subprocess.PIPE)
    try:
        code, interrupted, said = _follow(process)
    finally:
        process.kill()
        if planned.unnamed and not any(folder.iterdir()):  # nothing came of it
            folder.rmdir()
    errors = process.errors.strip()
    if code == REFUSED:  # what building alone could see
        raise ConfigError(errors)
    if interrupted or code == INTERRUPTED:
        raise KeyboardInterrupt(f"go on with resume({str(folder)!r})")
    if code not in (FINISHED, TO_BE_CONTINUED):
        why = said or errors.rpartition("\n")[2] or f"exit code {code}"
        if code < 0:
            why = f"killed by {signal.Signals(-code).name}"
        raise Failed(f"{folder}: {why}; the last checkpoint stands, go on with resume({str(folder)!r})")
    if errors:
        print(errors, file=sys.stderr)
    return Run(folder)


def _validate(overrides: Overrides, config_dir: str | None) -> Plan:
    """What the process will validate again: for exceptions of the right kind, before there is a folder."""
    with _hydra_state_kept():
        planned = make_plan(overrides, config_dir)
    if planned.lock is not None:
        planned.lock.release()
    return planned


def _follow(process: Process) -> tuple[int, bool, str]:
    """Show what a process prints; its exit code, whether Ctrl-C was passed on to it, and the last line."""
    interrupted, said = False, ""
    while True:
        try:
            for line in process.lines:
                said = line.strip() or said
                print(line, end="", flush=True)
            return process.wait(), interrupted, said
        except KeyboardInterrupt:
            interrupted = True
            process.send_signal(signal.SIGINT)


def load_metrics(run: RunPath = "latest") -> pd.DataFrame:
    """metrics.csv: a row for every `log_every` frames, numbers bit for bit; missing ones are NaN."""
    return _read_table(_folder(run) / "metrics.csv")


def load_evaluations(run: RunPath = "latest") -> pd.DataFrame:
    """eval.csv: a row for every evaluation."""
    return _read_table(_folder(run) / "eval.csv")


def _read_table(path: Path) -> pd.DataFrame:
    import pandas as pd

    return pd.read_csv(io.StringIO(complete_text(path)))


def _folder(run: RunPath) -> Path:
    return latest_run(Path("outputs")) if run == "latest" else Path(run)


def enjoy(
    run: RunPath = "latest",
    *,
    ckpt: str = "best",
    episodes: int = 5,
    seed: int = 0,
    deterministic: bool = True,
    render: str = "none",
    video: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> Enjoyed:
    """`python enjoy.py ...`: play episodes; their returns, and with render="video" where the video is.

    `video`: its format, caption and grid, where they are to be others, e.g. {"format": "gif"}.
    """
    given = {"ckpt": ckpt, "episodes": episodes, "seed": seed, "deterministic": deterministic}
    given |= {"render": render, "device": device}
    given |= {f"video.{name}": value for name, value in (video or {}).items()}
    with _hydra_state_kept():
        overrides = [f"run={quote(str(_folder(run)))}", *(f"{name}={value}" for name, value in given.items())]
        config = compose(overrides, EnjoyConfig, "enjoy").config
        with _torch_state_kept():
            return play(config)


@dataclass
class Policy:
    """A run's policy: call it with what its environment observes.

    A recurrent one remembers from call to call: tell it by `reset` where episodes begin.
    """

    agent: Agent
    make_env: EnvFactory  # one env of the run, with its wrappers; takes render_mode=
    obs_space: gym.Space
    form: ActionForm  # makes the agent's actions those of the environment
    explore: bool
    rng: np.random.Generator
    state: Recurrent = None

    @property
    def action_space(self) -> gym.Space:
        """The environment's."""
        return self.form.space

    def reset(self) -> None:
        """Forget what was observed: episodes begin."""
        self.state = None

    def __call__(self, obs: Any) -> Any:
        """The action for one observation, or [B, ...] for [B, ...]. ValueError for another shape.

        An observation is what the environment gives: an array, an integer, or a dict or tuple of them. In a
        batch of dicts or tuples every leaf is [B, ...]. An action is what the environment takes, likewise.
        """
        from rl.spaces import as_rows

        batch, single = as_rows(self.obs_space, obs)
        state = self.agent.initial_state(len(batch)) if self.state is None else self.state
        if state is not None and len(state) != len(batch):
            so_far = f"after {len(state)} at a time so far"
            raise ValueError(f"{len(batch)} observations, {so_far}; call reset() where episodes begin")
        actions, self.state, *_ = self.agent.act(batch, state, self.rng, self.explore)
        return self.form(actions[0] if single else actions)


def load_policy(
    run: RunPath = "latest", ckpt: str = "best", *, explore: bool = False, seed: int = 0, device: str = "cpu"
) -> Policy:
    """The policy with the best or last weights, or those of a checkpoint (`ckpt` is its frames).

    It gives the action that it thinks best; with `explore` it draws by a generator of `seed`, as in training.
    """
    with _hydra_state_kept(), _torch_state_kept():
        return make_policy(load_player(_folder(run), ckpt, device), explore=explore, seed=seed)


def make_policy(player: Player, *, explore: bool = False, seed: int = 0) -> Policy:
    """The policy of a player."""
    import numpy as np

    from rl.learning.action_forms import ActionForm

    env = player.make_env()
    env.close()
    spaces, rng = (env.observation_space, ActionForm(env.action_space)), np.random.default_rng(seed)
    return Policy(player.agent, player.make_env, *spaces, explore, rng)


@contextlib.contextmanager
def _hydra_state_kept() -> Iterator[None]:
    """Composing a configuration would end what a notebook's own `hydra.initialize` began."""
    before = Singleton.get_state()
    try:
        yield
    finally:
        Singleton.set_state(before)


@contextlib.contextmanager
def _torch_state_kept() -> Iterator[None]:
    """Building an agent seeds the global generators and sets torch and the environment's variables up."""
    import torch

    from rl.state import GlobalRandom

    generators, variables, threads = GlobalRandom().state_dict(), dict(os.environ), torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark, precision = torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        GlobalRandom().load_state_dict(generators)
        torch.set_num_threads(threads)
        # the call is slow: it imports the compiler
        if torch.are_deterministic_algorithms_enabled() != deterministic:
            torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark
        torch.set_float32_matmul_precision(precision)
        for name in os.environ.keys() - variables.keys():
            del os.environ[name]
