from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medvision.data.loader import BatchLoader, place
from medvision.errors import ConfigError

N = 53
IMAGES = np.random.default_rng(0).integers(0, 256, (80, 3, 4, 5), dtype=np.uint8)
ROWS = np.random.default_rng(1).permutation(80)[:N]
TARGETS = np.random.default_rng(2).integers(0, 10, N)


def loader(**changes):
    options = {"batch_size": 8, "shuffle": True, "drop_last": True, "seed": 3, **changes}
    images = options.pop("images", torch.from_numpy(IMAGES))
    return BatchLoader(images, options.pop("targets", TARGETS), options.pop("rows", ROWS), **options)


def indices(batches):
    return [batch[2].tolist() for batch in batches]


@pytest.mark.parametrize("images", [torch.from_numpy(IMAGES), IMAGES], ids=["tensor", "array"])
def test_batches_are_plain_indexing(images):
    for pixels, targets, positions in loader(images=images):
        assert pixels.dtype == torch.uint8
        assert targets.dtype == positions.dtype == torch.int64
        np.testing.assert_array_equal(pixels, IMAGES[ROWS[positions]])
        np.testing.assert_array_equal(targets, TARGETS[positions])


def test_batches_from_a_read_only_memory_map(tmp_path):
    np.save(tmp_path / "images.npy", IMAGES)
    mapped = loader(images=np.load(tmp_path / "images.npy", mmap_mode="r"))
    for one, other in zip(mapped, loader(), strict=True):
        assert torch.equal(one[0], other[0])


@given(n=st.integers(1, 200), batch_size=st.integers(1, 40), seed=st.integers(0, 2**40), epoch=st.integers(0, 10**6))
def test_an_epoch_is_a_permutation_without_the_incomplete_batch(n, batch_size, seed, epoch):
    batch_size = min(n, batch_size)
    batches = loader(
        rows=np.arange(n) % 80, targets=np.zeros(n, int), batch_size=batch_size, seed=seed, epoch=lambda: epoch
    )
    flat = list(chain.from_iterable(indices(batches)))
    assert len(batches) == n // batch_size
    assert len(flat) == len(set(flat)) == n // batch_size * batch_size
    assert set(flat) <= set(range(n))


def test_order_is_a_function_of_seed_and_epoch():
    epochs = iter([0, 1, 0, 1])
    counted = loader(epoch=lambda: next(epochs))
    first, second, first_again, second_again = (indices(counted) for _ in range(4))
    assert first == first_again
    assert second == second_again
    assert first != second
    assert indices(loader()) == first
    assert indices(loader(seed=4)) != first


def test_the_epoch_is_read_when_iteration_begins():
    asked = []
    batches = iter(loader(epoch=lambda: asked.append(1) or 0))
    assert not asked
    next(batches)
    next(batches)
    assert asked == [1]


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_together_see_the_same_global_batches(world_size):
    alone = loader(epoch=lambda: 5)
    ranks = [loader(epoch=lambda: 5, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert {len(rank) for rank in ranks} == {len(alone)}
    for whole, *shares in zip(indices(alone), *map(indices, ranks), strict=True):
        assert [share[0] for share in shares] == whole[:world_size]
        assert sorted(chain.from_iterable(shares)) == sorted(whole)
        assert {len(share) for share in shares} == {len(whole) // world_size}


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [1, 15, 16, 17, 18, N])
def test_evaluation_sees_everything_once_in_equal_steps(n, world_size):
    options = {"rows": ROWS[:n], "targets": TARGETS[:n], "shuffle": False, "drop_last": False}
    ranks = [list(loader(**options, rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert {len(rank) for rank in ranks} == {-(-n // 8)} == {len(loader(**options))}
    seen = {}
    for batch in chain.from_iterable(ranks):
        assert len(batch[1]) > 0
        for target, index in zip(batch[1].tolist(), batch[2].tolist(), strict=True):
            if target >= 0:
                assert index not in seen
                seen[index] = target
    assert seen == dict(enumerate(TARGETS[:n]))
    if world_size == 1:
        assert indices(ranks[0]) == [list(range(start, min(start + 8, n))) for start in range(0, n, 8)]


@pytest.mark.parametrize("handed_out", range(7))
def test_resume_goes_on_at_the_next_batch(handed_out):
    def counting(start):
        numbers = iter(range(start, 100))
        return loader(epoch=lambda: next(numbers))

    reference = counting(0)
    whole = [indices(reference) for _ in range(4)]
    interrupted = counting(0)
    indices(interrupted)
    running = iter(interrupted)
    for _ in range(handed_out):
        next(running)
    state = interrupted.state_dict()
    assert state == ({"epoch": 1, "batch": handed_out} if handed_out else {"epoch": 0, "batch": 6})

    # A complete epoch is not gone on with: what begins next is the epoch after it.
    resumed = counting(1 if handed_out < 6 else 2)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert len(resumed) == 6
    iter(resumed)  # Lightning makes iterators that it never starts
    expected = whole[1][handed_out:] if handed_out < 6 else whole[2]
    assert indices(resumed) == expected
    assert indices(resumed) == whole[2 if handed_out < 6 else 3]


def test_a_state_of_another_epoch_is_not_gone_on_with():
    other = loader(epoch=lambda: 7)
    other.load_state_dict({"epoch": 6, "batch": 3})
    assert indices(other) == indices(loader(epoch=lambda: 7))


def test_a_complete_state_starts_at_the_first_batch():
    complete = loader()
    complete.load_state_dict({"epoch": 0, "batch": 6})
    assert indices(complete) == indices(loader())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"batch_size": 54},
            "data.batch_size is 54, but there are only 53 training images.\nSet data.batch_size to 53 or less",
        ),
        ({"batch_size": 6, "world_size": 4}, "does not divide among 4 processes.\nSet it to a multiple of 4"),
    ],
)
def test_batch_sizes_that_cannot_work(options, message):
    with pytest.raises(ConfigError, match=message):
        loader(**options)


def test_images_that_a_gpu_has_no_room_for_stay_on_the_host(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (IMAGES.nbytes - 1, 10**9))
    assert place(IMAGES, torch.device("cuda"), True) is IMAGES
    assert "they stay in the host's memory" in caplog.text
    caplog.clear()
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3 * IMAGES.nbytes, 10**9))
    assert place(IMAGES, torch.device("cuda"), "auto") is IMAGES
    assert caplog.text == ""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("resident", [True, False])
def test_batches_on_cuda_without_a_synchronisation(resident):
    device = torch.device("cuda")
    images = torch.from_numpy(IMAGES)
    batches = iter(loader(images=images.to(device) if resident else images, device=device))
    found = [next(batches)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        found += list(batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for one, other in zip(found, loader(), strict=True):
        assert all(tensor.device.type == "cuda" for tensor in one)
        assert all(torch.equal(a.cpu(), b) for a, b in zip(one, other, strict=True))
