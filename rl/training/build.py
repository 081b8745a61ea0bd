"""Building a run's parts from its configuration: the one place that sees both."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from rl.algos.agent import Agent, AgentContext
from rl.clock import Clock
from rl.config import ConfigError, EnvConfig, RunConfig, install_line
from rl.config.instantiate import entries, instantiate, locate
from rl.envs.checks import interface_warnings
from rl.envs.episodes import layers
from rl.envs.goals import goal_functions
from rl.envs.make import EnvFactory, check_env, frame_stack, make_factory, stacked_keys
from rl.envs.vector import VectorEnv, make_native, make_vector
from rl.group import ALONE, Group
from rl.learning.networks.masked import IgnoringMask
from rl.learning.networks.multi_input import multi_input
from rl.learning.replay import UniformReplay
from rl.runs.plan import Plan
from rl.runs.weights import load_learned
from rl.spaces import MASK
from rl.state import GlobalRandom, Stateful, Streams, check_parts, derive_seed
from rl.trackers import follow as trackers
from rl.training.collector import Collector
from rl.training.launch import check_processes
from rl.training.shared_collector import SharedCollector, SharedRandom
from rl.training.torch_setup import check_matmul_precision, keep_freed_memory, set_up_torch


@dataclass
class Parts:
    """What trains: everything that a run needs besides its folder."""

    config: RunConfig
    clock: Clock
    streams: Streams
    agent: Agent
    collector: Collector
    make_env: EnvFactory
    global_random: GlobalRandom
    callbacks: list[Any] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)  # of what was found while building
    group: Group = ALONE  # the processes that train together

    @property
    def stateful(self) -> dict[str, Stateful]:
        """All that changes in training but for what is measured of it, in the order in which it is loaded.

        The global generators come last: bringing the environments back may draw from them.
        """
        agent = {f"agent.{name}": part for name, part in self.agent.parts.items()}
        callbacks = {f"callback.{n}": c for n, c in enumerate(self.callbacks) if hasattr(c, "state_dict")}
        listed = {
            "clock": self.clock,
            "streams": self.streams,
            **agent,
            "collector": self.collector,
            **callbacks,
        }
        return {**listed, "global_random": self.global_random}

    def learned_state(self) -> dict[str, Any]:
        """All that was learned: what a best file holds."""
        return {name: part.state_dict() for name, part in self.agent.learned_parts.items()}


def build(config: RunConfig, group: Group = ALONE) -> Parts:
    """All parts, seeded, before the first frame; of several processes (`group`) each builds its own.

    ConfigError says which of the configuration's wishes cannot be met.
    """
    check_matmul_precision(config)
    set_up_torch(config)
    keep_freed_memory()
    clock, streams, global_random = Clock(), Streams(config.seed), GlobalRandom()
    if group.size > 1:
        global_random = SharedRandom(group)
    make_env = build_env_factory(config.env)
    callbacks = build_callbacks(config)
    probe, warnings = make_probe(make_env, config.env)
    agent = build_agent(config, probe, clock, streams, group)
    carries = any(isinstance(layer, Stateful) for layer in layers(probe))
    masks = MASK in getattr(probe.observation_space, "spaces", ())
    probe.close()
    if agent.replay is not None:
        allocate(agent.replay)
    global_random.seed(derive_seed(config.seed, "global"))
    try:
        check_parts({f"the algorithm's part {name}": part for name, part in agent.parts.items()})
    except TypeError as error:
        raise ConfigError(str(error)) from error
    cfg = config.env
    if carries and cfg.vectorization == "native":
        raise ConfigError(
            "env.vectorization=native: what the environment learns across episodes would be lost; type"
            " env.vectorization=sync"
        )
    share = group.part(cfg.num_envs)
    own = dataclasses.replace(cfg, num_envs=share.stop - share.start)
    collector: Any = Collector(
        build_vector(make_env, own, derive_seed(config.seed, "env"), share.start),
        agent,
        streams=streams,
        clock=clock,
        tape_max=cfg.tape_max,
        clip_rewards=cfg.clip_rewards,
        carries=carries,
    )
    if group.size > 1:
        collector = SharedCollector(collector, group, cfg.num_envs, streams, clock, masks=masks)
    return Parts(
        config, clock, streams, agent, collector, make_env, global_random, callbacks, warnings, group
    )


def build_callbacks(config: RunConfig) -> list[Any]:
    """What is called at every iteration boundary: functions, and objects of classes. ConfigError if it cannot
    be made.
    """
    try:
        return [
            part() if isinstance(part.func, type) else part for part in map(instantiate, config.callbacks)
        ]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"callbacks: {error}") from error


def allocate(memory: UniformReplay) -> None:
    """Take the memory. ConfigError if this machine, or this process's share of it, has less.

    Each of several processes on it has all of the memory.
    """
    limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # no such limit, or "max"
        limit = min(limit, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    try:
        memory.allocate(limit // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def build_agent(
    config: RunConfig, env: gym.Env, clock: Clock, streams: Streams, group: Group = ALONE
) -> Agent:
    """The algorithm with its networks, their weights drawn from the stream `init`, for what `env` gives and
    takes.

    A replay memory is not allocated yet. ConfigError if it cannot be.
    """
    spaces, stack = (env.observation_space, env.action_space), frame_stack(env)
    goals = functools.partial(goal_functions, env, clip_rewards=config.env.clip_rewards)
    device = config.device, config.compile
    context = AgentContext(
        *spaces,
        config.env.num_envs,
        clock,
        streams,
        *device,
        *stack,
        stacked_keys(env),
        group=group,
        goal_functions=goals,
    )
    torch.manual_seed(derive_seed(config.seed, "init"))
    target = entries(config.algo)["_target_"]
    name = target.split(".")[-2] if target.startswith("rl.algos.") else target
    try:
        agent: Agent = make_agent(config.algo, context)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"algo={name}: {error}") from error
    agent.policy_parts = agent.policy_parts or agent.playing
    networks = [part for part in agent.parts.values() if isinstance(part, torch.nn.Module)]
    noisy = {
        type(module).__name__
        for network in networks
        for module in network.modules()
        if getattr(module, "noise_size", 0)
    }
    if noisy and not hasattr(agent, "noise"):
        raise ConfigError(
            f"algo={name}: it draws no noise for {', '.join(sorted(noisy))}; type algo=rainbow, or take"
            " another network"
        )
    return agent


def make_agent(algo: Any, context: AgentContext) -> Agent:
    """An agent from its keys: typed ones are given as `cfg`, its parts as factories; others as keywords."""
    keys = entries(algo)
    if context.mask_size and not getattr(locate(keys["_target_"]), "masks", False):
        raise ValueError(
            "the environment masks actions, and this algorithm could take masked ones; algo=reinforce, a2c,"
            " ppo, recurrent_ppo, sarsa, dqn, ddqn_per, qr_dqn, rainbow, pqn and sac_discrete take none"
        )
    if not dataclasses.is_dataclass(algo) or isinstance(algo, type):
        untyped: Agent = instantiate(algo)(context)
        return untyped
    factories: dict[str, Any] = {
        name: instantiate(value) for name, value in keys.items() if "_target_" in entries(value)
    }
    if getattr(context.obs_shape, "images", ()):
        networks = ("network", "critic_network")
        factories |= {name: multi_input(factories[name]) for name in networks if name in factories}
    if context.mask_size and "network" in factories:
        factories["network"] = IgnoringMask(factories["network"], context.mask_size)
    agent: Agent = locate(keys["_target_"])(context, dataclasses.replace(algo, **factories))
    return agent


def build_player(config: RunConfig) -> Agent:
    """An agent to play with, its weights still to be loaded."""
    set_up_torch(config)
    probe, _ = make_probe(build_env_factory(config.env), config.env)
    try:
        return build_agent(config, probe, Clock(), Streams(config.seed))
    finally:
        probe.close()


def build_env_factory(config: EnvConfig) -> EnvFactory:
    """What makes one env of the entry, with its wrappers."""
    return make_factory(config.id, config.kwargs, [instantiate(wrapper) for wrapper in config.wrappers])


def build_vector(make_env: EnvFactory, config: EnvConfig, seed: int, first: int = 0) -> VectorEnv:
    """The envs that are stepped together, `first` the number of the first among all of the run.

    ConfigError if the entry offers no vector env that can be used.
    """
    if config.vectorization != "native":
        return make_vector(make_env, config.num_envs, config.vectorization, seed, first)
    if config.wrappers:
        raise ConfigError(
            "env.vectorization=native takes no env.wrappers: they wrap one environment; type"
            " env.vectorization=sync"
        )
    try:
        return make_native(config.id, config.kwargs, config.num_envs, seed, first)
    except (gym.error.Error, ValueError, TypeError) as error:
        raise ConfigError(f"env.vectorization=native: env.id={config.id}: {error}") from error


def make_probe(make_env: EnvFactory, config: EnvConfig) -> tuple[gym.Env, list[str]]:
    """One env to learn the spaces from, and what Gymnasium's checker warns of.

    ConfigError if it cannot be made, or not be trained on.
    """
    try:
        env = make_env()
        check_env(env)
        return env, [f"env.id={config.id}: {warning}" for warning in interface_warnings(env, seed=0)]
    except (gym.error.Error, ValueError, TypeError, ImportError) as error:
        raise ConfigError(f"env.id={config.id}: {_missing_extra(error) or error}") from error


# module -> the extra of setup.cfg that brings it
_EXTRAS = {
    "Box2D": "box2d",
    "mujoco": "mujoco",
    "ale_py": "atari",
    "minigrid": "minigrid",
    "gymnasium_robotics": "robotics",
}


def _missing_extra(error: BaseException) -> str:
    """What to type if an error comes from an extra that is not installed, else ''."""
    cause: BaseException | None = error
    while cause is not None:
        module = (
            "ale_py"
            if isinstance(cause, gym.error.NamespaceNotFound) and " ALE " in str(cause)
            else getattr(cause, "name", None)
        )
        extra = _EXTRAS.get(str(module).partition(".")[0])
        if extra:
            return f"it needs the extra {extra}, which is not installed; type: {install_line(extra)}"
        cause = cause.__cause__
    return ""


def check_once() -> Callable[[Plan], None]:
    """`check_parts_of` for the jobs of a sweep: those that differ in their seeds alone are built once."""
    seen: set[str] = set()

    def check(plan: Plan) -> None:
        values = {name: value for name, value in plan.composed.values.items() if name != "seed"}
        key = repr((values, plan.weights and (plan.weights.run, plan.weights.name)))
        if key not in seen:
            check_parts_of(plan)
            seen.add(key)

    return check


def check_parts_of(plan: Plan) -> None:
    """What only building can refuse of a planned run, without its memory and its envs. ConfigError or
    Refused.
    """
    if plan.config.processes > 1:
        plan.warnings += check_processes(plan.config)
    agent = build_player(plan.config)
    build_callbacks(plan.config)
    trackers.make(plan.config.logger)
    if plan.weights:
        load_learned(agent, plan.weights, plan.config.device)
