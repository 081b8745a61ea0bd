"""Durable files: once a function here returns, what it wrote survives a kill and a power loss.

Everything raises OSError where the disk does; a partly written new file is removed first where that is
possible.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_RL = Path(__file__).resolve().parent.parent
# where code of users is called: environments, agents, callbacks
_OF_USERS = (
    "envs/",
    "algos/",
    "config/instantiate.py",
    "training/build.py",
    "training/collector.py",
    "training/evaluate.py",
    "training/loop.py",
)
_HASH = "line_sha256"  # the last key of a line of JSON: the hash of what stands before it
Buffer = Any  # bytes, or an array of bytes: whatever memoryview takes (Python 3.12 has a type for it)


def write_new(path: Path, *data: Buffer) -> None:
    """Write bytes to a file that must not exist yet (FileExistsError otherwise) and fsync it."""
    with _opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as descriptor, _or_else_removed(path):
        for part in data:
            _write_all(descriptor, part)
        os.fsync(descriptor)


def write_atomic(path: Path, data: bytes) -> None:
    """Replace a file, or make it: readers see the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.tmp")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    write_new(temporary, data)
    with _or_else_removed(temporary):
        os.replace(temporary, path)
    sync_folder(path.parent)


def append(path: Path, data: bytes) -> None:
    """Add to the end of a file, making it if needed; not yet durable, see `sync`."""
    with _opened(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) as descriptor:
        _write_all(descriptor, data)


def to_line(values: dict[str, Any]) -> str:
    """A line of JSON with a hash of itself, by which `parse_line` sees a changed bit."""
    return _with_hash(json.dumps(values).removesuffix("}")) + "\n"


def parse_line(line: str) -> Any:
    """What `to_line` was given; a line without a hash is taken as it is. ValueError if it is damaged."""
    text, hashed, _ = line.rpartition(f', "{_HASH}"')
    if not hashed:
        return json.loads(line)
    if line != _with_hash(text):
        raise ValueError("a line is not what was written")
    return json.loads(text + "}")


def cut(path: Path, size: int) -> None:
    """Drop what lies beyond `size` bytes. ValueError if the file is shorter than that."""
    with _opened(path, os.O_WRONLY) as descriptor:
        if os.fstat(descriptor).st_size < size:
            raise ValueError(
                f"{path} holds {os.fstat(descriptor).st_size} bytes; its checkpoint counts on {size}"
            )
        os.ftruncate(descriptor, size)
        os.fsync(descriptor)


def listdir(folder: Path) -> list[str]:
    """The names in a folder; none if it does not exist."""
    return os.listdir(folder) if folder.is_dir() else []


def sync(path: Path) -> None:
    """Make what was appended to a file durable."""
    with _opened(path, os.O_RDONLY) as descriptor:
        os.fsync(descriptor)


sync_folder = sync  # a folder's names are made durable by the same call


def point_link(link: Path, target: str) -> None:
    """Make `link` a symbolic link to `target`, in one step."""
    temporary = link.with_name(f".{link.name}.tmp")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    try:
        os.symlink(target, temporary)
    except OSError as error:
        error.filename = str(link)  # the system's own names the target
        raise
    with _or_else_removed(temporary):
        os.replace(temporary, link)


def read_head(path: str, size: int) -> bytes:
    """Up to the first `size` bytes of a file; fast, for thousands of files."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, size)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    """A descriptor of the file; an error from it names the file, which the system's own does not."""
    descriptor = os.open(path, flags, 0o666)
    try:
        yield descriptor
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _or_else_removed(path: Path) -> Iterator[None]:
    """Remove a file that was not finished, where the disk still lets us."""
    try:
        yield
    except OSError:
        with contextlib.suppress(OSError):  # the first error is the one to report
            os.unlink(path)
        raise


def _write_all(descriptor: int, data: Buffer) -> None:
    view = memoryview(data)
    while view:  # a write may come back short without an error
        view = view[os.write(descriptor, view) :]


def is_exhausted(error: OSError) -> bool:
    """Whether the system has no more to give: file handles or memory. That says nothing of a file."""
    return error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def is_ours(error: OSError) -> bool:
    """Whether an error comes from our own files or from an exhausted system, not from an environment, an
    agent or a callback.
    """
    if is_exhausted(error):
        return True
    ours = [
        Path(frame.f_code.co_filename).relative_to(_RL).as_posix()
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if Path(frame.f_code.co_filename).is_relative_to(_RL)
    ]
    return not ours or ours[-1] == "envs/video.py" or not ours[-1].startswith(_OF_USERS)


def _with_hash(text: str) -> str:
    return f'{text}, "{_HASH}": "{hashlib.sha256(text.encode()).hexdigest()[:16]}"}}'
