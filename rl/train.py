"""train.py: a command line becomes a run, or continues one."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from argparse import Namespace
from collections.abc import Callable

import hydra
from omegaconf import DictConfig

from rl.config import ConfigError
from rl.config.compose import CONF
from rl.config.help import show_help
from rl.config.overrides import Overrides, quote
from rl.runs.outcome import with_exit_codes
from rl.runs.plan import Plan, make_plan
from rl.runs.weights import load_weights
from rl.trackers import follow as trackers
from rl.training.session import perform


def main() -> None:
    """Read the command line, and do what it asks for."""
    from hydra._internal.utils import get_args_parser

    args = get_args_parser().parse_args()
    # a full disk is told once, and not by a traceback for each line that train.log cannot take
    logging.raiseExceptions = False
    # acting in NumPy: products too small to share, and the same bits everywhere
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if args.help:
        print(show_help("train.py", args.config_dir))
    elif args.shell_completion:
        _call_hydra(lambda _: None)
    elif args.cfg or args.info or args.hydra_help:
        with_exit_codes(lambda: _show(args))
    elif args.multirun:
        with_exit_codes(lambda: _sweep(args))
    else:
        with_exit_codes(lambda: _run(args))


def _run(args: Namespace) -> None:
    """Validate and build before anything is made; then take the folder, and train in it as Hydra's job."""
    os.environ["HYDRA_FULL_ERROR"] = "1"
    command, overrides = " ".join(sys.argv), Overrides(args.overrides)
    if any(key == "launcher" or key.startswith("launcher.") for key in overrides.keys):
        raise ConfigError("launcher= says how a sweep runs its jobs: type -m with it")
    plan = make_plan(overrides, args.config_dir)
    trackers.make(plan.config.logger)

    from rl.training.build import build  # imports torch: not before the command line is validated

    parts = build(plan.config)
    if plan.weights:
        load_weights(parts.agent, plan.weights, plan.config.device)
    plan.take_folder()
    sys.argv[1:] = [*_flags(args), *_hydra_overrides(plan, overrides)]
    _call_hydra(lambda _: perform(plan, parts, command))


def _hydra_overrides(plan: Plan, typed: Overrides) -> list[str]:
    """What Hydra is to do: use the folder, and leave the .hydra of a run that continues as it is."""
    folder = os.path.abspath(plan.folder)  # as Hydra will name it: without ..
    own = typed.hydra.drop("hydra.run.dir")
    target = f"hydra.run.dir={quote(folder)}"
    if plan.manifest:
        return [*own.for_hydra(), target, "hydra.output_subdir=null"]
    return [*Overrides([*own, *plan.overrides]).for_hydra(), target]


def _sweep(args: Namespace) -> None:
    """Validate every job of a sweep before anything is made; then let its launcher run them."""
    from rl.sweeps.plan import plan_sweep
    from rl.sweeps.sweep import run_sweep
    from rl.training.build import check_parts_of

    sweep = plan_sweep(args.overrides, args.config_dir, check=check_parts_of)
    raise SystemExit(run_sweep(sweep, shlex.join(sys.argv)))


def _show(args: Namespace) -> None:
    """Hydra shows a configuration, or its own help."""
    sys.argv[1:] = [*_flags(args), *Overrides(args.overrides).for_hydra()]
    _call_hydra(lambda _: None)


def _flags(args: Namespace) -> list[str]:
    return [word for word in sys.argv[1:] if word not in args.overrides]


def _call_hydra(job: Callable[[DictConfig], float | None]) -> None:
    """Hydra makes the folder that `sys.argv` names, sets up the log and calls the job there."""
    hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()


if __name__ == "__main__":
    main()
