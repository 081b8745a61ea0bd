"""Networks, and the policy that acts through them.

Acting on a CPU is bound by dispatch, not by arithmetic: for a batch of 4, torch takes 60 to 90 us and NumPy over the same
memory 20 us. So a network may offer `numpy_forward`, and the policy acts with it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from rl.distributions import Distribution

Array = NDArray[np.float32]
NetworkFactory = Callable[..., nn.Module]  # called with (obs_shape, num_outputs, out_gain=..., quantiles=...)

ACTIVATIONS = {"tanh": torch.tanh_, "relu": torch.relu_}


class MLP(nn.Module):
    """Fully connected layers from flat observations [B, *obs_shape] to [B, num_outputs]; with `quantiles` to [B, num_outputs, quantiles].

    `orthogonal` weights have gain sqrt(2), `out_gain` in the last layer (one number, or one for each output), and zero biases
    (Andrychowicz et al. 2021).
    """

    def __init__(
        self,
        obs_shape: Sequence[int],
        num_outputs: int,
        *,
        hidden: Sequence[int],
        activation: str,
        init: str,
        out_gain: float | Sequence[float] = 1.0,
        quantiles: int | None = None,
    ) -> None:
        super().__init__()
        self.activation, self.quantiles = activation, quantiles
        sizes = [math.prod(obs_shape), *hidden, num_outputs * (quantiles or 1)]
        self.activate = ACTIVATIONS[activation]
        self._linears = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
        self.layers = nn.ModuleList(self._linears)
        if init == "orthogonal":
            *_, last = self._linears
            for linear in self._linears:
                nn.init.orthogonal_(linear.weight, 1.0 if linear is last else math.sqrt(2))
                nn.init.zeros_(linear.bias)
            with torch.no_grad():
                last.weight.mul_(torch.tensor(out_gain).view(-1, 1))

    def forward(self, obs: Tensor) -> Tensor:
        """[B, *obs_shape] -> [B, num_outputs] or [B, num_outputs, quantiles]."""
        x = obs.flatten(1).float()  # observations may be bytes
        *inner, last = self._linears
        for linear in inner:  # in place: the activations' gradients need their outputs alone
            x = self.activate(nn.functional.linear(x, linear.weight, linear.bias))
        x = nn.functional.linear(x, last.weight, last.bias)
        return x if self.quantiles is None else x.unflatten(-1, (-1, self.quantiles))

    @staticmethod
    def together(members: Sequence[MLP]) -> nn.Module:
        """Several of them as one module; see `ensemble`."""
        return MLPEnsemble(members)

    def numpy_forward(self) -> Callable[..., Array]:
        """`forward` in NumPy on the same memory: it sees every update made in place. Valid until the weights move."""
        layers = [(linear.weight.detach().numpy().T, linear.bias.detach().numpy()) for linear in self._linears]
        *inner, (last_weight, last_bias) = layers
        relu, quantiles = self.activation == "relu", self.quantiles
        dot, tanh, maximum, float32, zero = np.dot, np.tanh, np.maximum, np.dtype(np.float32), np.zeros((), np.float32)

        def forward(obs: Array) -> Array:
            x = obs if obs.ndim == 2 else obs.reshape(len(obs), -1)
            if x.dtype is not float32:
                x = x.astype(np.float32)
            for weight, bias in inner:  # dot has less to decide than @, and its result is ours to change
                x = dot(x, weight)
                x += bias
                if relu:
                    maximum(x, zero, out=x)
                else:
                    tanh(x, x)
            x = dot(x, last_weight)
            x += last_bias
            return x if quantiles is None else x.reshape(len(x), -1, quantiles)

        return forward


class DuelingMLP(MLP):
    """Action values from one network with two heads, V(s) and A(s, a) (Wang et al. 2016, eq. 9): Q = V + A - mean of A."""

    def __init__(
        self, obs_shape: Sequence[int], num_outputs: int, *, hidden: Sequence[int], activation: str, init: str, quantiles: int | None = None
    ) -> None:
        super().__init__(obs_shape, 1 + num_outputs, hidden=hidden, activation=activation, init=init, quantiles=quantiles)

    def forward(self, obs: Tensor, *noise: Tensor) -> Tensor:
        """[B, *obs_shape] -> [B, num_outputs] or [B, num_outputs, quantiles]."""
        value, advantage = super().forward(obs, *noise).tensor_split((1,), 1)
        return value + advantage - advantage.mean(1, keepdim=True)

    def numpy_forward(self) -> Callable[..., Array]:
        """`forward` in NumPy on the same memory."""
        heads = super().numpy_forward()

        def forward(obs: Array, *noise: Array) -> Array:
            both = heads(obs, *noise)
            value, advantage = both[:, :1], both[:, 1:]
            return value + advantage - advantage.mean(1, keepdims=True)

        return forward


class NoisyMLP(MLP):
    """An MLP whose weights are noisy, by learned amounts (Fortunato et al. 2018, section 3, factorised).

    y = (mu + sigma * f(e') f(e)^T) x + mu_b + sigma_b * f(e') with f(e) = sign(e) sqrt|e| (eq. 9 to 11). All f(e) come with the
    observations, [B, noise_size] or for all of them [1, noise_size] (see `noise_for`); without them the means alone count.
    """

    sigma_0 = 0.5  # of all sigma at the start, times the square root of the layer's inputs

    def __init__(
        self,
        obs_shape: Sequence[int],
        num_outputs: int,
        *,
        hidden: Sequence[int],
        activation: str,
        init: str,
        out_gain: float | Sequence[float] = 1.0,
        quantiles: int | None = None,
    ) -> None:
        super().__init__(obs_shape, num_outputs, hidden=hidden, activation=activation, init=init, out_gain=out_gain, quantiles=quantiles)
        self._sigmas = [nn.Linear(mean.in_features, mean.out_features) for mean in self._linears]
        self.sigmas = nn.ModuleList(self._sigmas)
        for sigma in self._sigmas:
            for parameter in sigma.parameters():
                nn.init.constant_(parameter, self.sigma_0 / math.sqrt(sigma.in_features))
        self.noise_sizes = [size for mean in self._linears for size in (mean.in_features, mean.out_features)]
        self.noise_size = sum(self.noise_sizes)

    def forward(self, obs: Tensor, *noise: Tensor) -> Tensor:
        """[B, *obs_shape] -> [B, num_outputs] or [B, num_outputs, quantiles]."""
        if not noise:
            return super().forward(obs)
        x, parts = obs.flatten(1).float(), noise[0].split(self.noise_sizes, -1)
        for layer, (mean, sigma, e_in, e_out) in enumerate(zip(self._linears, self._sigmas, parts[::2], parts[1::2], strict=True)):
            x = self.activate(x) if layer else x
            perturbation = nn.functional.linear(x * e_in, sigma.weight, sigma.bias) * e_out
            x = nn.functional.linear(x, mean.weight, mean.bias) + perturbation
        return x if self.quantiles is None else x.unflatten(-1, (-1, self.quantiles))

    def numpy_forward(self) -> Callable[..., Array]:
        """`forward` in NumPy on the same memory."""
        by_means, relu, quantiles = super().numpy_forward(), self.activation == "relu", self.quantiles
        means, sigmas = (
            [(linear.weight.detach().numpy().T, linear.bias.detach().numpy()) for linear in linears]
            for linears in (self._linears, self._sigmas)
        )
        ends = np.cumsum(self.noise_sizes)[:-1]

        def forward(obs: Array, *noise: Array) -> Array:
            if not noise:
                return by_means(obs)
            x, parts = obs.reshape(len(obs), -1).astype(np.float32), np.split(noise[0], ends, -1)
            for layer, ((weight, bias), (sigma, sigma_bias), e_in, e_out) in enumerate(
                zip(means, sigmas, parts[::2], parts[1::2], strict=True)
            ):
                if layer:
                    x = np.maximum(x, 0) if relu else np.tanh(x)
                x = x @ weight + bias + ((x * e_in) @ sigma + sigma_bias) * e_out
            return x if quantiles is None else x.reshape(len(x), -1, quantiles)

        return forward


class LayerNormMLP(MLP):
    """An MLP with layer normalisation (Ba et al. 2016) before the activation of every hidden layer, as in PQN's paper."""

    def __init__(
        self,
        obs_shape: Sequence[int],
        num_outputs: int,
        *,
        hidden: Sequence[int],
        activation: str,
        init: str,
        out_gain: float | Sequence[float] = 1.0,
        quantiles: int | None = None,
    ) -> None:
        super().__init__(obs_shape, num_outputs, hidden=hidden, activation=activation, init=init, out_gain=out_gain, quantiles=quantiles)
        self._norms = [nn.LayerNorm(size) for size in hidden]
        self.norms = nn.ModuleList(self._norms)

    def forward(self, obs: Tensor) -> Tensor:
        """[B, *obs_shape] -> [B, num_outputs] or [B, num_outputs, quantiles]."""
        x = obs.flatten(1).float()
        *inner, last = self._linears
        for linear, norm in zip(inner, self._norms, strict=True):
            x = self.activate(norm(linear(x)))
        x = last(x)
        return x if self.quantiles is None else x.unflatten(-1, (-1, self.quantiles))

    def numpy_forward(self) -> Callable[[Array], Array]:
        """`forward` in NumPy on the same memory."""
        modules = zip(self._linears, self._norms, strict=False)
        layers = [[p.detach().numpy() for p in (linear.weight.T, linear.bias, norm.weight, norm.bias)] for linear, norm in modules]
        averages = [np.full(len(bias), 1 / len(bias), np.float32) for _, bias, *_ in layers]  # a product takes 1 us, `mean` 5
        *_, last = self._linears
        last_weight, last_bias = last.weight.detach().numpy().T, last.bias.detach().numpy()
        relu, quantiles, eps = self.activation == "relu", self.quantiles, np.float32(1e-5)

        def forward(obs: Array) -> Array:
            x = obs.reshape(len(obs), -1).astype(np.float32, copy=False)
            for (weight, bias, scale, shift), average in zip(layers, averages, strict=True):
                x = np.dot(x, weight)
                x += bias
                x -= np.dot(x, average)[:, np.newaxis]
                x /= np.sqrt(np.dot(x * x, average) + eps)[:, np.newaxis]
                x *= scale
                x += shift
                x = np.maximum(x, 0, out=x) if relu else np.tanh(x, out=x)
            x = np.dot(x, last_weight) + last_bias
            return x if quantiles is None else x.reshape(len(x), -1, quantiles)

        return forward


class NoisyDuelingMLP(DuelingMLP, NoisyMLP):
    """Both: the heads of a DuelingMLP are a NoisyMLP's."""


def noise_for(network: nn.Module) -> Callable[[int, np.random.Generator], Sequence[Array]]:
    """What draws the noise that a network takes after its observations: [rows, noise_size] for a noisy one, for others none."""
    size = getattr(network, "noise_size", 0)

    def draw(rows: int, rng: np.random.Generator) -> Sequence[Array]:
        noise = rng.standard_normal((rows, size), np.float32)
        return (np.copysign(np.sqrt(np.abs(noise)), noise),)

    return draw if size else lambda rows, rng: ()


class BatchRenormMLP(nn.Module):
    """MLPs with batch renormalisation before every layer (Ioffe 2017; Bhatt et al. 2024), `members` of them together.

    Where they learn, `by_batch` normalises by the batch; its moments come back for `follow`, which lets the running ones
    follow them. Everywhere else the running moments count. In the first `warm_up` batches it is plain batch
    normalisation; then r and d make up for what a batch's moments differ from the running ones, within bounds.
    """

    eps, momentum, r_max, d_max = 1e-3, 0.01, 3.0, 5.0

    def __init__(
        self,
        obs_shape: Sequence[int],
        num_outputs: int,
        *,
        hidden: Sequence[int],
        activation: str,
        init: str,
        warm_up: int,
        members: int = 1,
    ) -> None:
        super().__init__()
        self.activation, self.activate, self.warm_up = activation, ACTIVATIONS[activation], warm_up
        plain = MLPEnsemble([MLP(obs_shape, num_outputs, hidden=hidden, activation=activation, init=init) for _ in range(members)])
        self.weights, self.biases = plain.weights, plain.biases
        self.sizes = [weight.shape[1] for weight in self.weights]
        self.scales = nn.ParameterList(torch.ones(members, 1, size) for size in self.sizes)
        self.shifts = nn.ParameterList(torch.zeros(members, 1, size) for size in self.sizes)
        moments = torch.stack([torch.zeros(members, 1, sum(self.sizes)), torch.ones(members, 1, sum(self.sizes))])
        self.register_buffer("moments", moments)  # [2, E, 1, features of all layers]: running means and variances
        self.register_buffer("batches", torch.zeros(1, dtype=torch.int64))
        self.moments: Tensor
        self.batches: Tensor

    def forward(self, obs: Tensor) -> Tensor:
        """[B, *obs_shape] -> [E, B, num_outputs], by the running moments."""
        x = obs.flatten(1).float().expand(len(self.weights[0]), -1, -1)
        for layer, (mean, var) in enumerate(zip(*self._split(self.moments), strict=True)):
            x = self._layer(layer, (x - mean) * (var + self.eps).rsqrt())
        return x

    def by_batch(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """The same by the batch's moments, and these."""
        x = obs.flatten(1).float().expand(len(self.weights[0]), -1, -1)
        warm = self.batches >= self.warm_up
        r_max, d_max = torch.where(warm, self.r_max, 1.0), torch.where(warm, self.d_max, 0.0)
        means, variances = [], []
        for layer, (running_mean, running_var) in enumerate(zip(*self._split(self.moments), strict=True)):
            x, mean, var = batch_renorm(x, running_mean, running_var, r_max, d_max, self.eps)
            means.append(mean)
            variances.append(var)
            x = self._layer(layer, x)
        return x, torch.stack([torch.cat(means, -1), torch.cat(variances, -1)]).detach().flatten()

    def _split(self, moments: Tensor) -> list[tuple[Tensor, ...]]:
        return [part.split(self.sizes, -1) for part in moments]

    def _layer(self, layer: int, x: Tensor) -> Tensor:
        x = torch.baddbmm(self.biases[layer], x * self.scales[layer] + self.shifts[layer], self.weights[layer])
        return self.activate(x) if layer < len(self.sizes) - 1 else x

    @torch.no_grad()
    def follow(self, moments: Tensor) -> None:
        """Let the running moments follow those of a batch."""
        self.moments.lerp_(moments.view_as(self.moments), self.momentum)
        self.batches += 1

    def numpy_forward(self) -> Callable[[Array], Array]:
        """`forward` of a single network from and to NumPy: [B, *obs_shape] -> [1, B, num_outputs]."""
        names = ("weights", "biases", "scales", "shifts")
        layers = list(zip(*([p.detach().cpu().numpy()[0] for p in getattr(self, name)] for name in names), strict=True))
        ends = np.cumsum(self.sizes)[:-1]
        moments = self.moments.numpy()[:, 0, 0]

        def forward(obs: Array) -> Array:
            x = obs.reshape(len(obs), -1).astype(np.float32)
            scale = 1 / np.sqrt(moments[1] + np.float32(self.eps))
            for number, ((weight, bias, stretch, shift), mean, factor) in enumerate(
                zip(layers, np.split(moments[0], ends), np.split(scale, ends), strict=True)
            ):
                x = ((x - mean) * factor * stretch + shift) @ weight + bias
                if number < len(layers) - 1:
                    x = np.maximum(x, 0) if self.activation == "relu" else np.tanh(x)
            return x[np.newaxis]

        return forward


def batch_renorm(
    x: Tensor, running_mean: Tensor, running_var: Tensor, r_max: Tensor, d_max: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch renormalisation of [..., B, F] over B (Ioffe 2017, algorithm 1, without scale and shift), the batch's mean and variance.

    (x - mean) / std * r + d, where r = std / running std within [1 / r_max, r_max] and d = (mean - running mean) / running std
    within +-d_max are constants to the gradient.
    """
    mean, var = x.mean(-2, keepdim=True), x.var(-2, correction=0, keepdim=True)
    std, running_std = (var + eps).sqrt(), (running_var + eps).sqrt()
    r = torch.minimum(torch.maximum(std.detach() / running_std, 1 / r_max), r_max)
    d = torch.minimum(torch.maximum((mean.detach() - running_mean) / running_std, -d_max), d_max)
    return (x - mean) / std * r + d, mean, var


class Policy(nn.Module):
    """A network whose outputs are the parameters of an action distribution.

    A Gaussian's log standard deviations do not depend on the observation: they are one learned vector.
    """

    def __init__(
        self, network: NetworkFactory, obs_shape: Sequence[int], distribution: Distribution, out_gain: float = 0.01, num_extra: int = 0
    ) -> None:
        """`num_extra`: outputs of the same network, after the policy's, for another purpose (see `with_extra`)."""
        super().__init__()
        means = self.num_means = distribution.num_means
        self.num_extra = num_extra
        self.network = network(obs_shape, means + num_extra, out_gain=[out_gain] * means + [1.0] * num_extra if num_extra else out_gain)
        free = distribution.num_params - distribution.num_means
        self.log_std = nn.Parameter(torch.zeros(free)) if free else None

    def forward(self, obs: Tensor) -> Tensor:
        """[B, *obs_shape] -> [B, num_params]."""
        return self.with_extra(obs)[0] if self.num_extra else self._with_log_std(self.network(obs))

    def with_extra(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """[B, *obs_shape] -> [B, num_params] and [B, num_extra]."""
        means, extra = self.network(obs).tensor_split((self.num_means,), -1)
        return self._with_log_std(means), extra

    def _with_log_std(self, means: Tensor) -> Tensor:
        return means if self.log_std is None else torch.cat([means, self.log_std.expand(len(means), -1)], -1)

    def numpy_forward(self) -> Callable[[Array], Array]:
        """`forward` from and to NumPy: [N, *obs_shape] -> [N, num_params]; by NumPy alone where the network can."""
        if self.num_extra:
            both = self.numpy_with_extra()
            return lambda obs: both(obs)[0]
        means, complete = numpy_forward(self.network), self._with_log_std_in_numpy()
        return means if self.log_std is None else lambda obs: complete(means(obs))

    def numpy_with_extra(self) -> Callable[[Array], tuple[Array, Array]]:
        """`with_extra` from and to NumPy."""
        outputs, complete, count = numpy_forward(self.network), self._with_log_std_in_numpy(), self.num_means

        def forward(obs: Array) -> tuple[Array, Array]:
            both = outputs(obs)
            return complete(both[:, :count]), both[:, count:]

        return forward

    def _with_log_std_in_numpy(self) -> Callable[[Array], Array]:
        if self.log_std is None:
            return lambda means: means
        log_std = self.log_std.detach()
        return lambda means: np.concatenate([means, np.broadcast_to(log_std.cpu().numpy(), (len(means), len(log_std)))], -1)


class ActorCritic(nn.Module):
    """A policy and a value function: two networks, or with `shared` one whose last output is the value.

    Of two networks the policy's comes first in `parameters()`.
    """

    def __init__(self, network: NetworkFactory, obs_shape: Sequence[int], distribution: Distribution, *, shared: bool) -> None:
        super().__init__()
        self.policy = Policy(network, obs_shape, distribution, num_extra=1 if shared else 0)
        self.value: nn.Module | None = None if shared else network(obs_shape, 1, out_gain=1.0)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """[B, *obs_shape] -> the policy's params [B, num_params] and the values [B]."""
        params, value = self.policy.with_extra(obs) if self.value is None else (self.policy(obs), self.value(obs))
        return params, value.squeeze(-1)

    def numpy_policy(self) -> Callable[[Array], Array]:
        """The policy's params [N, num_params], from and to NumPy: what acting needs."""
        return self.policy.numpy_forward()

    def numpy_forward(self) -> Callable[[Array], tuple[Array, Array]]:
        """`forward` of a shared network, from and to NumPy."""
        assert self.value is None
        forward = self.policy.numpy_with_extra()

        def both(obs: Array) -> tuple[Array, Array]:
            params, value = forward(obs)
            return params, value[:, 0]

        return both

    def numpy_value(self) -> Callable[[Array], Array]:
        """The values [N], from and to NumPy."""
        forward = numpy_forward(self.policy.network if self.value is None else self.value)
        return lambda obs: forward(obs)[:, -1]


class Ensemble(nn.Module):
    """Networks of one kind with weights of their own: [B, ...] -> [E, B, num_outputs]."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, obs: Tensor, first: int | None = None) -> Tensor:
        """Of all networks, or of the `first` so many."""
        return torch.stack([member(obs) for member in self.members[:first]])


class MLPEnsemble(nn.Module):
    """MLPs evaluated together, layer by layer: one batched product where each network had its own."""

    def __init__(self, members: Sequence[MLP]) -> None:
        super().__init__()
        self.activate = members[0].activate
        layers = [member._linears for member in members]
        columns = list(zip(*layers, strict=True))
        self.weights = nn.ParameterList(torch.stack([one.weight.detach().T for one in column]) for column in columns)  # [E, in, out]
        self.biases = nn.ParameterList(torch.stack([one.bias.detach().unsqueeze(0) for one in column]) for column in columns)  # [E, 1, out]

    def forward(self, obs: Tensor, first: int | None = None) -> Tensor:
        """[B, *obs_shape] -> [E, B, num_outputs]; of all networks, or of the `first` so many."""
        weights, biases = list(self.weights), list(self.biases)
        if first is not None:  # or the gradient of a slice takes two more passes over it
            weights, biases = ([parameter[:first] for parameter in group] for group in (weights, biases))
        x = obs.flatten(1).float().expand(len(weights[0]), -1, -1)
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            x = self.activate(torch.bmm(x, weight).add_(bias))
        if weights[-1].shape[-1] == 1:  # MKL takes 164 us for this product, the sum 45
            return (x * weights[-1].mT).sum(-1, keepdim=True) + biases[-1]
        return torch.bmm(x, weights[-1]).add_(biases[-1])


def ensemble(network: NetworkFactory, count: int, obs_shape: Sequence[int], num_outputs: int) -> nn.Module:
    """`count` networks as one module: evaluated together where their class itself, not one above it, says how."""
    members = [network(obs_shape, num_outputs) for _ in range(count)]
    return vars(type(members[0])).get("together", Ensemble)(members)


def frozen(module: nn.Module) -> Callable[..., Tensor]:
    """A module whose parameters are constants: gradients pass through it, and none of its weights' is computed."""
    constants = {name: parameter.detach() for name, parameter in module.named_parameters()}
    return lambda *inputs, **options: functional_call(module, constants, inputs, options)


def numpy_forward(network: nn.Module) -> Callable[..., Array]:
    """A network as a function from and to NumPy: by NumPy alone where it lives on the CPU and offers that."""
    device = next(network.parameters()).device
    offered: Callable[[], Callable[..., Array]] | None = getattr(network, "numpy_forward", None)
    if offered is not None and device.type == "cpu":
        return offered()

    @torch.inference_mode()
    def by_torch(*inputs: Array) -> Array:
        result: Array = network(*(torch.as_tensor(array, device=device) for array in inputs)).cpu().numpy()
        return result

    return by_torch


def channels_last(obs: Tensor) -> Tensor:
    """Images [B, C, H, W] laid out as networks for them want it, and other observations as they are."""
    return obs.contiguous(memory_format=torch.channels_last) if obs.ndim == 4 else obs


def select(obs: Tensor, index: Tensor) -> Tensor:
    """Observations `index` [M] of [B, ...] in the layout of `channels_last`: `index_select` makes another, in 9 ms for 0.6."""
    return obs.movedim(1, -1).index_select(0, index).movedim(-1, 1) if obs.ndim == 4 else obs.index_select(0, index)


def flatten_parameters(module: nn.Module) -> nn.Parameter:
    """Lay a module's parameters and their gradients out in one vector [P], and return it.

    The module's parameters become views of it, so one fused optimizer step on the vector updates them all: 24 us where
    twelve separate tensors take 59 (fused) to 357. Call it once, after the module is on its device.
    """
    parameters = list(module.parameters())
    flat = nn.Parameter(torch.cat([p.detach().reshape(-1) for p in parameters]))
    flat.grad = torch.zeros_like(flat)
    for parameter, data, grad in zip(parameters, _split(flat.detach(), parameters), _split(flat.grad, parameters), strict=True):
        parameter.data = data
        parameter.grad = grad
    return flat


def _split(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    parts = vector.split([p.numel() for p in like])
    return [part.view(p.shape) for part, p in zip(parts, like, strict=True)]


def clip_gradient(flat: nn.Parameter, max_norm: float | None) -> Tensor:
    """Scale the gradient of a flat vector to at most `max_norm`, in place; its norm before is returned (0-d)."""
    assert flat.grad is not None
    norm = torch.linalg.vector_norm(flat.grad)
    if max_norm is not None:
        flat.grad.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm
