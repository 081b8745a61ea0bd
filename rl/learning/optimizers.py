"""Optimizers for one flat vector of parameters, which torch.compile can fuse with the gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import (
    _global_optimizer_post_hooks,
    _global_optimizer_pre_hooks,
    _use_grad_for_differentiable,
)


def layer_weights(module: nn.Module) -> Tensor:
    """Which elements of a module's flat vector are weights of layers: bool [P].

    The others are biases, scales and shifts of norms, sigmas of noise, log standard deviations, temperatures.
    """
    return torch.cat(
        [
            torch.full((p.numel(),), _is_layer_weight(name, p), device=p.device)
            for name, p in module.named_parameters()
        ]
    )


def _is_layer_weight(name: str, parameter: nn.Parameter) -> bool:
    """By name: `weight`, or in an MLPEnsemble `weights.<layer>`; a norm's `weight` is a vector."""
    *path, last = name.split(".")
    named = last == "weight" or (path[-1:] == ["weights"] and last.isdigit())
    return named and parameter.ndim >= 2 and "sigmas" not in path


class Number:
    """A number that kernels read: `value`, a tensor [1]. On a CPU NumPy sets it: torch would take 1 us."""

    def __init__(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> None:
        self.value = torch.zeros(1, device=device, dtype=dtype)
        self._memory: Any = self.value.numpy() if self.value.is_cpu else self.value

    def set(self, number: float) -> None:
        """Let it be `number`."""
        self._memory[0] = number


class Adam:
    """Adam (Kingma & Ba 2015, algorithm 1); with `weight_decay` AdamW (Loshchilov & Hutter 2019, algorithm
    2).

    A GradientStep limits the decay to weights of layers; alone it acts on all parameters.
    """

    def __init__(
        self,
        params: Sequence[nn.Parameter],
        lr: float,
        *,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        (self.flat,) = params
        # the learning rate; how many steps there were, for the kernel; 1 - beta^steps
        self.lr, self.count, self.unbias, self.unbias_square = (Number(self.flat.device) for _ in range(4))
        self.lr.set(lr)
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay
        self.decay: Tensor | None = None  # [P]: weight_decay, or 0 where there is none; None: not at all
        if weight_decay:
            self.decay = torch.full_like(self.flat.detach(), weight_decay)
        self.mean, self.mean_square = (torch.zeros_like(self.flat.detach()) for _ in range(2))
        self.steps = 0

    def limit_decay(self, to: Tensor) -> None:
        """Decay only the elements where `to` [P] is True."""
        if self.decay is not None:
            self.decay *= to

    def advance(self) -> None:
        """Count a step: in a graph, the powers of the betas would be computed for every eight parameters."""
        self._set_steps(self.steps + 1)

    def _set_steps(self, steps: int) -> None:
        self.steps = steps
        self.count.set(steps)
        self.unbias.set(1 - self.betas[0] ** steps)
        self.unbias_square.set(1 - self.betas[1] ** steps)

    def update(self, grad: Tensor) -> None:
        """One step along `grad` [P]: by plain operations in a graph, where they are fused; else by a kernel.

        The kernel takes 20 us for 12,000 parameters, the plain operations one by one 130.
        """
        self._update_plainly(grad) if torch.compiler.is_compiling() else self._update_by_kernel(grad)

    @torch.no_grad()
    def _update_by_kernel(self, grad: Tensor) -> None:
        if self.decay is not None:
            self.flat.mul_(1 - self.lr.value * self.decay)
        torch._fused_adamw_(
            [self.flat],
            [grad],
            [self.mean],
            [self.mean_square],
            [],
            [self.count.value],
            lr=self.lr.value,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=0.0,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
        )

    @torch.no_grad()
    def _update_plainly(self, grad: Tensor) -> None:
        beta1, beta2 = self.betas
        self.mean.lerp_(grad, 1 - beta1)
        self.mean_square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        if self.decay is not None:
            self.flat.mul_(1 - self.lr.value * self.decay)
        denominator = (self.mean_square / self.unbias_square.value).sqrt_().add_(self.eps)
        self.flat.sub_(self.mean / denominator * (self.lr.value / self.unbias.value))

    def state_dict(self) -> dict[str, Any]:
        """Both moments and the number of steps."""
        return {"mean": self.mean, "mean_square": self.mean_square, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set them."""
        self.mean.copy_(state["mean"])
        self.mean_square.copy_(state["mean_square"])
        self._set_steps(int(state["steps"]))


class RMSprop:
    """RMSprop (Hinton 2012) without momentum; `eps` is added to the root, as in torch and SB3's A2C.

    A3C's own (Mnih et al. 2016, eq. S3), TensorFlow's and SB3's RMSpropTFLike have it under the root.
    """

    def __init__(
        self, params: Sequence[nn.Parameter], lr: float, *, alpha: float = 0.99, eps: float = 1e-8
    ) -> None:
        (self.flat,) = params
        self.lr = Number(self.flat.device)
        self.lr.set(lr)
        self.alpha, self.eps = alpha, eps
        self.mean_square = torch.zeros_like(self.flat.detach())

    def advance(self) -> None:
        """Nothing depends on how many steps there were."""

    @torch.no_grad()
    def update(self, grad: Tensor) -> None:
        """One step along `grad` [P]."""
        self.mean_square.mul_(self.alpha).addcmul_(grad, grad, value=1 - self.alpha)
        self.flat.sub_(grad / self.mean_square.sqrt().add_(self.eps) * self.lr.value)

    def state_dict(self) -> dict[str, Any]:
        """The mean square of the gradient."""
        return {"mean_square": self.mean_square}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set it."""
        self.mean_square.copy_(state["mean_square"])


class TorchOptimizer:
    """An optimizer of torch.optim behind the same methods; its `weight_decay` acts on all parameters."""

    def __init__(self, optimizer: torch.optim.Optimizer, flat: nn.Parameter) -> None:
        self.optimizer, self.flat = optimizer, flat
        self.lr = Number("cpu", torch.float64)
        self._plain_step = _plain_step(optimizer)

    def advance(self) -> None:
        """It counts for itself."""

    def update(self, grad: Tensor) -> None:
        """One step along `grad` [P]."""
        assert self.flat.grad is not None
        self.flat.grad.copy_(grad)  # in place: the networks' gradients are views of it
        self.optimizer.param_groups[0]["lr"] = float(self.lr.value)
        if self._plain_step is None or self._has_hooks:
            self.optimizer.step()
        else:
            self._plain_step(self.optimizer)

    @property
    def _has_hooks(self) -> bool:
        one = self.optimizer
        own = one._optimizer_step_pre_hooks or one._optimizer_step_post_hooks or "step" in vars(one)
        return bool(own or _global_optimizer_pre_hooks or _global_optimizer_post_hooks)

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's own."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set it."""
        self.optimizer.load_state_dict(state)


def skip_compiler_import() -> None:
    """Have the methods of torch.optim that are called at a start do without importing torch.compile.

    They import it to tell it not to trace them, which takes a second. Nothing here is traced with them.
    """
    for name in ("add_param_group", "state_dict", "load_state_dict"):
        function = getattr(getattr(torch.optim.Optimizer, name), "__wrapped__", None)
        if function is not None and not hasattr(function, _UNTRACED):
            setattr(function, _UNTRACED, function)


_UNTRACED = "__dynamo_disable"  # where torch._disable_dynamo keeps what it calls in place of a function


def _plain_step(optimizer: torch.optim.Optimizer) -> Callable[..., object] | None:
    """`step` of an optimizer's class without the wrappers of torch.optim; None if it has others.

    One calls hooks and is for profiles. The other imports torch.compile to break graphs, and sets whether
    there are gradients: there are none where we call it.
    """
    graph_breaking = getattr(type(optimizer).step, "__wrapped__", None)
    usual = getattr(graph_breaking, "__code__", None) is _GRAPH_BREAKING
    if not usual or optimizer.defaults.get("differentiable"):
        return None
    return getattr(graph_breaking, "__wrapped__", None)


_GRAPH_BREAKING = _use_grad_for_differentiable(lambda: None).__code__
