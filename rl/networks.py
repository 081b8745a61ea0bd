"""Networks, as configurations name them."""

from rl.learning.networks.ensemble import Ensemble
from rl.learning.networks.mlp import MLP, DuelingMLP, MLPEnsemble
from rl.learning.networks.multi_input import MultiInput
from rl.learning.networks.noisy import NoisyDuelingMLP, NoisyMLP
from rl.learning.networks.normed import BatchRenormMLP, LayerNormMLP
from rl.learning.networks.policy import ActorCritic, Policy
from rl.learning.networks.recurrent import GRU, LSTM
from rl.learning.networks.simba import SimBa

__all__ = [
    "GRU",
    "LSTM",
    "ActorCritic",
    "BatchRenormMLP",
    "DuelingMLP",
    "Ensemble",
    "LayerNormMLP",
    "MLP",
    "MLPEnsemble",
    "MultiInput",
    "NoisyDuelingMLP",
    "NoisyMLP",
    "Policy",
    "SimBa",
]
