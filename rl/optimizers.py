"""One gradient step: loss, gradient, clipping and optimizer, on all parameters as one vector; compiled, in one graph.

The optimizers here are those of torch.optim for one flat vector, written so that torch.compile can fuse them with the
rest: plain operations on tensors, nothing that depends on a value. The others of torch.optim work too, outside the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from rl.networks import flatten_parameters

Loss = Callable[..., tuple[Tensor, Sequence[Tensor]]]  # (networks, *inputs) -> the loss [] and what to report, each [] or [B]


class _Evaluate(nn.Module):
    """A function of networks as a module, so that `functional_call` can give them other weights."""

    def __init__(self, networks: nn.Module) -> None:
        super().__init__()
        self.networks = networks

    def forward(self, function: Loss, *inputs: Any) -> tuple[Tensor, Sequence[Tensor]]:
        return function(self.networks, *inputs)


class Adam:
    """Adam (Kingma & Ba 2015, algorithm 1); with `weight_decay` AdamW (Loshchilov & Hutter 2019, algorithm 2)."""

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
        self.lr = torch.full((1,), lr, device=self.flat.device)
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay
        self.mean, self.mean_square = torch.zeros_like(self.flat.detach()), torch.zeros_like(self.flat.detach())
        self.steps, self.count = 0, torch.zeros_like(self.lr)  # the same number twice: the kernel wants a tensor
        self.unbias, self.unbias_square = torch.zeros_like(self.lr), torch.zeros_like(self.lr)  # 1 - beta^steps

    def advance(self) -> None:
        """Count a step. A compiled graph would raise the betas to their powers anew for every eight parameters."""
        self._set_steps(self.steps + 1)

    def _set_steps(self, steps: int) -> None:
        self.steps = steps
        self.count.fill_(steps)
        self.unbias.fill_(1 - self.betas[0] ** steps)
        self.unbias_square.fill_(1 - self.betas[1] ** steps)

    def update(self, grad: Tensor) -> None:
        """One step along `grad` [P]: by plain operations in a graph, where they are fused; else by the kernel that torch has for it.

        The kernel takes 20 us for 12,000 parameters, the plain operations one by one 130.
        """
        self._update_plainly(grad) if torch.compiler.is_compiling() else self._update_by_kernel(grad)

    @torch.no_grad()
    def _update_by_kernel(self, grad: Tensor) -> None:
        torch._fused_adamw_(
            [self.flat],
            [grad],
            [self.mean],
            [self.mean_square],
            [],
            [self.count],
            lr=self.lr,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=self.weight_decay,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
        )

    @torch.no_grad()
    def _update_plainly(self, grad: Tensor) -> None:
        beta1, beta2 = self.betas
        self.mean.lerp_(grad, 1 - beta1)
        self.mean_square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        if self.weight_decay:
            self.flat.mul_(1 - self.lr * self.weight_decay)
        denominator = (self.mean_square / self.unbias_square).sqrt_().add_(self.eps)
        self.flat.sub_(self.mean / denominator * (self.lr / self.unbias))

    def state_dict(self) -> dict[str, Any]:
        """Both moments and the number of steps."""
        return {"mean": self.mean, "mean_square": self.mean_square, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set them."""
        self.mean.copy_(state["mean"])
        self.mean_square.copy_(state["mean_square"])
        self._set_steps(int(state["steps"]))


class RMSprop:
    """RMSprop (Hinton 2012), as A3C uses it: without momentum."""

    def __init__(self, params: Sequence[nn.Parameter], lr: float, *, alpha: float = 0.99, eps: float = 1e-8) -> None:
        (self.flat,) = params
        self.lr = torch.full((1,), lr, device=self.flat.device)
        self.alpha, self.eps = alpha, eps
        self.mean_square = torch.zeros_like(self.flat.detach())

    def advance(self) -> None:
        """Nothing depends on how many steps there were."""

    @torch.no_grad()
    def update(self, grad: Tensor) -> None:
        """One step along `grad` [P]."""
        self.mean_square.mul_(self.alpha).addcmul_(grad, grad, value=1 - self.alpha)
        self.flat.sub_(grad / self.mean_square.sqrt().add_(self.eps) * self.lr)

    def state_dict(self) -> dict[str, Any]:
        """The mean square of the gradient."""
        return {"mean_square": self.mean_square}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set it."""
        self.mean_square.copy_(state["mean_square"])


class TorchOptimizer:
    """An optimizer of torch.optim behind the same methods."""

    def __init__(self, optimizer: torch.optim.Optimizer, flat: nn.Parameter) -> None:
        self.optimizer, self.flat = optimizer, flat
        self.lr = torch.zeros(1, dtype=torch.float64)

    def advance(self) -> None:
        """It counts for itself."""

    def update(self, grad: Tensor) -> None:
        """One step along `grad` [P]."""
        assert self.flat.grad is not None
        self.flat.grad.copy_(grad)  # in place: the networks' gradients are views of it
        self.optimizer.param_groups[0]["lr"] = float(self.lr)
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's own."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set it."""
        self.optimizer.load_state_dict(state)


def _graph(function: Any) -> Callable[..., Any]:
    """One graph of a function of tensors whose surroundings never change; all else would be a constant in it.

    So only the guards on tensors stay, which saves 50 us a call. torch keeps graphs by code object, and without the
    other guards would take one step's graph for another's: each function gets a code object of its own.
    """
    function.__code__ = function.__code__.replace()
    options: dict[str, Any] = {"guard_filter_fn": torch.compiler.keep_tensor_guards_unsafe}
    return torch.compile(function, dynamic=False, fullgraph=True, options=options)


