import math

import pytest
import torch

from medvision.training.schedules import constant, cosine, linear, one_cycle


def learning_rates(schedule, steps=100, **options):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5, momentum=0.9)
    scheduler = schedule(optimizer, total_steps=steps, **options)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_constant_stays():
    assert learning_rates(constant) == [0.5] * 100


def test_cosine_climbs_linearly_then_follows_the_closed_form():
    rates = learning_rates(cosine, warmup=0.1, final=0.2)
    assert rates[:10] == pytest.approx([0.5 * (i + 1) / 10 for i in range(10)])
    assert rates[10:] == pytest.approx([0.1 + 0.4 * (1 + math.cos(math.pi * i / 90)) / 2 for i in range(90)])


def test_linear_climbs_and_falls_in_straight_lines():
    assert learning_rates(linear) == pytest.approx([0.5 * (1 - i / 100) for i in range(100)])
    rates = learning_rates(linear, warmup=0.2, final=0.1)
    assert rates[:20] == pytest.approx([0.5 * (i + 1) / 20 for i in range(20)])
    assert rates[20:] == pytest.approx([0.05 + 0.45 * (1 - i / 80) for i in range(80)])


def test_one_cycle_starts_peaks_and_ends_where_it_should():
    rates = learning_rates(one_cycle, pct_start=0.3, div=10, final_div=100)
    assert rates[0] == pytest.approx(0.05)
    assert max(rates) == pytest.approx(0.5)
    assert rates.index(max(rates)) == 29
    assert rates[-1] == pytest.approx(0.0005)
