"""Time of a multirun of a few jobs over that of the same runs one after another.

Both are what a user types: `medvision train -m experiment=digits_cnn seed=0,1,2,3`, and four times the same
with one seed, each in an empty folder. Both include everything from the command to the last report.

    python experiments/speed/multirun_overhead.py
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial

from measuring import in_turns, parser, publish, read, share

TRAIN = [sys.executable, "-m", "medvision.train", "experiment=digits_cnn"]


def main(arguments: Sequence[str] | None = None) -> None:
    given = read(parser(__file__, __doc__, rounds=3), arguments)
    seeds, changes = ("0", "1", "2", "3"), []
    if given.tiny:
        seeds, changes = ("0", "1"), ["trainer.max_epochs=1", "evaluation.report=false", "evaluation.robustness=false"]
    with tempfile.TemporaryDirectory() as cache:
        tasks = {
            "medvision": partial(seconds, [["-m", f"seed={','.join(seeds)}", *changes]], cache),
            "one by one": partial(seconds, [[f"seed={seed}", *changes] for seed in seeds], cache),
        }
        found = in_turns(tasks, given.rounds, warm_up=0 if given.tiny else 1)
    claim = f"a multirun of {len(seeds)} jobs of digits_cnn over the same runs one by one"
    publish([share(claim, found, "medvision", "one by one", at_most=1.05)], given)


def seconds(commands: Sequence[Sequence[str]], cache: str) -> float:
    """Of commands, one after another, in an empty folder."""
    environment = os.environ | {"MEDVISION_CACHE": cache}
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        for command in commands:
            subprocess.run([*TRAIN, *command], cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - start


if __name__ == "__main__":
    main()
