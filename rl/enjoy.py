"""enjoy.py: watch a trained agent, or score it. Reads a run's folder and writes nothing there but videos."""

from __future__ import annotations

import os
import statistics
from collections import deque
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import hydra

from rl.config import EnjoyConfig, RunConfig, read_config
from rl.config.compose import CONF, compose
from rl.config.help import show_help
from rl.runs.find import latest_run
from rl.runs.history import saved_config
from rl.runs.outcome import with_exit_codes
from rl.runs.weights import load_weights, read_weights

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
        agent, build_env_factory(trained.env), f"{trained.env.id} with the {weights.name} weights of {folder}"
    )


def enjoy(config: EnjoyConfig) -> Enjoyed:
    """Play episodes with a run's weights, and print their returns. Refused or ConfigError if it cannot."""
    folder = latest_run(Path(config.outputs)) if config.run == "latest" else Path(config.run)
    render = config.render or ("human" if _has_display() else "video")
    if render == "video":
        os.environ.setdefault("MUJOCO_GL", "egl")  # it draws without a display
    player = load_player(folder, config.ckpt, config.device)

    from rl.envs.video import Video
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
        explore=not config.deterministic,
        on_episode=report,
    )
    path: Path | None = None
    if render == "video":
        path = folder / "video" / f"{config.ckpt}-{config.seed}.{config.video.format}"
        tiles = min(config.video.grid, config.episodes)
        with Video(path, caption=config.video.caption, tiles=tiles) as video:
            returns = play_with(
                partial(player.make_env, render_mode="rgb_array"), width=tiles, on_step=video.add_frame_of
            ).returns
        print(f"video: {path}")
    else:
        returns = play_with(
            partial(player.make_env, render_mode="human" if render == "human" else None), width=1
        ).returns
    print(
        f"mean return {statistics.fmean(returns):.2f}, std {statistics.pstdev(returns):.2f},"
        f" min {min(returns):.2f}, max {max(returns):.2f} over {len(returns)} episodes"
    )
    return Enjoyed(returns, path)


def _has_display() -> bool:
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def main() -> None:
    """Read the command line and play."""
    from hydra._internal.utils import get_args_parser

    args = get_args_parser().parse_args()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if args.help:
        print(show_help("enjoy.py"))
    elif args.shell_completion or args.cfg or args.info or args.hydra_help:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="enjoy")(lambda _: None)()
    else:
        with_exit_codes(lambda: enjoy(compose(args.overrides, EnjoyConfig, "enjoy").config))
