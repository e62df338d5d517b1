"""Predictions that other software wrote: one CSV file with a column of probabilities for each class."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medvision.errors import DataError
from medvision.tasks import Task

PREFIX = "prob_"
_NAMED = ("id", "target", "group")
# Small enough to lose nothing, large enough for its logarithm to be finite.
_SMALLEST = float(np.finfo(np.float64).tiny)


def read(path: str | Path, class_names: Sequence[str] | None = None) -> dict[str, Any]:
    """The fields of `Predictions` from a CSV file; see `Predictions.from_csv`."""
    table = _table(Path(path))
    names = _class_names(table, class_names)
    probs = _numbers(table, [PREFIX + name for name in names])
    groups = table["group"] if "group" in table else pd.Series("", index=table.index)
    meta = [column for column in table.columns if column not in _NAMED and not column.startswith(PREFIX)]
    return {
        "ids": _text(table["id"]),
        "groups": _text(groups),
        "targets": _targets(table, names),
        "logits": np.log(np.maximum(probs, _SMALLEST)).astype(np.float32),
        "probs": probs,
        "task": Task.classes(names),
        "meta": {column: _text(table[column]) for column in meta},
    }


def _table(path: Path) -> pd.DataFrame:
    try:
        # Without a header, because pandas would rename columns that are there twice.
        cells = pd.read_csv(path, header=None, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError, pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise DataError(f"cannot read predictions {path}: {error}") from error
    columns, table = cells.iloc[0].str.strip(), cells.iloc[1:].reset_index(drop=True)
    twice = sorted(set(columns[columns.duplicated()]))
    if twice:
        raise DataError(f"expected each column once; {twice} occur more than once")
    table.columns = pd.Index(columns)
    missing = [column for column in ("id", "target") if column not in table]
    probabilities = [column for column in table.columns if column.startswith(PREFIX)]
    if missing or len(probabilities) < 2:
        raise DataError(
            f"expected the columns id, target and {PREFIX}<class> for two or more classes; "
            f"missing {missing or 'probabilities'}, found {list(table.columns)}"
        )
    return table


def _class_names(table: pd.DataFrame, class_names: Sequence[str] | None) -> list[str]:
    found = [column.removeprefix(PREFIX) for column in table.columns if column.startswith(PREFIX)]
    if class_names is None:
        return found
    missing = [PREFIX + name for name in class_names if name not in found]
    more = [PREFIX + name for name in found if name not in class_names]
    if missing or more:
        raise DataError(
            f"expected one column {PREFIX}<class> for each of the classes {list(class_names)}; "
            f"missing {missing}, too many {more}"
        )
    return list(class_names)


def _numbers(table: pd.DataFrame, columns: list[str]) -> NDArray[np.float64]:
    numbers = np.stack(
        [pd.to_numeric(table[column], errors="coerce").to_numpy(np.float64) for column in columns], axis=1
    )
    wrong = np.argwhere(np.isnan(numbers))
    if len(wrong):
        row, column = wrong[0]
        raise DataError(
            f"predictions: row {row}, id {table['id'][row]!r}: {columns[column]} should be a number in [0, 1], found "
            f"{table[columns[column]][row]!r}{_more(len(np.unique(wrong[:, 0])))}"
        )
    return numbers


def _targets(table: pd.DataFrame, names: list[str]) -> NDArray[np.int64]:
    # Not pandas' own category codes: they would need the names to be unique, which is checked later.
    codes = table["target"].str.strip().map({name: place for place, name in enumerate(names)})
    wrong = np.flatnonzero(codes.isna())
    if len(wrong):
        row = wrong[0]
        raise DataError(
            f"predictions: row {row}, id {table['id'][row]!r}: its target {table['target'][row]!r} is none of the "
            f"classes {names}{_more(len(wrong))}"
        )
    return np.asarray(codes, dtype=np.int64)


def _more(rows: int) -> str:
    return f" (and {rows - 1} more rows)" if rows > 1 else ""


def _text(column: "pd.Series[str]") -> NDArray[np.str_]:
    return np.asarray(column.to_numpy(), dtype=np.str_)
