"""The tables of a comparison from logits that are made up, beside numbers counted by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plait.training.compare.experiment import Experiment
from plait.training.compare.modality_values import shuffle_answers
from plait.training.compare.summary import ComparisonTable, judge_interval, summarize_comparison
from plait.training.compare.trials import TrialResult, list_trials
from plait.training.metrics.bootstrap import Interval

from .made_rows import build_experiment, write_rows

VARIATIONS = ("", "only text", "only image", "shuffled text", "shuffled image", "blank text", "blank image")
# how many rows, the first ones or (from the end) the last ones, a system gets wrong: by seed
WRONG = {"text": (20, 22), "image": (24, 24), "early": (4, 6), "late": (8, 8)}
LOST = dict(zip(VARIATIONS, range(len(VARIATIONS)), strict=True))


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return build_experiment(tmp_path_factory.mktemp("summary"))


def draw_logits(experiment: Experiment, wrong: np.ndarray) -> np.ndarray:
    """Logits that choose the right label, and in the rows `wrong` the next one."""
    chosen = (experiment.truth + np.isin(np.arange(len(experiment.truth)), wrong)) % 3
    return np.eye(3, dtype=np.float32)[chosen]


def choose_wrong_rows(experiment: Experiment, name: str, seed: int, variation: str) -> np.ndarray:
    """The systems fail at the first rows, `late` at the last."""
    order = np.arange(len(experiment.truth))
    return (order[::-1] if name == "late" else order)[: WRONG[name][seed] + LOST[variation]]


def make_answers(experiment: Experiment) -> dict[str, TrialResult]:
    """Results of every trial, the rows of a fold in an order of their own."""
    answers = {}
    for number, trial in enumerate(list_trials(experiment)):
        rows = np.random.default_rng(number).permutation(experiment.find_test_rows(trial.fold))
        logits = {
            kind: draw_logits(experiment, choose_wrong_rows(experiment, trial.system.name, trial.seed, kind))[rows]
            for kind in VARIATIONS
        }
        facts = {"parameters": 100 + number, "trainable": 50, "seconds": float(number), "steps": 7}
        answers[trial.name] = TrialResult(rows, logits, facts)
    return answers


@pytest.fixture(scope="module")
def table(experiment: Experiment) -> ComparisonTable:
    return ComparisonTable(experiment, make_answers(experiment))


@pytest.fixture(scope="module")
def content(experiment: Experiment, table: ComparisonTable) -> dict[str, Any]:
    return summarize_comparison(experiment, table.answers).content


def count_right(name: str, variation: str = "") -> float:
    """The accuracy, the mean of two seeds, on 40 rows."""
    return float(np.mean([1 - (wrong + LOST[variation]) / 40 for wrong in WRONG[name]]))


@pytest.mark.parametrize("low", [-1.0, 0.0, 1e-9])
@pytest.mark.parametrize("high", [-1e-9, 0.0, 2.0])
def test_zero_in_an_interval_shows_no_difference(low: float, high: float) -> None:
    expected = "fusion helps" if low > 0 else "fusion harms" if high < 0 else "no difference shown"
    assert judge_interval(Interval(value=(low + high) / 2, low=low, high=high)) == expected


def test_folds_are_put_together_in_the_order_of_the_rows(experiment: Experiment, table: ComparisonTable) -> None:
    for system in experiment.systems:
        for variation in ("", "blank text") if system.is_fusion else ("",):
            for seed, logits in enumerate(table.collect_logits(system, variation)):
                wrong = choose_wrong_rows(experiment, system.name, seed, variation)
                assert np.array_equal(logits, draw_logits(experiment, wrong))


def test_values_are_means_over_the_seeds(experiment: Experiment, table: ComparisonTable) -> None:
    for number, system in enumerate(experiment.systems):
        row = table.build_row(system, experiment.systems[0])
        assert row["value"] == pytest.approx(count_right(system.name))
        assert row["by_seed"] == pytest.approx([1 - wrong / 40 for wrong in WRONG[system.name]])
        assert row["metrics"]["accuracy"] == pytest.approx(row["value"]) and "f1_macro" in row["metrics"]
        assert row["gain"]["value"] == pytest.approx(count_right(system.name) - count_right("text"))
        assert (row["name"], row["modalities"]) == (system.name, list(system.modalities))
        assert row["fusion"] == system.model.fusion
        assert (row["trainable"], row["parameters"], row["steps"]) == (50, 100 + number, 7)
        assert row["seconds"] == np.mean([number + 4 * trial for trial in range(4)])


def test_the_best_have_the_best_value(experiment: Experiment, table: ComparisonTable, content: dict[str, Any]) -> None:
    text, image, early, late = experiment.systems
    assert table.find_best([image, text]) is text and table.find_best([late, early]) is early
    assert (content["best_single"], content["best_fusion"]) == ("text", "early")
    assert content["fusion_minus_single"]["value"] == pytest.approx(count_right("early") - count_right("text"))
    assert content["verdict"] == "fusion helps" and content["greater_is_better"] is True
    assert (content["rows"], content["groups"], content["folds"], content["bootstrap"]) == (40, 20, 2, 100)
    assert (content["metric"], content["seeds"]) == ("accuracy", [0, 1])
    assert [row["name"] for row in content["systems"]] == ["text", "image", "early", "late"]
    assert content["systems"][0]["gain"]["value"] == 0


def test_what_each_variation_loses(content: dict[str, Any]) -> None:
    assert list(content["audit"]) == ["early", "late"]
    for system, found in content["audit"].items():
        assert set(found) == {*VARIATIONS[1:], "only text + image"}
        for name, part in found.items():
            variation = "" if name == "only text + image" else name
            assert part["value"] == pytest.approx(count_right(system, variation)), name
            assert part["lost"]["value"] == pytest.approx(LOST[variation] / 40), name
            assert part["low"] <= part["value"] <= part["high"]
        singles = {name: part["single"] for name, part in found.items() if "single" in part}
        assert singles == {"only text": "text", "only image": "image", "only text + image": "text"}
        for name, single in singles.items():
            assert found[name]["gain"]["value"] == pytest.approx(found[name]["value"] - count_right(single))


def test_a_choice_on_the_other_fold_may_be_the_worse_one(experiment: Experiment, table: ComparisonTable) -> None:
    """Picked by plain loops over folds and seeds."""
    answers = {
        system.name: [logits.argmax(1) for logits in table.collect_logits(system)] for system in experiment.systems
    }

    def pick(names: tuple[str, ...]) -> float:
        right = np.zeros((2, 40))
        for fold in (0, 1):
            here, elsewhere = experiment.folds == fold, experiment.folds != fold
            scores = [np.mean([(answer == experiment.truth)[elsewhere].mean() for answer in answers[n]]) for n in names]
            best = names[int(np.argmax(scores))]
            for seed in (0, 1):
                right[seed, here] = (answers[best][seed] == experiment.truth)[here]
        return float(right.mean())

    expected = pick(("early", "late")) - pick(("text", "image"))
    found = table.compute_cross_fold_gain(experiment.systems[:2], experiment.systems[2:])
    assert found is not None and found["value"] == pytest.approx(expected)
    assert found["low"] <= found["value"] <= found["high"]


def test_the_majority_is_that_of_the_rows_trained_on(experiment: Experiment, table: ComparisonTable) -> None:
    right = 0
    for fold in (0, 1):
        counts = np.bincount(experiment.truth[experiment.folds != fold], minlength=3)
        right += int((experiment.truth[experiment.folds == fold] == counts.argmax()).sum())
    assert table.compute_majority() == pytest.approx(right / 40)


def test_of_an_error_the_lowest_is_best_and_less_is_a_gain(tmp_path: Path) -> None:
    """Numbers that are off by a constant, with a split to test on: there nothing is chosen on other folds."""
    source = {
        "train": write_rows(tmp_path / "train.jsonl", 9, numbers=True),
        "test": write_rows(tmp_path / "test.jsonl", 24, start=9, numbers=True),
    }
    fields = {"data__source": source, "metrics": ["mae"], "compare__folds": None, "compare__audit": False}
    experiment = build_experiment(tmp_path, **fields)
    off = {"text": 3.0, "image": 4.0, "early": 2.0, "late": 1.0}
    facts = {"parameters": 1, "trainable": 1, "seconds": 0.0, "steps": 1}
    answers = {
        trial.name: TrialResult(np.arange(24), {"": experiment.truth[:, None] + off[trial.system.name]}, facts)
        for trial in list_trials(experiment)
    }
    content = summarize_comparison(experiment, answers).content
    assert (content["best_single"], content["best_fusion"]) == ("text", "late")
    assert content["fusion_minus_single"] == {"value": 2.0, "low": 2.0, "high": 2.0}
    assert [row["gain"]["value"] for row in content["systems"]] == [0.0, -1.0, 1.0, 2.0]
    assert (content["greater_is_better"], content["chosen_elsewhere"], content["audit"]) == (False, None, {})
    assert content["majority"] == pytest.approx(np.abs(np.arange(9, 33) - 4).mean())


def test_what_modalities_add_sums_to_the_model_minus_shuffled_inputs(table: ComparisonTable, content: Any) -> None:
    assert list(content["added"]) == ["early", "late"]
    for name, added in content["added"].items():
        assert list(added) == ["text", "image", "text alone", "image alone", "together"]
        values = {kind: found["value"] for kind, found in added.items()}
        whole, without_image = count_right(name), count_right(name, "shuffled image")
        without_text = count_right(name, "shuffled text")
        assert values["text"] - values["image"] == pytest.approx(without_image - without_text)
        empty = whole - values["text"] - values["image"]
        assert 0 < empty < 0.5  # of three classes, answers to other rows
        alone = values["text alone"] + values["image alone"] + values["together"]
        assert alone == pytest.approx(whole - empty)
        assert values["text alone"] == pytest.approx(without_image - empty)
        assert all(found["low"] <= found["value"] <= found["high"] for found in added.values())


def test_answers_of_other_rows_stay_in_their_fold() -> None:
    answers = [np.arange(6.0), np.arange(6.0) * 10]
    one, other = shuffle_answers(answers, [np.array([0, 2, 4]), np.array([1, 3, 5])], seed=0)
    assert (one % 2 == np.arange(6) % 2).all() and (one != np.arange(6)).all() and (other == one * 10).all()
