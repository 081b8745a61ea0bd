"""Every run's keys, and those of environments, launchers and trackers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from rl.config.keys import FREE, HORIZON, NUMERICS, Count, Key, Target


@dataclass
class EnvConfig:
    """Config group `env`."""

    id: Annotated[str, Key("Gymnasium id, or my_package:MyEnv-v0")]
    kwargs: Annotated[dict[str, Any], Key("keyword arguments for gymnasium.make")]
    wrappers: Annotated[
        list[Target], Key("gymnasium wrappers, innermost first, each a _target_ with its arguments")
    ]
    frames: Annotated[Count, Key("the default of `frames`", FREE, low=1)]
    num_envs: Annotated[int, Key("environments stepped together", low=1, high=100_000)]
    vectorization: Annotated[
        str,
        Key(
            "sync: in this process; async: one process each, for slow environments; native: the"
            " environment's own, which does the same",
            NUMERICS,
            choices=("sync", "async", "native"),
        ),
    ]
    solved: Annotated[float | None, Key("the return that its authors call solved", FREE)]
    tape_max: Annotated[
        Count, Key("warn of an episode longer than this many steps: resuming replays it", FREE, low=1)
    ]
    game: Annotated[str | None, Key("Atari: the game, in ale-py's spelling")] = None
    deepmind: Annotated[
        bool,
        Key(
            "Atari: rules of Mnih et al. 2015 (no-op starts, no sticky actions; for learning, lives end"
            " episodes, rewards are signs)"
        ),
    ] = False
    clip_rewards: Annotated[
        bool, Key("learn from the signs of rewards; reported are the returns as they are")
    ] = False


@dataclass
class EvalConfig:
    """Root key `eval`."""

    every: Annotated[Count | None, Key("frames between evaluations; null: never", FREE, low=1)]
    episodes: Annotated[int, Key("episodes of one evaluation", FREE, low=1, high=1_000_000)]
    max_steps: Annotated[
        Count | None,
        Key(
            "cut an episode of an evaluation or of the final score after so many steps; null: never",
            FREE,
            low=1,
        ),
    ]


@dataclass
class CkptConfig:
    """Root key `ckpt`."""

    every: Annotated[Count | None, Key("frames between checkpoints; null: by minutes alone", FREE, low=1)]
    minutes: Annotated[
        float | None, Key("a checkpoint also after this many minutes; null: by frames alone", FREE, above=0)
    ]
    keep: Annotated[int, Key("checkpoints that stay on disk, besides the best", FREE, low=1, high=1_000_000)]
    best_by: Annotated[
        str,
        Key(
            "the eval.csv column whose highest value is the best; total_reward_ma is the mean of the last 20"
            " evaluation episodes, or of all of one evaluation if eval.episodes is more",
            choices=("total_reward_ma", "total_reward", "total_reward_min"),
        ),
    ]


@dataclass
class RunConfig:
    """The whole configuration of a run."""

    algo: Any
    env: EnvConfig
    launcher: Annotated[Target, Key("how a sweep (-m) runs its jobs", FREE)]
    frames: Annotated[
        Count, Key("train until the clock shows this many frames, over all envs", HORIZON, low=1)
    ]
    seed: Annotated[int, Key("everything random derives from it", low=0, high=2**63 - 1)]
    device: Annotated[str, Key("where networks live", NUMERICS, choices=("cpu", "cuda"))]
    threads: Annotated[int, Key("CPU threads for torch", NUMERICS, low=1, high=1024)]
    processes: Annotated[
        int,
        Key(
            "processes that train this run together, each with its part of the environments and of every"
            " minibatch, and with `threads`",
            NUMERICS,
            low=1,
            high=1024,
        ),
    ]
    processes_limit_s: Annotated[
        float, Key("of several processes, how long they wait for one that does not answer", FREE, above=0)
    ]
    compile: Annotated[bool, Key("compile the update with torch.compile; pays on long runs", NUMERICS)]
    deterministic: Annotated[bool, Key("only deterministic kernels: exact resume on GPU too", NUMERICS)]
    matmul_precision: Annotated[
        str,
        Key(
            "of float32 matrix products: highest, or medium, which rounds the factors to bfloat16 on a CPU"
            " and to TF32 on a GPU; where these have units for it, wide networks learn faster",
            NUMERICS,
            choices=("highest", "medium"),
        ),
    ]
    log_every: Annotated[Count, Key("frames between rows of metrics.csv", FREE, low=1)]
    eval: EvalConfig
    ckpt: CkptConfig
    stop_at: Annotated[
        float | None,
        Key("end early once the mean return of the last 100 training episodes reaches this", FREE),
    ]
    progress: Annotated[bool, Key("a progress line on a terminal", FREE)]
    logger: Annotated[
        dict[str, Target], Key("what shows the rows of metrics.csv and eval.csv, each by its name", FREE)
    ]
    callbacks: Annotated[
        list[Target],
        Key("called with the run at every iteration boundary; each a _target_ with its arguments"),
    ]
    tags: Annotated[dict[str, Any], Key("notes of your own, such as tags.note=...", FREE)]
    outputs: Annotated[str, Key("root of the run folders", FREE)]
    mirror: Annotated[
        str | None,
        Key("a URL such as s3://bucket/folder: checkpoints are uploaded there while the run trains", FREE),
    ]
    mirror_takeover: Annotated[
        bool, Key("go on with a mirrored run though another machine is, or was since, at work on it", FREE)
    ]
    resume: Annotated[
        str | None, Key("latest, a run's folder or its URL in a mirror: go on with that run", FREE)
    ]
    fork: Annotated[
        str | None,
        Key(
            "latest or a run's folder, and @best, @last or @<frames>: a new run that starts from its"
            " weights and configuration",
            FREE,
        ),
    ]
    base: Annotated[
        str | None,
        Key(
            "run: resume from the run's own configuration, not from today's conf/",
            FREE,
            choices=(None, "run"),
        ),
    ]


@dataclass
class BasicConfig:
    """`launcher=basic`: the keyword arguments of rl.launchers.Basic."""

    _target_: Annotated[str, Key("the launcher's class", FREE)]


@dataclass
class ProcessesConfig:
    """`launcher=processes`: the keyword arguments of rl.launchers.Processes."""

    _target_: Annotated[str, Key("the launcher's class", FREE)]
    n_jobs: Annotated[
        int | None,
        Key(
            "jobs side by side; null: as many as the cores have room for, at `threads` each",
            FREE,
            low=1,
            high=1024,
        ),
    ]


@dataclass
class SlurmConfig:
    """`launcher=slurm`: the keyword arguments of rl.launchers.Slurm."""

    _target_: Annotated[str, Key("the launcher's class", FREE)]
    cluster: Annotated[
        str | None,
        Key(
            "slurm, or local: as on a cluster, on this machine; null: slurm where there is one",
            FREE,
            choices=(None, "slurm", "local"),
        ),
    ]
    n_jobs: Annotated[
        int | None,
        Key("jobs submitted at a time; null: all, or as many as a local machine has cores for", FREE, low=1),
    ]
    tasks: Annotated[
        int | None,
        Key("tasks of a job, which train its run together, as processes= does; null: one", FREE, low=2),
    ]
    nodes: Annotated[int, Key("machines that share the tasks of a job evenly", FREE, low=1)]
    timeout_min: Annotated[int, Key("time limit of a job; it saves before, and is requeued", FREE, low=1)]
    signal_delay_s: Annotated[int, Key("how long before the limit it is told to save", FREE, low=1)]
    requeues: Annotated[int, Key("how often a job that runs into its time limit is requeued", FREE, low=0)]
    parameters: Annotated[
        dict[str, Any], Key("more of what submitit's executor takes, such as slurm_partition", FREE)
    ]


@dataclass
class RayConfig:
    """`launcher=ray`: the keyword arguments of rl.launchers.Ray."""

    _target_: Annotated[str, Key("the launcher's class", FREE)]
    address: Annotated[
        str | None,
        Key("of a Ray cluster that shares this folder; null: one is started on this machine", FREE),
    ]
    n_jobs: Annotated[
        int | None,
        Key("jobs at a time; null: as many as the cluster has cores for, at `threads` each", FREE, low=1),
    ]


@dataclass
class TensorBoardConfig:
    """`logger=tensorboard`: rl.trackers.TensorBoard, which takes no arguments."""

    _target_: Annotated[str, Key("the tracker's class", FREE)]


@dataclass
class WandbConfig:
    """`logger=wandb`: the keyword arguments of rl.trackers.Wandb."""

    _target_: Annotated[str, Key("the tracker's class", FREE)]
    project: Annotated[str, Key("W&B project", FREE)]
    entity: Annotated[str | None, Key("user or team; null: as set up for W&B", FREE)]
    mode: Annotated[
        str | None,
        Key(
            "null: as WANDB_MODE says, else online if somebody is logged in, else offline",
            FREE,
            choices=(None, "online", "offline"),
        ),
    ]


@dataclass
class MLflowConfig:
    """`logger=mlflow`: the keyword arguments of rl.trackers.MLflow."""

    _target_: Annotated[str, Key("the tracker's class", FREE)]
    uri: Annotated[
        str | None,
        Key(
            "of a server or store; null: as MLFLOW_TRACKING_URI says, else the file mlflow.db in `outputs`",
            FREE,
        ),
    ]
    experiment: Annotated[str, Key("MLflow experiment", FREE)]
