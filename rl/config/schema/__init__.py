"""The schema: every key with its type, its meaning and its resume policy; a file for each group."""

from __future__ import annotations

import dataclasses

from rl.config.instantiate import locate
from rl.config.keys import ConfigError
from rl.config.schema import algos, parts, run
from rl.config.schema.commands import EnjoyConfig, ExportConfig, ReportConfig, SearchConfig
from rl.config.schema.run import EnvConfig, RunConfig

__all__ = [
    "TARGETS",
    "EnjoyConfig",
    "EnvConfig",
    "ExportConfig",
    "ReportConfig",
    "RunConfig",
    "SearchConfig",
    "schema_of",
]

# The classes of rl/ and the dataclasses of their keys.
TARGETS: dict[str, type] = {
    "rl.algos.reinforce.Reinforce": algos.ReinforceConfig,
    "rl.algos.a2c.A2C": algos.A2CConfig,
    "rl.algos.ppo.PPO": algos.PPOConfig,
    "rl.algos.recurrent_ppo.RecurrentPPO": algos.RecurrentPPOConfig,
    "rl.algos.sarsa.Sarsa": algos.SarsaConfig,
    "rl.algos.pqn.PQN": algos.PQNConfig,
    "rl.algos.dqn.DQN": algos.DQNConfig,
    "rl.algos.sac.SAC": algos.SACConfig,
    "rl.algos.sac_discrete.DiscreteSAC": algos.DiscreteSACConfig,
    "rl.algos.td3.TD3": algos.TD3Config,
    "rl.algos.crossq.CrossQ": algos.CrossQConfig,
    "rl.algos.tqc.TQC": algos.TQCConfig,
    "rl.algos.random.Random": algos.RandomConfig,
    "rl.networks.MLP": parts.MlpConfig,
    "rl.networks.DuelingMLP": parts.MlpConfig,
    "rl.networks.LayerNormMLP": parts.MlpConfig,
    "rl.networks.NoisyMLP": parts.MlpConfig,
    "rl.networks.NoisyDuelingMLP": parts.MlpConfig,
    "rl.networks.SimBa": parts.SimBaConfig,
    "rl.networks.BatchRenormMLP": parts.BatchRenormMlpConfig,
    "rl.networks.GRU": parts.MemoryConfig,
    "rl.networks.LSTM": parts.MemoryConfig,
    "rl.networks.MultiInput": parts.ConvolutionsConfig,
    "rl.pixels.NatureCNN": parts.ConvolutionsConfig,
    "rl.pixels.DuelingNatureCNN": parts.ConvolutionsConfig,
    "rl.pixels.NoisyDuelingNatureCNN": parts.ConvolutionsConfig,
    "rl.pixels.ImpalaResNet": parts.ConvolutionsConfig,
    "rl.optimizers.Adam": parts.AdamConfig,
    "rl.optimizers.RMSprop": parts.RMSpropConfig,
    "rl.replay.UniformReplay": parts.UniformReplayConfig,
    "rl.replay.PrioritizedReplay": parts.PrioritizedReplayConfig,
    "rl.replay.HindsightReplay": parts.HindsightReplayConfig,
    "rl.wrappers.ActionMask": parts.WithoutArguments,
    "rl.wrappers.FreshWorld": parts.WithoutArguments,
    "rl.wrappers.Keep": parts.KeepConfig,
    "rl.wrappers.MiniGrid": parts.MiniGridConfig,
    "rl.launchers.Basic": run.BasicConfig,
    "rl.launchers.Processes": run.ProcessesConfig,
    "rl.launchers.Slurm": run.SlurmConfig,
    "rl.launchers.Ray": run.RayConfig,
    "rl.trackers.TensorBoard": run.TensorBoardConfig,
    "rl.trackers.Wandb": run.WandbConfig,
    "rl.trackers.MLflow": run.MLflowConfig,
}

# packages whose classes are not imported to find their keys
_WITHOUT_CONFIG = (
    "rl",
    "torch",
    "gymnasium",
    "optuna",
    "",
)


def schema_of(target: str) -> type | None:
    """The dataclass of the keys of what a `_target_` names; None, and all are frozen, if there is none.

    A user's own class names it as its attribute `Config`; only then is its module imported.
    """
    if target in TARGETS or target.partition(".")[0] in _WITHOUT_CONFIG:
        return TARGETS.get(target)
    try:
        schema = getattr(locate(target), "Config", None)
    except ConfigError:  # building says what is wrong; a run can be listed without its code
        return None
    return schema if isinstance(schema, type) and dataclasses.is_dataclass(schema) else None
