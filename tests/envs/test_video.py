"""Videos: every step of every episode is in them, as MP4 and as GIF, side by side and with a caption."""

from __future__ import annotations

from pathlib import Path

import av
import gymnasium as gym
import numpy as np
import pytest
from short_runs import TINY, go

from rl.config import EnjoyConfig
from rl.config.compose import compose
from rl.enjoy import enjoy
from rl.envs.make import make_factory
from rl.envs.video import Video, captioned, new_path, tiled

pytestmark = pytest.mark.usefixtures("few_scores")


class Grey(gym.Env):
    """Shows its step as a shade of grey, on an odd number of pixels."""

    metadata = {"render_fps": 25}  # noqa: RUF012

    def __init__(self) -> None:
        self.shade = 0

    def render(self) -> np.ndarray:
        return np.full((31, 41, 3), self.shade, np.uint8)


def frames_of(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize("suffix", ["mp4", "gif"])
def test_a_frame_is_written_once_all_envs_have_stepped(suffix: str, tmp_path: Path) -> None:
    short, long, path = Grey(), Grey(), tmp_path / f"a.{suffix}"
    with Video(path, tiles=2) as video:
        for step in range(6):
            for env in (short, long) if step < 3 else (long,):
                env.shade = 40 * step
                video.add_frame_of(env)
    frames = frames_of(path)
    assert frames[0].shape == (32, 82, 3)
    shades = [(int(frame[10, 10, 0]), int(frame[10, 70, 0])) for frame in frames]
    np.testing.assert_allclose(shades, [(0, 0), (40, 40), (80, 80), (80, 120), (80, 160), (80, 200)], atol=6)
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == 25
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_caption_shows_return_and_step() -> None:
    image = np.full((210, 160, 3), 100, np.uint8)
    one, two = captioned(image, "return 1.0   step 10"), captioned(image, "return 2.0   step 11")
    assert (image == 100).all()
    assert not np.array_equal(one, two)
    assert (one[30:] == 100).all()
    assert one[:30].max() == 255
    assert captioned(image[:4, :9], "return 1.0").shape == (4, 9, 3)


def test_tiles_make_about_a_square() -> None:
    shapes = {count: tiled([np.zeros((2, 3, 3), np.uint8)], count).shape for count in (1, 2, 3, 5, 9, 10)}
    assert shapes == {1: (2, 3, 3), 2: (2, 6, 3), 3: (4, 6, 3), 5: (4, 9, 3), 9: (6, 9, 3), 10: (6, 12, 3)}


def test_enjoy_side_by_side_does_not_change_scores(tmp_path: Path) -> None:
    assert go(tmp_path / "run", *TINY) == 0

    def played(*overrides: str) -> list[float]:
        line = [f"run={tmp_path / 'run'}", "ckpt=last", "episodes=3", *overrides]
        return enjoy(compose(line, EnjoyConfig, "enjoy").config).returns

    alone = played("render=none")
    assert played("render=video", "video.grid=3", "video.caption=true", "video.format=gif") == alone
    frames = frames_of(tmp_path / "run" / "video" / "last-0.gif")
    assert (len(frames), frames[0].shape) == (max(alone) + 1, (800, 1200, 3))


def test_a_video_never_replaces_another(tmp_path: Path) -> None:
    names = []
    for _ in range(3):
        path = new_path(tmp_path / "best-0.mp4")
        path.touch()
        names.append(path.name)
    assert names == ["best-0.mp4", "best-0-2.mp4", "best-0-3.mp4"]


def test_an_unversioned_id_is_warned_of_once(recwarn: pytest.WarningsRecorder) -> None:
    make = make_factory("CartPole", {}, [])
    for _ in range(3):
        make().close()
    assert [str(w.message).count("latest versioned") for w in recwarn] == [1]


def test_mujoco_writes_neither_warnings_nor_a_log(capfd: pytest.CaptureFixture[str]) -> None:
    make_factory("HalfCheetah-v5", {}, [])().close()
    assert capfd.readouterr() == ("", "")
    assert list(Path.cwd().iterdir()) == []
