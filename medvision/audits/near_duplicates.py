"""Near duplicates: copies that were re-encoded, resized, brightened or mirrored."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft

from medvision.randomness import generator

SIDE = 32  # of a thumbnail, as pHash has it
MAX_DISTANCE = 6  # of 64 bits; among 13 kinds of copies of brain MRI none was above 4
SAME = 0.995  # correlation of copies; the most alike strangers in MNIST reach 0.9946, in the digits 0.9922
ALIKE = 0.92  # weighted similarity of copies that lost detail ...
ALONE = 0.45  # ... which counts for pictures that no stranger resembles more: 95 % of CIFAR-10, under 1 % of MNIST
_LOW = 12  # frequencies along an axis that survive halving a picture of 32 pixels
_STRANGERS = 1000
_MIN_DEVIATION = 1.0  # grey levels; below it there is nothing to compare
_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class NearPairs:
    """Pairs of pictures that are copies of each other.

    Attributes:
        rows: (P, 2) positions, the smaller first, sorted.
        mirrored: (P,) whether one is the other's mirror image, left for right.
        similarity: (P,) correlation of their thumbnails, after mirroring, in [-1, 1].
    """

    rows: NDArray[np.intp]
    mirrored: NDArray[np.bool_]
    similarity: NDArray[np.float32]


def thumbnails(images: NDArray[np.uint8], sizes: NDArray[np.float64] | None = None) -> NDArray[np.uint8]:
    """Small grey versions, without the black bars of letterboxing, so that a copy of another shape looks the same.

    Args:
        images: (n, C, H, W) uint8 with C 1 or 3.
        sizes: (n, 2) height and width that letterboxed images had in their files; None where there are no bars.

    Returns:
        (n, SIDE, SIDE) uint8.
    """
    small = np.empty((len(images), SIDE, SIDE), np.uint8)
    for number, image in enumerate(images):
        if sizes is not None:
            image = _without_bars(image, sizes[number])
        grey = image[0] if len(image) == 1 else cv2.cvtColor(np.ascontiguousarray(image.transpose(1, 2, 0)), _GREY)
        shrinks = max(grey.shape) > SIDE
        small[number] = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return small


def perceptual_hashes(small: NDArray[np.uint8]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The pHash of each thumbnail and of its mirror image, bit for bit that of the ImageHash library.

    Our own because the library takes 65 to 380 microseconds an image, 4 to 23 s for 60,000, and as much again for the
    mirror images; here they cost a change of sign, and 60,000 take 0.8 s.

    Args:
        small: (N, 32, 32) uint8.

    Returns:
        (N,) and (N,) of 64 bits.
    """
    low = _frequencies(small, 8, "backward")
    return _bits(low), _bits(low * _mirror(8))


def near_duplicates(small: NDArray[np.uint8]) -> NearPairs:
    """Pairs whose hashes are close and whose pixels confirm it.

    A hash alone calls most of MNIST's ones equal. A pair counts when its thumbnails correlate by at least `SAME`. A
    copy of a small picture that lost detail correlates less; it counts when, all low frequencies weighted alike, it is
    `ALIKE`, and no stranger comes near either picture (`ALONE`), as with photographs and not with digits.

    All pairs of hashes are compared, which takes 6 s of one core for 70,000 pictures and grows with the square.

    Args:
        small: (N, 32, 32) uint8 thumbnails of different pictures: equal ones would be found, each pair of them.
    """
    rows = np.flatnonzero(small.std(axis=(1, 2)) >= _MIN_DEVIATION)
    if len(rows) < 2:
        return NearPairs(np.empty((0, 2), np.intp), np.empty(0, np.bool_), np.empty(0, np.float32))
    content = _Content(small[rows])
    hashes, mirrored_hashes = perceptual_hashes(small[rows])
    found: dict[tuple[int, int], tuple[bool, float]] = {}
    for mirrored, others in ((False, hashes), (True, mirrored_hashes)):
        for pairs in _close(hashes, others):
            for start in range(0, len(pairs), _CHUNK):
                for first, second, value in content.confirmed(pairs[start : start + _CHUNK], mirrored):
                    pair = (int(rows[first]), int(rows[second]))
                    # A symmetric picture is its own mirror image; the better explanation is kept.
                    if pair not in found or value > found[pair][1]:
                        found[pair] = (mirrored, value)
    ordered = sorted(found.items())
    return NearPairs(
        rows=np.array([pair for pair, _ in ordered], np.intp).reshape(-1, 2),
        mirrored=np.array([mirrored for _, (mirrored, _) in ordered], np.bool_),
        similarity=np.array([value for _, (_, value) in ordered], np.float32),
    )


