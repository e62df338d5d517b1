"""Time of a multirun of a few jobs over that of the same runs one after another.

Both are what a user types: `python -m medvision.train -m experiment=digits_cnn seed=0,1,2,3`, and four times the same
with one seed, each in an empty folder. They alternate, so that a machine whose speed drifts treats both alike. What is
reported is the median of the ratios of wall time, and beside it that of processor time, which other work disturbs less.

    python experiments/speed/multirun_overhead.py
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from medvision.provenance import environment

TRAIN = [sys.executable, "-m", "medvision.train"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="digits_cnn")
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("multirun_overhead.json"))
    arguments = parser.parse_args()
    result = measure(arguments.experiment, arguments.jobs, arguments.rounds)
    facts = {name: environment()[name] for name in ("processor", "cpu_count", "threads", "versions")}
    arguments.out.write_text(
        json.dumps({"machine": facts | {"python": platform.python_version()}, "result": result}, indent=2) + "\n"
    )
    print(
        f"{result['jobs']} jobs of {result['experiment']}: multirun {result['multirun_s']:.1f} s, "
        f"alone {result['alone_s']:.1f} s, ratio {result['ratio']:.3f} ({result['ratio_low']:.3f} to "
        f"{result['ratio_high']:.3f} over {result['rounds']} rounds), processor time {result['ratio_processor']:.3f}"
    )


def measure(experiment: str, jobs: int, rounds: int) -> dict[str, float | int | str]:
    """Alternate both and compare them pair by pair."""
    seeds = [str(seed) for seed in range(jobs)]
    commands = {
        "multirun": [["-m", f"experiment={experiment}", f"seed={','.join(seeds)}"]],
        "alone": [[f"experiment={experiment}", f"seed={seed}"] for seed in seeds],
    }
    wall: dict[str, list[float]] = {name: [] for name in commands}
    processor: dict[str, list[float]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as cache:
        seconds([commands["alone"][0]], cache)  # warms up the disk, and the cache of decoded images if there is any
        for round_ in range(rounds):
            # Who goes first changes, as the second finds the processor warm.
            for name in sorted(commands, reverse=bool(round_ % 2)):
                elapsed, used = seconds(commands[name], cache)
                wall[name].append(elapsed)
                processor[name].append(used)
    ratios = [a / b for a, b in zip(wall["multirun"], wall["alone"], strict=True)]
    return {
        "experiment": experiment,
        "jobs": jobs,
        "rounds": rounds,
        **{f"{name}_s": statistics.median(values) for name, values in wall.items()},
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "ratio_processor": statistics.median(
            a / b for a, b in zip(processor["multirun"], processor["alone"], strict=True)
        ),
    }


def seconds(commands: Sequence[Sequence[str]], cache: str) -> tuple[float, float]:
    """Wall and processor time of commands, one after another."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for command in commands:
            subprocess.run(
                [*TRAIN, *command],
                cwd=folder,
                env=os.environ | {"MEDVISION_CACHE": cache},
                stdout=subprocess.DEVNULL,
                check=True,
            )
        elapsed = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return elapsed, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
