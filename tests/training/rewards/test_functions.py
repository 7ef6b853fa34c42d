"""Rewards by name: what each measures, and what is said of one that measures nothing."""

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from plait import PlaitForRetrieval, PlaitProcessor
from plait.configuration import PlaitTextConfig, PlaitVisionConfig
from plait.training.data.tokenizer import train_tokenizer
from plait.training.metrics.cider import cider_d
from plait.training.metrics.text import TEXT_METRICS
from plait.training.recipes.errors import RecipeError
from plait.training.recipes.reward import RewardRecipe
from plait.training.rewards.functions import REWARDS, build_reward, measure_repetition
from plait.training.rewards.held_out import add_held_out, find_held_out
from plait.training.rewards.log import describe_collapse
from plait.training.rewards.scoring import RewardScorer
from plait.training.runs.recipe import build_recipe
from plait.training.tasks.registry import find_task

TRAINED = [["a red dog runs", "the dog is running"], ["two cats sleep"], ["a boat on the sea"], ["the red boat"]]
ROWS: list[dict[str, Any]] = [{"references": own} for own in TRAINED[:3]]
TEXTS = ["a red dog is running", "two cats sleep", "nothing here"]
METRICS = {"rouge_l": ("rougeL", 1), "exact_match": ("exact_match", 1), "token_f1": ("token_f1", 1)}
METRICS |= {"vqa_accuracy": ("vqa_accuracy", 1)}


def scores_of(name: str, texts: Sequence[str] = TEXTS, rows: Sequence[Mapping[str, Any]] = tuple(ROWS)) -> list[float]:
    return list(build_reward(name, lambda: TRAINED)(texts, rows))


@pytest.mark.parametrize("name", METRICS)
def test_a_reward_of_a_row_is_its_metric(name: str) -> None:
    metric: Any = TEXT_METRICS[METRICS[name][0]]()
    metric.update(TEXTS, [row["references"] for row in ROWS])
    assert scores_of(name) == metric.compute_per_row().tolist()


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_a_sentence_score_is_the_corpus_score_of_one_row(name: str) -> None:
    for text, row, score in zip(TEXTS[:2], ROWS, scores_of(name), strict=False):
        metric: Any = TEXT_METRICS[name]()
        metric.update([text], [row["references"]])
        expected = metric.compute()[name] / 100
        assert score == pytest.approx(expected, abs=1e-6) if len(text.split()) > 3 else score > 0


def test_cider_weighs_words_as_the_training_references_do() -> None:
    rows = [{"references": own} for own in TRAINED]
    texts = [own[0] for own in TRAINED]
    assert scores_of("cider", texts, rows) == pytest.approx((cider_d(texts, TRAINED) / 10).tolist())
    alone = scores_of("cider", texts[:1], rows[:1])
    assert alone == pytest.approx(scores_of("cider", texts, rows)[:1]) and alone[0] > 0  # whatever else is in a batch


@pytest.mark.parametrize("name", REWARDS)
def test_every_reward_is_between_0_and_1_and_higher_for_a_reference(name: str) -> None:
    rows = [{"references": [own[0]] * 3} for own in TRAINED]
    right, wrong = (scores_of(name, texts, rows) for texts in ([own[0] for own in TRAINED], ["zzz"] * 4))
    assert all(0 <= score <= 1.0001 for score in (*right, *wrong))
    assert all(a > b for a, b in zip(right, wrong, strict=True))


