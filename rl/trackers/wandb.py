"""Weights & Biases."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from rl.config import ConfigError
from rl.trackers.tracker import Row, RunInfo, require


class Wandb:
    """A Weights & Biases run with the same id in every session.

    Offline it is one folder in the run's `wandb/`, rewritten by every session; syncing it again overwrites
    what was synced before. Online, rows are added after the last step.
    """

    def __init__(self, project: str, entity: str | None, mode: str | None) -> None:
        """ConfigError if mode is online and nobody is logged in."""
        require("wandb")
        self.project, self.entity, self.mode = project, entity, mode or os.environ.get("WANDB_MODE")
        if self.mode == "online" and not self._logged_in():
            raise ConfigError(
                "W&B is to be online, and nobody is logged in: type wandb login, or logger.wandb.mode=offline"
            )

    def _logged_in(self) -> bool:
        import wandb

        return bool(wandb.api.api_key)

    def open(self, run: RunInfo) -> None:
        """Begin or continue the run."""
        import wandb

        mode = self.mode or ("online" if self._logged_in() else "offline")
        self._delete_old((run.folder / "wandb").glob(f"offline-run-*-{run.id}"))
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

    def _delete_old(self, old: Iterable[Path]) -> None:
        for folder in old:
            shutil.rmtree(folder)

    def add(self, rows: Sequence[Row]) -> None:
        """Log rows; rows with equal frames become one step."""
        for row in rows:
            if row.frames >= self._first:
                self.session.log(row.values, step=row.frames)

    def close(self, finished: bool) -> None:
        """Wait until everything is written or sent."""
        import wandb

        self.session.finish(exit_code=0 if finished else 1)
        wandb.teardown()  # offline, the file may be incomplete before this
