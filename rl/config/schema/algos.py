"""The keys of every algorithm."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from rl.config.keys import SCHEDULE, Count, Key, Target
from rl.config.schedule import Schedule
from rl.config.schema.parts import MemoryConfig

# keys that several algorithms have
AlgorithmClass = Annotated[str, Key("the algorithm's class")]
Gamma = Annotated[float, Key("discount of later rewards", low=0, high=1)]
RolloutLength = Annotated[int, Key("steps of every env between updates", low=1, high=10_000_000)]
LearningRate = Annotated[Schedule, Key("learning rate", SCHEDULE, low=0)]
EntropyCoef = Annotated[Schedule, Key("weight of the entropy bonus", SCHEDULE, low=0)]
MaxGradNorm = Annotated[float | None, Key("clip the gradient's norm to this; null: no clipping", above=0)]
ValueLearningRate = Annotated[
    Schedule | None, Key("the value network's own learning rate; null: as lr", SCHEDULE, low=0)
]
ValueCoef = Annotated[float, Key("weight of the value function's squared error", low=0)]
NormalizeObs = Annotated[bool, Key("observations by their running mean and standard deviation")]
NormalizeReward = Annotated[bool, Key("rewards by the running standard deviation of discounted returns")]
SharedNetwork = Annotated[bool, Key("one network for policy and value; false: one each")]
PolicyAndValueNetwork = Annotated[Target, Key("policy and value networks: _target_ and its arguments")]
Optimizer = Annotated[Target, Key("optimizer: _target_ and its arguments, but for lr")]
MinibatchSize = Annotated[
    int, Key("steps in one gradient step; divides rollout_length * num_envs", low=1, high=1_000_000_000)
]
Epochs = Annotated[int, Key("passes over each rollout", low=1, high=10_000)]
Epsilon = Annotated[
    Schedule | None, Key("chance of a random action; null: explore by temperature", SCHEDULE, low=0)
]
Temperature = Annotated[
    Schedule | None, Key("of the softmax over action values; null: explore by epsilon", SCHEDULE, low=0)
]
TDLoss = Annotated[str, Key("of the TD error: huber or squared", choices=("huber", "squared"))]
QNetwork = Annotated[Target, Key("action values: _target_ and its arguments")]
ActorLearningRate = Annotated[Schedule | None, Key("the actor's learning rate; null: as lr", SCHEDULE, low=0)]
AlphaLearningRate = Annotated[
    Schedule | None, Key("the temperature's learning rate; null: as lr; 0: it stays", SCHEDULE, low=0)
]
Alpha = Annotated[
    float, Key("the temperature at the start: what a nat of entropy is worth, in rewards", above=0)
]
TargetEntropy = Annotated[
    float | None, Key("entropy in nats that the temperature aims at; null: minus the action dimensions")
]
TargetTau = Annotated[
    float,
    Key("how far the target critics go to the critics after every update; 1: a copy", above=0, high=1),
]


def _gru() -> Any:
    return MemoryConfig("rl.networks.GRU")


@dataclass(kw_only=True)
class ReinforceConfig:
    """`algo=reinforce`."""

    _target_: AlgorithmClass
    gamma: Gamma
    rollout_length: RolloutLength
    lr: LearningRate
    entropy_coef: EntropyCoef
    center_returns: Annotated[
        bool, Key("subtract the mean of the rollout's returns (of its advantages, with a baseline)")
    ]
    standardize_returns: Annotated[bool, Key("divide by their standard deviation")]
    max_grad_norm: MaxGradNorm
    baseline: Annotated[bool, Key("learn V(s) and subtract it from the returns")]
    value_coef: Annotated[float, Key("weight of the baseline's squared error", low=0)]
    network: Annotated[Target, Key("policy network (and the baseline's): _target_ and its arguments")]
    optimizer: Annotated[Target, Key("torch optimizer: _target_ and its arguments, but for lr")]


@dataclass(kw_only=True)
class A2CConfig:
    """`algo=a2c`."""

    _target_: AlgorithmClass
    gamma: Gamma
    gae_lambda: Annotated[
        float, Key("generalised advantage estimation; 1: n-step returns to the rollout's end", low=0, high=1)
    ]
    rollout_length: RolloutLength
    lr: LearningRate
    value_lr: ValueLearningRate
    entropy_coef: EntropyCoef
    value_coef: ValueCoef
    max_grad_norm: MaxGradNorm
    normalize_advantage: Annotated[bool, Key("advantages of a rollout to mean 0 and standard deviation 1")]
    normalize_obs: NormalizeObs
    normalize_reward: NormalizeReward
    shared_network: SharedNetwork
    network: PolicyAndValueNetwork
    optimizer: Optimizer


@dataclass(kw_only=True)
class ClippedConfig:
    """What PPO takes, with a memory or without."""

    _target_: AlgorithmClass
    gamma: Gamma
    gae_lambda: Annotated[
        float, Key("generalised advantage estimation; 1: returns to the rollout's end", low=0, high=1)
    ]
    rollout_length: RolloutLength
    minibatch_size: MinibatchSize
    epochs: Epochs
    lr: LearningRate
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
    entropy_coef: EntropyCoef
    value_coef: ValueCoef
    max_grad_norm: MaxGradNorm
    normalize_advantage: Annotated[bool, Key("advantages of a minibatch to mean 0 and standard deviation 1")]
    normalize_obs: NormalizeObs
    normalize_reward: NormalizeReward
    optimizer: Optimizer


@dataclass(kw_only=True)
class PPOConfig(ClippedConfig):
    """`algo=ppo`."""

    value_lr: ValueLearningRate
    shared_network: SharedNetwork
    network: PolicyAndValueNetwork
    recompute_advantage: Annotated[
        bool, Key("advantages and value targets anew before every epoch, by the values as they then are")
    ] = False
    log_std_init: Annotated[
        float, Key("log standard deviation of continuous actions before training", low=-20, high=2)
    ] = 0.0


@dataclass(kw_only=True)
class RecurrentPPOConfig(ClippedConfig):
    """`algo=recurrent_ppo`."""

    sequence_length: Annotated[
        int,
        Key(
            "steps through which the gradient goes back; divides rollout_length and minibatch_size",
            low=1,
            high=10_000_000,
        ),
    ]
    state_size: Annotated[int, Key("units of the memory", low=1, high=1_000_000)]
    network: Annotated[Target, Key("encoder of observations: _target_ and its arguments")]
    memory: Annotated[Target, Key("rl.networks.GRU or rl.networks.LSTM")] = field(default_factory=_gru)


@dataclass(kw_only=True)
class SarsaConfig:
    """`algo=sarsa`."""

    _target_: AlgorithmClass
    gamma: Gamma
    td_lambda: Annotated[float, Key("lambda-returns within a rollout; 0: one-step Sarsa", low=0, high=1)]
    rollout_length: RolloutLength
    lr: LearningRate
    epsilon: Epsilon
    temperature: Temperature
    loss: TDLoss
    max_grad_norm: MaxGradNorm
    normalize_obs: NormalizeObs
    network: QNetwork
    optimizer: Optimizer


@dataclass(kw_only=True)
class PQNConfig:
    """`algo=pqn`."""

    _target_: AlgorithmClass
    gamma: Gamma
    td_lambda: Annotated[
        float, Key("Q(lambda) returns within a rollout; 0: one-step Q-learning", low=0, high=1)
    ]
    rollout_length: RolloutLength
    minibatch_size: MinibatchSize
    epochs: Epochs
    lr: LearningRate
    epsilon: Epsilon
    temperature: Temperature
    loss: TDLoss
    max_grad_norm: MaxGradNorm
    normalize_obs: NormalizeObs
    network: QNetwork
    optimizer: Optimizer


@dataclass(kw_only=True)
class OffPolicyConfig:
    """What every algorithm with a replay memory takes."""

    _target_: AlgorithmClass
    gamma: Gamma
    n_step: Annotated[
        int, Key("rewards that are summed before the value of what follows", low=1, high=10_000)
    ]
    rollout_length: RolloutLength
    updates_per_frame: Annotated[
        float, Key("gradient steps for each transition collected", above=0, high=1000)
    ]
    batch_size: Annotated[int, Key("transitions in one gradient step", low=1, high=1_000_000_000)]
    learning_starts: Annotated[Count, Key("transitions by random actions, before the first update", low=1)]
    lr: Annotated[Schedule, Key("learning rate of the critics", SCHEDULE, low=0)]
    normalize_obs: NormalizeObs
    network: Annotated[Target, Key("actor and critics: _target_ and its arguments")]
    optimizer: Optimizer
    replay: Annotated[Target, Key("replay memory: _target_ and its arguments")]


@dataclass(kw_only=True)
class DQNConfig(OffPolicyConfig):
    """`algo=dqn`."""

    learning_starts: Annotated[Count, Key("transitions in the memory before the first update", low=1)]
    lr: LearningRate
    epsilon: Epsilon
    temperature: Temperature
    double: Annotated[
        bool, Key("Double DQN: the online network chooses the next action, the target network values it")
    ]
    loss: TDLoss
    target_every: Annotated[
        Count | None,
        Key("frames between updates of the target network; null: after every gradient step", low=1),
    ]
    target_tau: Annotated[
        float, Key("how far the target network then goes to the online one; 1: a copy", above=0, high=1)
    ]
    max_grad_norm: MaxGradNorm
    network: QNetwork
    quantiles: Annotated[
        int | None,
        Key(
            "learn so many values of equal probability for each action's return (QR-DQN); null: its mean",
            low=1,
            high=100_000,
        ),
    ] = None
    kappa: Annotated[float, Key("huber: squared up to an error of this, linear beyond", above=0)] = 1.0


@dataclass(kw_only=True)
class SACConfig(OffPolicyConfig):
    """`algo=sac`."""

    actor_lr: ActorLearningRate
    alpha_lr: AlphaLearningRate
    alpha: Alpha
    target_entropy: TargetEntropy
    target_tau: TargetTau


@dataclass(kw_only=True)
class TD3Config(OffPolicyConfig):
    """`algo=td3`."""

    actor_lr: ActorLearningRate
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


@dataclass(kw_only=True)
class DiscreteSACConfig(OffPolicyConfig):
    """`algo=sac_discrete`."""

    actor_lr: ActorLearningRate
    alpha_lr: AlphaLearningRate
    alpha: Alpha
    target_entropy_ratio: Annotated[
        float, Key("entropy that the temperature aims at, as a share of the highest", low=0, high=1)
    ]
    target_tau: TargetTau


@dataclass(kw_only=True)
class CrossQConfig(OffPolicyConfig):
    """`algo=crossq`."""

    actor_lr: ActorLearningRate
    alpha_lr: AlphaLearningRate
    alpha: Alpha
    target_entropy: TargetEntropy
    policy_delay: Annotated[int, Key("updates of the critics for each of the actor", low=1, high=1_000_000)]
    network: Annotated[Target, Key("actor, with batch renormalisation: _target_ and its arguments")]
    critic_network: Annotated[Target, Key("critics, with batch renormalisation: _target_ and its arguments")]


@dataclass(kw_only=True)
class TQCConfig(OffPolicyConfig):
    """`algo=tqc`."""

    actor_lr: ActorLearningRate
    alpha_lr: AlphaLearningRate
    alpha: Alpha
    target_entropy: TargetEntropy
    target_tau: TargetTau
    num_critics: Annotated[int, Key("critics, whose quantiles make up one distribution", low=1, high=100)]
    quantiles: Annotated[
        int, Key("values of equal probability that each critic gives to the return", low=1, high=100_000)
    ]
    dropped_quantiles: Annotated[
        int, Key("for each critic, so many of the highest of all are left out of the target", low=0)
    ]
    network: Annotated[Target, Key("actor: _target_ and its arguments")]
    critic_network: Annotated[Target, Key("critics: _target_ and its arguments")]


@dataclass(kw_only=True)
class RandomConfig:
    """`algo=random`."""

    _target_: AlgorithmClass
    rollout_length: Annotated[int, Key("steps of every env in an iteration", low=1, high=10_000_000)]
