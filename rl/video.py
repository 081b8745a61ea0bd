"""MP4 videos of rendered environments."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import gymnasium as gym
import numpy as np

DEFAULT_FPS = 30


class Video:
    """A context in which frames become an H.264 file; it appears under its name only when it is whole."""

    def __init__(self, path: Path) -> None:
        self.path, self.temporary = path, path.with_name(f".{path.name}.tmp")
        self.container: Any = None
        self.stream: Any = None

    def __enter__(self) -> Video:
        import av

        self.path.parent.mkdir(exist_ok=True)
        self.container = av.open(str(self.temporary), "w", format="mp4")
        return self

    def add_frame_of(self, env: gym.Env) -> None:
        """Add what the env shows now."""
        import av

        image = np.asarray(env.render())
        image = np.pad(image, [(0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)], mode="edge")  # H.264 wants even sizes
        if self.stream is None:
            fps = Fraction(env.metadata.get("render_fps") or DEFAULT_FPS).limit_denominator(1000)
            self.stream = self.container.add_stream("libx264", rate=fps)
            self.stream.height, self.stream.width = image.shape[:2]
            self.stream.pix_fmt = "yuv420p"
        for packet in self.stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
            self.container.mux(packet)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None and self.stream is not None:
            for packet in self.stream.encode():
                self.container.mux(packet)
        self.container.close()
        if kind is None:
            self.temporary.replace(self.path)
        else:
            self.temporary.unlink(missing_ok=True)
