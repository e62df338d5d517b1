"""The study of a search in its storage: sqlite, PostgreSQL, or another database of SQLAlchemy."""

from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from omegaconf import DictConfig
from optuna.exceptions import OptunaError, StorageInternalError

from medvision.config.redact import without_passwords
from medvision.errors import ConfigError, RunError

# What Optuna raises when a storage that was there is gone: in the middle of a change, or of a question.
LOST = (StorageInternalError, sqlalchemy.exc.SQLAlchemyError)
_WAIT_SECONDS = 60  # for another worker that is writing to the same sqlite file


def default_storage(folder: Path) -> str:
    """A sqlite file in the folder of the search."""
    return f"sqlite:///{folder / 'study.db'}"


def lost(storage: str | None, error: Exception) -> RunError:
    """The error for a storage that went away in the middle of a search."""
    cause = str(error.__cause__ or error).partition("\n")[0]
    return RunError(
        f"storage={without_passwords(storage) if storage else 'study.db'} was lost: {cause}\n"
        "The same command continues from here when it is back."
    )


def open_study(cfg: DictConfig, folder: Path, fingerprint: str) -> optuna.Study:
    """The study that a command continues, or a new one.

    Args:
        cfg: of the command `tune`; `study` is set.
        folder: of the search.
        fingerprint: equal for commands whose trials can be compared.

    Raises:
        ConfigError: if the storage cannot be reached, or the study there was made by another configuration or in
            another folder of this machine.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url = cfg.storage or default_storage(folder)
    # Between two questions of a long epoch, a server may have closed the connection.
    options: dict[str, Any] = {"pool_pre_ping": True}
    if url.startswith("sqlite"):
        options = {"connect_args": {"timeout": _WAIT_SECONDS}}
    try:
        study = optuna.create_study(
            storage=optuna.storages.RDBStorage(url, engine_kwargs=options),
            study_name=cfg.study,
            direction="minimize" if cfg.monitor == "val/loss" else "maximize",
            load_if_exists=True,
            pruner=optuna.pruners.SuccessiveHalvingPruner(
                min_resource=cfg.pruner.min_epochs, reduction_factor=cfg.pruner.reduction_factor
            ),
        )
    except (sqlalchemy.exc.SQLAlchemyError, OptunaError, RuntimeError, TypeError) as error:
        raise ConfigError(
            f"storage={without_passwords(url)} cannot be used: {str(error).partition(chr(10))[0]}.\n"
            "Expected sqlite:///FILE in a folder that exists, or postgresql+psycopg://USER:PASSWORD@HOST/DATABASE\n"
            "of a server that runs."
        ) from error
    except ImportError as error:
        raise ConfigError(
            f"storage={without_passwords(url)}: the driver of this database is not installed.\n"
            "For PostgreSQL: pip install 'medvision[postgres]', and postgresql+psycopg://...; or storage=sqlite:///FILE."
        ) from error
    known = study.user_attrs
    if known.get("fingerprint", fingerprint) != fingerprint:
        raise ConfigError(
            f"The study {cfg.study} in {without_passwords(url)} was made with another configuration or search space.\n"
            "Its trials cannot be compared with these: name another one, study=NAME."
        )
    place = str(folder.absolute())
    if known.get("folder", place) != place and Path(known["folder"]).is_dir():
        raise ConfigError(
            f"The study {cfg.study} has its trials in {known['folder']}.\nContinue it with out=that folder."
        )
    if "fingerprint" not in known:
        study.set_user_attr("fingerprint", fingerprint)
        study.set_user_attr("folder", place)
    return study
