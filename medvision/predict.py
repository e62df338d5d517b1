"""The command `medvision predict run=DIR images=PATH`: label images, and select those a human should review."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import medvision
from medvision.cli.entry import run_command
from medvision.errors import BundleError, ConfigError, Interrupted, RunError
from medvision.files import Locked, lock
from medvision.runs.directory import writable


def main() -> None:
    """Label with the configuration of the command line."""
    run_command("predict", predict)


def predict(cfg: DictConfig) -> None:
    """Label images and write annotations.csv, annotations.jsonl and the review page."""
    # These load numpy and OpenCV, which --help and mistyped overrides need not wait for; torch comes with a bundle.
    from medvision.cli.console import logging_to
    from medvision.cli.stop_signal import StopSignal
    from medvision.labelling.annotate import annotate
    from medvision.labelling.inputs import find_images
    from medvision.labelling.outputs import write_outputs

    if (cfg.run is None) == (cfg.model is None):
        raise ConfigError("Name one model: run=DIR (a run directory or bundle) or model=FILE.onnx.")
    path = Path(cfg.run or cfg.model)
    console = Console(highlight=False, soft_wrap=True)
    with StopSignal().installed(), logging_to(None, console):
        digest = _digest(path)
        model: Any = medvision.load(path, cfg.device, cfg.tta)
        inputs = find_images(cfg.images, model.class_names)
        job = {
            "medvision": medvision.__version__,
            "model": digest,
            "images": inputs.fingerprint(),
            "device": cfg.device,
            "min_confidence": cfg.min_confidence,
            "tta": model.decision.tta,
            "embeddings": cfg.select != "none",
        }
        key = sha256(repr(sorted(job.items())).encode()).hexdigest()
        out = _folder(cfg, key)
        with _locked(out):
            with _progress(console, "labelling") as progress, _resumable(console, out):
                annotate(
                    model,
                    inputs,
                    out,
                    job,
                    min_confidence=cfg.min_confidence,
                    keep_embeddings=cfg.select != "none",
                    progress=progress,
                )
            now = datetime.now().astimezone().isoformat(timespec="minutes")
            with _progress(console, "review page") as progress:
                write_outputs(
                    out,
                    model,
                    console,
                    cfg,
                    key=key,
                    written=f"medvision {medvision.__version__}, {now}, model {path} ({digest[:12]})",
                    progress=progress,
                )


def _digest(path: Path) -> str:
    """SHA-256 of the model: of the file, or of bundle.json, which has those of all others."""
    candidates = (path, path / "bundle.json", path / "model" / "bundle.json")
    file = next((one for one in candidates if one.is_file()), None)
    if file is None:
        raise BundleError(f"no model in {path}: expected a run directory, a bundle, or an ONNX file.")
    return sha256(file.read_bytes()).hexdigest()


def _folder(cfg: DictConfig, key: str) -> Path:
    """The folder of the job; by default the same command finds it again."""
    name = f"{Path(cfg.images).stem.strip('*.') or 'images'}_{key[:12]}"
    out = Path(cfg.out).absolute() if cfg.out is not None else Path(cfg.output_root).absolute() / name
    with writable("labelling"):
        out.mkdir(parents=True, exist_ok=True)
        (out / "job.lock").touch()
    return out


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    try:
        with lock(out / "job.lock", wait=False):
            yield
    except Locked as error:
        raise RunError(
            f"Another process is labelling into {out}.\nWait until it has ended, or choose another out=DIR."
        ) from error


@contextmanager
def _progress(console: Console, what: str) -> Iterator[Any]:
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def _resumable(console: Console, out: Path) -> Iterator[None]:
    try:
        yield
    except (Interrupted, KeyboardInterrupt):
        console.print(f"Stopped. Finished labels are kept in {out}; the same command resumes there.")
        raise


if __name__ == "__main__":
    main()