class GradientStep:
    """Steps that lower `loss(networks, *inputs)`. The parameters of `networks` become views of flat vectors.

    `groups` are the modules that have a learning rate, and an optimizer, of their own; together they hold all
    parameters of `networks`.
    """

    def __init__(
        self,
        networks: nn.Module,
        groups: Sequence[nn.Module],
        loss: Loss,
        *,
        optimizer: Callable[..., Any],
        max_grad_norm: float | None,
        compile: bool,
    ) -> None:
        self.networks, self.loss, self.max_grad_norm = networks, loss, max_grad_norm
        names = {id(parameter): name for name, parameter in networks.named_parameters()}
        self.layouts = [[(names.pop(id(p)), p.shape, p.numel()) for p in group.parameters()] for group in groups]
        assert not names, f"in no group: {sorted(names.values())}"
        self.flats = [flatten_parameters(group) for group in groups]
        made = [optimizer([flat], lr=0.0) for flat in self.flats]
        self.optimizers = [
            TorchOptimizer(one, flat) if isinstance(one, torch.optim.Optimizer) else one for one, flat in zip(made, self.flats, strict=True)
        ]
        self.compiled, self._evaluate = compile, _Evaluate(networks)
        self._run: Callable[..., Tensor] = self._compile() if compile else self._eager

    def _compile(self) -> Callable[..., Tensor]:
        """The whole step as one graph; without the optimizer where that is one of torch.optim, which breaks graphs."""

        def whole(*inputs: Any) -> Tensor:
            return self._apply(*self._gradients(*inputs))

        def gradients(*inputs: Any) -> tuple[Sequence[Tensor], list[Tensor]]:
            return self._gradients(*inputs)

        if not any(isinstance(one, TorchOptimizer) for one in self.optimizers):
            return _graph(whole)
        compiled = _graph(gradients)
        return lambda *inputs: self._apply(*compiled(*inputs))

    @property
    def parts(self) -> dict[str, Any]:
        """What a checkpoint must hold of it: an optimizer, or one for each group."""
        names = ["optimizer"] if len(self.optimizers) == 1 else [f"optimizer_{n}" for n in range(len(self.optimizers))]
        return dict(zip(names, self.optimizers, strict=True))

    def set_lr(self, *lrs: float) -> None:
        """The learning rate of each group from now on."""
        for optimizer, lr in zip(self.optimizers, lrs, strict=True):
            optimizer.lr.fill_(lr)

    def scalar(self, value: float) -> Any:
        """A number that changes from call to call, as an input: in a compiled graph a number would be a constant."""
        return torch.tensor(value, device=self.flats[0].device) if self.compiled else value

    def __call__(self, *inputs: Any) -> Tensor:
        """One step; the loss, the gradient's norm before clipping, and what the loss function reports, as one vector."""
        for optimizer in self.optimizers:
            optimizer.advance()
        return self._run(*inputs)

    def _eager(self, *inputs: Any) -> Tensor:
        grads = [flat.grad for flat in self.flats if flat.grad is not None]
        for grad in grads:
            grad.zero_()
        loss, report = self.loss(self.networks, *inputs)
        loss.backward()
        return self._apply(grads, [loss, *report])

    def _gradients(self, *inputs: Any) -> tuple[Sequence[Tensor], list[Tensor]]:
        """The gradient of each group and the report, as a function without side effects, for torch.compile."""

        def loss_of(*flats: Tensor) -> tuple[Tensor, list[Tensor]]:
            weights = {}
            for flat, layout in zip(flats, self.layouts, strict=True):
                for (name, shape, _), part in zip(layout, flat.split([size for *_, size in layout]), strict=True):
                    weights[f"networks.{name}"] = part.view(shape)
            loss, report = functional_call(evaluate, weights, (self.loss, *inputs))
            return loss, [loss, *report]

        evaluate = self._evaluate
        argnums = tuple(range(len(self.flats)))
        return torch.func.grad(loss_of, argnums, has_aux=True)(*(flat.detach() for flat in self.flats))

    @torch.no_grad()
    def _apply(self, grads: Sequence[Tensor], report: list[Tensor]) -> Tensor:
        """Clip, and step."""
        norm = torch.linalg.vector_norm(grads[0])
        if len(grads) > 1:
            norm = torch.stack([torch.linalg.vector_norm(grad) for grad in grads]).norm()
        scale = None if self.max_grad_norm is None else (self.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        for optimizer, grad in zip(self.optimizers, grads, strict=True):
            optimizer.update(grad if scale is None else grad * scale)
        loss, *others = report
        return torch.hstack([loss, norm, *others])


def shuffled_epochs(
    step: GradientStep,
    batch: Sequence[Tensor],
    coefs: Sequence[Any],
    *,
    count: int,
    minibatch: int,
    epochs: int,
    rng: np.random.Generator,
    report: Sequence[str],
    target_kl: float | None = None,
) -> tuple[dict[str, float], int]:
    """Passes over a batch of `count` in shuffled minibatches, none after one whose mean approx_kl is above `target_kl`.

    A step takes the batch's tensors, the indices [minibatch] and the `coefs`. The mean of what it reports, by the names in
    `report`, and how many steps were made.
    """
    device = batch[0].device
    total, updates = torch.zeros(len(report), device=device), 0
    for _ in range(epochs):
        before = total.clone()
        for index in torch.from_numpy(rng.permutation(count)).to(device).split(minibatch):
            total += step(*batch, index, *coefs)
            updates += 1
        if target_kl is not None and float((total - before)[report.index("approx_kl")] * minibatch / count) > target_kl:
            break
    return dict(zip(report, (total / updates).tolist(), strict=True)), updates
