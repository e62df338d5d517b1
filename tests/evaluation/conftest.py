import numpy as np
import pytest

from medvision.evaluation import Predictions


@pytest.fixture
def make_predictions():
    """Builds predictions of a noisy classifier; `spread` 0 makes it useless, large values perfect."""

    def make(n=200, k=3, *, spread=1.5, seed=0, decimals=None, groups=None, targets=None):
        rng = np.random.default_rng(seed)
        targets = rng.integers(0, k, n) if targets is None else np.asarray(targets)
        logits = rng.normal(size=(len(targets), k))
        logits[np.arange(len(targets)), targets] += spread
        return Predictions.from_logits(
            ids=[f"image {i}" for i in range(len(targets))],
            targets=targets,
            # Few decimals make equal scores, which ranks must treat as ties.
            logits=logits if decimals is None else logits.round(decimals),
            class_names=[f"class {c}" for c in range(k)],
            groups=groups,
        )

    return make
