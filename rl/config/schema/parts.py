"""The keys of networks, optimizers, replay memories and wrappers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from rl.config.keys import ONE_WAY, SCHEDULE, Count, Key
from rl.config.schedule import Schedule

ACTIVATIONS = ("tanh", "relu", "leaky_relu", "elu", "silu", "gelu")  # as in rl/learning/networks/layers.py


@dataclass
class MlpConfig:
    """The keyword arguments of rl.networks.MLP."""

    _target_: Annotated[str, Key("the network's class")]
    hidden: Annotated[list[int], Key("units of the hidden layers", low=1, high=1_000_000)]
    activation: Annotated[str, Key("between the layers (gelu: its tanh form)", choices=ACTIVATIONS)]
    init: Annotated[str, Key("weights at the start", choices=("orthogonal", "default"))]


@dataclass
class SimBaConfig(MlpConfig):
    """The keyword arguments of rl.networks.SimBa."""

    hidden: Annotated[
        list[int],
        Key("width of every residual block: [512, 512] are two", low=1, high=1_000_000),
    ]


@dataclass
class ConvolutionsConfig:
    """The keyword arguments of the networks in rl.pixels."""

    _target_: Annotated[str, Key("the network's class")]
    hidden: Annotated[list[int], Key("units of the layers after the convolutions", low=1, high=1_000_000)]
    activation: Annotated[str, Key("between the layers (gelu: its tanh form)", choices=ACTIVATIONS)]
    init: Annotated[str, Key("weights at the start", choices=("orthogonal", "default"))]
    channels: Annotated[
        list[int] | None, Key("of the convolutions; null: as in the paper", low=1, high=1_000_000)
    ] = None


@dataclass
class BatchRenormMlpConfig:
    """The keyword arguments of rl.networks.BatchRenormMLP."""

    _target_: Annotated[str, Key("the network's class")]
    hidden: Annotated[list[int], Key("units of the hidden layers", low=1, high=1_000_000)]
    activation: Annotated[str, Key("between the layers (gelu: its tanh form)", choices=ACTIVATIONS)]
    init: Annotated[str, Key("weights at the start", choices=("orthogonal", "default"))]
    warm_up: Annotated[Count, Key("batches of plain batch normalisation, before renormalisation", low=0)]


@dataclass
class MemoryConfig:
    """rl.networks.GRU and rl.networks.LSTM, which take no arguments."""

    _target_: Annotated[str, Key("the memory's class")]


@dataclass
class AdamConfig:
    """The keyword arguments of rl.optimizers.Adam."""

    _target_: Annotated[str, Key("the optimizer's class")]
    betas: Annotated[list[float], Key("decay of the gradient's mean and of its square's", low=0, high=1)] = (
        field(default_factory=lambda: [0.9, 0.999])
    )
    eps: Annotated[float, Key("added to the denominator", above=0)] = 1e-8
    weight_decay: Annotated[float, Key("of layers' weights, decoupled from the gradient: AdamW", low=0)] = 0.0


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
class HindsightReplayConfig(UniformReplayConfig):
    """The keyword arguments of rl.replay.HindsightReplay."""

    goals: Annotated[int, Key("other goals for each one that was pursued", low=1)] = 4


@dataclass
class WithoutArguments:
    """A wrapper that takes no arguments."""

    _target_: Annotated[str, Key("the wrapper's class")]


@dataclass
class KeepConfig:
    """The keyword arguments of rl.wrappers.Keep."""

    _target_: Annotated[str, Key("the wrapper's class")]
    indices: Annotated[list[int], Key("the components of observations that are shown", low=0)]


@dataclass
class MiniGridConfig:
    """The keyword arguments of rl.wrappers.MiniGrid."""

    _target_: Annotated[str, Key("the wrapper's class")]
    symbols: Annotated[bool, Key("images are of symbols; false: of pixels")] = True
    words: Annotated[list[str] | None, Key("of the missions; null: the environment lists them")] = None
    max_words: Annotated[int | None, Key("of the longest mission; null: of those listed", low=1)] = None
