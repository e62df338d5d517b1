import time

import numpy as np

from medvision.labelling.active_learning import select_uncertain


def test_without_embeddings_the_most_uncertain_come_first():
    uncertainty = np.array([0.1, 0.9, 0.5, 0.9])
    assert select_uncertain(uncertainty, None, 3).tolist() == [1, 3, 2]


def test_all_are_chosen_where_there_are_fewer_than_k():
    chosen = select_uncertain(np.array([0.1, 0.9]), np.zeros((2, 3)), 5)
    assert chosen.tolist() == [1, 0]


def test_only_eligible_rows_are_chosen():
    rng = np.random.default_rng(0)
    eligible = np.flatnonzero(rng.random(100) < 0.5)
    chosen = select_uncertain(rng.random(100), rng.random((100, 4)), 10, eligible)
    assert set(chosen) <= set(eligible)


def test_copies_are_not_asked_for_twice():
    """Four clusters of copies: four picks meet each once, where uncertainty alone stays in one."""
    rng = np.random.default_rng(0)
    centres = 10 * rng.standard_normal((4, 8))
    embeddings = np.repeat(centres, 10, axis=0)
    uncertainty = np.repeat([0.9, 0.8, 0.7, 0.6], 10)
    assert sorted(select_uncertain(uncertainty, embeddings, 4) // 10) == [0, 1, 2, 3]
    assert set(select_uncertain(uncertainty, None, 4) // 10) == {0}


def test_every_choice_is_different_and_repeats(tmp_path):
    rng = np.random.default_rng(1)
    uncertainty, embeddings = rng.random(3000).astype(np.float32), rng.standard_normal((3000, 16)).astype(np.float32)
    embeddings[::2] = embeddings[0]
    chosen = select_uncertain(uncertainty, embeddings, 300)
    assert len(set(chosen.tolist())) == 300
    embeddings.tofile(tmp_path / "embeddings")
    again = select_uncertain(uncertainty, np.memmap(tmp_path / "embeddings", np.float32, "r", shape=(3000, 16)), 300)
    np.testing.assert_array_equal(chosen, again)


def test_the_first_choice_is_the_most_uncertain_and_all_are_candidates():
    rng = np.random.default_rng(2)
    uncertainty = rng.random(5000)
    chosen = select_uncertain(uncertainty, rng.standard_normal((5000, 8)), 20)
    assert chosen[0] == uncertainty.argmax()
    assert uncertainty[chosen].min() >= np.sort(uncertainty)[-200]


def test_a_hundred_thousand_images_take_seconds():
    rng = np.random.default_rng(3)
    uncertainty, embeddings = rng.random(100_000), rng.standard_normal((100_000, 32)).astype(np.float32)
    begin = time.perf_counter()
    select_uncertain(uncertainty, embeddings, 100)
    assert time.perf_counter() - begin < 5
