"""Classification, zero-shot, vectors and retrieval in one line, compared with transformers' pipelines of the same name,
and with the model's own methods."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    set_seed,
)
from transformers import pipeline as hf_pipeline

import plait
from plait import PlaitForClassification, PlaitForRetrieval, PlaitProcessor
from plait.configuration import PlaitAudioConfig, PlaitTextConfig, PlaitVideoConfig, PlaitVisionConfig

from ..conftest import IMAGE, QUESTIONS, TEXT

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
NLI = {0: "contradiction", 1: "neutral", 2: "entailment"}
TEXTS = [*QUESTIONS, "red"]


@pytest.fixture(scope="module")
def make_text_folder(tmp_path_factory: pytest.TempPathFactory, processor: PlaitProcessor) -> Callable[..., str]:
    """A tiny classifier of texts that transformers has saved, for each problem type."""

    def make(kind: str = "single_label_classification", count: int = 3) -> str:
        folder = tmp_path_factory.getbasetemp() / f"texts-{kind}-{count}"
        if not folder.exists():
            set_seed(0)
            config = BertConfig(
                vocab_size=len(processor.tokenizer),
                pad_token_id=processor.tokenizer.pad_token_id,
                initializer_range=0.4,
                problem_type=kind,
                id2label={number: NLI[number] for number in range(count)},
                label2id={NLI[number]: number for number in range(count)},
                **TINY,
            )
            BertForSequenceClassification(config).save_pretrained(folder)
            processor.tokenizer.save_pretrained(folder)
        return str(folder)

    return make


def check_equal(found: Any, expected: Any) -> None:
    """Answers with the same keys, in the same order, with equal labels and nearly equal scores."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            check_equal(found[name], expected[name])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            check_equal(one, other)
    else:
        assert found == (pytest.approx(expected, abs=1e-5) if isinstance(expected, float) else expected)


@pytest.mark.parametrize(
    ("kind", "count"), [("single_label_classification", 3), ("multi_label_classification", 3), ("regression", 1)]
)
def test_texts_are_classified_as_by_transformers(make_text_folder: Callable[..., str], kind: str, count: int) -> None:
    folder = make_text_folder(kind, count)
    own, theirs = plait.pipeline("text-classification", model=folder), hf_pipeline("text-classification", model=folder)
    pair = {"text": TEXTS[0], "text_pair": TEXTS[1]}
    for given, options in (
        (TEXTS[0], {}), (TEXTS, {}), (TEXTS[0], {"top_k": None}), (TEXTS, {"top_k": 2}), (TEXTS, {"top_k": None}),
        (pair, {"top_k": 1}), ([pair, pair], {}), (TEXTS, {"function_to_apply": "none"}),
    ):  # fmt: skip
        check_equal(own(given, **options), theirs(given, **options))
    check_equal(own(TEXTS, batch_size=1), own(TEXTS, batch_size=4))


def test_images_are_classified_as_by_transformers(tmp_path: Path, pictures: dict[str, Path]) -> None:
    set_seed(0)
    names = {number: f"class {number}" for number in range(7)}
    config = ViTConfig(image_size=16, patch_size=8, initializer_range=0.4, id2label=names, **TINY)
    ViTForImageClassification(config).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    own = plait.pipeline("image-classification", model=str(tmp_path))
    theirs = hf_pipeline("image-classification", model=str(tmp_path))
    paths = [str(path) for path in pictures.values()]
    check_equal(own(paths[0]), theirs(paths[0]))
    check_equal(own(paths, top_k=2), theirs(paths, top_k=2))
    check_equal(own(Image.open(paths[1])), theirs(paths[1]))
    for part in (own.model, own.processor):
        part.save_pretrained(tmp_path / "plait")
    check_equal(hf_pipeline("plait-image-classification", model=str(tmp_path / "plait"))(paths), own(paths))


