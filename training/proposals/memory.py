"""Saves rows that are in memory as files, which a recipe names: a run can then be evaluated and resumed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...processing.images import read_image
from ..recipes.errors import RecipeError

if TYPE_CHECKING:
    from datasets import Dataset


def collect_splits(data: Any) -> "dict[str, Dataset]":
    """Returns rows in memory as data sets by split: a Dataset, a DatasetDict, a pandas DataFrame, a list of dicts, or a
    mapping of splits to one of these.

    Raises RecipeError for anything else, or for no rows.
    """
    from datasets import Dataset

    if isinstance(data, Mapping):
        found = {str(split): build_data_set(rows) for split, rows in data.items()}
    else:
        found = {"train": build_data_set(data)}
    empty = [split for split, rows in found.items() if not isinstance(rows, Dataset) or not len(rows)]
    if empty or not found:
        where = f"the split {empty[0]!r} has" if empty else "there are"
        raise RecipeError(f"data: {where} no rows: give some to learn from")
    return found


def build_data_set(data: Any) -> "Dataset":
    """Returns rows in memory as a data set; arrays and tensors of pixels become images, lists of these videos."""
    from datasets import Dataset

    if isinstance(data, Dataset):
        return data
    if hasattr(data, "to_dict") and hasattr(data, "columns"):
        data = data.astype(object).where(data.notna(), None).to_dict("records") if len(data) else []
    is_list = isinstance(data, Sequence) and not isinstance(data, (str, bytes))
    if not is_list or not all(isinstance(row, Mapping) for row in data):
        raise RecipeError(
            f"data is {type(data).__name__}: expected a path, a datasets.Dataset or DatasetDict, a pandas DataFrame, a "
            "list of dicts (one a row), or a mapping of splits to one of these"
        )
    rows: list[Mapping[Any, Any]] = list(data)
    names = list(dict.fromkeys(name for row in rows for name in row))
    try:
        return Dataset.from_dict({str(name): [convert_cell(row.get(name)) for row in rows] for name in names})
    except (TypeError, ValueError, OverflowError) as error:  # pyarrow's errors are of these kinds
        raise RecipeError(f"data: a column has cells of several kinds, which make no table: {error}") from error


def convert_cell(cell: Any) -> Any:
    """Returns a cell as a table can hold it: arrays and tensors of two or three dimensions as images, of four as lists
    of images, paths as text."""
    if isinstance(cell, (np.ndarray, torch.Tensor)) and cell.ndim in (2, 3):
        return read_image(cell)
    if isinstance(cell, (np.ndarray, torch.Tensor)) and cell.ndim == 4:
        return [read_image(frame) for frame in cell]
    if isinstance(cell, torch.Tensor):
        return cell.tolist()
    if isinstance(cell, np.generic):
        return cell.item()
    return str(cell) if isinstance(cell, Path) else cell


def save_splits(splits: "Mapping[str, Dataset]", folder: Path) -> dict[str, str]:
    """Saves the rows of each split as FOLDER/SPLIT.parquet and returns the files by split.

    Raises RecipeError for a folder that exists: nothing is overwritten.
    """
    if folder.exists():
        raise RecipeError(f"{folder} exists, where the rows would be saved: remove it, or name another output_dir")
    folder.mkdir(parents=True)
    files = {split: folder / f"{split}.parquet" for split in splits}
    for split, rows in splits.items():
        rows.to_parquet(str(files[split]))
    return {split: str(file) for split, file in files.items()}
