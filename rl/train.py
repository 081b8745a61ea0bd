"""train.py: a command line becomes a run, or goes on with one."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig

from rl.config import ConfigError, compose
from rl.config.help import show_help
from rl.runs.outcome import refuse_or
from rl.runs.plan import Plan, make_plan
from rl.runs.weights import load_weights
from rl.trackers import follow as trackers
from rl.training.session import perform

if TYPE_CHECKING:
    from rl.training.build import Parts


log = logging.getLogger("encore")
_prepared: list[tuple[Plan, Parts]] = []  # what main judged, for the job that Hydra then calls


def job(_: DictConfig) -> float | None:
    """What Hydra calls, in the run's folder."""
    plan, parts = _prepared[0]
    return perform(plan, parts, " ".join(_command or sys.argv))


_command: list[str] = []  # as it was typed, before it is rewritten for Hydra


def main() -> None:
    """Refuse what cannot be, before anything is made; then let Hydra make the folder and call `job`."""
    from hydra._internal.utils import get_args_parser

    args = get_args_parser().parse_args()
    # a full disk is told once, and not by a traceback for each line that train.log cannot take
    logging.raiseExceptions = False
    # acting in NumPy: products too small to share, and the same bits everywhere
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if args.help:
        print(show_help("train.py", args.config_dir))
        return
    _command[:] = sys.argv
    if args.multirun and not (args.shell_completion or args.cfg or args.info or args.hydra_help):
        refuse_or(lambda: _sweep(args))
    refuse_or(lambda: _prepare(args))
    refuse_or(hydra.main(version_base="1.3", config_path=str(compose.CONF), config_name="config")(job))


def _prepare(args: Any) -> None:
    """Judge the command line, and rewrite it into what Hydra is to do."""
    flags = [word for word in sys.argv[1:] if word not in args.overrides]
    overrides = compose.quote_places(args.overrides)
    if args.shell_completion or args.cfg or args.info or args.hydra_help:  # Hydra shows something and leaves
        if not args.shell_completion:
            sys.argv[1:] = [*flags, *compose.for_hydra(overrides)]
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"
    if len(compose.drop(overrides, "launcher", "launcher.")) < len(overrides):
        raise ConfigError("launcher= says how a sweep runs its jobs: type -m with it")
    plan = make_plan(overrides, args.config_dir)
    parts = _build(plan)
    folder = os.path.abspath(plan.folder)  # as Hydra will name it: without ..
    _prepared[:] = [(plan, parts)]
    place = [f"hydra.run.dir={compose.quote(folder)}"]
    own = compose.drop(compose.hydra_only(overrides), "hydra.run.dir")
    if plan.manifest:  # the folder's .hydra stays as Hydra wrote it at the start
        place.append("hydra.output_subdir=null")
    else:
        own += plan.overrides
    sys.argv[1:] = [*flags, *compose.for_hydra(own), *place]


def _build(plan: Plan) -> Parts:
    """All that can still refuse; then the folder is taken."""
    from rl.training.build import build

    trackers.make(plan.config.logger)
    parts = build(plan.config)
    if plan.weights:
        load_weights(parts.agent, plan.weights, plan.config.device)
    plan.take_folder()
    return parts


def _sweep(args: Any) -> None:
    """Judge every job of a sweep before anything is made; then let its launcher run them."""
    from rl.sweeps.plan import plan_sweep
    from rl.sweeps.sweep import run_sweep
    from rl.training.build import check_parts_of

    planned = plan_sweep(compose.quote_places(args.overrides), args.config_dir, check=check_parts_of)
    raise SystemExit(run_sweep(planned, shlex.join(sys.argv)))


if __name__ == "__main__":
    main()
