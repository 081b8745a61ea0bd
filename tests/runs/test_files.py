from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rl.runs import files

WRITERS = [files.write_new, files.write_atomic, files.append]


def no_space(*paths: Any, **_: Any) -> Any:
    raise OSError(
        errno.ENOSPC, os.strerror(errno.ENOSPC), *(path for path in paths[:1] if isinstance(path, Path))
    )


@pytest.mark.parametrize("write", WRITERS)
def test_short_writes_are_continued(
    write: Callable[[Path, bytes], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data)[:3]))
    write(tmp_path / "f", b"0123456789")
    assert (tmp_path / "f").read_bytes() == b"0123456789"


@pytest.mark.parametrize("write", WRITERS[:2])
@pytest.mark.parametrize("call", ["write", "fsync", "replace", "open"])
def test_a_full_disk_error_names_the_file_and_leaves_nothing(
    write: Callable[[Path, bytes], None], call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (write, call) == (files.write_new, "replace"):
        return  # it does not rename
    (tmp_path / "old").write_bytes(b"as it was")
    target = tmp_path / ("old" if write is files.write_atomic else "new")
    monkeypatch.setattr(os, call, no_space)
    with pytest.raises(OSError, match="No space") as caught:
        write(target, b"new")
    assert caught.value.errno == errno.ENOSPC
    assert str(caught.value.filename).startswith(str(tmp_path))
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"old": b"as it was"}


@pytest.mark.parametrize("call", ["symlink", "replace"])
def test_a_link_that_cannot_be_made_leaves_the_old_one(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.point_link(tmp_path / "link", "old")
    monkeypatch.setattr(os, call, no_space)
    with pytest.raises(OSError, match="No space"):
        files.point_link(tmp_path / "link", "new")
    assert {path.name: os.readlink(path) for path in tmp_path.iterdir()} == {"link": "old"}


def test_an_error_while_appending_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "write", no_space)
    with pytest.raises(OSError, match=r"rows\.csv"):
        files.append(tmp_path / "rows.csv", b"1")


def test_a_new_file_is_never_written_over_another(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"first")
    with pytest.raises(FileExistsError):
        files.write_new(tmp_path / "f", b"second")
    assert (tmp_path / "f").read_bytes() == b"first"


def test_what_a_kill_left_is_written_over(tmp_path: Path) -> None:
    (tmp_path / ".f.tmp").write_bytes(b"half")
    (tmp_path / ".l.tmp").symlink_to("nowhere")
    files.write_atomic(tmp_path / "f", b"whole")
    files.point_link(tmp_path / "l", "f")
    assert (tmp_path / "l").read_bytes() == b"whole"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f", "l"]


def test_data_is_synced_before_its_name_and_both_before_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, real=real: (calls.append(name), real(*a))[1])
    files.write_atomic(tmp_path / "f", b"data")
    assert calls == ["fsync", "replace", "fsync"]


def test_a_file_shorter_than_its_cut_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"12345")
    files.cut(tmp_path / "f", 3)
    assert (tmp_path / "f").read_bytes() == b"123"
    with pytest.raises(ValueError, match="holds 3 bytes"):
        files.cut(tmp_path / "f", 4)
