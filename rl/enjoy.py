"""enjoy.py: watch a trained agent, or score it. Reads a run's folder and writes nothing there but videos."""

from __future__ import annotations

import os
import statistics
from argparse import Namespace
from collections import deque
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import hydra

from rl.config import ConfigError, EnjoyConfig, RunConfig, read_config
from rl.config.compose import CONF, compose
from rl.config.help import show_help
from rl.config.hydra_words import read_flags
from rl.config.invocation import set_flags
from rl.config.overrides import Overrides
from rl.config.text import counted
from rl.runs.bucket import is_url
from rl.runs.completion import completed
from rl.runs.fetch import fetch
from rl.runs.find import is_run, latest_run
from rl.runs.history import saved_config
from rl.runs.outcome import Refused, with_exit_codes
from rl.runs.weights import Weights, load_weights, read_weights

if TYPE_CHECKING:
    from rl.algos.agent import Agent
    from rl.envs.make import EnvFactory


@dataclass(frozen=True)
class Enjoyed:
    """Episodes that were played: their returns, and where the video of them is, if one was made."""

    returns: list[float]
    video: Path | None


@dataclass(frozen=True)
class Player:
    """A run's agent with the weights of some moment, and what makes its envs."""

    agent: Agent
    weights: Weights
    make_env: EnvFactory
    title: str


def load_player(folder: Path, ckpt: str, device: str) -> Player:
    """The agent of a run. Refused or ConfigError if it cannot be had."""
    weights = read_weights(folder, ckpt)

    from rl.training.build import build_env_factory, build_player

    trained: RunConfig = read_config(saved_config(folder), RunConfig)
    trained.device = device
    agent = build_player(trained)
    load_weights(agent, weights, device)
    return Player(
        agent,
        weights,
        build_env_factory(trained.env),
        f"{trained.env.id} with the {weights.name} weights of {folder}",
    )


def enjoy(config: EnjoyConfig) -> Enjoyed:
    """Play episodes with a run's weights, and print their returns. Refused or ConfigError if it cannot."""
    outputs = Path(config.outputs)
    folder = latest_run(outputs) if config.run == "latest" else Path(config.run)
    if is_url(config.run):
        folder, said, _ = fetch(config.run, outputs, reading=True, key="run")
        print("\n".join(said))
    if not is_run(folder):
        raise Refused(f"run={config.run}: no run is there; type run=latest, or a run's folder under outputs/")
    if config.render == "human" and not _has_display():
        raise Refused(
            "render=human: there is no display; type render=video for a file, or render=none for scores"
        )
    render = config.render or ("human" if _has_display() else "video")
    if render == "video":
        os.environ.setdefault("MUJOCO_GL", "egl")  # it draws without a display
        if not _has_display():
            os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # so does SDL, which else complains
    player = load_player(folder, config.ckpt, config.device)

    from rl.envs.video import Video, new_path
    from rl.training.evaluate import play
    from rl.training.metrics import MOVING_AVERAGE

    print(player.title)
    recent: deque[float] = deque(maxlen=MOVING_AVERAGE)
    count = 0

    def report(total: float, length: int) -> None:
        nonlocal count
        count += 1
        recent.append(total)
        print(
            f"episode {count}: return {total:.2f}, length {length}, total_reward_ma "
            f"{statistics.fmean(recent):.2f}",
            flush=True,
        )

    play_with = partial(
        play,
        player.agent,
        episodes=config.episodes,
        seed=config.seed,
        max_steps=config.max_steps,
        explore=not config.deterministic,
        on_episode=report,
    )
    path: Path | None = None
    if render == "video":
        path = new_path(folder / "video" / f"{config.ckpt}-{config.seed}.{config.video.format}")
        tiles = min(config.video.grid, config.episodes)
        with Video(path, caption=config.video.caption, tiles=tiles) as video:
            scores = play_with(
                partial(player.make_env, render_mode="rgb_array"), width=tiles, on_step=video.add_frame_of
            )
        print(f"video: {path}")
    else:
        scores = play_with(
            partial(player.make_env, render_mode="human" if render == "human" else None), width=1
        )
    returns, cut = scores.returns, f", {scores.note}" if scores.cut else ""
    print(
        f"mean return {statistics.fmean(returns):.2f}, std {statistics.pstdev(returns):.2f},"
        f" min {min(returns):.2f}, max {max(returns):.2f} over {counted(len(returns), 'episode')}{cut}"
    )
    return Enjoyed(returns, path)


def _has_display() -> bool:
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def main() -> None:
    """Read the command line and play."""
    from hydra._internal.utils import get_args_parser

    args = get_args_parser().parse_intermixed_args()  # flags wherever they stand
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if args.shell_completion:
        if not completed(args.overrides):
            _call_hydra()
    else:
        with_exit_codes(lambda: _do(args))


def _do(args: Namespace) -> None:
    if args.multirun:
        raise ConfigError("enjoy.py plays one run: type it without -m")
    set_flags(read_flags(args, "enjoy"))
    overrides = Overrides(args.overrides)
    for text in overrides.swept.texts:
        raise ConfigError(f"{text}: several values; enjoy.py plays one run")
    config = compose(overrides, EnjoyConfig, "enjoy", config_dir=args.config_dir).config
    if args.help:
        print(show_help("enjoy.py", overrides, args.config_dir))
    elif args.cfg or args.info or args.hydra_help:
        _call_hydra()
    else:
        enjoy(config)


def _call_hydra() -> None:
    hydra.main(version_base="1.3", config_path=str(CONF), config_name="enjoy")(lambda _: None)()


if __name__ == "__main__":
    main()
