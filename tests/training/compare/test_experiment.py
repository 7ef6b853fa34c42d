"""The rows of a comparison: which are tested, trained on and held out, and the outputs that trials share."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import set_seed

from plait.training.compare.experiment import Experiment
from plait.training.data.feature_cache import FeatureStore
from plait.training.data.labels import SINGLE
from plait.training.data.loading import DataSplits
from plait.training.metrics.classification import DEFAULT_METRICS
from plait.training.recipes.errors import RecipeError
from plait.training.runs.assembly import build_arguments, build_processor_and_model

from .made_rows import build_experiment, write_rows


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Two folds of 40 rows, a quarter of the training groups held out."""
    return build_experiment(tmp_path_factory.mktemp("folds"), data__validation_fraction=0.25)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Splits of 9, 22 and 26 rows and no folds; pictures are shared within and across splits."""
    folder = tmp_path_factory.mktemp("splits")
    sizes = {"train": (9, 0), "validation": (22, 9), "test": (26, 31)}
    source = {name: write_rows(folder / f"{name}.jsonl", *size) for name, size in sizes.items()}
    return build_experiment(folder, source, compare__folds=None)


def read_texts(rows: Any) -> list[str]:
    return [] if rows is None else list(rows["text"])


@pytest.mark.parametrize("fold", [0, 1])
def test_every_row_is_tested_once_and_trained_on_or_held_out_otherwise(experiment: Experiment, fold: int) -> None:
    system = experiment.systems[2]
    train, held, test = (read_texts(part) for part in experiment.select_trial_data(system, fold))
    assert sorted(train + held + test) == sorted(read_texts(experiment.rows))
    assert test == [experiment.rows["text"][row] for row in np.flatnonzero(experiment.folds == fold)]
    assert experiment.find_test_rows(fold).tolist() == np.flatnonzero(experiment.folds == fold).tolist()
    groups = dict(zip(experiment.rows["text"], experiment.groups, strict=True))
    kept_groups, held_groups = {groups[text] for text in train}, {groups[text] for text in held}
    assert not kept_groups & held_groups
    assert len(held_groups) == round(0.25 * len(kept_groups | held_groups)) > 0
    assert np.array_equal(experiment.collect_train_targets(fold), experiment.truth[experiment.folds != fold])


def test_with_folds_all_rows_are_one_data_set_in_their_order(experiment: Experiment, tmp_path: Path) -> None:
    """No fraction of them is split off first."""
    assert list(experiment.splits) == ["train"] and experiment.fold_names == [0, 1]
    assert read_texts(experiment.rows) == [f"row {number}" for number in range(40)]
    tested = build_experiment(tmp_path, data__test_fraction=0.5, compare__folds=4)
    assert list(tested.splits) == ["train"] and tested.fold_names == [0, 1, 2, 3]


def test_the_best_model_learns_from_all_rows(experiment: Experiment, split: Experiment) -> None:
    train, held, test = (read_texts(part) for part in experiment.select_all_data(experiment.systems[2]))
    assert (len(train), len(held), test) == (30, 10, [])
    assert [len(read_texts(part)) for part in split.select_all_data(split.systems[2])] == [9, 22, 26]


def test_a_system_gets_the_columns_that_it_reads(experiment: Experiment) -> None:
    for system, columns in zip(experiment.systems, (["text"], ["image"], ["text", "image"]), strict=False):
        for part in (*experiment.select_trial_data(system, 0), *experiment.select_all_data(system)):
            assert part is not None and part.column_names == [*columns, "label"]


def test_without_folds_the_test_split_is_tested(split: Experiment, tmp_path: Path) -> None:
    assert split.fold_names == [None] and len(split.rows) == len(split.truth) == 26
    assert split.find_test_rows(None).tolist() == list(range(26))
    assert len(split.collect_train_targets(None)) == 9
    assert split.folds.tolist() == [0] * 26 and np.issubdtype(split.folds.dtype, np.integer)
    source = {name: write_rows(tmp_path / f"{name}.jsonl", 22) for name in ("train", "validation")}
    two = build_experiment(tmp_path, source, compare__folds=None)
    train, held, test = two.select_trial_data(two.systems[0], None)
    assert (len(train), held, len(test)) == (22, None, 22)
    with pytest.raises(RecipeError, match="the data have neither a test nor a validation split"):
        build_experiment(tmp_path, {"train": source["train"]}, compare__folds=None)


def test_rows_that_share_a_picture_or_a_given_column_are_one_group(tmp_path: Path, experiment: Experiment) -> None:
    assert len(set(experiment.groups.tolist())) == 20
    alone = build_experiment(tmp_path, compare__group_by=["text"])
    assert len(set(alone.groups.tolist())) == 40


@pytest.mark.parametrize(("rows", "enough"), [(18, False), (20, True)])
def test_ten_groups_are_enough_for_an_interval(tmp_path: Path, rows: int, enough: bool) -> None:
    source = write_rows(tmp_path / "few.jsonl", rows)
    if enough:
        assert len(build_experiment(tmp_path, source).rows) == rows
        return
    with pytest.raises(RecipeError, match="only 9 groups of test rows, too few for an interval"):
        build_experiment(tmp_path, source)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 1.5])
def test_all_or_less_than_nothing_cannot_be_held_out(tmp_path: Path, experiment: Experiment, fraction: float) -> None:
    kept = experiment.recipe.data.validation_fraction
    experiment.recipe.data.validation_fraction = fraction
    try:
        with pytest.raises(RecipeError, match=f"data.validation_fraction is {fraction}: expected at least 0 and less"):
            experiment.select_all_data(experiment.systems[0])
    finally:
        experiment.recipe.data.validation_fraction = kept


def test_without_a_fraction_nothing_is_held_out(tmp_path: Path) -> None:
    whole = build_experiment(tmp_path)
    assert [part if part is None else len(part) for part in whole.select_all_data(whole.systems[0])] == [40, None, 0]
    train, held, test = whole.select_trial_data(whole.systems[0], 1)
    assert held is None and len(train) + len(test) == 40


def test_metrics_are_the_recipes_or_those_of_the_problem(tmp_path: Path) -> None:
    assert build_experiment(tmp_path, metrics=["f1_micro"]).metric_names == ["f1_micro"]
    assert build_experiment(tmp_path, metrics=None).metric_names == list(DEFAULT_METRICS[SINGLE])


def test_an_unreadable_picture_is_left_out_or_stops_the_comparison_later(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "rows.jsonl", 40)
    (tmp_path / "3.png").write_bytes(b"no picture")  # that of rows 6 and 7
    assert len(build_experiment(tmp_path, source, data__on_error="skip").rows) == 38
    assert len(build_experiment(tmp_path, source).rows) == 40


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "rows.jsonl", 40)
    with pytest.raises(RecipeError, match="data: there is no training split, only test"):
        build_experiment(tmp_path, {"test": source}, compare__folds=None)
    (tmp_path / "bare.jsonl").write_text('{"text": "a"}\n' * 40)
    with pytest.raises(RecipeError, match="label"):
        build_experiment(tmp_path, str(tmp_path / "bare.jsonl"))


def test_rows_without_a_single_modality_are_counted_before_any_training(tmp_path: Path) -> None:
    file = Path(write_rows(tmp_path / "rows.jsonl", 40))
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines[3:8]:
        line["image"] = None
    file.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(RecipeError, match=r"5 of 40 rows have no image, .* --compare.singles '\[text\]'"):
        build_experiment(tmp_path, str(file))
    names = [system.name for system in build_experiment(tmp_path, str(file), compare__singles=["text"]).systems]
    assert names == ["text", "early", "late"]


def test_another_seed_holds_out_other_rows(tmp_path: Path, experiment: Experiment) -> None:
    other = build_experiment(tmp_path, data__validation_fraction=0.25, seed=5)
    one, two = (read_texts(each.select_all_data(each.systems[0]).validation) for each in (experiment, other))
    assert len(one) == len(two) == 10 and one != two


def test_the_metric_is_the_first_or_one_of_those_computed(tmp_path: Path, experiment: Experiment) -> None:
    assert experiment.metric == "accuracy" and experiment.metric_names == ["accuracy", "f1_macro"]
    assert build_experiment(tmp_path, compare__metric="f1_macro").metric == "f1_macro"
    with pytest.raises(RecipeError, match="compare.metric is 'mae'"):
        build_experiment(tmp_path, compare__metric="mae")


@pytest.fixture
def load_features(tmp_path: Path, experiment: Experiment) -> Iterator[Callable[..., dict[str, FeatureStore]]]:
    """The outputs of the image tower of the system `early`, as if it came from a folder."""

    def load(frozen: bool = True, reference: Any = "a/folder", **training: Any) -> dict[str, FeatureStore]:
        recipe = replace(
            experiment.recipe,
            training={**experiment.recipe.training, "feature_cache_dir": str(tmp_path / "cache"), **training},
        )
        part = experiment.select_all_data(experiment.systems[2])
        args = build_arguments(recipe, tmp_path / "checkpoints")
        data = DataSplits({"train": part.train}, experiment.labels)
        set_seed(0)
        built = build_processor_and_model(recipe, experiment.task, tmp_path / "run", args, data, verbose=False)
        if frozen:
            built[1].freeze("image")
        args.cache_features = ["image"]
        system = experiment.systems[2]
        system = system._replace(model=replace(system.model, image=reference))
        return experiment.load_features(system, built[1], built[0], args)

    yield load
    experiment.stores.clear()


def test_trials_share_the_outputs_of_a_frozen_tower(
    load_features: Callable[..., dict[str, FeatureStore]], experiment: Experiment, tmp_path: Path
) -> None:
    """Those of all rows, test rows too: every picture once."""
    (found,) = load_features().values()
    assert len(found) == 20 and found.folder.parent == tmp_path / "cache"
    assert load_features()["image"] is found and len(experiment.stores) == 1


def test_outputs_that_cannot_be_shared_name_their_argument(
    load_features: Callable[..., dict[str, FeatureStore]],
) -> None:
    with pytest.raises(RecipeError, match="training.cache_features: the image tower is newly initialized in every"):
        load_features(reference={"config": {}})
    with pytest.raises(RecipeError, match="training.cache_features: the image tower is not frozen"):
        load_features(frozen=False)
    with pytest.raises(RecipeError, match=r"training.cache_features: features would take about .* \(limit 1e-07"):
        load_features(feature_cache_limit=1e-7)
