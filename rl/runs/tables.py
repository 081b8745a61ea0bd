"""metrics.csv and eval.csv as others read them: the complete rows of files that may be growing."""

from __future__ import annotations

import csv
from pathlib import Path


class Tail:
    """The rows of a table as they come."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._columns: list[str] = []
        self._offset = 0  # bytes that were read

    def new_rows(self) -> list[dict[str, str]]:
        """The complete rows that came since the last call. FileNotFoundError if there is no file."""
        text = complete_text(self.path, self._offset)
        self._offset += len(text.encode())
        rows = list(csv.reader(text.splitlines()))
        if rows and not self._columns:
            self._columns = rows.pop(0)
        return [dict(zip(self._columns, row, strict=False)) for row in rows]


def complete_text(path: Path, offset: int = 0) -> str:
    """A table's lines from a byte on, without a last one that is still being written."""
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read()
    return data[: data.rfind(b"\n") + 1].decode()


def read_rows(path: Path) -> list[dict[str, str]]:
    """All complete rows of a table; none if there is no file yet."""
    return Tail(path).new_rows() if path.exists() else []


def last_row(path: Path) -> dict[str, str] | None:
    """The last complete row of a table, or None. Only the file's end is read."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        header = file.readline()
    lines = complete_text(path, max(len(header), path.stat().st_size - 4096)).splitlines()
    return next(csv.DictReader([header.decode(), lines[-1]])) if lines else None