@pytest.fixture(scope="module")
def listener() -> tuple[Any, Any]:
    """A classifier of audio and video, untrained."""
    set_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "initializer_range": 0.3}
    audio = PlaitAudioConfig(**small, num_mel_bins=8, max_source_positions=50)
    video = PlaitVideoConfig(image_config=PlaitVisionConfig(**IMAGE).to_dict(), num_frames=2, **small)
    fusion = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = PlaitForClassification.compose(
        audio=audio, video=video, labels=["a", "b", "c"], fusion_config=fusion, verbose=False
    )
    return model, PlaitProcessor.compose(audio=audio, video=video)


@pytest.mark.parametrize("name", ["audio-classification", "video-classification"])
def test_clips_and_videos_are_ranked_by_the_models_probabilities(listener: tuple[Any, Any], name: str) -> None:
    model, processor = listener
    pipe = plait.pipeline(name, model=model, processor=processor, device="cpu")
    random = np.random.default_rng(0)
    if name == "audio-classification":
        items: list[Any] = [
            {"array": random.normal(size=1600 + 80 * n).astype(np.float32), "sampling_rate": 16000} for n in range(3)
        ]
        inputs = processor(audio=[[item] for item in items], return_tensors="pt")
    else:
        items = [random.integers(0, 255, (4, 16, 16, 3)).astype(np.uint8) for _ in range(3)]
        inputs = processor(videos=[[item] for item in items], return_tensors="pt")
    with torch.no_grad():
        scores = model(**inputs).logits.softmax(-1)
    for found, row in zip(pipe(items, batch_size=2), scores, strict=True):
        assert [one["score"] for one in found] == pytest.approx(row.sort(descending=True).values.tolist(), abs=1e-5)
        assert [one["label"] for one in found] == ["abc"[n] for n in row.argsort(descending=True)]
    check_equal(pipe(items[1]), pipe(items)[1])
    check_equal(pipe(items[1], top_k=1), pipe(items[1])[:1])


@pytest.mark.parametrize("labels", [["red", "blue"], ["red"], "red, blue,green"])
def test_texts_get_labels_as_by_transformers(make_text_folder: Callable[..., str], labels: Any) -> None:
    """By a classifier of pairs, with one label or several, each for itself or not."""
    folder = make_text_folder()
    own = plait.pipeline("zero-shot-classification", model=folder)
    theirs = hf_pipeline("zero-shot-classification", model=folder)
    for given in (TEXTS[0], TEXTS):
        for options in ({}, {"multi_label": True}, {"hypothesis_template": "is it {} ?"}):
            check_equal(own(given, labels, **options), theirs(given, candidate_labels=labels, **options))


@pytest.fixture(scope="module")
def retrieval(processor: PlaitProcessor) -> tuple[Any, Any]:
    set_seed(0)
    vocabulary = {"vocab_size": len(processor.tokenizer), "pad_token_id": processor.tokenizer.pad_token_id}
    towers: dict[str, Any] = {"text": PlaitTextConfig(**TEXT, **vocabulary), "image": PlaitVisionConfig(**IMAGE)}
    return PlaitForRetrieval.compose(**towers, verbose=False), processor


