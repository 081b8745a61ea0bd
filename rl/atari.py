"""Registers `Atari/<Game>-v5`, as env ids name it: `rl.atari:Atari/Pong-v5`."""

from rl.envs.atari import Atari, AtariVector

__all__ = ["Atari", "AtariVector"]