def test_a_retrieval_model_judges_a_text_by_what_its_row_shows(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokenizer = train_tokenizer(TEXTS, vocab_size=300, min_frequency=1)
    text = PlaitTextConfig(vocab_size=len(tokenizer), max_position_embeddings=16, **sizes)
    image = PlaitVisionConfig(image_size=8, patch_size=4, **sizes)
    model = PlaitForRetrieval.compose(text=text, image=image, verbose=False)
    processor = PlaitProcessor.compose(text=tokenizer, image=image)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    images = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    rows = [{"image": each, "references": ["x"]} for each in images]
    texts = ["a red dog", "two cats sleep", ""]
    found = scores_of(str(tmp_path), texts, [rows[1], rows[0], rows[1]])
    vectors = model.eval().encode(texts[:2], processor, side="text"), model.encode(images, processor, side="image")
    assert found[:2] == pytest.approx([float(vectors[0][0] @ vectors[1][1]), float(vectors[0][1] @ vectors[1][0])])
    assert all(-1 <= score <= 1 for score in found)
    with pytest.raises(RecipeError, match="is no retrieval model"):
        build_reward(str(tmp_path.parent), list)


@pytest.mark.parametrize(
    ("returned", "message"),
    [([1.0], "3 texts, but scores of shape"), ([1.0, math.nan, 0.0], "the score of text 1 is nan")],
)
def test_wrong_scores_of_a_function_are_named(
    returned: list[float], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "given", lambda texts, rows: returned, raising=False)
    scorer = RewardScorer(RewardRecipe({f"{__name__}:given": 1.0}), list)
    with pytest.raises(RecipeError, match=message):
        scorer.score(TEXTS, [4, 3, 2], ROWS)


def test_rewards_are_weighted_and_penalties_subtracted() -> None:
    recipe = RewardRecipe({"exact_match": 2.0, "token_f1": 0.5, "bleu": 0.0})
    recipe.length_penalty, recipe.repetition_penalty = 0.1, 3.0
    texts = ["two cats sleep", "a b c a b c", "x"]
    rows = [ROWS[1]] * 3
    found = RewardScorer(recipe, list).score(texts, [3, 6, 1], rows)
    assert set(found.parts) == {"exact_match", "token_f1", "bleu"}  # of weight 0: only logged
    expected = 2 * found.parts["exact_match"] + 0.5 * found.parts["token_f1"] - 0.1 * np.array([3, 6, 1])
    expected = expected - 3 * np.array([measure_repetition(text) for text in texts])
    np.testing.assert_allclose(found.total, expected)
    assert [measure_repetition(text) for text in texts] == [0, pytest.approx(0.25), 0]


def judge(texts: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[float]:
    return [1.0] * len(texts)


def test_a_function_that_the_recipe_does_not_name_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"names token_f1, and not 'short', so nothing calls it"):
        RewardScorer(RewardRecipe({"token_f1": 1.0}), list, {"short": judge})
    scorer = RewardScorer(RewardRecipe({"token_f1": 1.0, "short": 0.5}), list, {"short": judge})
    assert scorer.score(["two cats sleep"], [3], ROWS[1:2]).total.tolist() == [1.5]


@pytest.mark.slow
def test_worker_processes_give_the_same_scores() -> None:
    recipe = {"cider": 1.0, "chrf": 1.0}
    alone, shared = (RewardScorer(RewardRecipe(recipe, workers=count), lambda: TRAINED) for count in (0, 2))
    try:
        first, second = (scorer.score(TEXTS, [4, 3, 2], ROWS) for scorer in (alone, shared))
        assert first.total.tolist() == second.total.tolist()
    finally:
        shared.close()


@pytest.mark.parametrize(
    ("entropy", "length", "said"),
    [(2.0, 8.0, None), (0.3, 10.0, None), (0.1, 10.0, "the entropy of a token fell from 2 to 0.1 nats"),
     (2.0, 31.0, "the mean length of a text went from 10 to 31 tokens"), (2.0, 3.0, "went from 10 to 3 tokens")],
)  # fmt: skip
def test_a_collapse_is_said_with_what_to_do(entropy: float, length: float, said: str | None) -> None:
    start, now = {"reward_entropy": 2.0, "reward_length": 10.0}, {"reward_entropy": entropy, "reward_length": length}
    found = describe_collapse(start, now)
    assert found is None if said is None else (found is not None and said in found and "raise reward.kl" in found)


@pytest.mark.parametrize(
    ("held_out", "reward", "before", "now", "said"),
    [("chrf", 0.6, 40.0, 33.0, False), ("chrf", 0.6, 40.0, 31.0, True), ("chrf", 0.4, 40.0, 20.0, False),
     ("chrf", 0.6, 40.0, 60.0, False), ("perplexity", 0.6, 10.0, 13.0, True), ("perplexity", 0.6, 10.0, 5.0, False)],
)  # fmt: skip
def test_a_gap_between_the_reward_and_what_is_not_rewarded_is_said(
    held_out: str, reward: float, before: float, now: float, said: bool
) -> None:
    found = describe_collapse({"reward": 0.5, "held_out": before}, {"reward": reward, "held_out": now}, held_out)
    assert (found is not None) == said
    assert found is None or f"while {held_out}, which is not rewarded, went from {before:.3g} to {now:.3g}" in found


@pytest.mark.parametrize(
    ("reward", "names", "measured"),
    [({"cider": 1.0}, ["cider", "distinct"], ["cider", "distinct", "chrf"]),
     ({"chrf": 1.0}, ["chrf"], ["chrf", "token_f1"]), ({"cider": 1.0}, ["cider", "bleu"], ["cider", "bleu"]),
     ({"cider": 1.0, "held_out": "rougeL"}, ["cider", "bleu"], ["cider", "bleu", "rougeL"])],
)  # fmt: skip
def test_a_metric_that_is_not_rewarded_is_always_measured(
    reward: dict[str, Any], names: list[str], measured: list[str]
) -> None:
    fields = {"held_out": reward.pop("held_out", None), "metrics": reward}
    recipe = build_recipe({"task": "generation", "metrics": names, "reward": fields})
    found = add_held_out(recipe, find_task("generation"))
    assert found.metrics == measured and find_held_out(cast("RewardRecipe", found.reward), measured) == measured[-1]
