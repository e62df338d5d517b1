"""The command `python -m medvision.train experiment=NAME`: fit, test, and write a run directory."""

from omegaconf import DictConfig

from medvision.command import run_command


def main() -> None:
    """Train as the command line says."""
    run_command("train", train)


def train(cfg: DictConfig) -> None:
    """Train as a config says."""
    from medvision.run import fit  # loads torch, which --help and mistyped overrides need not wait for

    fit(cfg)


if __name__ == "__main__":
    main()
