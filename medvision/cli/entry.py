"""The entry of every command: read the command line, compose the config, map endings to exit codes."""

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import yaml
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from rich.text import Text

import medvision
from medvision.config import targets
from medvision.config.conf import CONF_DIR, options
from medvision.errors import ConfigError, Interrupted, UserError

# A command is a module of the package with a root file of its name in conf/.
COMMANDS = tuple(sorted(file.stem for file in CONF_DIR.glob("*.yaml")))


def main() -> NoReturn:
    """The console script: `medvision train ...` is `python -m medvision.train ...`."""
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if command in COMMANDS:
        # Argument 0 is what messages and multiruns call the command.
        sys.argv = [f"medvision.{command}", *sys.argv[2:]]
        import_module(f"medvision.{command}").main()
    console = Console(highlight=False)
    if command in ("-h", "--help"):
        console.print(Text(f"medvision {medvision.__version__} - {medvision.__doc__}", "bold"))
        rows = {name: Text(_comment(CONF_DIR / f"{name}.yaml")[0]) for name in COMMANDS}
        _section(console, "Commands", "medvision COMMAND --help", rows)
        sys.exit(0)
    if command == "--version":
        console.print(f"medvision {medvision.__version__}")
        sys.exit(0)
    hint = targets.nearest(command, COMMANDS) or f"Choose from {', '.join(COMMANDS)}."
    _show_error(f"{command} is not a command of medvision. {hint}")
    sys.exit(2)


def run_command(name: str, task: Callable[[DictConfig], object], conf: Path | None = None) -> NoReturn:
    """Run a command and leave the process.

    Exit codes: 0 done, 1 a bug (with its traceback) or a failed job of a multirun, 2 a mistake of the user (with a
    message of one to three lines), 130 Ctrl-C, 143 SIGTERM, and what the task itself returns, such as 3 for findings.

    Args:
        name: of the command, which is that of its root file `<name>.yaml`.
        task: what the command does with its config; a whole number that it returns is the exit code.
        conf: folder of the root file, for a command of another package; None for those of this one.
    """
    try:
        code = _run(name, task, sys.argv[1:], conf or CONF_DIR)
    except UserError as error:
        _show_error(str(error))
        code = 2
    except Interrupted as stop:
        code = 128 + stop.signum
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _show_error(message: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(Text("error: ", "bold red") + Text(message))


def _run(name: str, task: Callable[[DictConfig], object], argv: list[str], conf: Path) -> int:
    parser = _parser()
    try:
        arguments, unknown = parser.parse_known_intermixed_args(argv)
    except argparse.ArgumentError as error:
        raise ConfigError(f"{error}.\nSee --help.") from None
    if unknown:
        raise ConfigError(f"{unknown[0]} is not an option.\nSee --help.")
    if arguments.help:
        _help(name, parser, conf)
        return 0
    if arguments.version:
        Console(highlight=False).print(f"medvision {medvision.__version__}")
        return 0
    if arguments.multirun:
        if conf != CONF_DIR:
            raise ConfigError(f"-m is for the commands of medvision; {name} is a command of another package.")
        from medvision.sweeps.multirun import multirun

        return multirun(name, arguments.overrides, arguments.config_dir)

    from medvision.config.compose import compose

    cfg = compose(*arguments.overrides, config_name=name, config_dir=arguments.config_dir, conf=conf)
    if arguments.cfg:
        Console().out(OmegaConf.to_yaml(cfg), highlight=False, end="")
        return 0
    code = task(cfg)
    return code if isinstance(code, int) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("overrides", nargs="*")
    add = parser.add_argument
    add("-m", "--multirun", action="store_true", help="one run for each combination of values: seed=0,1,2")
    add("-c", "--cfg", choices=["job"], metavar="job", help="print the whole config, checked, instead of running")
    add("--config-dir", metavar="DIR", help="a folder laid out like conf/, with files of your own")
    add("-h", "--help", action="store_true", help="this text")
    add("--version", action="store_true", help="the version of medvision")
    return parser


def _help(name: str, parser: argparse.ArgumentParser, conf: Path) -> None:
    """Print the head of the root file and the options, read from the files without composing them."""
    root = conf / f"{name}.yaml"
    groups = {
        group: default
        for entry in yaml.safe_load(root.read_text(encoding="utf-8"))["defaults"]
        if isinstance(entry, dict)
        for group, default in entry.items()
        if not group.startswith("override ")
    }
    console = Console(highlight=False)
    title, *usage = _comment(root)
    console.print(Text(f"medvision {medvision.__version__} - {title}", "bold"))
    console.print(Text("\n".join(usage)), soft_wrap=True)
    if "experiment" in groups and groups.pop("experiment") is None:
        experiments = {file.stem: _comment(file)[0] for file in options("experiment").values()}
        _section(console, "Experiments", "experiment=NAME", {one: Text(line) for one, line in experiments.items()})
    choices = {group: _choices(options(group), default) for group, default in groups.items()}
    if choices:
        _section(console, "Groups", "group=OPTION; the default is bold", choices)
    keys = {"key=VALUE": Text(f"any value that --cfg job shows, such as data.image_size=64; comments in {conf}")}
    flags = {", ".join(one.option_strings): Text(one.help or "") for one in parser._actions if one.option_strings}
    _section(console, "Values and options", "", keys | flags)


def _comment(file: Path) -> list[str]:
    """The comment at the head of a config file, without the line that Hydra reads."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if "@package" not in line:
            lines.append(line.removeprefix("#").removeprefix(" "))
    return lines or [""]


def _choices(names: Iterable[str], default: str | None) -> Text:
    return Text(", ").join(Text(name, "bold" if name == default else "") for name in names)


def _section(console: Console, title: str, remark: str, rows: Mapping[str, Text]) -> None:
    table = Table.grid(padding=(0, 2))
    for key, text in rows.items():
        table.add_row(f"  {key}", text)
    console.print(Text.assemble("\n", (title, "bold"), f"  {remark}" if remark else ""))
    console.print(table)
