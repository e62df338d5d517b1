"""Learning-rate schedules, each a function of (optimizer, total_steps) stepped once per batch."""

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR


def constant(optimizer: Optimizer, total_steps: int) -> LRScheduler:
    """The learning rate as the optimizer has it, throughout."""
    return LambdaLR(optimizer, lambda step: 1.0)


def cosine(optimizer: Optimizer, total_steps: int, warmup: float = 0.05, final: float = 0.0) -> LRScheduler:
    """Linear warm-up, then half a cosine down.

    Args:
        optimizer: Holds the peak learning rate.
        total_steps: Optimizer steps of the whole training.
        warmup: Share of the steps that climb to the peak, in [0, 1).
        final: Learning rate at the end as a share of the peak, in [0, 1].

    Source: Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5, without restarts.
    """
    return _after_warmup(
        optimizer, total_steps, warmup, final, lambda progress: 0.5 * (1 + math.cos(math.pi * progress))
    )


def linear(optimizer: Optimizer, total_steps: int, warmup: float = 0.0, final: float = 0.0) -> LRScheduler:
    """Straight up to the peak, then straight down.

    Args:
        optimizer: Holds the peak learning rate.
        total_steps: Optimizer steps of the whole training.
        warmup: Share of the steps that climb to the peak, in [0, 1).
        final: Learning rate at the end as a share of the peak, in [0, 1].

    """
    return _after_warmup(optimizer, total_steps, warmup, final, lambda progress: 1 - progress)


def one_cycle(
    optimizer: Optimizer,
    total_steps: int,
    pct_start: float = 0.3,
    div: float = 25.0,
    final_div: float = 1e4,
) -> LRScheduler:
    """One rise and one fall of the learning rate, momentum moving the other way.

    Args:
        optimizer: Holds the peak learning rate.
        total_steps: Optimizer steps of the whole training.
        pct_start: Share of the steps that rise, in (0, 1).
        div: Peak over initial learning rate.
        final_div: Initial over final learning rate.

    Source: Smith & Topin 2018, arXiv:1708.07120.
    """
    peak = [float(group["lr"]) for group in optimizer.param_groups]
    return OneCycleLR(
        optimizer, peak, total_steps=total_steps, pct_start=pct_start, div_factor=div, final_div_factor=final_div
    )


def _after_warmup(
    optimizer: Optimizer, total_steps: int, warmup: float, final: float, fall: Callable[[float], float]
) -> LRScheduler:
    """A linear climb, then what `fall` makes of the progress from 0 to 1, scaled to end at `final`."""
    climb = round(warmup * total_steps)

    def share(step: int) -> float:
        if step < climb:
            return (step + 1) / climb
        progress = min(1.0, (step - climb) / max(1, total_steps - climb))
        return final + (1 - final) * fall(progress)

    return LambdaLR(optimizer, share)
