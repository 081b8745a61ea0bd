"""Weights & Biases."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from rl.config import ConfigError
from rl.trackers.tracker import Followed, Row, require


class Wandb:
    """A run of Weights & Biases, of the same id in every session. Offline it is one folder in the run's
    `wandb/`, made anew by every session; a folder that was synced before is synced again over it. Online,
    rows go on after the last step."""

    def __init__(self, project: str, entity: str | None, mode: str | None) -> None:
        """ConfigError if it is to be online and nobody is logged in."""
        require("wandb")
        self.project, self.entity, self.mode = project, entity, mode or os.environ.get("WANDB_MODE")
        if self.mode == "online" and not self._logged_in():
            raise ConfigError(
                "W&B is to be online, and nobody is logged in: type wandb login, or logger.wandb.mode=offline"
            )

    def _logged_in(self) -> bool:
        import wandb

        return bool(wandb.api.api_key)

    def open(self, run: Followed) -> None:
        """Begin a run, or go on with it."""
        import wandb

        mode = self.mode or ("online" if self._logged_in() else "offline")
        self._forget((run.folder / "wandb").glob(f"offline-run-*-{run.id}"))
        self.session = wandb.init(
            project=self.project,
            entity=self.entity,
            id=run.id,
            resume="allow" if mode == "online" else None,
            mode=mode,
            dir=run.folder,
            name=run.name,
            group=run.tags.get("sweep"),
            tags=[f"{name}={value}"[:64] for name, value in run.tags.items()],
            config=run.config,
            allow_val_change=True,
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True
            ),
        )
        self._first = self.session.starting_step

    def _forget(self, old: Iterable[Path]) -> None:
        for folder in old:
            shutil.rmtree(folder)

    def add(self, rows: Sequence[Row]) -> None:
        """Log rows; those of equal frames become one step."""
        for row in rows:
            if row.frames >= self._first:
                self.session.log(row.values, step=row.frames)

    def close(self, finished: bool) -> None:
        """Wait until all is written or sent."""
        import wandb

        self.session.finish(exit_code=0 if finished else 1)
        wandb.teardown()  # offline, its file may be whole only after this
