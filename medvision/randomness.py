"""Counter-based randomness: every draw is a function of named integers, never of what was drawn before."""

import zlib

import numpy as np


def key(*parts: int | str) -> int:
    """Mix integers and names into one 63-bit seed that is equal on every machine and in every process.

    Args:
        parts: non-negative integers (seed, epoch, step, rank) and names (the purpose of the draw). Python's `hash()`
            would not do: it is salted per process.
    """
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in parts]
    low, high = np.random.SeedSequence(words).generate_state(2)
    return (int(high) << 32 | int(low)) & (2**63 - 1)


def generator(*parts: int | str) -> np.random.Generator:
    """A numpy generator keyed by `parts`; see `key`."""
    return np.random.Generator(np.random.Philox(key(*parts)))
