"""Atari 2600 games of ale-py: observations are four grayscale frames of 84 x 84, a step is four game frames.

One C++ object runs one game or N; the observations are the same bytes either way. Rewards are those of the
game and an episode is a whole game; a lost life is reported separately, as `life_lost` in the infos.
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
    """The emulator's options for one of two sets of rules.

    Machado et al. 2018 (v5): each frame repeats the last action with probability 0.25. Mnih et al. 2015: an
    episode begins with up to 30 no-ops, and with FIRE if the game has that action.
    """
    return {
        "repeat_action_probability": 0.0 if deepmind else 0.25,
        "noop_max": 30 if deepmind else 0,
        "use_fire_reset": deepmind,
    }


class AtariVector(AtariVectorEnv):
    """N games on as many threads as torch uses. Observations: uint8 [N, 4, 84, 84], newest frame last.

    The frames before an episode are zeros. An ended episode must be reset by a mask before the next step
    (`AutoresetMode.DISABLED`). With `deepmind` the infos hold `life_lost` [N]: a life was lost but the game
    goes on. A game is truncated after 108,000 frames.
    """

    def __init__(self, game: str, num_envs: int, *, deepmind: bool = False) -> None:
        options = {"num_threads": min(num_envs, torch.get_num_threads()), **rules(deepmind)}
        super().__init__(game, num_envs, frameskip=FRAME_SKIP, reward_clipping=False, **options)
        # the caller resets by mask, in place of the reset in the next step
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.lives_count, self._lives = deepmind, np.zeros(num_envs, np.int32)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin episodes in all envs or those of `options["reset_mask"]`; `seed` is None or one each [N]."""
        if seed is not None:
            mask = np.ones(self.num_envs, np.bool_) if options is None else options["reset_mask"]
            # the emulator takes 31 bits
            seed = np.array([one % 2**31 for one, chosen in zip(seed, mask, strict=True) if chosen])
        obs, infos = super().reset(seed=seed, options=options)
        self._lives = infos["lives"]
        return obs, infos

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[NDArray[np.uint8], NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """One step of every game; rewards are game points."""
        obs, reward, terminated, truncated, infos = super().step(actions)
        if self.lives_count:
            infos["life_lost"] = (infos["lives"] < self._lives) & ~terminated & ~truncated
            self._lives = infos["lives"]
        return obs, reward, terminated, truncated, infos


class Atari(gym.Env):
    """One game, with the observations and rules of `AtariVector`.

    Rendering uses a second emulator in colour and at full size, with the same seeds and actions.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": FRAMES_PER_SECOND / FRAME_SKIP}
    frame_stack, zero_padded = 4, True  # see rl.envs.frame_stack

    def __init__(self, game: str, deepmind: bool = False, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.game = AtariVector(game, 1, deepmind=deepmind)
        self.renderer: AtariVectorEnv | None = None
        self.observation_space = self.game.single_observation_space
        self.action_space = self.game.single_action_space
        if render_mode == "rgb_array":
            image: dict[str, Any] = {"img_height": SCREEN[0], "img_width": SCREEN[1], "grayscale": False}
            options = {"stack_num": 1, "maxpool": False, "num_threads": 1, **rules(deepmind)}
            self.renderer = AtariVectorEnv(game, 1, frameskip=FRAME_SKIP, **image, **options)
            self.screen = np.zeros((*SCREEN, 3), np.uint8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Begin a game; a missing seed is drawn from the env's own generator."""
        super().reset(seed=seed)
        seed = int(self.np_random.integers(2**31)) if seed is None else seed % 2**31
        obs, _ = self.game.reset(seed=[seed])
        if self.renderer:
            self.screen = self.renderer.reset(seed=seed)[0][0, 0]
        return obs[0], {}

    def step(self, action: Any) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Repeat the action for four frames."""
        actions = np.array([action], np.int64)
        obs, reward, terminated, truncated, infos = self.game.step(actions)
        if self.renderer:
            self.screen = self.renderer.step(actions)[0][0, 0]
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
