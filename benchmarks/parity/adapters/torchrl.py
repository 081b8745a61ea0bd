"""TorchRL, by its reference: torchrl.trainers (PPOTrainer, DQNTrainer, SACTrainer), torchrl.checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.parity.adapter import Job, Report, flat, main, make, numbered, optimizer_steps

SAVES = "Checkpoint(rng=GlobalRNGState()), CheckpointRotation, save_trainer_interval"
RESUMES = "Trainer.load_from_file(CheckpointRotation.latest()), same CSVLogger"
TASKS = {"ppo_cartpole": "", "dqn_cartpole": "", "sac_pendulum": "", "ppo_lunar_lander": ""}


def newest(folder: Path) -> tuple[int, Path] | None:
    """checkpoints/checkpoint-8192/: 8192 frames."""
    found = (path for path in folder.glob("checkpoints/checkpoint-*") if path.name.split("-")[1].isdigit())
    return numbered(found, lambda path: int(path.name.split("-")[1]))


def weights_file(checkpoint: Path) -> Path:
    """The largest tensor of the policy, which is loaded after the loss module that shares it."""
    tensors = (path for path in checkpoint.rglob("*.memmap") if "policy" in str(path.relative_to(checkpoint)))
    return max(tensors, key=lambda path: path.stat().st_size)


def rows(folder: Path) -> list[tuple[int, float]]:
    """The rows of the training reward in CSVLogger's file."""
    lines = (folder / "run/scalars/r_training.csv").read_text().split()
    return [(int(frames), float(value)) for frames, value in (line.split(",") for line in lines)]


def train(job: Job) -> Report:
    """Train, or resume."""
    import torch

    task = job.spec
    torch.manual_seed(job.seed)
    trainer, estimator = {"ppo": ppo, "dqn": dqn, "sac": sac}[task.algo](job)
    if job.resume:
        trainer.load_from_file(trainer.checkpoint_rotation.latest())
    trainer.train()
    optimizer, memory = trainer.optimizer.state_dict(), trainer.replay_buffer if task.memory else None
    return Report(
        weights=flat(trainer.loss_module.state_dict()),
        updates=optimizer_steps(optimizer),
        lr=float(optimizer["param_groups"][0]["lr"]),
        gamma=round(float(estimator.gamma), 6),
        memory=memory and len(memory),
    )


def environment(job: Job) -> Any:
    """The task's vector environment."""
    import gymnasium as gym
    from torchrl.envs import Compose, GymWrapper, RewardSum, StepCounter, TransformedEnv, VecNorm

    task = job.spec
    made, mode = [lambda: make(task.env)] * task.num_envs, gym.vector.AutoresetMode.DISABLED
    env = GymWrapper(gym.vector.SyncVectorEnv(made, autoreset_mode=mode) if task.num_envs > 1 else made[0]())
    env.set_seed(job.seed)  # the collector's first reset comes before the trainer seeds it
    transforms = [RewardSum(in_keys=["reward"], out_keys=["reward_sum"]), StepCounter()]
    if task.normalize_obs:
        transforms.insert(0, VecNorm(in_keys=["observation"], decay=0.99999))
    return TransformedEnv(env, Compose(*transforms))


def common(job: Job, env: Any, policy: Any, frames_per_batch: int, loss: Any) -> dict[str, Any]:
    """What every trainer gets."""
    import torch
    from torchrl.checkpoint import Checkpoint, CheckpointRotation, GlobalRNGState
    from torchrl.collectors import Collector
    from torchrl.record.loggers.csv import CSVLogger

    task = job.spec
    collector = Collector(
        env,
        policy,
        frames_per_batch=frames_per_batch,
        total_frames=-1,
        init_random_frames=task.learning_starts or None,
    )
    return {
        "collector": collector,
        "total_frames": task.frames,
        "frame_skip": 1,
        "loss_module": loss,
        "optimizer": torch.optim.Adam(loss.parameters(), lr=job.value("lr")),
        "logger": CSVLogger("run", log_dir=job.folder),
        "log_interval": 1000,
        "save_trainer_interval": task.every,
        "checkpoint": Checkpoint(rng=GlobalRNGState()),
        "checkpoint_rotation": CheckpointRotation(Path(job.folder) / "checkpoints", keep_last=5),
        "progress_bar": False,
        "seed": job.seed,
    }


def network(sizes: tuple[int, int], hidden: int, activation: str) -> Any:
    """Two hidden layers."""
    import torch
    from torchrl.modules import MLP

    kind = getattr(torch.nn, activation)
    return MLP(in_features=sizes[0], out_features=sizes[1], num_cells=[hidden] * 2, activation_class=kind)


