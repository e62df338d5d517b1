"""What to label next: the images that the model is least sure of, unlike one another."""

import numpy as np
from numpy.typing import NDArray

_POOL = 10  # candidates for each image that is chosen


def select_uncertain(
    uncertainty: NDArray[np.floating],
    embeddings: NDArray[np.floating] | None,
    k: int,
    eligible: NDArray[np.intp] | None = None,
) -> NDArray[np.intp]:
    """Choose k of N images for labelling, the most useful first; equal inputs give equal choices.

    The 10 k most uncertain ones are candidates. The most uncertain is taken, and then, one by one, the one whose
    uncertainty times the distance to the nearest image taken is largest: so copies of an image are not asked for twice.

    Args:
        uncertainty: (N,) >= 0, such as 1 less the largest probability.
        embeddings: (N, D), in memory or memory-mapped; None chooses by uncertainty alone.
        k: images to choose, at least 1; all are chosen where there are fewer.
        eligible: (n,) rows to choose from; None for all.

    Returns:
        (min(k, n),) rows, all different.

    Source: candidates first, then diversity: Zhdanov 2019, arXiv:1901.05954; the greedy k-centre step: Sener and
        Savarese 2018, arXiv:1708.00489.
    """
    rows = np.arange(len(uncertainty)) if eligible is None else eligible
    order = rows[np.argsort(-uncertainty[rows], kind="stable")]
    if embeddings is None or k >= len(order):
        return order[:k]
    pool = order[: _POOL * k]
    points = np.asarray(embeddings[np.sort(pool)], np.float64)[np.argsort(np.argsort(pool))]
    squares = np.square(points).sum(axis=1)
    weight = np.asarray(uncertainty, np.float64)[pool]
    nearest = np.full(len(pool), np.inf)
    chosen: list[int] = []
    candidate = 0
    for _ in range(k):
        chosen.append(candidate)
        distance = squares - 2 * points @ points[candidate] + squares[candidate]
        nearest = np.minimum(nearest, np.maximum(distance, 0))
        nearest[chosen] = -1.0  # below that of a copy, which is 0
        score = np.where(nearest < 0, -1.0, weight * np.sqrt(np.maximum(nearest, 0)))
        candidate = int(score.argmax())
    return pool[np.array(chosen, np.intp)]