def test_images_get_the_labels_of_zero_shot(retrieval: tuple[Any, Any], pictures: dict[str, Path]) -> None:
    model, processor = retrieval
    pipe = plait.pipeline("zero-shot-image-classification", model=model, processor=processor, device="cpu")
    paths, labels = [str(path) for path in pictures.values()], ["red", "green", "blue"]
    for template in ("This is a photo of {}.", ["is it {} ?", "what colour is {}"]):
        chances = model.zero_shot(paths, labels, processor, templates=template)
        found = pipe(paths, candidate_labels=labels, hypothesis_template=template)
        for answer, row in zip(found, chances, strict=True):
            order = row.argsort(descending=True).tolist()
            check_equal(answer, [{"label": labels[n], "score": float(row[n])} for n in order])
    check_equal(pipe(paths[0], labels), pipe(paths, labels)[0])
    assert pipe(paths[0], "red") == [{"label": "red", "score": 1.0}]
    texts = plait.pipeline("zero-shot-classification", model=model, processor=processor, device="cpu")
    answer = texts("is it red ?", ["is it red ?", "blue"], hypothesis_template="{}")
    assert answer["sequence"] == "is it red ?" and answer["labels"][0] == "is it red ?"
    assert sum(answer["scores"]) == pytest.approx(1) and texts(["is it red ?"], "a,b")[0]["labels"] != []
    for error, message, arguments in (
        (TypeError, "missing candidate_labels", ((paths[0],), {})),
        (ValueError, "labels that differ", ((paths[0], ["a", "a"]), {})),
        (ValueError, "in place of the label", ((paths[0], ["a"]), {"hypothesis_template": "no place"})),
        (TypeError, "unknown option num_beams", ((paths[0], ["a"]), {"num_beams": 2})),
        (ValueError, "multi_label needs a model", ((paths[0], ["a"]), {"multi_label": True})),
    ):
        with pytest.raises(error, match=message):
            pipe(*arguments[0], **arguments[1])


def test_features_are_the_vectors_of_encode(retrieval: tuple[Any, Any], pictures: dict[str, Path]) -> None:
    model, processor = retrieval
    pipe = plait.pipeline("feature-extraction", model=model, processor=processor, device="cpu")
    expected = model.encode(TEXTS, processor, show_progress=False)
    assert torch.equal(pipe(TEXTS, return_tensors=True), expected)
    assert pipe(TEXTS) == expected.tolist() and pipe(TEXTS[1]) == pytest.approx(expected[1].tolist(), abs=1e-5)
    paths = [str(path) for path in pictures.values()]
    for options in ({"side": "image"}, {"side": "image", "normalize": False, "batch_size": 1}):
        assert pipe(paths, **options) == model.encode(paths, processor, show_progress=False, **options).tolist()
    with pytest.raises(ValueError, match="no audio side"):
        pipe("a.wav", side="audio")
    with pytest.raises(TypeError, match="missing inputs"):
        pipe()


def test_candidates_are_ranked_by_their_cosine(retrieval: tuple[Any, Any], pictures: dict[str, Path]) -> None:
    model, processor = retrieval
    pipe = plait.pipeline("retrieval", model=model, processor=processor, device="cpu")
    paths = [str(path) for path in pictures.values()]
    vectors = model.encode(paths, processor, "image", show_progress=False)
    scores = vectors @ model.encode("is it red ?", processor)
    found = pipe("is it red ?", paths, candidate_side="image", top_k=2)
    assert [one["index"] for one in found] == scores.argsort(descending=True).tolist()[:2]
    assert [one["score"] for one in found] == pytest.approx(scores.sort(descending=True).values.tolist()[:2], abs=1e-5)
    assert [one["candidate"] for one in found] == [paths[one["index"]] for one in found]
    several = pipe(["is it red ?", "red"], vectors, top_k=2)
    check_equal(several[0], [{name: one[name] for name in ("index", "score")} for one in found])
    assert pipe(Image.open(paths[1]), vectors)[0]["index"] == 1
    with pytest.raises(TypeError, match="missing queries or candidates"):
        pipe("is it red ?")


def test_a_zero_shot_folder_loads_the_class_that_fits(make_text_folder: Callable[..., str], tmp_path: Path) -> None:
    """A checkpoint without a class "entailment" is read as a retrieval model."""
    assert isinstance(
        plait.pipeline("zero-shot-classification", model=make_text_folder()).model, PlaitForClassification
    )
    other = plait.pipeline("zero-shot-classification", model=make_text_folder("regression", 1))
    assert isinstance(other.model, PlaitForRetrieval)
    with pytest.raises(ValueError, match="top_k is 0"):
        plait.pipeline("text-classification", model=make_text_folder())("red", top_k=0)
