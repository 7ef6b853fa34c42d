"""Evaluation on every subset of the modalities, with the columns of the other modalities removed from the rows."""

from collections.abc import Iterable, Sequence
from itertools import chain, combinations
from typing import Any

from torch.utils.data import Dataset
from transformers import Trainer

from ...configuration import MODALITIES
from ...modeling.adaptation.fresh import unwrap_plait
from ..tasks.collator import PlaitDataCollator


def find_column_modality(column: str) -> str | None:
    """Returns the modality of a column (image, image.0, image_id, text_pair); None for other columns like labels."""
    first = column.split("_")[0].split(".")[0]
    return first if first in MODALITIES else None


def list_modality_patterns(modalities: Iterable[str]) -> list[tuple[str, ...]]:
    """Lists every non-empty proper subset of the modalities, each in the order of MODALITIES, small subsets first."""
    chosen = [modality for modality in MODALITIES if modality in modalities]
    return list(chain.from_iterable(combinations(chosen, size) for size in range(1, len(chosen))))


def format_pattern(pattern: Sequence[str]) -> str:
    """Formats a pattern as in the names of metrics: `text+image`."""
    return "+".join(pattern)


class ModalityPatternDataset(Dataset):
    """The rows of a data set in which at least one modality of a pattern is present, without the columns of other
    modalities."""

    def __init__(self, data: Any, pattern: Sequence[str]) -> None:
        self.data = data
        kept = [
            name for name in data.column_names if find_column_modality(name) in pattern and not name.endswith("_id")
        ]
        self.column_names = [name for name in data.column_names if find_column_modality(name) in (None, *pattern)]
        self.rows = [
            number for number, row in enumerate(data.select_columns(kept)) if any(map(has_content, row.values()))
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        row = self.data[self.rows[number]]
        return {name: row[name] for name in self.column_names}


def has_content(value: Any) -> bool:
    """Returns whether the value of a column is present: neither None nor a list without values."""
    return any(map(has_content, value)) if isinstance(value, (list, tuple)) else value is not None


def evaluate_patterns(trainer: Trainer, data: Any, ignore_keys: list[str] | None, prefix: str) -> dict[str, float]:
    """Evaluates on each pattern and logs the metrics (`eval_text_accuracy`) and numbers of rows (`eval_text_rows`).

    Returns them all in one dict. Raises ValueError if the trainer's collator is no PlaitDataCollator.
    """
    found: dict[str, float] = {}
    for pattern in find_patterns(trainer, data):
        rows, name = ModalityPatternDataset(data, pattern), f"{prefix}_{format_pattern(pattern)}"
        if len(rows):
            loader: Any = trainer.get_eval_dataloader(rows)
            output = trainer.evaluation_loop(loader, "Evaluation", None, ignore_keys, metric_key_prefix=name)
            found |= {**(output.metrics or {}), f"{name}_rows": len(rows)}
    trainer.log(found)
    return found


def find_patterns(trainer: Trainer, data: Any) -> list[tuple[str, ...]]:
    """Finds the patterns of the modalities for which the model has a tower and the data a column.

    Raises ValueError if the trainer's collator is no PlaitDataCollator.
    """
    if not isinstance(trainer.data_collator, PlaitDataCollator):
        raise ValueError(
            "eval_modality_patterns needs rows with one column for each modality: give a PlaitDataCollator as "
            "data_collator"
        )
    model: Any = trainer.model
    columns = {find_column_modality(name) for name in data.column_names}
    towers: Sequence[str] = list(unwrap_plait(model).towers)
    return list_modality_patterns([modality for modality in towers if modality in columns])
