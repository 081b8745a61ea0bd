"""`python -m rl.export`: a run's policy as one file, to be played where Encore is not installed.

The file holds the observation normaliser, the network, the choice of the action and its clipping to the
environment's bounds. It is written once its actions were compared with the run's.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl import __version__
from rl.api import Policy, make_policy
from rl.config import ConfigError, ExportConfig, install_line
from rl.config.compose import compose
from rl.config.help import show_help
from rl.enjoy import load_player
from rl.runs.files import write_atomic
from rl.runs.find import latest_run
from rl.runs.history import saved_config
from rl.runs.outcome import Refused, with_exit_codes

if TYPE_CHECKING:
    import gymnasium as gym
    import numpy as np
    import torch
    from numpy.typing import NDArray

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
METADATA = "encore.json"
_DIGITS = 64  # of a SHA-256 in hexadecimal: the end of every file
OBSERVATIONS, TOLERANCE = 1000, 1e-5  # what a file is compared by


@dataclass(frozen=True)
class Exported:
    """A policy that was read from a file: obs [B, *obs_shape], and where it is recurrent the state [B, S],
    -> [actions], or [actions, state after them].
    """

    metadata: dict[str, Any]
    call: Callable[..., list[NDArray[Any]]]


def export(config: ExportConfig) -> Path:
    """Write a run's policy and return the file. Refused, ConfigError or DamagedError if it cannot be."""
    suffix = SUFFIXES[config.format]
    folder = latest_run(Path(config.outputs)) if config.run == "latest" else Path(config.run)
    out = Path(config.out) if config.out else folder / "export" / f"{config.ckpt}{suffix}"
    if out.suffix != suffix:
        raise ConfigError(f"out={out}: the name of a file in format={config.format} ends in {suffix}")
    if config.format == "onnx":
        try:
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise ConfigError(f"{error}: {install_line('onnx')}") from error
    from rl.spaces import obs_dtype

    player = load_player(folder, config.ckpt, "cpu")
    policy, env = make_policy(player), saved_config(folder)["env"]
    state = player.agent.initial_state(1)
    metadata = {
        "encore": __version__,
        "run": folder.resolve().name,
        "algo": f"{type(player.agent).__module__}.{type(player.agent).__qualname__}",
        "ckpt": config.ckpt,
        "frames": player.weights.frames,
        "score": player.weights.score,
        "env": {key: env[key] for key in ("id", "kwargs", "wrappers")},
        "observation_space": describe(policy.obs_space),
        "action_space": describe(policy.action_space),
        "obs_dtype": _dtype_names(obs_dtype(policy.obs_space)),
        "state_size": None if state is None else state.shape[1],
    }
    try:
        program = trace(policy)
        data = to_onnx(program, metadata) if config.format == "onnx" else to_torch(program, metadata)
    except NotImplementedError as error:
        raise Refused(f"{folder}: {metadata['algo']} has no method `greedy`, which is exported") from error
    except RuntimeError as error:  # of torch's exporters
        raise Refused(f"{folder}: torch cannot export it: {str(error).splitlines()[0]}") from error
    worst = compare(policy, read(data))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, data)
    print(player.title)
    print(f"{out}: {len(data):,} bytes, {OBSERVATIONS} actions equal to the run's within {worst:.0e}")
    return out


