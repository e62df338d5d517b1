"""Muon: momentum whose steps are made orthogonal, for the weights of hidden layers; Adam for all others."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

# Of the quintic a x + b x^3 + c x^5, as steep at 0 as it can be: singular values come near 1 in few steps, not to 1.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_EPS = 1e-8


class Muon(Optimizer):
    """Two groups of parameters: filters, the matrices inside the network; others, which are its vectors and its head.

    A filter's step is the nearest orthogonal matrix to its momentum, so that all directions move alike, and its own
    norm is held at the square root of its number of outputs: the learning rate is an angle and means the same for
    every layer. The others take steps of Adam with decoupled weight decay. A schedule scales both learning rates alike.

    Args:
        params: (name, parameter) pairs as `Module.named_parameters` gives them; what has "head." in its name is the
            head. Without names there is no head: every matrix is a filter.
        lr: of the filters.
        momentum: of the filters, in [0, 1); Nesterov's.
        steps: Newton-Schulz iterations.
        other_lr: of the others.
        betas: of the others: decay of the running mean of the gradient and of its square.
        weight_decay: of the others: share of each weight, times its learning rate, that is taken off per step.

    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[tuple[str, nn.Parameter]],
        lr: float = 0.24,
        momentum: float = 0.6,
        steps: int = 3,
        other_lr: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.0,
    ) -> None:
        groups: dict[bool, list[Any]] = {True: [], False: []}
        for one in params:
            name, parameter = one if isinstance(one, tuple) else ("", one)
            groups[parameter.ndim > 1 and "head." not in name].append(one)
        settings: dict[bool, dict[str, Any]] = {
            True: {"lr": lr, "momentum": momentum, "steps": steps},
            False: {"lr": other_lr, "betas": tuple(betas), "weight_decay": weight_decay, "step": 0},
        }
        super().__init__([{"params": found, **settings[kind]} for kind, found in groups.items() if found], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; `closure` evaluates the loss again and returns it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if weights and "momentum" in group:
                self._orthogonal_step(group, weights)
            elif weights:
                self._adam_step(group, weights)
        return loss

    def _orthogonal_step(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        gradients, buffers = [_grad(p) for p in weights], self._state(weights, "momentum")
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, gradients)
        ahead = torch._foreach_add(gradients, buffers, alpha=group["momentum"])
        # Filters of equal shape are orthogonalised together: on a GPU a batch of matrices takes the time of one.
        for shape in dict.fromkeys(p.shape for p in weights):
            alike = [number for number, p in enumerate(weights) if p.shape == shape]
            # Channels last, as the filters lie in memory; the order of columns does not matter.
            steps = torch.stack([ahead[number].movedim(1, -1) for number in alike])
            updates = orthogonalised(steps.flatten(2), group["steps"]).view_as(steps).movedim(-1, 2)
            for number, update in zip(alike, updates, strict=True):
                weight = weights[number]
                weight.mul_(len(weight) ** 0.5 / weight.norm())
                weight.add_(update, alpha=-group["lr"])

    def _adam_step(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        group["step"] += 1
        first, second = group["betas"]
        gradients = [_grad(p) for p in weights]
        means, squares = self._state(weights, "mean"), self._state(weights, "square")
        torch._foreach_lerp_(means, gradients, 1 - first)
        torch._foreach_mul_(squares, second)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - second)
        # Means that began at 0 are too small by these factors.
        unbiased, unbiased_square = 1 - first ** group["step"], 1 - second ** group["step"]
        scales = torch._foreach_sqrt(torch._foreach_div(squares, unbiased_square))
        torch._foreach_add_(scales, _EPS)
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_addcdiv_(weights, means, scales, -group["lr"] / unbiased)

    def _state(self, weights: list[Tensor], name: str) -> list[Tensor]:
        for p in weights:
            if name not in self.state[p]:
                self.state[p][name] = torch.zeros_like(p)
        return [self.state[p][name] for p in weights]


def orthogonalised(matrices: Tensor, steps: int) -> Tensor:
    """Matrices with the singular vectors of `matrices` and singular values near 1, between about 0.5 and 1.5.

    Args:
        matrices: (B, M, N) float.
        steps: Newton-Schulz iterations; with few of them small singular values stay below that range.

    Returns:
        (B, M, N) in the type of `matrices`; computed in bfloat16 where that is faster, else in float32.
    """
    a, b, c = _QUINTIC
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.bfloat16() if _bfloat16_is_faster(matrices) else matrices.float()
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + _EPS)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    result: Tensor = (x.mT if tall else x).to(matrices.dtype)
    return result


def _bfloat16_is_faster(matrices: Tensor) -> bool:
    """On a CPU with AVX512-BF16 it took 0.5 times as long at 256 x 2304, 0.8 at 128 x 1152, and 2.5 at 32 x 288."""
    if matrices.is_cuda:
        return True
    return min(matrices.shape[1:]) >= 128 and torch.cpu._is_avx512_bf16_supported()


def _grad(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
