"""What a model said about labelled samples: the only bridge from a model to its evaluation."""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from medvision.errors import DataError
from medvision.files import replacing
from medvision.metrics import predictions as predictions_csv
from medvision.tasks import Task

# Rows of probabilities that other software wrote as float32 or with six decimals still count as summing to one.
_SUM_TOLERANCE = 1e-5


@dataclass(frozen=True, eq=False)
class Predictions:
    """Logits and probabilities of N samples over K classes, beside the truth.

    Attributes:
        ids: (N,) text, each once.
        groups: (N,) text, the patient or study of a sample; empty where a sample stands alone.
        targets: (N,) int64 in [0, K).
        logits: (N, K) float32, finite.
        probs: (N, K) float64 in [0, 1], rows sum to 1: the calibrated softmax of the logits.
        task: what was asked, with its K class names.
        meta: subgroup columns by name, each (N,) text.

    Raises:
        DataError: if an array has another shape or dtype, or a value that cannot be; the message names the row.
    """

    ids: NDArray[np.str_]
    groups: NDArray[np.str_]
    targets: NDArray[np.int64]
    logits: NDArray[np.float32]
    probs: NDArray[np.float64]
    task: Task
    meta: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_arrays(self)
        _check_values(self)

    @classmethod
    def from_logits(
        cls,
        *,
        ids: ArrayLike,
        targets: ArrayLike,
        logits: ArrayLike,
        class_names: Sequence[str] = (),
        task: Task | None = None,
        groups: ArrayLike | None = None,
        meta: Mapping[str, ArrayLike] | None = None,
        temperature: float = 1.0,
    ) -> Self:
        """Predictions of a model that gives logits; see the class for shapes.

        Args:
            ids: anything that turns into text.
            targets: any integers.
            logits: any floats.
            class_names: the name of each column of `logits`, where `task` is not given.
            task: what was asked.
            groups: without them every sample stands alone.
            meta: subgroup columns.
            temperature: T > 0, by which the logits are divided.
        """
        ids, task = np.asarray(ids, dtype=np.str_), task or Task.classes(class_names)
        # What overflows or is not a number is refused below with its row, which says more than numpy's warning.
        with np.errstate(over="ignore", invalid="ignore"):
            logits = np.asarray(logits, dtype=np.float32)
            probs = activation(task, logits, temperature)
        return cls(
            ids=ids,
            groups=np.zeros(ids.shape, dtype="<U1") if groups is None else np.asarray(groups, dtype=np.str_),
            targets=np.asarray(targets).astype(np.int64, casting="same_kind"),
            logits=logits,
            probs=probs,
            task=task,
            meta={name: np.asarray(column, dtype=np.str_) for name, column in (meta or {}).items()},
        )

    @classmethod
    def from_csv(cls, path: str | Path, class_names: Sequence[str] | None = None) -> Self:
        """Predictions that somebody else's software wrote, one row per sample.

        The columns are `id`, `target` (the name of the class), `prob_<class>` for each class and, if samples belong
        together, `group`; all others become subgroup columns. Logits are the logarithms of the probabilities.

        Args:
            path: a CSV file with a header, UTF-8.
            class_names: the classes in their order; without them that of the columns.

        Raises:
            DataError: if the file cannot be read, lacks a column, or holds a value that cannot be; the message names
                the columns or the row.
        """
        try:
            return cls(**predictions_csv.read(path, class_names))
        except DataError as error:
            raise DataError(f"in {path}: {error}") from None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The K names of the task's classes."""
        return self.task.class_names

    @property
    def preds(self) -> NDArray[np.int64]:
        """(N,) the most probable class of each sample; the first one where several are equal."""
        return np.asarray(self.probs.argmax(axis=1), dtype=np.int64)

    def take(self, rows: NDArray[np.intp]) -> Self:
        """The predictions of some samples, given by their positions (n,), at least one."""
        return replace(
            self,
            ids=self.ids[rows],
            groups=self.groups[rows],
            targets=self.targets[rows],
            logits=self.logits[rows],
            probs=self.probs[rows],
            meta={name: column[rows] for name, column in self.meta.items()},
        )

    def save(self, path: str | Path) -> None:
        """Write an .npz file, whole or not at all; equal predictions give equal bytes."""
        with replacing(Path(path)) as temporary, temporary.open("wb") as file:
            arrays: dict[str, Any] = {f"meta/{name}": self.meta[name] for name in sorted(self.meta)}
            np.savez(
                file,
                ids=self.ids,
                groups=self.groups,
                targets=self.targets,
                logits=self.logits,
                probs=self.probs,
                task=np.array(self.task.kind),
                class_names=np.array(self.class_names),
                **arrays,
            )

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            DataError: if the file is missing, damaged, holds objects, or lacks an array.
        """
        try:
            # Opened here, because numpy leaves a file that it cannot read open.
            with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as npz:
                arrays: dict[str, NDArray[Any]] = dict(npz)
            return cls(
                ids=arrays["ids"],
                groups=arrays["groups"],
                targets=arrays["targets"],
                logits=arrays["logits"],
                probs=arrays["probs"],
                # Files of older versions do not name the task: theirs was always this one.
                task=Task(str(arrays.get("task", "classes")), tuple(arrays["class_names"].tolist())),  # type: ignore[arg-type]
                meta={key.removeprefix("meta/"): arrays[key] for key in arrays if key.startswith("meta/")},
            )
        except DataError as error:
            raise DataError(f"in {path}: {error}") from None
        except KeyError as error:
            raise DataError(f"predictions {path} lack the array {error}") from error
        except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile) as error:
            raise DataError(f"cannot read predictions {path}: {error}") from error


def activation(task: Task, logits: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities (N, K) of logits (N, K) that are divided by the temperature T > 0."""
    match task.kind:
        case "classes":
            return softmax(logits, temperature)