def describe(space: gym.Space) -> dict[str, Any]:
    """A space in JSON. Equal bounds are given once; an infinite one is null."""
    import gymnasium as gym
    import numpy as np

    if isinstance(space, gym.spaces.Dict | gym.spaces.Tuple):
        parts = space.spaces.items() if isinstance(space, gym.spaces.Dict) else enumerate(space.spaces)
        return {"type": type(space).__name__, "spaces": {str(key): describe(part) for key, part in parts}}

    def plain(values: Any) -> Any:
        if isinstance(values, list):
            return [plain(value) for value in values]
        return values if math.isfinite(values) else None

    def bound(values: Any) -> Any:
        values = np.asarray(values)
        return plain((values if (values != values.flat[0]).any() else values.flat[0]).tolist())

    names: dict[str, tuple[str, ...]] = {"MultiBinary": ()}
    names |= {"Box": ("low", "high"), "Discrete": ("n", "start"), "MultiDiscrete": ("nvec", "start")}
    kind = type(space).__name__
    values = {name: bound(getattr(space, name)) for name in names[kind]}
    return {"type": kind, "shape": list(space.shape or ()), "dtype": str(space.dtype), **values}


def trace(policy: Policy) -> torch.export.ExportedProgram:
    """The policy as a program of torch's operations, for any number of observations."""
    import torch

    from rl.learning.networks.greedy import Clipped

    module, bounds = policy.agent.greedy(), policy.form.bounds
    if bounds is not None:
        module = Clipped(module, *bounds)
    inputs: list[Any] = [_by_name(_zeros(policy.obs_space), torch.from_numpy)]
    if (state := policy.agent.initial_state(2)) is not None:
        inputs.append(torch.from_numpy(state))
    batch = torch.export.Dim("batch", min=1)
    # a module of any number of inputs takes them as one argument
    shapes = tuple({n: {0: batch} for n in x} if isinstance(x, dict) else {0: batch} for x in inputs)
    dynamic = {"inputs": shapes} if isinstance(module, Clipped) else shapes
    program = torch.export.export(module, tuple(inputs), dynamic_shapes=dynamic)
    for (
        name,
        weights,
    ) in program.state_dict.items():  # views of one long vector, which would be saved for each
        program.state_dict[name] = torch.nn.Parameter(weights.detach().clone(), requires_grad=False)
    for node in program.graph.nodes:  # paths of this machine
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node"):
            node.meta.pop(key, None)
    return program


def to_torch(program: torch.export.ExportedProgram, metadata: dict[str, Any]) -> bytes:
    """The bytes of a file for `torch.export.load`; the last 64 are the SHA-256 of all before them."""
    import torch

    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={METADATA: json.dumps(metadata)})
    data = buffer.getvalue()
    # the archive's comment is to be the digest, and its length is in the two bytes before
    assert data.endswith(bytes(2))
    return _with_digest(data[:-2] + _DIGITS.to_bytes(2, "little"))


def to_onnx(program: torch.export.ExportedProgram, metadata: dict[str, Any]) -> bytes:
    """The bytes of an ONNX model; the last 64 are the SHA-256 of all before them."""
    import torch

    names = metadata["obs_dtype"]
    inputs, outputs = list(names) if isinstance(names, dict) else ["obs"], ["action"]
    if metadata["state_size"] is not None:
        inputs, outputs = [*inputs, "state"], ["action", "next_state"]
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it names the packages that it does not need
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's, of torch
        converted = torch.onnx.export(
            program, (), dynamo=True, verbose=False, input_names=inputs, output_names=outputs
        )
    assert converted is not None
    model = converted.model_proto
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info):
        del part.metadata_props[:]
    model.metadata_props.add(key=METADATA, value=json.dumps(metadata))
    model.metadata_props.add(key="sha256", value="0" * _DIGITS)
    return _with_digest(model.SerializeToString()[:-_DIGITS])


def _with_digest(data: bytes) -> bytes:
    return data + hashlib.sha256(data).hexdigest().encode()


def read(data: bytes) -> Exported:
    """A policy from the bytes of its file. Refused if they are damaged or not what `export` wrote."""
    if data != _with_digest(data[:-_DIGITS]):
        raise Refused("this file is damaged, or not of rl.export")
    return _read_torch(data) if data.startswith(b"PK") else _read_onnx(data)


