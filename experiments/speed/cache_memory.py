"""Peak memory of building a cache of 10,000 and of 100,000 images, each in a process of its own.

The same 500 JPEGs of 256 px are named over and over, so that the files take no room; the cache of 100,000 images of
64 x 64 RGB takes 1.2 GB of disk while the script runs.

    python experiments/speed/cache_memory.py
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from measuring import in_turns, parser, publish, read, share

CHILD = """
import sys
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
status = Path("/proc/self/status").read_text()  # getrusage would know of the parent's memory too
print(int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6)
"""


def main(arguments: Sequence[str] | None = None) -> None:
    given = read(parser(__file__, __doc__, rounds=3), arguments)
    small, large = (200, 400) if given.tiny else (10_000, 100_000)
    with tempfile.TemporaryDirectory() as folder:
        peak(Path(folder), 1)  # writes the files
        sizes = {f"{size:,} images": partial(peak, Path(folder), size) for size in (small, large)}
        found = in_turns(sizes, given.rounds, warm_up=0)
    claim = f"peak memory of building a cache of {large:,} images over {small:,}"
    publish([share(claim, found, f"{large:,} images", f"{small:,} images", unit="MB")], given)


def peak(folder: Path, n: int) -> float:
    """Peak resident memory, in MB, of a process that builds a cache of n images."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        environment = os.environ | {"MEDVISION_CACHE": place}
        command = [sys.executable, "-c", CHILD, str(folder), str(n)]
        return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    main()
