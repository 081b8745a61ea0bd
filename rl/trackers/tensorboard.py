"""TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rl.trackers.tracker import Row, RunInfo, require


class TensorBoard:
    """An event file in the run's `tensorboard/`, rewritten by every session.

    A restart event at step 0 makes a TensorBoard that is already open discard the previous rows.
    """

    SUFFIX = ".encore"

    def __init__(self) -> None:
        require("tensorboard")

    def open(self, run: RunInfo) -> None:
        """Write a new event file with the configuration, and delete those of earlier sessions."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.run, folder = run, run.folder / "tensorboard"
        old = list(folder.glob(f"events.out.tfevents.*{self.SUFFIX}"))
        self.writer = EventFileWriter(str(folder), filename_suffix=self.SUFFIX)
        self._delete_old(old)
        self.writer.add_event(Event(wall_time=run.started_at, summary=self._hyper_parameters(run)))

    def _delete_old(self, old: list[Path]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        for path in old:
            path.unlink()
        self.writer.add_event(
            Event(wall_time=self.run.started_at, step=0, session_log=SessionLog(status=SessionLog.START))
        )

    def _hyper_parameters(self, run: RunInfo) -> Any:
        """The data of the HPARAMS page; the package's own function for it needs TensorFlow."""
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams import metadata, plugin_data_pb2

        info = plugin_data_pb2.SessionStartInfo(start_time_secs=run.started_at)
        for name, value in (run.tags | run.flat_config).items():
            cell = info.hparams[name]
            if isinstance(value, bool):
                cell.bool_value = value
            elif isinstance(value, str):
                cell.string_value = value
            else:
                cell.number_value = value
        about = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(session_start_info=info))
        tag, tensor = metadata.SESSION_START_INFO_TAG, metadata.NULL_TENSOR
        return Summary(value=[Summary.Value(tag=tag, metadata=about, tensor=tensor)])

    def add(self, rows: Sequence[Row]) -> None:
        """One event for each row."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        for row in rows:
            values = [Summary.Value(tag=name, simple_value=value) for name, value in row.values.items()]
            at = self.run.started_at + row.wall_s
            self.writer.add_event(Event(wall_time=at, step=row.frames, summary=Summary(value=values)))
        self.writer.flush()

    def close(self, finished: bool) -> None:
        """Close the file."""
        self.writer.close()