def softmax(logits: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities from (N, K) logits, computed in float64 after dividing by the temperature T > 0.

    >>> softmax(np.array([[0.0, np.log(3.0)]])).round(6).tolist()
    [[0.25, 0.75]]
    """
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    # Subtracting the maximum leaves the result as it is and keeps exp from overflowing.
    exponentials = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


def _check_arrays(predictions: Predictions) -> None:
    n, k = len(predictions.ids), len(predictions.class_names)
    if n == 0:
        raise DataError("predictions hold no samples; expected at least one")
    columns = {f"meta/{name}": column for name, column in predictions.meta.items()}
    for name, array, shape, kind in (
        ("ids", predictions.ids, (n,), "<U"),
        ("groups", predictions.groups, (n,), "<U"),
        ("targets", predictions.targets, (n,), "int64"),
        ("logits", predictions.logits, (n, k), "float32"),
        ("probs", predictions.probs, (n, k), "float64"),
        *((name, column, (n,), "<U") for name, column in columns.items()),
    ):
        right_kind = array.dtype.kind == "U" if kind == "<U" else array.dtype == kind
        if array.shape != shape or not right_kind:
            raise DataError(
                f"predictions: {name} should be {kind} of shape {shape} for {n} ids and {k} class names; "
                f"found {array.dtype} of shape {array.shape}"
            )


def _check_values(predictions: Predictions) -> None:
    targets, probs = predictions.targets, predictions.probs
    first = np.zeros(len(targets), dtype=bool)
    first[np.unique(predictions.ids, return_index=True)[1]] = True
    _refuse(predictions, ~first, "its id was there before; ids must be unique")
    outside = (targets < 0) | (targets >= len(predictions.class_names))
    _refuse(predictions, outside, f"its target is not in [0, {len(predictions.class_names)})")
    _refuse(predictions, ~_each_row(np.isfinite(predictions.logits)), "its logits are not all finite")
    # "Not proper" rather than "improper": a comparison with NaN is false.
    proper = _each_row((probs >= 0) & (probs <= 1)) & (np.abs(probs.sum(axis=1) - 1) <= _SUM_TOLERANCE)
    _refuse(predictions, ~proper, "its probabilities are not in [0, 1] with sum 1")


def _each_row(values: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(values.all(axis=1))


def _refuse(predictions: Predictions, wrong: NDArray[np.bool_], why: str) -> None:
    if wrong.any():
        row = int(wrong.argmax())
        more = f" (and {wrong.sum() - 1} more rows)" if wrong.sum() > 1 else ""
        raise DataError(f"predictions: row {row}, id {str(predictions.ids[row])!r}: {why}{more}")


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
