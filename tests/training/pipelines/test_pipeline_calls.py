"""What a call of a pipeline becomes: rows, batches, the settings of the collator, and answers."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForAudioClassification,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForImageTextToText,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForSpeechSeq2Seq,
    AutoModelForVideoClassification,
    AutoModelForZeroShotImageClassification,
)
from transformers.pipelines import PIPELINE_REGISTRY

from plait import PlaitForCausalLM, PlaitForImageGeneration, PlaitProcessor
from plait.configuration import PlaitTextConfig
from plait.training.metrics.generation import DEFAULT_NEW_TOKENS
from plait.training.pipelines.calls import build_call_rows, has_list, is_chat, is_list, is_record
from plait.training.pipelines.factory import CLASSES
from plait.training.pipelines.inference import InferencePipeline, adapt_rows, find_run_recipe
from plait.training.pipelines.specs import PIPELINES
from plait.training.recipes.schema import Recipe
from plait.training.runs.generation_settings import use_generation_settings
from plait.training.tasks.registry import find_task

VQA, QA, TEXTS = PIPELINES["visual-question-answering"], PIPELINES["question-answering"], PIPELINES["translation"]
CHAT = [{"role": "user", "content": "hello"}]
PICTURE = Image.new("RGB", (16, 16), (220, 30, 30))


@pytest.mark.parametrize(
    ("spec", "given", "rows"),
    [
        (TEXTS, {"texts": "a"}, [{"text": "a"}]),
        (TEXTS, {"texts": ["a", "b"]}, [{"text": "a"}, {"text": "b"}]),
        (TEXTS, {"texts": []}, []),
        (TEXTS, {"texts": CHAT}, [{"messages": CHAT}]),
        (TEXTS, {"texts": [CHAT, CHAT]}, [{"messages": CHAT}, {"messages": CHAT}]),
        (TEXTS, {"texts": {"texts": "a"}}, [{"text": "a"}]),
        (QA, {"question": ["a", "b"], "context": "c"},
         [{"question": "a", "context": "c"}, {"question": "b", "context": "c"}]),
        (QA, {"question": "a", "context": ["c", "d", "e"]},
         [{"question": "a", "context": context} for context in "cde"]),
        (QA, {"question": {"question": "a", "context": "c", "id": 1}}, [{"question": "a", "context": "c"}]),
        (QA, {"question": [{"question": "a", "context": "c"}, {"context": "d", "question": "b"}]},
         [{"question": "a", "context": "c"}, {"question": "b", "context": "d"}]),
    ],
)  # fmt: skip
def test_rows_of_a_call(spec: Any, given: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    assert build_call_rows(spec, given) == rows


@pytest.mark.parametrize(
    ("spec", "given", "error", "message"),
    [
        (TEXTS, {}, TypeError, "missing texts: pass texts"),
        (QA, {"question": "a"}, TypeError, "missing context: pass question, context"),
        (QA, {"question": "a", "context": None}, TypeError, "missing context"),
        (QA, {"question": {"question": "a"}}, TypeError, "missing context"),
        (QA, {"question": ["a"] * 2, "context": ["c"] * 3}, ValueError, r"\{'question': 2, 'context': 3\}: give one"),
        (QA, {"question": ["a"] * 4, "context": ["c"] * 2}, ValueError, "different lengths"),
        (TEXTS, {"texts": ["a", 3]}, TypeError, r"texts, row 1: 3 \(int\) is not a string"),
        (VQA, {"image": [PICTURE, None], "question": "a"}, ValueError, "image, row 1: it is None"),
    ],
)
def test_calls_without_sense_are_named(spec: Any, given: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        build_call_rows(spec, given)


@pytest.mark.parametrize(
    ("spec", "given", "listed"),
    [
        (TEXTS, {"texts": "a"}, False),
        (TEXTS, {"texts": ["a"]}, True),
        (TEXTS, {"texts": CHAT}, False),
        (TEXTS, {"texts": [CHAT]}, True),
        (QA, {"question": {"question": "a", "context": "c"}}, False),
        (QA, {"question": [{"question": "a", "context": "c"}]}, True),
        (QA, {"question": "a", "context": ["c"]}, True),
        (VQA, {"image": np.zeros((8, 8, 3)), "question": "a"}, False),
        (VQA, {"image": np.zeros((1, 8, 8, 3)), "question": "a"}, True),
    ],
)
def test_a_call_has_a_list_or_a_single_input(spec: Any, given: dict[str, Any], listed: bool) -> None:
    assert has_list(spec, given) is listed


def test_kinds_of_values() -> None:
    assert is_list(["a"]) and is_list(("a",)) and not is_list("a") and not is_list(b"a") and not is_list({"a": 1})
    assert is_chat(CHAT) and not is_chat([]) and not is_chat(["role"]) and not is_chat([{"content": "a"}])
    assert not is_chat(tuple(CHAT)) and not is_chat("role")
    assert is_record(QA, {"question": 1, "context": 2}) and not is_record(QA, {"question": 1})
    assert not is_record(QA, "question context")


def test_a_dialogue_reads_texts_as_first_messages() -> None:
    rows = [{"text": "a"}, {"messages": CHAT}]
    assert adapt_rows(find_task("dialogue"), rows) == [{"prompt": "a"}, {"messages": CHAT}]
    assert adapt_rows(find_task("generation"), rows) is rows


def test_only_a_run_has_a_recipe(tmp_path: Path) -> None:
    assert find_run_recipe("") is None and find_run_recipe(str(tmp_path)) is None


@pytest.mark.parametrize(
    ("name", "auto", "kind"),
    [
        ("image-captioning", AutoModelForImageTextToText, "multimodal"),
        ("visual-question-answering", AutoModelForImageTextToText, "multimodal"),
        ("automatic-speech-recognition", AutoModelForSpeechSeq2Seq, "audio"),
        ("translation", AutoModelForSeq2SeqLM, "text"),
        ("summarization", AutoModelForSeq2SeqLM, "text"),
        ("question-answering", AutoModelForQuestionAnswering, "text"),
        ("text-generation", AutoModelForCausalLM, "text"),
        ("text-to-image", PlaitForImageGeneration, "text"),
        ("text-classification", AutoModelForSequenceClassification, "text"),
        ("image-classification", AutoModelForImageClassification, "multimodal"),
        ("audio-classification", AutoModelForAudioClassification, "audio"),
        ("video-classification", AutoModelForVideoClassification, "multimodal"),
        ("zero-shot-classification", AutoModelForZeroShotImageClassification, "text"),
        ("zero-shot-image-classification", AutoModelForZeroShotImageClassification, "multimodal"),
        ("zero-shot-audio-classification", AutoModelForZeroShotImageClassification, "audio"),
        ("feature-extraction", AutoModelForZeroShotImageClassification, "multimodal"),
        ("retrieval", AutoModelForZeroShotImageClassification, "multimodal"),
    ],
)
def test_transformers_knows_every_pipeline(name: str, auto: Any, kind: str) -> None:
    _, found, _ = PIPELINE_REGISTRY.check_task(f"plait-{name}")
    assert found["pt"] == (auto,) and found["type"] == kind and found["impl"].kind == name
    loads = {part: getattr(found["impl"], f"_load_{part}") for part in
             ("processor", "tokenizer", "image_processor", "feature_extractor")}  # fmt: skip
    assert loads == {"processor": True, "tokenizer": False, "image_processor": False, "feature_extractor": False}
    assert found["impl"].__name__ == f"Plait{''.join(part.title() for part in name.split('-'))}Pipeline"
    assert len(PIPELINES) == 17 and {*CLASSES} < {*PIPELINES}


def test_settings_of_a_call_are_forgotten_after_it_even_if_it_fails() -> None:
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = PlaitForCausalLM.compose(
        decoder=PlaitTextConfig(vocab_size=9, max_position_embeddings=8, is_causal=True, **size), verbose=False
    )
    usual = model.generation_config
    before = usual.to_dict()
    with use_generation_settings(model, {}):
        assert model.generation_config is usual
    changed = use_generation_settings(model, {"num_beams": 3})
    changed.__enter__()
    assert model.generation_config is not usual
    assert model.generation_config.to_dict() == {**before, "num_beams": 3, "max_new_tokens": DEFAULT_NEW_TOKENS}
    with pytest.raises(RuntimeError, match="in between"):
        changed.gen.throw(RuntimeError("in between"))  # type: ignore[attr-defined]
    assert model.generation_config is usual and usual.to_dict() == before


@pytest.fixture
def ask(make_model: Callable[..., Any], processor: PlaitProcessor) -> InferencePipeline:
    return InferencePipeline("visual-question-answering", make_model(), processor)


def test_a_classifier_answers_with_its_label(ask: InferencePipeline, processor: PlaitProcessor) -> None:
    assert ask.task.name == "classification" and ask.run is None and not ask.model.training
    (answer,) = ask(PICTURE, "is it red ?")
    with torch.no_grad():
        inputs = processor(text="is it red ?", images=PICTURE, return_tensors="pt")
        scores = ask.model(**inputs).logits.softmax(-1)[0]
    assert answer == {
        "answer": ask.model.config.id2label[int(scores.argmax())],
        "score": pytest.approx(float(scores.max()), abs=1e-6),
    }
    assert ask([PICTURE], ["is it red ?"]) == [[answer]] == ask(question=["is it red ?"], image=PICTURE)


def test_texts_are_cut_where_the_call_or_the_run_says(ask: InferencePipeline) -> None:
    """The scores are those of the shorter text; a run of another task has no say."""
    text = "what colour is it ?"

    def score(question: str = text, **options: Any) -> float:
        return ask(PICTURE, question, **options)[0]["score"]

    whole, short = score(), score(max_length=3)
    assert whole != short
    ask.run = Recipe(task="generation", max_length=3)
    assert score() == whole
    ask.run = Recipe(task="classification", max_length=3)
    assert score() == short and score(max_length=24) == whole
    with pytest.raises(TypeError, match="unknown option num_beams: the options are batch_size, max_length"):
        score(num_beams=3)
    with pytest.raises(ValueError, match="a pipeline returns text alone"):
        score(return_timestamps=True)


def test_batches_have_the_asked_size_and_by_default_eight_rows(ask: InferencePipeline) -> None:
    sizes: list[int] = []
    ask.model.register_forward_pre_hook(
        lambda _, args, inputs: sizes.append(len(inputs["input_ids"])), with_kwargs=True
    )
    texts = ["is it red ?", "is it blue ?", "what colour is it ?"] * 3
    found = ask(PICTURE, texts)
    assert sizes == [8, 1]
    answers = ask(PICTURE, texts, batch_size=4)
    assert sizes == [8, 1, 4, 4, 1] and [each["answer"] for (each,) in answers] == [each["answer"] for (each,) in found]
    named = InferencePipeline("visual-question-answering", ask.model, ask.processor, batch_size=5)
    named(PICTURE, texts)
    assert sizes[5:] == [5, 4]


@pytest.mark.parametrize(
    ("name", "row", "answer", "found"),
    [
        ("translation", {"text": "a"}, {"generated_text": "b"}, {"translation_text": "b"}),
        ("text-generation", {"text": "a"}, {"generated_text": " b"}, {"generated_text": "a b"}),
        ("text-generation", {"messages": CHAT}, {"generated_text": "b"},
         {"generated_text": [*CHAT, {"role": "assistant", "content": "b"}]}),
        ("question-answering", {}, {"answer": "b", "score": 1}, {"answer": "b", "score": 1}),
        ("question-answering", {}, {"answer": "b", "candidates": [{"answer": "b"}]}, [{"answer": "b"}]),
        ("visual-question-answering", {}, {"label": "b", "score": 1, "probabilities": {}}, {"answer": "b", "score": 1}),
    ],
)  # fmt: skip
def test_answers_have_the_form_of_their_pipeline(name: str, row: Any, answer: Any, found: Any) -> None:
    assert InferencePipeline.format_answer(SimpleNamespace(spec=PIPELINES[name]), row, answer) == found  # type: ignore[arg-type]
