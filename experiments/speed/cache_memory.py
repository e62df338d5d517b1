"""Peak memory of building a cache of 10,000 and of 100,000 images, each in a process of its own.

The same 500 JPEGs of 256 px are named over and over, so that the files take no room; the cache of 100,000 images of
64 x 64 RGB takes 1.2 GB of disk while the script runs. Runs alternate; what is reported are medians.

    python experiments/speed/cache_memory.py
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

CHILD = """
import resource, sys
from pathlib import Path
import cv2, numpy as np
from medvision.data import cache

folder, n = Path(sys.argv[1]), int(sys.argv[2])
files = [folder / f"{number}.jpg" for number in range(500)]
if not files[-1].exists():
    rng = np.random.default_rng(0)
    for file in files:
        coarse = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        cv2.imwrite(str(file), cv2.resize(coarse, (256, 256), interpolation=cv2.INTER_CUBIC))
names = [str(file) for file in files]
found = cache.read([names[index % 500] for index in range(n)], 64, 3)
assert found.pixels.shape == (n, 3, 64, 64) and not found.bad
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs=2, default=[10_000, 100_000])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    peaks: dict[int, list[float]] = {size: [] for size in arguments.sizes}
    with tempfile.TemporaryDirectory() as folder:
        peak(Path(folder), 1)  # writes the files
        for _ in range(arguments.rounds):
            for size in arguments.sizes:
                peaks[size].append(peak(Path(folder), size))
    small, large = (statistics.median(peaks[size]) for size in arguments.sizes)
    print(f"{'images':>10} {'peak memory':>14}")
    for size, value in zip(arguments.sizes, (small, large), strict=True):
        print(f"{size:>10,} {value:>11.0f} MB")
    print(f"{'ratio':>10} {large / small:>11.3f}")


def peak(folder: Path, n: int) -> float:
    """Peak resident memory, in MB, of a process that builds a cache of n images."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        environment = os.environ | {"MEDVISION_CACHE": place}
        command = [sys.executable, "-c", CHILD, str(folder), str(n)]
        return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    main()
