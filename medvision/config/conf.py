"""Where the config files are: conf/, and the options of its groups."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
# A wheel carries its own copy; an editable install and a checkout have conf/ beside the package.
CONF_DIR = next((one for one in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if one.is_dir()), _PACKAGE / "conf")


def options(group: str, config_dir: str | Path | None = None) -> dict[str, Path]:
    """The options of a group, each with its file.

    Args:
        group: such as "model".
        config_dir: a folder laid out like conf/, whose files are found beside ours.
    """
    folders = [CONF_DIR, *([Path(config_dir)] if config_dir else [])]
    files = [file for folder in reversed(folders) for file in (folder / group).glob("[!_]*.yaml")]
    return {file.stem: file for file in sorted(files, key=lambda one: one.stem)}
