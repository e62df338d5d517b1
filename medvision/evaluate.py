"""The command `medvision evaluate run=DIR`: re-evaluate a finished run, or test it on external images."""

from omegaconf import DictConfig
from rich.console import Console

from medvision.cli.entry import run_command


def main() -> None:
    """Evaluate with the configuration of the command line."""
    run_command("evaluate", evaluate)


def evaluate(cfg: DictConfig) -> None:
    """Evaluate the run of a configuration."""
    # These load torch, which --help and mistyped overrides need not wait for.
    from medvision.cli.console import logging_to
    from medvision.cli.stop_signal import StopSignal
    from medvision.errors import ConfigError
    from medvision.pipeline.external import evaluate_external, evaluate_predictions
    from medvision.pipeline.reevaluate import reevaluate

    stop, console = StopSignal(), Console()
    with stop.installed(), logging_to(None, console):
        if (cfg.run is None) == (cfg.predictions is None):
            raise ConfigError("Give either run=DIR, the directory of a finished run, or predictions=FILE, a CSV.")
        if cfg.predictions is not None:
            if cfg.out is None or cfg.get("data") is not None or cfg.negative_controls:
                raise ConfigError("predictions=FILE needs out=DIR, and excludes data and negative_controls.")
            evaluate_predictions(cfg, console)
        elif cfg.get("data") is None:
            for key in ("out", "split"):
                if cfg[key] is not None:
                    raise ConfigError(f"{key} is for external data: add data=..., or leave {key} out.")
            reevaluate(cfg, stop, console)
        elif cfg.negative_controls:
            raise ConfigError("negative_controls=true trains on the run's own images: leave data out.")
        else:
            evaluate_external(cfg, console)


if __name__ == "__main__":
    main()