def _read_torch(data: bytes) -> Exported:
    import torch

    extra = {METADATA: ""}
    module = torch.export.load(io.BytesIO(data), extra_files=extra).module()

    def call(*inputs: NDArray[Any]) -> list[NDArray[Any]]:
        outputs = module(*(_by_name(array, torch.from_numpy) for array in inputs))
        return [output.numpy() for output in (outputs if isinstance(outputs, tuple) else (outputs,))]

    return Exported(json.loads(extra[METADATA]), call)


def _read_onnx(data: bytes) -> Exported:
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]

    def call(*inputs: NDArray[Any]) -> list[NDArray[Any]]:
        arrays: list[NDArray[Any]] = []
        for array in inputs:
            by_name = _by_name(array, lambda part: part)
            arrays += by_name.values() if isinstance(by_name, dict) else [by_name]
        outputs: list[NDArray[Any]] = session.run(None, dict(zip(names, arrays, strict=True)))
        return outputs

    return Exported(json.loads(session.get_modelmeta().custom_metadata_map[METADATA]), call)


def _by_name(obs: NDArray[Any], convert: Callable[[NDArray[Any]], Any]) -> Any:
    """What a policy is given: an array; of packed observations by field."""
    if obs.dtype.names is None:
        return convert(obs)
    return {name: convert(obs[name].copy()) for name in obs.dtype.names}


def _dtype_names(dtype: np.dtype[Any]) -> str | dict[str, str]:
    """The name of a dtype; of a structured one the names of its fields' dtypes."""
    if dtype.names is None:
        return dtype.name
    return {name: dtype[name].base.name for name in dtype.names}


def _zeros(space: gym.Space) -> NDArray[Any]:
    """Two observations of a space, all zeros."""
    import numpy as np

    from rl.spaces import obs_dtype

    dtype = obs_dtype(space)
    return np.zeros((2, *(() if dtype.names else space.shape or ())), dtype)


def compare(policy: Policy, exported: Exported) -> float:
    """The largest difference between the actions of both on the same observations, one and ten at a time.

    Refused if it is more than TOLERANCE, or any where actions are whole numbers.
    """
    import numpy as np

    obs, worst = observations(policy, OBSERVATIONS), 0.0
    for count in (1, 10):
        state = policy.agent.initial_state(count)
        carried = [] if state is None else [state]
        for rows in obs[: 100 * count].reshape(-1, count, *obs.shape[1:]):
            actions, state, *_ = policy.agent.act(rows, state, policy.rng, False)
            expected = policy.form.clip(actions)
            action, *carried = exported.call(rows, *carried)
            worst = float(np.maximum(worst, np.abs(action - expected).max()))  # NaN stays
            allowed = 0.0 if np.issubdtype(expected.dtype, np.integer) else TOLERANCE
            if action.shape != expected.shape or not worst <= allowed:
                raise Refused(
                    f"nothing is written: the exported policy gives {action.tolist()} where the run's gives"
                    f" {expected.tolist()}"
                )
    return worst


def observations(policy: Policy, count: int) -> NDArray[Any]:
    """Observations [count, *obs_shape] of episodes in which every second action is random, if masks allow."""
    import numpy as np

    from rl.learning.masks import sample_allowed
    from rl.spaces import as_rows

    env, rows = policy.make_env(), []
    env.action_space.seed(0)
    obs, _ = env.reset(seed=0)
    for step in range(count):
        rows.append(as_rows(policy.obs_space, obs)[0])
        best = policy(obs)
        action = sample_allowed(env.action_space, obs) if step % 2 else best
        obs, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            policy.reset()
            obs, _ = env.reset()
    env.close()
    policy.reset()
    return np.concatenate(rows)


def main() -> None:
    """Run the command."""
    from hydra._internal.utils import get_args_parser

    args = get_args_parser().parse_args()
    if args.help:
        print(show_help("rl.export"))
    else:
        with_exit_codes(lambda: export(compose(args.overrides, ExportConfig, "export").config))


if __name__ == "__main__":
    main()
