"""A folder in a bucket, or wherever else an fsspec URL points. What a user can cure is one message."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from rl.config import install_line
from rl.runs.manifest import DamagedError
from rl.runs.outcome import Refused

_LOCAL = ("file", "local")
_WITH_FOLDERS = ("sftp", "ssh", "smb", "ftp", "hdfs", "webhdfs")  # where a folder must be made before a file
_EXTRAS = {"s3": "s3", "s3a": "s3"}
_AT_ONCE = 32 << 20  # bytes up to which a file is sent in one request


def is_url(text: str | None) -> bool:
    """Whether a text names a place by URL, not a folder of this machine."""
    return text is not None and "://" in text


class Bucket:
    """The files below a URL, by their names relative to it. Methods raise what the file system raises."""

    def __init__(self, url: str) -> None:
        """Refused if no file system can be had for the URL."""
        self.url = url.rstrip("/")
        scheme = self.url.partition("://")[0].rpartition("::")[2]
        try:
            from fsspec.core import url_to_fs

            options = {"auto_mkdir": True} if scheme in _LOCAL else {}
            self.fs, self.path = url_to_fs(self.url, **options)
        except ImportError as error:
            extra = _EXTRAS.get(scheme)
            how = f"{error.name or 's3fs'} is missing: {install_line(extra)}" if extra else str(error)
            raise Refused(f"{url}: {how}") from error
        except ValueError as error:
            known = "s3://bucket/folder, gs://, az://, file:///folder or what else fsspec knows"
            raise Refused(f"{url}: {error}; type {known}") from error
        except Exception as error:  # such as credentials that a file system asks for when it is made
            raise Refused(f"{url}: {explain(error)}") from error
        self._local, self._makes_folders = scheme in _LOCAL, scheme in _WITH_FOLDERS

    def _full(self, name: str) -> str:
        return f"{self.path.rstrip('/')}/{name}"

    def sizes(self) -> dict[str, int]:
        """Every file with its size in bytes; none if nothing is there."""
        self.fs.invalidate_cache()
        try:
            found = self.fs.find(self.path, detail=True)
        except FileNotFoundError:
            return {}
        start = self.fs._strip_protocol(self.path).rstrip("/") + "/"
        return {
            path.removeprefix(start): int(info["size"] or 0)
            for path, info in found.items()
            if path.startswith(start)
        }

    def check(self) -> None:
        """FileNotFoundError if what holds the files is not there: the bucket, or the folder on a disk."""
        holder = self.path if self._local else self.path.partition("/")[0]
        if holder and not self.fs.exists(holder):
            raise FileNotFoundError(f"the bucket {holder} does not exist")

    def read(self, name: str) -> bytes:
        """A file's bytes. FileNotFoundError if there is none."""
        return bytes(self.fs.cat_file(self._full(name)))

    def write(self, name: str, data: bytes) -> None:
        """Make or replace a file: readers see the old content or the new one."""
        path = self._full(name)
        if self._makes_folders:
            self.fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        if self._local:
            self.fs.pipe_file(f"{path}.tmp", data)
            os.replace(f"{path}.tmp", path)
        else:
            self.fs.pipe_file(path, data)

    def create(self, name: str, data: bytes) -> None:
        """Make a file. FileExistsError if there is one, as far as the file system can tell."""
        path = self._full(name)
        if self._makes_folders:
            self.fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        if self.fs.exists(path):
            raise FileExistsError(path)
        if self._local:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with open(path, "xb") as file:
                file.write(data)
            return
        try:
            self.fs.pipe_file(path, data, mode="create")
        except (NotImplementedError, TypeError):  # it has no such mode
            self.fs.pipe_file(path, data)

    def send(self, name: str, file: BinaryIO, size: int) -> None:
        """Upload an open file of this machine; that it is deleted meanwhile does no harm."""
        if size <= _AT_ONCE:
            file.seek(0)
            return self.write(name, file.read())
        path, opened = self._full(name), f"/proc/self/fd/{file.fileno()}"
        if self._makes_folders:
            self.fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        source = opened if os.path.exists(opened) else file.name
        if self._local:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, f"{path}.tmp")
            return os.replace(f"{path}.tmp", path)
        self.fs.put_file(source, path)
        return None

    def fetch(self, name: str, path: Path) -> None:
        """Download a file. FileNotFoundError if there is none."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.fs.get_file(self._full(name), str(path))

    def remove(self, name: str) -> None:
        """Delete a file, if it is there."""
        try:
            self.fs.rm_file(self._full(name))
        except FileNotFoundError:
            return


def explain(error: BaseException) -> str:
    """What went wrong in a bucket, in one line, with what a user can do."""
    text = " ".join(str(error).split()) or type(error).__name__
    kind = type(error).__name__
    if "Credentials" in kind or "credentials" in text:
        return f"no credentials ({text}); set them as your cloud's own tools have them, such as AWS_PROFILE"
    if isinstance(error, FileNotFoundError) and "bucket" in text.lower():
        return f"no such bucket ({text})"
    if isinstance(error, PermissionError):
        return f"not allowed ({text})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{kind}: {text}"


@contextmanager
def refusing(url: str) -> Iterator[None]:
    """What a file system raises in here refuses a command that has not begun."""
    try:
        yield
    except (Refused, DamagedError):
        raise
    except Exception as error:
        raise Refused(f"{url}: {explain(error)}") from error
