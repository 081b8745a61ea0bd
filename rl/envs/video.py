"""Videos of rendered environments, as MP4 or GIF, one at a time or several side by side."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import gymnasium as gym
import numpy as np

DEFAULT_FPS = 30


def new_path(wanted: Path) -> Path:
    """The path, with a number if there is a file already."""
    numbered = (wanted.with_stem(f"{wanted.stem}-{number}") for number in itertools.count(2))
    return next(path for path in itertools.chain([wanted], numbered) if not path.exists())


class Video:
    """A context that writes frames to a GIF or H.264 file (by suffix), in place only once complete."""

    def __init__(self, path: Path, *, caption: bool = False, tiles: int = 1) -> None:
        """`caption`: show return and step in every tile; `tiles`: the number of environments side by side."""
        self.path, self.temporary = path, path.with_name(f".{path.name}.tmp")
        self.caption, self.tiles = caption, tiles
        self.container: Any = None
        self.stream: Any = None
        self._palette: Any = None  # for a GIF: chooses 256 colours for each frame
        self._images: dict[gym.Env, np.ndarray] = {}  # the latest image of each environment
        self._new: set[gym.Env] = set()  # environments that have stepped since the last frame

    def __enter__(self) -> Video:
        import av

        self.path.parent.mkdir(exist_ok=True)
        self.container = av.open(str(self.temporary), "w", format=self.path.suffix[1:])
        return self

    def add_frame_of(self, env: gym.Env, total: float = 0.0, step: int = 0) -> None:
        """Add the env's current image. A frame is written once every env has added one."""
        if env in self._new:
            self._write(env)
        image = np.asarray(env.render())
        self._images[env] = captioned(image, f"return {total:.1f}   step {step}") if self.caption else image
        self._new.add(env)

    def _write(self, env: gym.Env) -> None:
        import av

        self._new.clear()
        image = tiled(list(self._images.values()), self.tiles)
        # H.264 needs even sizes
        image = np.pad(image, [(0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)], mode="edge")
        if self.stream is None:
            self._open_stream(env, *image.shape[:2])
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        if self._palette is not None:
            self._palette.push(frame)
            frame = self._palette.pull()
            frame.pts = None
        self._mux(frame)

    def _open_stream(self, env: gym.Env, height: int, width: int) -> None:
        fps = Fraction(env.metadata.get("render_fps") or DEFAULT_FPS).limit_denominator(1000)
        gif = self.path.suffix == ".gif"
        self.stream = self.container.add_stream("gif" if gif else "libx264", rate=fps)
        self.stream.height, self.stream.width = height, width
        self.stream.pix_fmt = "pal8" if gif else "yuv420p"
        self._palette = _palette(height, width, fps) if gif else None

    def _mux(self, frame: Any) -> None:
        for packet in self.stream.encode(frame):
            self.container.mux(packet)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._new:
            self._write(next(iter(self._new)))
            self._mux(None)
        self.container.close()
        if kind is None:
            self.temporary.replace(self.path)
        else:
            self.temporary.unlink(missing_ok=True)


def _palette(height: int, width: int, fps: Fraction) -> Any:
    """A filter that chooses the best 256 colours for each frame."""
    import av

    graph = av.filter.Graph()
    source = graph.add_buffer(width=width, height=height, format=av.VideoFormat("rgb24"), time_base=1 / fps)
    split, sink = graph.add("split"), graph.add("buffersink")
    colours, use = graph.add("palettegen", "stats_mode=single"), graph.add("paletteuse", "new=1")
    source.link_to(split)
    split.link_to(use, 0, 0)
    split.link_to(colours, 1, 0)
    colours.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    return graph


def captioned(image: np.ndarray, text: str) -> np.ndarray:
    """The image with a line of text, white on black, in its upper left corner."""
    import pygame

    pygame.font.init()
    font = pygame.font.Font(None, max(14, image.shape[0] // 16))
    letters = np.swapaxes(pygame.surfarray.array3d(font.render(f" {text} ", True, "white", "black")), 0, 1)
    height, width = min(letters.shape[0], image.shape[0]), min(letters.shape[1], image.shape[1])
    image = image.copy()
    image[:height, :width] = letters[:height, :width]
    return image


def tiled(images: list[np.ndarray], tiles: int) -> np.ndarray:
    """Images of one size in a roughly square grid of `tiles`; missing ones are black."""
    columns = math.ceil(math.sqrt(tiles))
    images = [*images, *[np.zeros_like(images[0])] * (columns * math.ceil(tiles / columns) - len(images))]
    rows = [np.concatenate(images[n : n + columns], axis=1) for n in range(0, len(images), columns)]
    return np.concatenate(rows)
