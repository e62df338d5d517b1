"""The command `python -m medvision.evaluate run=DIR`: a finished run judged again, or on images from elsewhere."""

from omegaconf import DictConfig
from rich.console import Console

from medvision.command import run_command


def main() -> None:
    """Evaluate what the command line says."""
    run_command("evaluate", evaluate)


def evaluate(cfg: DictConfig) -> None:
    """Evaluate the run of a config."""
    # These load torch, which --help and mistyped overrides need not wait for.
    from medvision.console import logging_to
    from medvision.errors import ConfigError
    from medvision.retest import again, elsewhere, foreign
    from medvision.training.signals import StopSignal

    stop, console = StopSignal(), Console()
    with stop.installed(), logging_to(None, console):
        if (cfg.run is None) == (cfg.predictions is None):
            raise ConfigError("Give either run=DIR, the directory of a finished run, or predictions=FILE, a CSV.")
        if cfg.predictions is not None:
            if cfg.out is None or cfg.get("data") is not None or cfg.probes:
                raise ConfigError("predictions=FILE needs out=DIR for its report, and goes without data and probes.")
            foreign(cfg, console)
        elif cfg.get("data") is None:
            for key in ("out", "split"):
                if cfg[key] is not None:
                    raise ConfigError(f"{key} is for external data: add data=..., or leave {key} out.")
            again(cfg, stop, console)
        elif cfg.probes:
            raise ConfigError("probes=true trains on the run's own images: leave data out.")
        else:
            elsewhere(cfg, console)


if __name__ == "__main__":
    main()
