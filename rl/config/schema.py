"""The schema: every configuration key with its type, its meaning and its resume policy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from rl.config.keys import FREE, HORIZON, NUMERICS, ONE_WAY, SCHEDULE, Count, Key, Target
from rl.config.schedule import Schedule


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
            "sync: in this process; async: one process each, for slow environments; native: the environment's own, which does the same",
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
            "Atari: rules of Mnih et al. 2015 (no-op starts, no sticky actions; for learning, lives end episodes, rewards are signs)"
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
            "the eval.csv column whose highest value is the best",
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
    compile: Annotated[bool, Key("compile the update with torch.compile; pays on long runs", NUMERICS)]
    deterministic: Annotated[bool, Key("only deterministic kernels: exact resume on GPU too", NUMERICS)]
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
    outputs: Annotated[str, Key("root of the run folders", FREE)]
    resume: Annotated[str | None, Key("latest, or a run's folder: go on with that run", FREE)]
    fork: Annotated[
        str | None,
        Key(
            "latest or a run's folder, and @best, @last or @<frames>: a new run that starts from its weights and configuration",
            FREE,
        ),
    ]
    base: Annotated[
        str | None,
        Key(
            "run: resume from the run's own config.yaml, not from today's conf/", FREE, choices=(None, "run")
        ),
    ]


@dataclass
class ReinforceConfig:
    """`algo=reinforce`: the keyword arguments of rl.algos.reinforce.Reinforce."""

    _target_: Annotated[str, Key("the algorithm's class")]
    gamma: Annotated[float, Key("discount of later rewards", low=0, high=1)]
    rollout_length: Annotated[int, Key("steps of every env between updates", low=1, high=10_000_000)]
    lr: Annotated[Schedule, Key("learning rate", SCHEDULE, low=0)]
    entropy_coef: Annotated[Schedule, Key("weight of the entropy bonus", SCHEDULE, low=0)]
    center_returns: Annotated[
        bool, Key("subtract the mean of the rollout's returns (of its advantages, with a baseline)")
    ]
    standardize_returns: Annotated[bool, Key("divide by their standard deviation")]
    max_grad_norm: Annotated[
        float | None, Key("clip the gradient's norm to this; null: no clipping", above=0)
    ]
    baseline: Annotated[bool, Key("learn V(s) and subtract it from the returns")]
    value_coef: Annotated[float, Key("weight of the baseline's squared error", low=0)]
    network: Annotated[Target, Key("policy network (and the baseline's): _target_ and its arguments")]
    optimizer: Annotated[Target, Key("torch optimizer: _target_ and its arguments, but for lr")]


@dataclass
class A2CConfig:
    """`algo=a2c`: the keyword arguments of rl.algos.a2c.A2C."""

    _target_: Annotated[str, Key("the algorithm's class")]
    gamma: Annotated[float, Key("discount of later rewards", low=0, high=1)]
    gae_lambda: Annotated[
        float, Key("generalised advantage estimation; 1: n-step returns to the rollout's end", low=0, high=1)
    ]
    rollout_length: Annotated[int, Key("steps of every env between updates", low=1, high=10_000_000)]
    lr: Annotated[Schedule, Key("learning rate", SCHEDULE, low=0)]
    value_lr: Annotated[
        Schedule | None, Key("the value network's own learning rate; null: as lr", SCHEDULE, low=0)
    ]
    entropy_coef: Annotated[Schedule, Key("weight of the entropy bonus", SCHEDULE, low=0)]
    value_coef: Annotated[float, Key("weight of the value function's squared error", low=0)]
    max_grad_norm: Annotated[
        float | None, Key("clip the gradient's norm to this; null: no clipping", above=0)
    ]
    normalize_advantage: Annotated[bool, Key("advantages of a rollout to mean 0 and standard deviation 1")]
    normalize_obs: Annotated[bool, Key("observations by their running mean and standard deviation")]
    normalize_reward: Annotated[bool, Key("rewards by the running standard deviation of discounted returns")]
    shared_network: Annotated[bool, Key("one network for policy and value; false: one each")]
    network: Annotated[Target, Key("policy and value networks: _target_ and its arguments")]
    optimizer: Annotated[Target, Key("optimizer: _target_ and its arguments, but for lr")]


@dataclass
class ClippedConfig:
    """What PPO takes, with a memory or without."""

    _target_: Annotated[str, Key("the algorithm's class")]
    gamma: Annotated[float, Key("discount of later rewards", low=0, high=1)]
    gae_lambda: Annotated[
        float, Key("generalised advantage estimation; 1: returns to the rollout's end", low=0, high=1)
    ]
    rollout_length: Annotated[int, Key("steps of every env between updates", low=1, high=10_000_000)]
    minibatch_size: Annotated[
        int, Key("steps in one gradient step; divides rollout_length * num_envs", low=1, high=1_000_000_000)
    ]
    epochs: Annotated[int, Key("passes over each rollout", low=1, high=10_000)]
    lr: Annotated[Schedule, Key("learning rate", SCHEDULE, low=0)]
    clip_range: Annotated[
        Schedule, Key("how far an action's probability ratio may leave 1 and still pay", SCHEDULE, low=0)
    ]
    value_clip_range: Annotated[
        Schedule | None, Key("the same for values, in their units; null: not clipped", SCHEDULE, low=0)
    ]
    target_kl: Annotated[
        float | None,
        Key("no further epoch after one whose mean approx_kl is above this; null: all epochs", above=0),
    ]
    entropy_coef: Annotated[Schedule, Key("weight of the entropy bonus", SCHEDULE, low=0)]
    value_coef: Annotated[float, Key("weight of the value function's squared error", low=0)]
    max_grad_norm: Annotated[
        float | None, Key("clip the gradient's norm to this; null: no clipping", above=0)
    ]
    normalize_advantage: Annotated[bool, Key("advantages of a minibatch to mean 0 and standard deviation 1")]
    normalize_obs: Annotated[bool, Key("observations by their running mean and standard deviation")]
    normalize_reward: Annotated[bool, Key("rewards by the running standard deviation of discounted returns")]
    optimizer: Annotated[Target, Key("optimizer: _target_ and its arguments, but for lr")]


@dataclass
class PPOConfig(ClippedConfig):
    """`algo=ppo`: the keyword arguments of rl.algos.ppo.PPO."""

    value_lr: Annotated[
        Schedule | None, Key("the value network's own learning rate; null: as lr", SCHEDULE, low=0)
    ]
    recompute_advantage: Annotated[
        bool, Key("advantages and value targets anew before every epoch, by the values as they then are")
    ]
    log_std_init: Annotated[
        float, Key("log standard deviation of continuous actions before training", low=-20, high=2)
    ]
    shared_network: Annotated[bool, Key("one network for policy and value; false: one each")]
    network: Annotated[Target, Key("policy and value networks: _target_ and its arguments")]


@dataclass
class RecurrentPPOConfig(ClippedConfig):
    """`algo=recurrent_ppo`: the keyword arguments of rl.algos.recurrent_ppo.RecurrentPPO."""

    sequence_length: Annotated[
        int,
        Key(
            "steps through which the gradient goes back; divides rollout_length and minibatch_size",
            low=1,
            high=10_000_000,
        ),
    ]
    state_size: Annotated[int, Key("units of the GRU: numbers that it remembers", low=1, high=1_000_000)]
    network: Annotated[Target, Key("encoder of observations: _target_ and its arguments")]


@dataclass
class SarsaConfig:
    """`algo=sarsa`: the keyword arguments of rl.algos.sarsa.Sarsa."""

    _target_: Annotated[str, Key("the algorithm's class")]
    gamma: Annotated[float, Key("discount of later rewards", low=0, high=1)]
    td_lambda: Annotated[float, Key("lambda-returns within a rollout; 0: one-step Sarsa", low=0, high=1)]
    rollout_length: Annotated[int, Key("steps of every env between updates", low=1, high=10_000_000)]
    lr: Annotated[Schedule, Key("learning rate", SCHEDULE, low=0)]
    epsilon: Annotated[
        Schedule | None, Key("chance of a random action; null: explore by temperature", SCHEDULE, low=0)
    ]
    temperature: Annotated[
        Schedule | None, Key("of the softmax over action values; null: explore by epsilon", SCHEDULE, low=0)
    ]
    loss: Annotated[str, Key("of the TD error: huber or squared", choices=("huber", "squared"))]
    max_grad_norm: Annotated[
        float | None, Key("clip the gradient's norm to this; null: no clipping", above=0)
    ]
    normalize_obs: Annotated[bool, Key("observations by their running mean and standard deviation")]
    network: Annotated[Target, Key("action values: _target_ and its arguments")]
    optimizer: Annotated[Target, Key("optimizer: _target_ and its arguments, but for lr")]


@dataclass
class PQNConfig:
    """`algo=pqn`: the keyword arguments of rl.algos.pqn.PQN."""

    _target_: Annotated[str, Key("the algorithm's class")]
    gamma: Annotated[float, Key("discount of later rewards", low=0, high=1)]
    td_lambda: Annotated[
        float, Key("Q(lambda) returns within a rollout; 0: one-step Q-learning", low=0, high=1)
    ]
    rollout_length: Annotated[int, Key("steps of every env between updates", low=1, high=10_000_000)]
    minibatch_size: Annotated[
        int, Key("steps in one gradient step; divides rollout_length * num_envs", low=1, high=1_000_000_000)
    ]
    epochs: Annotated[int, Key("passes over each rollout", low=1, high=10_000)]
    lr: Annotated[Schedule, Key("learning rate", SCHEDULE, low=0)]
    epsilon: Annotated[
        Schedule | None, Key("chance of a random action; null: explore by temperature", SCHEDULE, low=0)
    ]
    temperature: Annotated[
        Schedule | None, Key("of the softmax over action values; null: explore by epsilon", SCHEDULE, low=0)
    ]
    loss: Annotated[str, Key("of the TD error: huber or squared", choices=("huber", "squared"))]
    max_grad_norm: Annotated[
        float | None, Key("clip the gradient's norm to this; null: no clipping", above=0)
    ]
    normalize_obs: Annotated[bool, Key("observations by their running mean and standard deviation")]
    network: Annotated[Target, Key("action values: _target_ and its arguments")]
    optimizer: Annotated[Target, Key("optimizer: _target_ and its arguments, but for lr")]


@dataclass
class OffPolicyConfig:
    """What every algorithm with a replay memory takes."""

    _target_: Annotated[str, Key("the algorithm's class")]
    gamma: Annotated[float, Key("discount of later rewards", low=0, high=1)]
    n_step: Annotated[
        int, Key("rewards that are summed before the value of what follows", low=1, high=10_000)
    ]
    rollout_length: Annotated[int, Key("steps of every env between updates", low=1, high=10_000_000)]
    updates_per_frame: Annotated[
        float, Key("gradient steps for each transition collected", above=0, high=1000)
    ]
    batch_size: Annotated[int, Key("transitions in one gradient step", low=1, high=1_000_000_000)]
    learning_starts: Annotated[Count, Key("transitions by random actions, before the first update", low=1)]
    lr: Annotated[Schedule, Key("learning rate of the critics", SCHEDULE, low=0)]
    normalize_obs: Annotated[bool, Key("observations by their running mean and standard deviation")]
    network: Annotated[Target, Key("actor and critics: _target_ and its arguments")]
    optimizer: Annotated[Target, Key("optimizer: _target_ and its arguments, but for lr")]
    replay: Annotated[Target, Key("replay memory: _target_ and its arguments")]


@dataclass
class DQNConfig(OffPolicyConfig):
    """`algo=dqn`: the keyword arguments of rl.algos.dqn.DQN."""

    learning_starts: Annotated[Count, Key("transitions in the memory before the first update", low=1)]
    lr: Annotated[Schedule, Key("learning rate", SCHEDULE, low=0)]
    epsilon: Annotated[
        Schedule | None, Key("chance of a random action; null: explore by temperature", SCHEDULE, low=0)
    ]
    temperature: Annotated[
        Schedule | None, Key("of the softmax over action values; null: explore by epsilon", SCHEDULE, low=0)
    ]
    double: Annotated[
        bool, Key("Double DQN: the online network chooses the next action, the target network values it")
    ]
    loss: Annotated[str, Key("of the TD error: huber or squared", choices=("huber", "squared"))]
    target_every: Annotated[
        Count | None,
        Key("frames between updates of the target network; null: after every gradient step", low=1),
    ]
    target_tau: Annotated[
        float, Key("how far the target network then goes to the online one; 1: a copy", above=0, high=1)
    ]
    max_grad_norm: Annotated[
        float | None, Key("clip the gradient's norm to this; null: no clipping", above=0)
    ]
    network: Annotated[Target, Key("action values: _target_ and its arguments")]
    quantiles: Annotated[
        int | None,
        Key(
            "learn so many values of equal probability for each action's return (QR-DQN); null: its mean",
            low=1,
            high=100_000,
        ),
    ] = None
    kappa: Annotated[float, Key("huber: squared up to an error of this, linear beyond", above=0)] = 1.0


@dataclass
class SACConfig(OffPolicyConfig):
    """`algo=sac`: the keyword arguments of rl.algos.sac.SAC."""

    actor_lr: Annotated[Schedule | None, Key("the actor's learning rate; null: as lr", SCHEDULE, low=0)]
    alpha_lr: Annotated[
        Schedule | None, Key("the temperature's learning rate; null: as lr; 0: it stays", SCHEDULE, low=0)
    ]
    alpha: Annotated[
        float, Key("the temperature at the start: what a nat of entropy is worth, in rewards", above=0)
    ]
    target_entropy: Annotated[
        float | None, Key("entropy in nats that the temperature aims at; null: minus the action dimensions")
    ]
    target_tau: Annotated[
        float,
        Key("how far the target critics go to the critics after every update; 1: a copy", above=0, high=1),
    ]


@dataclass
class TD3Config(OffPolicyConfig):
    """`algo=td3`: the keyword arguments of rl.algos.td3.TD3."""

    actor_lr: Annotated[Schedule | None, Key("the actor's learning rate; null: as lr", SCHEDULE, low=0)]
    num_critics: Annotated[int, Key("critics, of which the lowest counts in the target", low=1, high=100)]
    exploration_noise: Annotated[
        Schedule, Key("standard deviation of the noise on actions, whose range is -1 to 1", SCHEDULE, low=0)
    ]
    target_noise: Annotated[float, Key("the same for the target actor's actions: smooths the critics", low=0)]
    target_noise_clip: Annotated[float, Key("no more of it than this, either way", low=0)]
    policy_delay: Annotated[
        int, Key("updates of the critics for each of the actor and the targets", low=1, high=1_000_000)
    ]
    target_tau: Annotated[
        float, Key("how far the targets then go to the networks; 1: a copy", above=0, high=1)
    ]


@dataclass
class DiscreteSACConfig(OffPolicyConfig):
    """`algo=sac_discrete`: the keyword arguments of rl.algos.sac_discrete.DiscreteSAC."""

    actor_lr: Annotated[Schedule | None, Key("the actor's learning rate; null: as lr", SCHEDULE, low=0)]
    alpha_lr: Annotated[
        Schedule | None, Key("the temperature's learning rate; null: as lr; 0: it stays", SCHEDULE, low=0)
    ]
    alpha: Annotated[
        float, Key("the temperature at the start: what a nat of entropy is worth, in rewards", above=0)
    ]
    target_entropy_ratio: Annotated[
        float, Key("entropy that the temperature aims at, as a share of the highest", low=0, high=1)
    ]
    target_tau: Annotated[
        float,
        Key("how far the target critics go to the critics after every update; 1: a copy", above=0, high=1),
    ]


@dataclass
class CrossQConfig(OffPolicyConfig):
    """`algo=crossq`: the keyword arguments of rl.algos.crossq.CrossQ."""

    actor_lr: Annotated[Schedule | None, Key("the actor's learning rate; null: as lr", SCHEDULE, low=0)]
    alpha_lr: Annotated[
        Schedule | None, Key("the temperature's learning rate; null: as lr; 0: it stays", SCHEDULE, low=0)
    ]
    alpha: Annotated[
        float, Key("the temperature at the start: what a nat of entropy is worth, in rewards", above=0)
    ]
    target_entropy: Annotated[
        float | None, Key("entropy in nats that the temperature aims at; null: minus the action dimensions")
    ]
    policy_delay: Annotated[int, Key("updates of the critics for each of the actor", low=1, high=1_000_000)]
    network: Annotated[Target, Key("actor, with batch renormalisation: _target_ and its arguments")]
    critic_network: Annotated[Target, Key("critics, with batch renormalisation: _target_ and its arguments")]


@dataclass
class RandomConfig:
    """`algo=random`: the keyword arguments of rl.algos.random.Random."""

    _target_: Annotated[str, Key("the algorithm's class")]
    rollout_length: Annotated[int, Key("steps of every env in an iteration", low=1, high=10_000_000)]


@dataclass
class MlpConfig:
    """The keyword arguments of rl.networks.MLP."""

    _target_: Annotated[str, Key("the network's class")]
    hidden: Annotated[list[int], Key("units of the hidden layers", low=1, high=1_000_000)]
    activation: Annotated[str, Key("between the layers", choices=("tanh", "relu"))]
    init: Annotated[str, Key("weights at the start", choices=("orthogonal", "default"))]


@dataclass
class ConvolutionsConfig:
    """The keyword arguments of the networks in rl.pixels."""

    _target_: Annotated[str, Key("the network's class")]
    hidden: Annotated[list[int], Key("units of the layers after the convolutions", low=1, high=1_000_000)]
    activation: Annotated[str, Key("between the layers", choices=("tanh", "relu"))]
    init: Annotated[str, Key("weights at the start", choices=("orthogonal", "default"))]
    channels: Annotated[
        list[int] | None, Key("of the convolutions; null: as in the paper", low=1, high=1_000_000)
    ] = None


@dataclass
class BatchRenormMlpConfig:
    """The keyword arguments of rl.networks.BatchRenormMLP."""

    _target_: Annotated[str, Key("the network's class")]
    hidden: Annotated[list[int], Key("units of the hidden layers", low=1, high=1_000_000)]
    activation: Annotated[str, Key("between the layers", choices=("tanh", "relu"))]
    init: Annotated[str, Key("weights at the start", choices=("orthogonal", "default"))]
    warm_up: Annotated[Count, Key("batches of plain batch normalisation, before renormalisation", low=0)]


@dataclass
class AdamConfig:
    """The keyword arguments of rl.optimizers.Adam."""

    _target_: Annotated[str, Key("the optimizer's class")]
    betas: Annotated[list[float], Key("decay of the gradient's mean and of its square's", low=0, high=1)] = (
        field(default_factory=lambda: [0.9, 0.999])
    )
    eps: Annotated[float, Key("added to the denominator", above=0)] = 1e-8
    weight_decay: Annotated[float, Key("decoupled from the gradient: AdamW", low=0)] = 0.0


@dataclass
class RMSpropConfig:
    """The keyword arguments of rl.optimizers.RMSprop."""

    _target_: Annotated[str, Key("the optimizer's class")]
    alpha: Annotated[float, Key("decay of the mean square of the gradient", low=0, high=1)] = 0.99
    eps: Annotated[float, Key("added to the denominator", above=0)] = 1e-8


@dataclass
class UniformReplayConfig:
    """The keyword arguments of rl.replay.UniformReplay."""

    _target_: Annotated[str, Key("the memory's class")]
    capacity: Annotated[Count, Key("transitions that it keeps", low=1)]
    on_resume: Annotated[
        str,
        Key(
            "restore: it is kept on disk, in chunks; refill: it fills again",
            ONE_WAY,
            choices=("restore", "refill"),
        ),
    ]


@dataclass
class PrioritizedReplayConfig(UniformReplayConfig):
    """The keyword arguments of rl.replay.PrioritizedReplay."""

    alpha: Annotated[
        float, Key("how much priorities count; 0: all transitions are equally likely", low=0, high=1)
    ] = 0.6
    beta: Annotated[Schedule, Key("how much the weights make up for it; 1: fully", SCHEDULE, low=0)] = field(
        default_factory=lambda: Schedule(0.4)
    )
    epsilon: Annotated[float, Key("added to the TD error, so that none is never drawn", above=0)] = 1e-6


@dataclass
class FreshWorldConfig:
    """rl.wrappers.FreshWorld, which takes no arguments."""

    _target_: Annotated[str, Key("the wrapper's class")]


@dataclass
class KeepConfig:
    """The keyword arguments of rl.wrappers.Keep."""

    _target_: Annotated[str, Key("the wrapper's class")]
    indices: Annotated[list[int], Key("the components of observations that are shown", low=0)]


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
    seed: Annotated[int, Key("seed of the first episode", low=0, high=2**63 - 1)]
    deterministic: Annotated[bool, Key("the policy's most likely action; false: sampled")]
    render: Annotated[
        str | None,
        Key(
            "human: a window; video: a file in the run's video/; none: only scores; null: a window where there is a display, else video",
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
    outputs: Annotated[str, Key("root of the run folders: where latest is looked for")]


# Classes whose arguments are known. Of any other class all keys are taken as they are, and are frozen.
TARGETS: dict[str, type] = {
    "rl.algos.reinforce.Reinforce": ReinforceConfig,
    "rl.algos.a2c.A2C": A2CConfig,
    "rl.algos.ppo.PPO": PPOConfig,
    "rl.algos.recurrent_ppo.RecurrentPPO": RecurrentPPOConfig,
    "rl.algos.sarsa.Sarsa": SarsaConfig,
    "rl.algos.pqn.PQN": PQNConfig,
    "rl.algos.dqn.DQN": DQNConfig,
    "rl.algos.sac.SAC": SACConfig,
    "rl.algos.sac_discrete.DiscreteSAC": DiscreteSACConfig,
    "rl.algos.td3.TD3": TD3Config,
    "rl.algos.crossq.CrossQ": CrossQConfig,
    "rl.algos.random.Random": RandomConfig,
    "rl.networks.MLP": MlpConfig,
    "rl.networks.DuelingMLP": MlpConfig,
    "rl.networks.LayerNormMLP": MlpConfig,
    "rl.networks.NoisyMLP": MlpConfig,
    "rl.networks.NoisyDuelingMLP": MlpConfig,
    "rl.networks.BatchRenormMLP": BatchRenormMlpConfig,
    "rl.pixels.NatureCNN": ConvolutionsConfig,
    "rl.pixels.DuelingNatureCNN": ConvolutionsConfig,
    "rl.pixels.NoisyDuelingNatureCNN": ConvolutionsConfig,
    "rl.pixels.ImpalaResNet": ConvolutionsConfig,
    "rl.optimizers.Adam": AdamConfig,
    "rl.optimizers.RMSprop": RMSpropConfig,
    "rl.replay.UniformReplay": UniformReplayConfig,
    "rl.replay.PrioritizedReplay": PrioritizedReplayConfig,
    "rl.wrappers.FreshWorld": FreshWorldConfig,
    "rl.wrappers.Keep": KeepConfig,
    "rl.launchers.Basic": BasicConfig,
    "rl.launchers.Processes": ProcessesConfig,
    "rl.launchers.Slurm": SlurmConfig,
    "rl.launchers.Ray": RayConfig,
    "rl.trackers.TensorBoard": TensorBoardConfig,
    "rl.trackers.Wandb": WandbConfig,
    "rl.trackers.MLflow": MLflowConfig,
}
