"""The metrics of generating models: what is kept of each row, and what follows from it."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from plait import PlaitForCausalLM, PlaitProcessor
from plait.configuration import PlaitTextConfig
from plait.training.metrics.generation import (
    GeneratedRow,
    GenerationMetrics,
    check_prompt_length,
    compute_row_losses,
    decode_continuations,
    find_most_frequent,
    generate_texts,
    score_texts,
)

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "is_causal": True}


@pytest.fixture(scope="module")
def model(processor: PlaitProcessor) -> Any:
    torch.manual_seed(0)
    tokens = {"vocab_size": len(processor.tokenizer), "pad_token_id": processor.tokenizer.pad_token_id}
    decoder = PlaitTextConfig(max_position_embeddings=12, initializer_range=0.3, **TINY, **tokens)
    return PlaitForCausalLM.compose(decoder=decoder, verbose=False).eval()


@pytest.fixture(scope="module")
def inputs(processor: PlaitProcessor) -> dict[str, Any]:
    found = processor.tokenizer(["is it red ?", "blue"], padding=True, return_tensors="pt")
    labels = found["input_ids"].masked_fill(found["attention_mask"] == 0, -100)
    return {"input_ids": found["input_ids"], "attention_mask": found["attention_mask"], "labels": labels}


def test_a_row_has_the_sum_over_its_known_labels(model: Any, inputs: dict[str, Any]) -> None:
    labels = inputs["labels"].clone()
    labels[0, 2] = -100
    with torch.no_grad():
        losses, tokens = compute_row_losses(model, {**inputs, "labels": labels})
        logits = model(**inputs).logits
    for row in range(2):
        places = [place for place in range(1, labels.shape[1]) if labels[row, place] != -100]
        assert tokens[row] == len(places)
        expected = [F.cross_entropy(logits[row, place - 1], labels[row, place]) for place in places]
        assert float(losses[row]) == pytest.approx(float(sum(expected)), rel=1e-5)


def test_loss_and_perplexity_are_of_all_tokens(processor: PlaitProcessor) -> None:
    metrics = GenerationMetrics(["perplexity", "exact_match"], processor)
    assert metrics.names == ["exact_match", "perplexity"]
    rows = [GeneratedRow("a", ["a"], 2.0, 4), GeneratedRow("b", ["c", "b"], 4.0, 1), GeneratedRow("c", ["a"], 0.0, 0)]
    metrics.update(rows[:1])
    metrics.update(rows[1:])
    found = metrics.compute()
    assert found == {"loss": 6 / 5, "perplexity": pytest.approx(math.exp(1.2)), "exact_match": pytest.approx(2 / 3)}
    scores = metrics.compute_per_row()
    assert scores["perplexity"].totals.tolist() == [2, 4, 0] and scores["perplexity"].weights.tolist() == [4, 1, 0]
    assert scores["exact_match"].totals.tolist() == [1, 1, 0]
    assert metrics.select_predictions(rows) == ["a", "b", "c"]
    metrics.reset()
    metrics.update(rows[2:])
    assert metrics.compute() == {"loss": 0, "perplexity": 1, "exact_match": 0}
    metrics.update([GeneratedRow("a", ["a"], 701.0, 1)])
    assert metrics.compute()["perplexity"] == math.exp(700) and metrics.compute()["exact_match"] == 0.5


def test_a_batch_is_generated_from_its_prompt_or_its_inputs(
    model: Any, inputs: dict[str, Any], processor: PlaitProcessor
) -> None:
    model.generation_config.max_new_tokens = 3
    prompt = {name: value[:, :2] for name, value in inputs.items() if name != "labels"}
    metrics = GenerationMetrics(["exact_match"], processor)
    with torch.no_grad():
        losses, tokens = compute_row_losses(model, inputs)
        batch = {"inputs": inputs, "references": [["a"], ["b"]]}
        whole = metrics.measure_batch(model, batch)
        short = metrics.measure_batch(model, {**batch, "prompt": prompt})
        alone = GenerationMetrics([], processor).measure_batch(model, {"inputs": inputs})
    left = {name: value for name, value in inputs.items() if name != "labels"}
    assert [row.text for row in whole] == generate_texts(model, left, processor)
    assert [row.text for row in short] == generate_texts(model, prompt, processor)
    assert [row.references for row in whole] == [["a"], ["b"]]
    for rows in (whole, short, alone):
        assert [row.loss for row in rows] == losses.tolist() and [row.tokens for row in rows] == tokens.tolist()
    assert [row[:2] for row in alone] == [("", [""])] * 2


def test_texts_go_on_after_the_prompt(model: Any, inputs: dict[str, Any], processor: PlaitProcessor) -> None:
    model.generation_config.max_new_tokens = 2
    prompt = {name: value[:1] for name, value in inputs.items() if name != "labels"}
    with torch.no_grad():
        tokens = model.generate(**prompt)[:, prompt["input_ids"].shape[1] :]
    text = processor.batch_decode(tokens, skip_special_tokens=True)[0]
    assert generate_texts(model, prompt, processor, strip=False) == [text]
    assert generate_texts(model, prompt, processor) == [text.strip()]


@pytest.mark.parametrize("kind", ["words", "SentencePiece"])
def test_a_continuation_keeps_the_space_before_its_first_word(kind: str) -> None:
    """These tokenizers decode no space before the first word of a text."""
    names = ["[PAD]", "is", "it", "red"] if kind == "words" else ["[PAD]", "▁is", "▁it", "▁red"]
    tokenizer = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="[PAD]"))
    if kind == "SentencePiece":
        tokenizer.decoder = decoders.Metaspace()
    processor: Any = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]")
    tokens = torch.tensor([[1, 2, 3, 2], [0, 2, 3, 3]])
    assert decode_continuations(processor, tokens, 2) == [" red it", " red red"]
    assert decode_continuations(processor, tokens[:, :2], 2) == ["", ""]


def test_prompt_and_answer_fit_into_the_positions() -> None:
    """The longest prompt counts, without its padding; where positions have no end nothing is checked."""
    config = SimpleNamespace(position_type="learned", max_position_embeddings=10)
    model: Any = SimpleNamespace(
        config=SimpleNamespace(is_encoder_decoder=False, get_text_config=lambda: config),
        generation_config=SimpleNamespace(max_new_tokens=6),
    )
    fits = {"attention_mask": torch.tensor([[0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1]])}
    long = {"attention_mask": torch.tensor([[0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1]])}
    check_prompt_length(model, fits)
    with pytest.raises(ValueError, match=r"a prompt of 5 tokens and generation.max_new_tokens 6 are more than .*10"):
        check_prompt_length(model, long)
    for part, name, value in (
        (model.generation_config, "max_new_tokens", None), (config, "position_type", "none"),
        (model.config, "is_encoder_decoder", True),
    ):  # fmt: skip
        before = getattr(part, name)
        setattr(part, name, value)
        check_prompt_length(model, long)
        setattr(part, name, before)


def test_the_most_frequent_is_the_first_of_several() -> None:
    assert find_most_frequent(["b", "a", "c", "a", "c"]) == "a" and find_most_frequent(iter(["b", "a"])) == "b"
    found = score_texts(["exact_match"], ["a", "b"], [["a"], ["a"]])
    assert found.compute() == {"exact_match": 0.5}
