"""Atari 2600 games of ale-py: observations are four grayscale frames of 84 x 84 bytes, a step is four frames
of the game.

One C++ object makes them all, N games together or one alone: the observations are the same bytes, whichever
is used. Rewards are the game's own and an episode is a whole game; that lives end what is learned from is
said apart, as `life_lost` in the infos.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from ale_py import roms
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

FRAME_SKIP, FRAMES_PER_SECOND, SCREEN = 4, 60, (210, 160)


def rules(deepmind: bool) -> dict[str, Any]:
    """Those of Machado et al. 2018 (v5), where every frame repeats the last action with a chance of 0.25; or
    those of Mnih et al. 2015, where up to 30 no-ops, and FIRE where the game has it, begin an episode."""
    return {
        "repeat_action_probability": 0.0 if deepmind else 0.25,
        "noop_max": 30 if deepmind else 0,
        "use_fire_reset": deepmind,
    }


class AtariVector(AtariVectorEnv):
    """N games, played by as many threads as torch has. Observations uint8 [N, 4, 84, 84], newest frame last,
    zeros before an episode.

    An ended episode's env must be reset by a mask before the next step (`AutoresetMode.DISABLED`). With
    `deepmind` the infos hold `life_lost` [N]: whether a life was lost and the game goes on. A game is
    truncated after 108,000 frames.
    """

    def __init__(self, game: str, num_envs: int, *, deepmind: bool = False) -> None:
        threads = min(num_envs, torch.get_num_threads())
        super().__init__(
            game,
            num_envs,
            num_threads=threads,
            frameskip=FRAME_SKIP,
            reward_clipping=False,
            **rules(deepmind),
        )
        # a reset by mask takes the place of the one in the next step
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.lives_count, self._lives = deepmind, np.zeros(num_envs, np.int32)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin episodes: of all envs, or of those in `options["reset_mask"]` [N]; `seed` is for each of the
        N one, or None.
        """
        if seed is not None:
            mask = np.ones(self.num_envs, np.bool_) if options is None else options["reset_mask"]
            # the emulator takes 31 bits
            seed = np.array([one % 2**31 for one, begins in zip(seed, mask, strict=True) if begins])
        obs, infos = super().reset(seed=seed, options=options)
        self._lives = infos["lives"]
        return obs, infos

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[NDArray[np.uint8], NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """One step of every game; rewards are the points won in it."""
        obs, reward, terminated, truncated, infos = super().step(actions)
        if self.lives_count:
            infos["life_lost"] = (infos["lives"] < self._lives) & ~terminated & ~truncated
            self._lives = infos["lives"]
        return obs, reward, terminated, truncated, infos


class Atari(gym.Env):
    """One game, with the observations and rules of `AtariVector`.

    It renders by a second game with the same seeds and actions, at the size and in the colours of the screen.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": FRAMES_PER_SECOND / FRAME_SKIP}
    frame_stack, zero_padded = 4, True  # see rl.envs.frame_stack

    def __init__(self, game: str, deepmind: bool = False, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.game = AtariVector(game, 1, deepmind=deepmind)
        self.shown: AtariVectorEnv | None = None
        self.observation_space, self.action_space = (
            self.game.single_observation_space,
            self.game.single_action_space,
        )
        if render_mode == "rgb_array":
            as_shown: dict[str, Any] = {
                "img_height": SCREEN[0],
                "img_width": SCREEN[1],
                "grayscale": False,
                "stack_num": 1,
                "maxpool": False,
            }
            self.shown = AtariVectorEnv(
                game, 1, num_threads=1, frameskip=FRAME_SKIP, **as_shown, **rules(deepmind)
            )
            self.screen = np.zeros((*SCREEN, 3), np.uint8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Begin a game; without a seed it is drawn by the generator of the last one."""
        super().reset(seed=seed)
        seed = int(self.np_random.integers(2**31)) if seed is None else seed % 2**31
        obs, _ = self.game.reset(seed=[seed])
        if self.shown:
            self.screen = self.shown.reset(seed=seed)[0][0, 0]
        return obs[0], {}

    def step(self, action: Any) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Four frames with this action."""
        actions = np.array([action], np.int64)
        obs, reward, terminated, truncated, infos = self.game.step(actions)
        if self.shown:
            self.screen = self.shown.step(actions)[0][0, 0]
        info = {"life_lost": True} if "life_lost" in infos and infos["life_lost"][0] else {}
        return obs[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), info

    def render(self) -> NDArray[np.uint8]:  # type: ignore[override]
        """The screen, [210, 160, 3]."""
        return self.screen


for _game in roms.get_all_rom_ids():
    gym.register(
        f"Atari/{_game}-v5",
        "rl.envs.atari:Atari",
        vector_entry_point="rl.envs.atari:AtariVector",
        kwargs={"game": _game},
    )
