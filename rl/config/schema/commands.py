"""The keys of the other commands: enjoy.py, rl.search, rl.report and rl.export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from rl.config.keys import Count, Key, Target


@dataclass
class VideoConfig:
    """Key `video` of enjoy.py."""

    format: Annotated[str, Key("mp4 or gif", choices=("mp4", "gif"))]
    caption: Annotated[bool, Key("the return and the step so far, drawn into the picture")]
    grid: Annotated[int, Key("episodes shown side by side", low=1, high=100)]


@dataclass
class EnjoyConfig:
    """The configuration of enjoy.py."""

    run: Annotated[str, Key("latest, or a run's folder")]
    ckpt: Annotated[str, Key("best, last, or the frames of a kept checkpoint (120k)")]
    episodes: Annotated[int, Key("episodes to play", low=1, high=1_000_000)]
    max_steps: Annotated[Count | None, Key("cut an episode after so many steps; null: never", low=1)]
    seed: Annotated[int, Key("seed of the first episode", low=0, high=2**63 - 1)]
    deterministic: Annotated[bool, Key("the policy's most likely action; false: sampled")]
    render: Annotated[
        str | None,
        Key(
            "human: a window; video: a file in the run's video/; none: only scores; null: a window where"
            " there is a display, else video",
            choices=(None, "human", "video", "none"),
        ),
    ]
    video: VideoConfig
    device: Annotated[str, Key("where networks live", choices=("cpu", "cuda"))]
    outputs: Annotated[str, Key("root of the run folders")]


@dataclass
class SearchConfig:
    """The configuration of rl.search."""

    space: Annotated[
        dict[str, Any],
        Key("what is searched: low and high (with log, step), or choices, for any key of a run"),
    ]
    sampler: Annotated[Target, Key("what proposes values: a sampler of Optuna and its arguments")]
    pruner: Annotated[
        Target,
        Key("what ends hopeless trials early, by their evaluations: a pruner of Optuna and its arguments"),
    ]
    n_trials: Annotated[int, Key("trials of all sessions together", low=1, high=1_000_000)]
    resume: Annotated[str | None, Key("latest, or a search's folder: go on with that search")]
    save_as: Annotated[str | None, Key("write the best trial as conf/experiment/<save_as>.yaml")]


@dataclass
class ReportConfig:
    """The configuration of rl.report."""

    out: Annotated[
        str | None,
        Key("the folder of the report; null: report/ in what is reported, for several under outputs"),
    ]
    center: Annotated[str, Key("over seeds: the interquartile mean, or the mean", choices=("iqm", "mean"))]
    watch: Annotated[bool, Key("write nothing, but show the page on http://127.0.0.1 while runs train")]
    port: Annotated[int, Key("of that page; 0: any free one", low=0, high=65535)]
    outputs: Annotated[str, Key("root of the run folders: where latest is looked for")]


@dataclass
class ExportConfig:
    """The configuration of rl.export."""

    run: Annotated[str, Key("latest, or a run's folder")]
    ckpt: Annotated[str, Key("best, last, or the frames of a kept checkpoint (120k)")]
    format: Annotated[
        str,
        Key("onnx: for onnxruntime; torch: a program for torch.export.load", choices=("onnx", "torch")),
    ]
    out: Annotated[
        str | None, Key("the file; null: export/<ckpt>.onnx or export/<ckpt>.pt2 in the run's folder")
    ]
    outputs: Annotated[str, Key("root of the run folders: where latest is looked for")]
