import numpy as np
import pytest
import torch
from torch import nn

from medvision.models.fast_cnn import fast_cnn
from medvision.training.muon import Muon, orthogonalised


def with_gradients(seed=0):
    torch.manual_seed(seed)
    network = nn.ModuleDict({"body": nn.Conv2d(3, 8, 3), "more": nn.Conv2d(3, 8, 3), "head": nn.Linear(8, 4)})
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    return network


@pytest.mark.parametrize("shape", [(4, 6, 20), (4, 20, 6), (1, 9, 9)])
def test_orthogonalised_has_the_singular_vectors_of_its_input_and_values_near_one(shape):
    rng = np.random.default_rng(0)
    # Singular values of one size, which five steps take into the range.
    matrices = np.linalg.qr(rng.normal(size=(shape[0], max(shape[1:]), min(shape[1:]))))[0]
    matrices = matrices * rng.uniform(0.5, 1.5, size=(shape[0], 1, min(shape[1:])))
    if shape[1] < shape[2]:
        matrices = matrices.transpose(0, 2, 1)
    found = orthogonalised(torch.from_numpy(matrices).float(), steps=5).double().numpy()
    left, _, right = np.linalg.svd(matrices, full_matrices=False)
    inside = left.transpose(0, 2, 1) @ found @ right.transpose(0, 2, 1)
    values = np.diagonal(inside, axis1=1, axis2=2)
    assert values.min() > 0.5
    assert values.max() < 1.5
    np.testing.assert_allclose(inside, values[:, :, None] * np.eye(min(shape[1:])), atol=1e-5)


def test_a_batch_of_matrices_is_orthogonalised_as_each_alone():
    matrices = torch.randn(5, 7, 30)
    together = orthogonalised(matrices, steps=3)
    for one, expected in zip(matrices, together, strict=True):
        torch.testing.assert_close(orthogonalised(one[None], steps=3)[0], expected, rtol=1e-4, atol=1e-5)


def test_filters_keep_their_norm_and_move_by_an_angle():
    network = with_gradients()
    before = network["body"].weight.detach().clone()
    gradient = network["body"].weight.grad.clone()
    Muon(network.named_parameters(), lr=0.1, momentum=0.0, steps=3).step()
    renormed = before * len(before) ** 0.5 / before.norm()
    moved = orthogonalised(gradient.flatten(1)[None], steps=3).view_as(before)
    torch.testing.assert_close(network["body"].weight.detach(), renormed - 0.1 * moved, rtol=1e-4, atol=1e-5)


def test_what_is_no_filter_moves_as_adamw_moves_it():
    mine, theirs = with_gradients(), with_gradients()
    others = ("head.weight", "head.bias", "body.bias")
    optimizer = Muon(mine.named_parameters(), other_lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)
    reference = torch.optim.AdamW(
        [p for name, p in theirs.named_parameters() if name in others], lr=0.01, betas=(0.9, 0.95), weight_decay=0.1
    )
    for seed in range(4):
        for network in (mine, theirs):
            torch.manual_seed(seed)
            for parameter in network.parameters():
                parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        reference.step()
    for name in others:
        torch.testing.assert_close(mine.get_parameter(name), theirs.get_parameter(name), rtol=1e-5, atol=1e-6)


def test_it_goes_on_from_its_state_as_if_it_had_never_stopped():
    def run(network, optimizer, seeds):
        for seed in seeds:
            torch.manual_seed(seed)
            for parameter in network.parameters():
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()

    whole, halved = with_gradients(), with_gradients()
    run(whole, Muon(whole.named_parameters()), range(6))
    first = Muon(halved.named_parameters())
    run(halved, first, range(3))
    second = Muon(halved.named_parameters())
    second.load_state_dict(first.state_dict())
    run(halved, second, range(3, 6))
    for one, other in zip(whole.parameters(), halved.parameters(), strict=True):
        assert torch.equal(one, other)


def test_it_learns_what_the_fast_network_is_made_for():
    torch.manual_seed(0)
    images = torch.randint(0, 256, (64, 1, 16, 16), dtype=torch.uint8)
    targets = torch.arange(64) % 2
    images[targets == 1, :, :8] //= 4
    network = fast_cnn(2, 1, (16, 16), widths=[8, 16])
    network.set_statistics([110.0], [80.0])
    optimizer = Muon(((name, p) for name, p in network.named_parameters() if p.requires_grad), lr=0.1)
    losses = []
    for _ in range(15):
        loss = nn.functional.cross_entropy(network(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 * losses[0]
