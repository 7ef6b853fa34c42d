"""What all trials of a comparison share: the rows, the folds, the metric, and the outputs of frozen towers."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from transformers.utils import logging

from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...processing import PlaitProcessor
from ..data.feature_cache import FeatureStore, cache_features, find_frozen_tower
from ..data.labels import LabelSpec
from ..data.loading import load_data
from ..data.media import find_columns
from ..data.samplers import shuffle_indices
from ..data.tower_digest import compute_tower_digest
from ..data.unreadable_rows import is_empty_row, select_readable_splits
from ..metrics.classification import DEFAULT_METRICS, find_metric
from ..optimization.arguments import PlaitTrainingArguments
from ..recipes.errors import RecipeError, check_choice
from ..recipes.schema import Recipe
from ..runs.assembly import build_collator
from ..runs.building import build_processor
from ..tasks.classification import build_label_array
from ..tasks.registry import find_task
from .folds import assign_folds, assign_groups
from .systems import System, build_systems

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.get_logger(__name__)

MIN_GROUPS = 10  # a bootstrap that resamples fewer groups of rows gives no usable interval


class TrialData(NamedTuple):
    """The rows of one trial: to train on, to choose the best epoch by, and to test on."""

    train: "Dataset"
    validation: "Dataset | None"
    test: "Dataset"


class Experiment:
    """The rows of a recipe, loaded once and assigned to folds, and the systems to compare on them.

    With `compare.folds` the rows of all splits are one data set, `rows`, of which every row is tested once; without
    folds `rows` are those of the test split, else of the validation split.

    Raises:
        RecipeError: a task without labels, no rows to test on, or an error in one of the recipe's parts.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.systems = build_systems(recipe)
        self.task = task = find_task(recipe.task)
        if not task.needs_labels:
            raise RecipeError(
                f"task is {recipe.task!r}: compare models that predict labels or numbers, such as classification"
            )
        whole = recipe.data
        if recipe.compare.folds is not None:
            whole = replace(whole, validation_fraction=None, test_fraction=None)
        data = load_data(whole, recipe.seed, roles=task.roles)
        for split, rows in data.splits.items():
            task.check_columns(rows.column_names, split)
        if data.labels is None or data.train is None:
            raise RecipeError(
                f"data: there is no training split, only {', '.join(data.splits)}: name it in data.splits"
            )
        if recipe.data.on_error != "stop":
            processor = build_processor(recipe, task, data.train)
            collator = build_collator(recipe, task, processor, data.labels)
            data = select_readable_splits(data, collator, recipe.data.on_error)
        self.labels: LabelSpec = data.labels  # pyright: ignore[reportAttributeAccessIssue] - checked above
        self.splits = data.splits
        check_single_modalities(self.systems, list(data.splits.values()))
        self.rows = self._select_tested_rows()
        self.truth = build_label_array(self.rows, self.labels)
        self.group_columns = self._choose_group_columns()
        self.groups = assign_groups(self.rows, self.group_columns)
        self.folds = self._assign_folds()
        self.metric_names = list(recipe.metrics or DEFAULT_METRICS[self.labels.problem_type])
        self.metric = self._select_metric()
        self.stores: dict[tuple[str, str], FeatureStore] = {}

    @property
    def fold_names(self) -> list[int | None]:
        """The numbers of the folds; [None] where the data come with a split to test on."""
        return [None] if self.recipe.compare.folds is None else list(range(self.recipe.compare.folds))

    def find_test_rows(self, fold: int | None) -> np.ndarray:
        """Returns the numbers of the rows that are tested in this fold."""
        return np.flatnonzero(self.folds == (0 if fold is None else fold))

    def collect_train_targets(self, fold: int | None) -> np.ndarray:
        """Returns the targets of the rows that are trained on in this fold: (rows,) or (rows, labels)."""
        return build_label_array(self.splits["train"], self.labels) if fold is None else self.truth[self.folds != fold]

    def select_trial_data(self, system: System, fold: int | None) -> TrialData:
        """Returns the rows of one trial, with the columns that its system reads."""
        if fold is not None:
            kept, held = self._split_validation(self.groups, np.flatnonzero(self.folds != fold))
            held_rows = self.rows.select(held) if len(held) else None
            return self._select_columns(
                system, self.rows.select(kept), held_rows, self.rows.select(self.find_test_rows(fold))
            )
        train = self.splits["train"]
        if "test" in self.splits:
            return self._select_columns(system, train, self.splits.get("validation"), self.rows)
        # the validation split is tested: the best epoch is chosen by training rows
        kept, held = self._split_validation(assign_groups(train, self.group_columns), np.arange(len(train)))
        return self._select_columns(system, train.select(kept), train.select(held) if len(held) else None, self.rows)

    def select_all_data(self, system: System) -> TrialData:
        """Returns all rows (without folds: the training split), for a training that no test follows."""
        if self.recipe.compare.folds is None:
            return self.select_trial_data(system, None)
        kept, held = self._split_validation(self.groups, np.arange(len(self.rows)))
        held_rows = self.rows.select(held) if len(held) else None
        return self._select_columns(system, self.rows.select(kept), held_rows, self.rows.select([]))

    def _select_columns(
        self, system: System, train: "Dataset", validation: "Dataset | None", test: "Dataset"
    ) -> TrialData:
        """Returns the rows with the columns that the system reads."""
        names = [name for modality in system.modalities for name in find_columns(self.rows.column_names, modality)]
        names.append("label")
        held = None if validation is None else validation.select_columns(names)
        return TrialData(train.select_columns(names), held, test.select_columns(names))

    def load_features(
        self, system: System, model: PlaitPreTrainedModel, processor: PlaitProcessor, args: PlaitTrainingArguments
    ) -> dict[str, FeatureStore]:
        """Returns by modality the outputs, on all rows, of the frozen towers in `args.cache_features`; trials share
        them."""
        found = {}
        for modality in args.cache_features:
            source = getattr(system.model, modality)
            if not isinstance(source, str):
                raise RecipeError(
                    f"training.cache_features: the {modality} tower is newly initialized in every trial, so its "
                    "outputs cannot be shared: take a pretrained tower, or leave it out of cache_features"
                )
            try:
                tower = find_frozen_tower(model, modality)
                key = modality, compute_tower_digest(model, tower, processor, modality)
                if key not in self.stores:
                    self.stores[key] = self._cache_features(model, processor, modality, args)
            except ValueError as error:
                raise RecipeError(f"training.cache_features: {error}") from error
            found[modality] = self.stores[key]
        return found

    def _cache_features(
        self, model: PlaitPreTrainedModel, processor: PlaitProcessor, modality: str, args: PlaitTrainingArguments
    ) -> FeatureStore:
        """Computes the outputs of a frozen tower on all rows."""
        return cache_features(
            model,
            processor,
            [self.rows] if self.recipe.compare.folds is not None else list(self.splits.values()),
            modality,
            folder=args.feature_cache_dir,
            limit=args.feature_cache_limit,
            batch_size=args.per_device_eval_batch_size,
            max_length=self.recipe.max_length,
        )

    def _select_tested_rows(self) -> "Dataset":
        from datasets import concatenate_datasets

        if self.recipe.compare.folds is not None:
            return concatenate_datasets(list(self.splits.values()))
        for split in ("test", "validation"):
            if split in self.splits:
                return self.splits[split]
        raise RecipeError(
            "compare: the data have neither a test nor a validation split: set data.splits or compare.folds"
        )

    def _choose_group_columns(self) -> list[str]:
        """Returns the columns whose equal values keep rows together: the recipe's, or those that the towers read; where
        these join the test rows into too few groups, because many rows have the same texts, those but the text.

        Raises RecipeError if all these make too few groups.
        """
        chosen = self.recipe.compare.group_by
        read = [part for part in self.systems[-1].modalities if find_columns(self.rows.column_names, part)]
        read += ["group"] if "group" in self.rows.column_names else []
        tried = [read, [name for name in read if name != "text"]] if chosen is None else [chosen]
        counts = [int(assign_groups(self.rows, names).max()) + 1 if names else 0 for names in tried]
        for names, count in zip(tried, counts, strict=True):
            if count >= MIN_GROUPS:
                if names is not tried[0]:
                    logger.warning(
                        f"compare: rows with an equal text or image are only {counts[0]} groups, so that rows are "
                        f"kept together by {names} alone (compare.group_by); texts of training may be tested too"
                    )
                return names
        raise RecipeError(
            f"compare.group_by: only {max(counts)} groups of test rows, too few for an interval: name the columns "
            "whose equal values make rows belong together, such as [image]"
        )

    def _assign_folds(self) -> np.ndarray:
        folds = self.recipe.compare.folds
        if folds is None:
            return np.zeros(len(self.rows), dtype=int)
        return assign_folds(self.groups, self.truth, self.labels, folds, self.recipe.seed)

    def _split_validation(self, all_groups: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Splits training rows, given the groups of all rows, into those to train on and the recipe's fraction for
        validation; groups stay whole."""
        fraction = self.recipe.data.validation_fraction or 0.0
        if not 0 <= fraction < 1:
            raise RecipeError(f"data.validation_fraction is {fraction}: expected at least 0 and less than 1")
        groups = np.unique(all_groups[rows])
        order = groups[shuffle_indices(len(groups), self.recipe.seed)]
        held = np.isin(all_groups[rows], order[: round(fraction * len(groups))])
        return rows[~held], rows[held]

    def _select_metric(self) -> str:
        name = self.recipe.compare.metric or self.metric_names[0]
        check_choice("compare.metric", name, self.metric_names)
        try:
            find_metric(name, self.labels.problem_type)
        except ValueError as error:
            raise RecipeError(f"compare.metric: {error}") from error
        return name


def check_single_modalities(systems: Sequence[System], splits: Sequence["Dataset"]) -> None:
    """Raises RecipeError if rows lack the modality of a system that reads no other, which cannot answer them."""
    alone = {system.modalities[0]: system.name for system in systems if not system.is_fusion}
    missing = {modality: sum(count_rows_without(rows, modality) for rows in splits) for modality in alone}
    for modality, count in missing.items():
        if count:
            whole = ", ".join(name for name, lacking in missing.items() if not lacking)
            raise RecipeError(
                f"{count} of {sum(map(len, splits))} rows have no {modality}, and the system {alone[modality]!r} reads "
                f"nothing else: leave those rows out of the data, or compare with the singles that every row has, "
                f"--compare.singles '[{whole}]'"
            )


def count_rows_without(rows: "Dataset", modality: str) -> int:
    """Returns the number of rows that have nothing in any column of a modality."""
    every: Any = rows.select_columns(find_columns(rows.column_names, modality))
    return sum(map(is_empty_row, every))
