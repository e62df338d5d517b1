"""The bootstrap: test sets drawn from the test set, and every metric of each of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from medvision.metrics.predictions import Predictions

Draw = Callable[[np.random.Generator, int], NDArray[np.integer]]
Scores = Callable[[NDArray[np.integer]], dict[str, NDArray[np.float64]]]

# Counts held at a time.
_CHUNK = 2**22
# Units drawn at a time: their counts stay in a core's cache.
_BLOCK = 2**16


@dataclass(frozen=True)
class Resampling:
    """Resamples of N samples: as many units as there are, drawn with replacement, each with all its samples.

    Not stratified by class: with class sizes held fixed, precision and F1 lose the part of their spread that comes
    from them. Over 1,000 test sets of 200 images, a tenth of them ill, resamples within the classes covered precision
    88 % of the time, macro precision 91 %, macro F1 and kappa 93 %; resamples of all 96 to 97, 96, 96 and 96 %.

    Attributes:
        slots: (N,) the unit of each sample, in [0, U).
        grouped: whether any unit is a group of several samples, rather than each a sample of its own.
    """

    slots: NDArray[np.intp]
    grouped: bool

    @classmethod
    def of(cls, predictions: Predictions) -> Self:
        """A unit is a group; a sample whose group is empty is a unit of its own."""
        groups = predictions.groups
        alone = groups == ""
        if alone.all():
            return cls(np.arange(len(groups)), grouped=False)
        names, slots = np.unique(groups, return_inverse=True)
        slots[alone] = len(names) + np.arange(alone.sum())
        units, slots = np.unique(slots, return_inverse=True)
        return cls(slots, grouped=len(units) < len(groups))

    @property
    def units(self) -> int:
        """U, how many there are."""
        return int(self.slots.max()) + 1

    def draw(self, rng: np.random.Generator, rows: int) -> NDArray[np.uint8]:
        """(rows, U) how often each resample holds each unit; one row after another gives the same as all at once."""
        units = self.units
        sizes = np.array([min(_BLOCK, units - begin) for begin in range(0, units, _BLOCK)])
        counts = np.empty((rows, units), dtype=np.uint8)  # 256 draws of one unit will not happen
        for row in counts:
            # How many draws fall into each block of units, then which: as if each were drawn alone, but quicker.
            for block, draws in enumerate(rng.multinomial(units, sizes / units)):
                # 16 bits as they come choose one of a full block; below that numpy is quicker with 32.
                width = np.uint16 if sizes[block] == _BLOCK else np.uint32
                chosen = rng.integers(sizes[block], size=draws, dtype=width)
                row[block * _BLOCK : (block + 1) * _BLOCK] = np.bincount(chosen, minlength=sizes[block])
        return counts


def of_cells(sizes: NDArray[np.int64]) -> Draw:
    """Resamples of independent samples of which only the cell is looked at: (cells,) samples in each.

    The same resamples as `Resampling.draw` gives of the samples, at a cost that does not depend on their number.
    """
    total = int(sizes.sum())
    return lambda rng, rows: rng.multinomial(total, sizes / total, rows)


def bootstrap(
    scores: Scores, draw: Draw, units: int, n_resamples: int, rng: np.random.Generator
) -> dict[str, NDArray[np.float64]]:
    """Every metric of every resample, (n_resamples,) each, NaN where a resample leaves it undefined."""
    parts = [scores(draw(rng, rows)) for rows in _rows(units, n_resamples)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _rows(units: int, n_resamples: int) -> Iterator[int]:
    """Sizes of the chunks: a matrix product wants several rows at once."""
    most = max(16, _CHUNK // units)
    for done in range(0, n_resamples, most):
        yield min(most, n_resamples - done)
