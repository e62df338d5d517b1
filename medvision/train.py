"""The command `medvision train experiment=NAME`: train, evaluate, and write a run directory."""

from omegaconf import DictConfig

from medvision.cli.entry import run_command


def main() -> None:
    """Train with the configuration of the command line."""
    run_command("train", train)


def train(cfg: DictConfig) -> None:
    """Train with a configuration."""
    from medvision.pipeline.fit import fit  # loads torch, which --help and mistyped overrides need not wait for

    fit(cfg)


if __name__ == "__main__":
    main()