class _Content:
    """What of the thumbnails is compared: all pixels, and their low frequencies, plain and weighted."""

    def __init__(self, small: NDArray[np.uint8]) -> None:
        self._small = small
        # Orthonormal: all frequencies together are as long as the pixels' deviations from their mean.
        low = _frequencies(small, _LOW, "ortho").reshape(len(small), _LOW**2)[:, 1:]
        self._plain = low / (SIDE * small.std(axis=(1, 2), dtype=np.float32)[:, np.newaxis])
        weighted = self._plain / (self._plain.std(axis=0) + np.float32(1e-4))
        self._weighted = weighted / np.linalg.norm(weighted, axis=1, keepdims=True)
        self._sign = _mirror(_LOW).repeat(_LOW, axis=0).ravel()[1:]
        self._alone = self._without_resemblance()

    def confirmed(self, pairs: NDArray[np.intp], mirrored: bool) -> Iterator[tuple[int, int, float]]:
        """The pairs that are copies, each with its correlation."""
        first, second = pairs.T
        sign = self._sign if mirrored else np.ones_like(self._sign)
        # The distance over some frequencies is at most that over all: this leaves out nothing that is `SAME`.
        near = np.square(self._plain[first] - self._plain[second] * sign).sum(axis=1) <= 2 - 2 * SAME + 1e-4
        alone = np.flatnonzero(self._alone[first] & self._alone[second])
        likeness = np.einsum("ij,ij->i", self._weighted[first[alone]], self._weighted[second[alone]] * sign)
        alike = np.zeros(len(pairs), np.bool_)
        alike[alone] = likeness >= ALIKE
        for row in np.flatnonzero(near | alike):
            one, other = int(first[row]), int(second[row])
            value = self._correlation(one, other, mirrored)
            if value >= SAME or alike[row]:
                yield one, other, value

    def _correlation(self, one: int, other: int, mirrored: bool) -> float:
        turned = self._small[other][:, ::-1] if mirrored else self._small[other]
        return float(np.corrcoef(self._small[one].ravel(), turned.ravel())[0, 1])

    def _without_resemblance(self) -> NDArray[np.bool_]:
        """(N,) whether no stranger, of a sample, comes near; what is `ALIKE` is no stranger."""
        strangers = self._weighted[generator("strangers").permutation(len(self._weighted))[:_STRANGERS]].T
        alone = np.empty(len(self._weighted), np.bool_)
        for start in range(0, len(alone), _CHUNK):
            likeness = self._weighted[start : start + _CHUNK] @ strangers
            alone[start : start + _CHUNK] = likeness.max(axis=1, initial=-1, where=likeness < ALIKE) < ALONE
        return alone


def _close(hashes: NDArray[np.uint64], others: NDArray[np.uint64]) -> Iterator[NDArray[np.intp]]:
    """(n, 2) positions, in parts, of the pairs at most `MAX_DISTANCE` bits apart, the smaller position first."""

    def compare(start: int) -> NDArray[np.intp]:
        bits = np.bitwise_count(hashes[start : start + _BLOCK, np.newaxis] ^ others[np.newaxis, start:])
        first, second = np.nonzero(bits <= MAX_DISTANCE)
        later = second > first
        return np.stack([first[later], second[later]], axis=1) + start

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # numpy releases the GIL
        yield from pool.map(compare, range(0, len(hashes), _BLOCK))


def _without_bars(image: NDArray[np.uint8], size: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The inverse of the placing that `medvision.data.decode` does for `letterbox`."""
    height, width = image.shape[1:]
    ratio = min(height / size[0], width / size[1])
    inner_height, inner_width = max(1, round(size[0] * ratio)), max(1, round(size[1] * ratio))
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    return image[:, top : top + inner_height, left : left + inner_width]


def _frequencies(small: NDArray[np.uint8], count: int, norm: Literal["ortho", "backward"]) -> NDArray[np.float32]:
    """(N, count, count) lowest frequencies of the cosine transform, that of the mean at [0, 0]."""
    low = np.empty((len(small), count, count), np.float32)
    for start in range(0, len(small), _CHUNK):
        chunk = small[start : start + _CHUNK].astype(np.float32)
        low[start : start + _CHUNK] = fft.dctn(chunk, axes=(1, 2), norm=norm)[:, :count, :count]
    return low


def _mirror(count: int) -> NDArray[np.float32]:
    """(1, count): mirroring left and right changes the sign of every odd horizontal frequency and nothing else."""
    return np.where(np.arange(count) % 2, -1, 1).astype(np.float32)[np.newaxis]


def _bits(low: NDArray[np.float32]) -> NDArray[np.uint64]:
    flat = low.reshape(len(low), 64)
    bits = np.packbits(flat > np.median(flat, axis=1, keepdims=True), axis=1)
    return bits.view(np.uint64).ravel()


_GREY = cv2.COLOR_RGB2GRAY
_BLOCK = 512  # hashes compared at once with all others