def ppo(job: Job) -> tuple[Any, Any]:
    """PPOTrainer, and what holds gamma."""
    from tensordict.nn import TensorDictModule
    from torchrl.data import LazyTensorStorage, ReplayBuffer, SamplerWithoutReplacement
    from torchrl.modules import OneHotCategorical, ProbabilisticActor, ValueOperator
    from torchrl.objectives import ClipPPOLoss
    from torchrl.objectives.value import GAE
    from torchrl.trainers.algorithms import PPOTrainer

    task, env = job.spec, environment(job)
    size, actions = env.observation_spec["observation"].shape[-1], env.action_spec.shape[-1]
    logits = TensorDictModule(network((size, actions), task.hidden, "Tanh"), ["observation"], ["logits"])
    actor = ProbabilisticActor(
        logits, in_keys=["logits"], distribution_class=OneHotCategorical, return_log_prob=True
    )
    critic = ValueOperator(network((size, 1), task.hidden, "Tanh"), in_keys=["observation"])
    loss = ClipPPOLoss(actor, critic, clip_epsilon=0.2, entropy_bonus=False, critic_coeff=0.5)
    frames = task.num_envs * task.rollout_length
    gae = GAE(gamma=job.value("gamma"), lmbda=0.95, value_network=critic, average_gae=True)
    trainer = PPOTrainer(
        **common(job, env, actor, frames, loss),
        optim_steps_per_batch=frames // task.batch_size,
        num_epochs=task.epochs,
        replay_buffer=ReplayBuffer(
            storage=LazyTensorStorage(frames), sampler=SamplerWithoutReplacement(), batch_size=task.batch_size
        ),
        gae=gae,
        clip_norm=0.5,
    )
    return trainer, gae


def dqn(job: Job) -> tuple[Any, Any]:
    """DQNTrainer, and what holds gamma."""
    from tensordict.nn import TensorDictSequential
    from torchrl.data import LazyTensorStorage, ReplayBuffer
    from torchrl.modules import EGreedyModule, QValueActor
    from torchrl.objectives import DQNLoss, HardUpdate
    from torchrl.trainers.algorithms import DQNTrainer

    task, env = job.spec, environment(job)
    size, actions = env.observation_spec["observation"].shape[-1], env.action_spec.shape[-1]
    actor = QValueActor(network((size, actions), task.hidden, "ReLU"), spec=env.action_spec_unbatched)
    greedy = EGreedyModule(env.action_spec_unbatched, eps_end=0.05, annealing_num_steps=task.frames // 2)
    loss = DQNLoss(actor, loss_function="smooth_l1", delay_value=True)
    loss.make_value_estimator(gamma=job.value("gamma"))
    trainer = DQNTrainer(
        **common(job, env, TensorDictSequential(actor, greedy), 4, loss),
        optim_steps_per_batch=1,
        replay_buffer=ReplayBuffer(storage=LazyTensorStorage(task.memory), batch_size=task.batch_size),
        target_net_updater=HardUpdate(loss, value_network_update_interval=125),
        greedy_module=greedy,
        clip_norm=10.0,
    )
    return trainer, loss.value_estimator


def sac(job: Job) -> tuple[Any, Any]:
    """SACTrainer, and what holds gamma."""
    import torch
    from tensordict.nn import NormalParamExtractor, TensorDictModule
    from torchrl.data import LazyTensorStorage, ReplayBuffer
    from torchrl.modules import ProbabilisticActor, TanhNormal, ValueOperator
    from torchrl.objectives import SACLoss, SoftUpdate
    from torchrl.trainers.algorithms import SACTrainer

    task, env = job.spec, environment(job)
    size, spec = env.observation_spec["observation"].shape[-1], env.action_spec_unbatched
    actions = spec.shape[-1]
    net = torch.nn.Sequential(network((size, 2 * actions), task.hidden, "ReLU"), NormalParamExtractor())
    actor = ProbabilisticActor(
        TensorDictModule(net, ["observation"], ["loc", "scale"]),
        in_keys=["loc", "scale"],
        spec=spec,
        distribution_class=TanhNormal,
        distribution_kwargs={"low": spec.space.low, "high": spec.space.high},
    )
    critic = ValueOperator(
        network((size + actions, 1), task.hidden, "ReLU"), in_keys=["observation", "action"]
    )
    loss = SACLoss(actor, critic, num_qvalue_nets=2)
    loss.make_value_estimator(gamma=job.value("gamma"))
    trainer = SACTrainer(
        **common(job, env, actor, 1, loss),
        optim_steps_per_batch=1,
        replay_buffer=ReplayBuffer(storage=LazyTensorStorage(task.memory), batch_size=task.batch_size),
        target_net_updater=SoftUpdate(loss, tau=0.005),
    )
    return trainer, loss.value_estimator


if __name__ == "__main__":
    main(train, "torchrl", "tensordict", "torch")
