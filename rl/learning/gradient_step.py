"""One gradient step: loss, gradient, clipping and optimizer, on all parameters as one vector.

Compiled it is one graph, with the optimizers of rl.optimizers; those of torch.optim work outside the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from rl.group import ALONE, Group
from rl.learning.compiled import Constants, compile_graph
from rl.learning.optimizers import Adam, TorchOptimizer, layer_weights, skip_compiler_import

# (networks, *inputs) -> the loss [] and what to report by name: scalars [], and others such as TD errors [B]
Loss = Callable[..., tuple[Tensor, dict[str, Tensor]]]
# the reported scalars [K], the others, the scalars' names
Outcome = tuple[Tensor, dict[str, Tensor], tuple[str, ...]]
_NOTHING = torch.zeros(0)


class _Evaluate(nn.Module):
    """A function of networks as a module, so that `functional_call` can give them other weights."""

    def __init__(self, networks: nn.Module) -> None:
        super().__init__()
        self.networks = networks

    def forward(self, function: Loss, *inputs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return function(self.networks, *inputs)


class GradientStep:
    """Steps that lower `loss(networks, *inputs)`. The parameters of `networks` become views of flat vectors.

    `groups` are the modules that have a learning rate, and an optimizer, of their own; together they hold all
    parameters of `networks`. Of several processes that train together (`group`), each evaluates the loss, and
    the gradients and what is reported are averaged. A loss that takes its `share` of the inputs does its part
    of the work; one that does not does all of it, in every process.
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
        group: Group = ALONE,
    ) -> None:
        self.networks, self.loss, self.max_grad_norm = networks, loss, max_grad_norm
        self.group = group
        # for a loss that evaluates its networks on this process's part of a minibatch alone
        self.share, self.whole = group.share, group.whole
        names = {id(parameter): name for name, parameter in networks.named_parameters()}
        self.layouts = [
            [(names.pop(id(p)), p.shape, p.numel()) for p in part.parameters()] for part in groups
        ]
        assert not names, f"in no group: {sorted(names.values())}"
        self.flats = [flatten_parameters(part) for part in groups]
        skip_compiler_import()
        made = [optimizer([flat], lr=0.0) for flat in self.flats]
        self.optimizers = [
            TorchOptimizer(one, flat) if isinstance(one, torch.optim.Optimizer) else one
            for one, flat in zip(made, self.flats, strict=True)
        ]
        for one, part in zip(self.optimizers, groups, strict=True):
            if isinstance(one, Adam):
                one.limit_decay(layer_weights(part))
        self.compiled, self._evaluate = compile, _Evaluate(networks)
        self._run: Callable[..., Outcome] = self._compile() if compile else self._eager
        self._constants: Constants | None = None  # known once everything is built
        # Subnormal numbers count as zero in a step: the moments of weights that get no gradient (behind dead
        # units) shrink to them, and they take a hundred times as long. The setting belongs to a thread; with
        # several, those that torch keeps have none.
        self._flush_subnormals = torch.get_num_threads() == 1
        self._start_report()

    def _start_report(self) -> None:
        self._total, self._steps = _NOTHING, 0  # the sum of the reported scalars, and of how many steps
        self._names: tuple[str, ...] = ()

    def _compile(self) -> Callable[..., Outcome]:
        """The whole step as one graph; without the optimizer if it is one of torch.optim, or if gradients of
        several processes are averaged before.
        """

        def whole(*inputs: Any) -> Outcome:
            return self._apply(*self._gradients(*inputs))

        def gradients(*inputs: Any) -> tuple[Sequence[Tensor], dict[str, Tensor]]:
            return self._gradients(*inputs)

        if self.group.size == 1 and not any(isinstance(one, TorchOptimizer) for one in self.optimizers):
            return compile_graph(whole, self.flats[0].device)
        compiled = compile_graph(gradients, self.flats[0].device)
        return lambda *inputs: self._apply(*self.group.average(*compiled(*inputs)))

    @property
    def parts(self) -> dict[str, Any]:
        """What a checkpoint must hold of it: an optimizer, or one for each group."""
        if len(self.optimizers) == 1:
            return {"optimizer": self.optimizers[0]}
        return {f"optimizer_{n}": optimizer for n, optimizer in enumerate(self.optimizers)}

    def set_lr(self, *lrs: float) -> None:
        """The learning rate of each group from now on."""
        for optimizer, lr in zip(self.optimizers, lrs, strict=True):
            optimizer.lr.set(lr)

    def __call__(self, *inputs: Any) -> dict[str, Tensor]:
        """One step. The scalars that the loss reports are added up for `report`; the others come back."""
        if self.compiled:
            if self._constants is None:
                self._constants = Constants(self.loss, self.flats[0].device)
            self._constants.check()
            inputs = tuple(self._constants.inputs(inputs))
        for optimizer in self.optimizers:
            optimizer.advance()
        torch.set_flush_denormal(self._flush_subnormals)
        try:
            scalars, others, self._names = self._run(*inputs)
        finally:
            torch.set_flush_denormal(False)
        if self._steps:
            self._total += scalars
        else:
            self._total = scalars
        self._steps += 1
        return others

    def total(self, name: str) -> Tensor:
        """The sum of what the steps since the last report gave as `name`, a scalar."""
        return self._total[self._names.index(name)].clone() if self._steps else torch.zeros(())

    def report(self) -> dict[str, float]:
        """The mean of each reported scalar over the steps since the last report; {} if there was no step.

        With `loss` and `grad_norm`, the gradient's norm before clipping.
        """
        means = self._total / self._steps if self._steps > 1 else self._total
        report = dict(zip(self._names, means.tolist(), strict=True))
        self._start_report()
        return report

    def _eager(self, *inputs: Any) -> Outcome:
        grads = [flat.grad for flat in self.flats if flat.grad is not None]
        for grad in grads:
            grad.zero_()
        loss, report = self.loss(self.networks, *inputs)
        loss.backward()
        return self._apply(*self.group.average(grads, {"loss": loss, **report}))

    def _gradients(self, *inputs: Any) -> tuple[Sequence[Tensor], dict[str, Tensor]]:
        """The gradient of each group, and the report; free of side effects, for torch.compile."""

        def loss_of(*flats: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            weights = {}
            for flat, layout in zip(flats, self.layouts, strict=True):
                parts = flat.split([size for *_, size in layout])
                for (name, shape, _), part in zip(layout, parts, strict=True):
                    weights[f"networks.{name}"] = part.view(shape)
            loss, report = functional_call(evaluate, weights, (self.loss, *inputs))
            return loss, {"loss": loss, **report}

        evaluate = self._evaluate
        argnums = tuple(range(len(self.flats)))
        return torch.func.grad(loss_of, argnums, has_aux=True)(*(flat.detach() for flat in self.flats))

    @torch.no_grad()
    def _apply(self, grads: Sequence[Tensor], report: dict[str, Tensor]) -> Outcome:
        """Clip, and step."""
        norm = torch.linalg.vector_norm(grads[0])
        if len(grads) > 1:
            norm = torch.stack([torch.linalg.vector_norm(grad) for grad in grads]).norm()
        scale = None if self.max_grad_norm is None else (self.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        for optimizer, grad in zip(self.optimizers, grads, strict=True):
            optimizer.update(grad if scale is None else grad * scale)
        scalars = {name: value for name, value in report.items() if value.ndim == 0}
        others = {name: value.detach() for name, value in report.items() if value.ndim}
        return torch.hstack([*scalars.values(), norm]), others, (*scalars, "grad_norm")


class TargetWeights:
    """The weights of a target network, one vector [P] that follows the `weights` of another."""

    def __init__(self, weights: Tensor, target: nn.Module) -> None:
        self.weights, self.target = weights, flatten_parameters(target)
        self.update(1.0)

    @torch.no_grad()
    def update(self, tau: float) -> None:
        """target <- target + tau * (weights - target)."""
        if tau == 1.0:
            self.target.copy_(self.weights)
        else:
            self.target.lerp_(self.weights, tau)


def flatten_parameters(module: nn.Module) -> nn.Parameter:
    """Lay a module's parameters and their gradients out in one vector [P], and return it.

    The module's parameters become views of it, so one fused optimizer step updates them all: 24 us where
    twelve separate tensors take 59 (fused) to 357. Call it once, after the module is on its device.
    """
    parameters = list(module.parameters())
    flat = nn.Parameter(torch.cat([p.detach().reshape(-1) for p in parameters]))
    flat.grad = torch.zeros_like(flat)
    sizes = [p.numel() for p in parameters]
    for p, data, grad in zip(parameters, flat.detach().split(sizes), flat.grad.split(sizes), strict=True):
        p.data, p.grad = data.view(p.shape), grad.view(p.shape)
    return flat
