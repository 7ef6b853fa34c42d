"""What each modality adds to a tiny model's answers."""

import json
import logging
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from plait import PlaitForClassification, PlaitProcessor
from plait.configuration import PlaitTextConfig, PlaitVisionConfig
from plait.training.explanations.blanks import build_grey_image
from plait.training.explanations.modalities import explain_modalities, is_trained_with_missing
from plait.training.explanations.modality_report import ModalityReport
from plait.training.explanations.scoring import RowScorer
from plait.training.recipes.errors import RecipeError

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
WORDS = "[PAD] [UNK] red green what colour is it".split()


@pytest.fixture(scope="module")
def processor() -> PlaitProcessor:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
    images = PlaitProcessor.compose(image=PlaitVisionConfig(image_size=8)).image_processor
    return PlaitProcessor(image_processor=images, tokenizer=tokenizer)


def build_model(dropout: float = 0.0, **fields: Any) -> PlaitForClassification:
    torch.manual_seed(0)
    return PlaitForClassification.compose(
        text=PlaitTextConfig(vocab_size=len(WORDS), max_position_embeddings=8, pad_token_id=0, **TINY),
        image=PlaitVisionConfig(image_size=8, patch_size=4, **TINY),
        fusion="early",
        fusion_config={**TINY, "modality_dropout": dropout},
        labels=["no", "yes", "maybe"],
        initializer_range=0.3,
        verbose=False,
        **fields,
    ).eval()


def make_rows(count: int = 5) -> list[dict[str, Any]]:
    generator = np.random.default_rng(0)
    texts = ["red", "what colour is it", "green red", "is it red", "it is green"]
    pixels = generator.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return [
        {"text": texts[row % 5], "image": Image.fromarray(pixels[row]), "label": ["no", "yes", "maybe"][row % 3]}
        for row in range(count)
    ]


def compute_nats(model: Any, processor: PlaitProcessor, row: dict[str, Any], target: int) -> float:
    inputs = processor(text=[row["text"]], images=[row["image"]], return_tensors="pt")
    with torch.no_grad():
        return float(model(**inputs).logits.log_softmax(-1)[0, target])


def test_values_are_those_of_the_scores_of_every_subset(processor: PlaitProcessor) -> None:
    model, rows = build_model(), make_rows()
    report = explain_modalities(model, processor, rows, target="yes", absence="blank", batch_size=3)
    for number, row in enumerate(rows):
        text, image = {"text": "[UNK]"}, {"image": build_grey_image()}  # this tokenizer has no token for ""
        none, only_text, only_image, both = (
            compute_nats(model, processor, {**row, **gone}, 1) for gone in ({**text, **image}, image, text, {})
        )
        expected = [(only_text - none + both - only_image) / 2, (only_image - none + both - only_text) / 2]
        assert report.nats.shapley[number].tolist() == pytest.approx(expected, abs=1e-5)
        assert report.nats.whole[number] == pytest.approx(both, abs=1e-5)
        together = report.nats.interactions["text + image"][number]
        assert together == pytest.approx(both - only_text - only_image + none, abs=1e-5)
    assert report.targets == ["yes"] * 5 and report.draws == 1


@pytest.mark.parametrize("absence", ["shuffled", "blank", "absent"])
def test_values_sum_whatever_absence_means_and_batches_do_not_matter(processor: PlaitProcessor, absence: Any) -> None:
    model, rows = build_model(), make_rows()
    rows[1]["image"] = None
    report, other = (
        explain_modalities(model, processor, rows, absence=absence, batch_size=size, draws=3) for size in (2, 64)
    )
    assert np.allclose(report.nats.shapley, other.nats.shapley, atol=1e-5, equal_nan=True)
    gaps = np.nansum(report.nats.shapley, 1) - (report.nats.whole - report.nats.empty)
    assert np.abs(gaps).max() < 1e-5
    assert np.isnan(report.nats.shapley[1, 1]) and not np.isnan(report.nats.shapley[1, 0])
    assert report.metric is not None and report.metric.unit == "accuracy"
    right = [found == row["label"] for found, row in zip(report.targets, rows, strict=True)]
    assert report.metric.whole.tolist() == right  # the target is what the model predicts
    assert not model.training and all(parameter.requires_grad for parameter in model.parameters())


def test_the_model_is_left_in_its_mode(processor: PlaitProcessor) -> None:
    model = build_model().train()
    explain_modalities(model, processor, make_rows(2))
    assert model.training and not model._forward_hooks


def test_absence_warns_of_a_model_that_never_missed_a_modality(
    processor: PlaitProcessor, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("plait").propagate = True
    for dropout, known in ((0.0, False), (0.2, True)):
        model = build_model(dropout)
        assert is_trained_with_missing(model) is known
        report = explain_modalities(model, processor, make_rows(3), absence="absent")
        assert report.trained_with_missing is known
        assert ("was not trained with missing modalities" in report.format_table()) is not known


def test_a_report_is_text_and_json(processor: PlaitProcessor) -> None:
    report = explain_modalities(build_model(), processor, make_rows())
    shares = report.compute_shares()
    assert sum(share.value for share in shares.values()) == pytest.approx(1)
    assert sum(share.value for share in report.compute_decomposition().values()) == pytest.approx(1)
    assert report.describe().startswith("text ") and "together" in report.describe() and "%" in report.describe()
    table = report.format_table()
    assert table.count("\n| ") == 5 and "accuracy points" in table and "5 rows" in table
    content = json.loads(json.dumps(report.to_dict()))
    assert content["players"] == ["text", "image"] and content["nats"]["shapley"][0] == report.nats.shapley[0].tolist()
    assert content["means"]["nats"]["all"]["value"] == pytest.approx(np.mean(report.nats.whole - report.nats.empty))


def test_rows_without_labels_have_no_metric(processor: PlaitProcessor) -> None:
    rows = [{key: value for key, value in row.items() if key != "label"} for row in make_rows(3)]
    report = explain_modalities(build_model(), processor, rows)
    assert isinstance(report, ModalityReport) and report.metric is None and "accuracy" not in report.format_table()


def test_one_row_takes_absent_values_from_the_background(processor: PlaitProcessor) -> None:
    rows = make_rows()
    report = explain_modalities(build_model(), processor, rows[0], background=rows[1:])
    assert report.nats.shapley.shape == (1, 2)
    with pytest.raises(RecipeError, match="from other rows"):
        explain_modalities(build_model(), processor, rows[0])


def test_a_scorer_keeps_the_targets_of_its_rows(processor: PlaitProcessor) -> None:
    model, rows = build_model(), make_rows()
    scorer = RowScorer(model, processor, rows, batch_size=2)
    whole = scorer(rows, range(5))
    assert whole.shape == (5, 2)
    for number, row in enumerate(rows):
        best = model.config.label2id[scorer.names[number]]
        assert whole[number, 0] == pytest.approx(compute_nats(model, processor, row, best), abs=1e-5)
        other = scorer([rows[(number + 1) % 5]], [number])  # another row, by this one's target
        expected = compute_nats(model, processor, rows[(number + 1) % 5], best)
        assert other[0, 0] == pytest.approx(expected, abs=1e-5)
    assert np.allclose(scorer.score_probability(rows, range(5)), np.exp(whole[:, 0]))
    with pytest.raises(ValueError, match="2 targets for 5 rows"):
        RowScorer(model, processor, rows, ["yes", "no"])
