"""Agreement of images with their conditions: a right, a blind and a partly right generator; shuffled conditions."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import plait
from plait.configuration import PlaitTextConfig, PlaitVisionConfig
from plait.training.data.tokenizer import train_tokenizer
from plait.training.metrics.images.agreement import (
    classify_images,
    compute_condition_similarities,
    measure_agreement,
    measure_similarity,
)
from plait.training.metrics.images.intervals import compute_wilson_interval, estimate_mean

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
WANTED = np.random.default_rng(0).integers(5, size=400)


def test_shuffled_conditions_are_the_mean_over_all_permutations() -> None:
    predictions = np.where(np.random.default_rng(1).random(400) < 0.7, WANTED, 2)
    found = measure_agreement(predictions, WANTED)
    generator = np.random.default_rng(2)
    drawn = [(predictions == generator.permutation(WANTED)).mean() for _ in range(3000)]
    assert found.shuffled.value == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / np.sqrt(3000))
    assert found.own == compute_wilson_interval(int((predictions == WANTED).sum()), 400)
    assert found.difference.value == pytest.approx(found.own.value - found.shuffled.value)
    assert found.difference.low > 0


def test_a_generator_that_does_not_read_its_condition_agrees_no_more_than_shuffled() -> None:
    """Be it one class alone, or classes at random."""
    constant = measure_agreement(np.full(400, 3), WANTED)
    assert constant.own.value == constant.shuffled.value
    assert constant.difference.low <= 0 <= constant.difference.high
    blind = [measure_agreement(np.random.default_rng(n).integers(5, size=400), WANTED, None, 200) for n in range(30)]
    assert sum(found.difference.low <= 0 <= found.difference.high for found in blind) >= 26


def test_the_largest_logit_is_the_prediction() -> None:
    logits = np.random.default_rng(3).normal(size=(400, 5))
    assert measure_agreement(logits, WANTED) == measure_agreement(logits.argmax(axis=1), WANTED)
    assert measure_agreement(torch.from_numpy(logits), torch.from_numpy(WANTED)) == measure_agreement(logits, WANTED)


def test_images_of_a_prompt_are_drawn_together() -> None:
    """Twenty equal images of a prompt say no more than one of them."""
    wanted, right = np.repeat(np.arange(20) % 4, 20), np.repeat(np.random.default_rng(4).random(20) < 0.6, 20)
    predictions = np.where(right, wanted, 9)
    alone, together = (
        measure_agreement(predictions, wanted, groups) for groups in (None, np.repeat(np.arange(20), 20))
    )
    assert together.own.high - together.own.low > 3 * (alone.own.high - alone.own.low)


def test_cosines_of_own_and_of_all_conditions() -> None:
    generator = np.random.default_rng(5)
    conditions = generator.normal(size=(5, 12))
    images = conditions[WANTED] * 3 + generator.normal(size=(400, 12))
    found = measure_similarity(images, conditions, WANTED)
    cosine = torch.nn.functional.cosine_similarity
    own = cosine(torch.from_numpy(images), torch.from_numpy(conditions[WANTED]))
    every = cosine(torch.from_numpy(images)[:, None], torch.from_numpy(conditions[WANTED])[None], dim=2)
    assert found.own.value == pytest.approx(float(own.mean()), abs=1e-12)
    assert found.shuffled.value == pytest.approx(float(every.mean()), abs=1e-12)
    assert found.difference.low > 0


class Brightness(nn.Module):
    """Class 1 for images that are bright on average; random while training."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, images: Tensor) -> Tensor:
        mean = self.dropout(images).flatten(1).mean(dim=1)
        return torch.stack([-mean, mean], dim=1)


def test_a_callable_gets_the_images_in_batches() -> None:
    images = torch.rand(7, 3, 6, 6) * 2 - 1
    model = Brightness()
    whole, parts = classify_images(model, images), classify_images(model, images, batch_size=2)
    assert torch.equal(whole, parts)
    assert torch.allclose(whole[:, 1], images.flatten(1).mean(dim=1))
    assert model.training


def test_a_classifier_of_plait_sees_what_a_user_shows_it() -> None:
    """The same logits as for the same images as 8-bit PIL images through the processor."""
    config = PlaitVisionConfig(image_size=16, patch_size=8, **SIZES)
    model: Any = plait.PlaitForClassification.compose(image=config, labels=["a", "b", "c"], verbose=False)
    processor = plait.PlaitProcessor.compose(image=config)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    images = pixels.transpose(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        expected = model(**processor(images=list(pixels), return_tensors="pt")).logits
    assert torch.allclose(classify_images(model, images, processor), expected, atol=1e-6)


def test_a_retrieval_model_says_which_condition_an_image_is_nearest_to() -> None:
    torch.manual_seed(0)
    image = PlaitVisionConfig(image_size=16, patch_size=8, **SIZES)
    tokenizer = train_tokenizer(["red one", "green two", "blue"], 16)
    text = PlaitTextConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **SIZES)
    space = {"projection_dim": 8}
    model: Any = plait.PlaitForRetrieval.compose(text=text, image=image, retrieval_config=space, verbose=False)
    processor = plait.PlaitProcessor.compose(text=tokenizer, image=image)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    captions = ["red one", "green two two", "blue"]
    found = compute_condition_similarities(model, pixels.transpose(0, 3, 1, 2) / 127.5 - 1, captions, processor)
    assert found.shape == (4, 3)
    with torch.no_grad():
        images = model.get_image_features(**processor(images=list(pixels), return_tensors="pt"))
        texts = model.get_text_features(**processor(text=captions, return_tensors="pt"))
    first, second = (getattr(part, "pooler_output", part) for part in (images, texts))
    expected = torch.nn.functional.cosine_similarity(first[:, None], second[None], dim=2)
    assert torch.allclose(found, expected, atol=1e-5)
    nearest = measure_agreement(found, expected.argmax(dim=1))
    assert nearest.own.value == 1


@pytest.mark.parametrize(
    ("predictions", "wanted", "message"),
    [
        (np.zeros((3, 2)), np.array([0, 1, 2]), "wanted classes reach from 0 to 2: the logits have 2 classes"),
        (np.zeros(3, dtype=int), np.array([0, 1]), r"wanted have shape \(2,\): expected \(3,\)"),
        (np.full((2, 2), np.nan), np.array([0, 1]), "predictions have NaN"),
    ],
)
def test_answers_that_do_not_fit_are_errors(predictions: np.ndarray, wanted: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure_agreement(predictions, wanted)


def test_logits_of_another_shape_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"logits of shape \(2, 3, 4, 4\) for 2 images"):
        classify_images(lambda images: images, torch.zeros(2, 3, 4, 4))


def test_a_vector_of_zeros_is_an_error() -> None:
    with pytest.raises(ValueError, match="images have a vector of zeros in row 1"):
        measure_similarity(np.array([[1.0, 0], [0, 0]]), np.eye(2), np.array([0, 1]))


def test_logits_are_computed_in_batches_of_64_without_gradients() -> None:
    sizes: list[int] = []

    class Output:
        def __init__(self, logits: Tensor) -> None:
            self.logits = logits

    def classify(images: Tensor) -> Output:
        assert torch.is_inference_mode_enabled()
        sizes.append(len(images))
        return Output(images.flatten(1)[:, :2].double())

    images = torch.rand(65, 1, 2, 2)
    found = classify_images(classify, images)
    assert sizes == [64, 1] and found.dtype == torch.float32 and torch.equal(found, images.flatten(1)[:, :2])
    for wrong in (torch.zeros(2), torch.zeros(3, 2)):
        with pytest.raises(ValueError, match="for 2 images"):
            classify_images(lambda _, wrong=wrong: wrong, images[:2])


@pytest.mark.parametrize("measure", ["agreement", "similarity"])
def test_intervals_follow_groups_seed_and_resamples(measure: str) -> None:
    wanted, groups = np.random.default_rng(7).choice(4, 40, p=[0.4, 0.3, 0.2, 0.1]), np.arange(40) // 5
    vectors = np.random.default_rng(0).normal(size=(40, 4)) + 2 * np.eye(4)[wanted]
    given = (vectors, wanted) if measure == "agreement" else (vectors, np.eye(4), wanted)
    run: Any = measure_agreement if measure == "agreement" else measure_similarity
    found = run(*given)
    assert found == run(*given, None, 2000, 0) != run(*given, None, 2000, 1)
    assert found != run(*given, resamples=100)
    grouped = run(*given, groups)
    assert grouped != found and grouped.own.value == pytest.approx(found.own.value)
    assert grouped == run(*given, groups=groups, resamples=2000, seed=0)
    own = (vectors.argmax(axis=1) == wanted).astype(float)
    if measure == "similarity":
        own = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True))[np.arange(40), wanted]
        assert found.own == estimate_mean(own)
    assert grouped.own == pytest.approx(estimate_mean(own, groups))


def test_numbers_of_conditions_that_do_not_exist_are_errors() -> None:
    for wrong in ([0, -1], [0, 2]):
        with pytest.raises(ValueError, match="ask for conditions"):
            measure_similarity(np.eye(2), np.eye(2), np.array(wrong))
        with pytest.raises(ValueError, match="wanted classes reach"):
            measure_agreement(np.eye(2), np.array(wrong))
    with pytest.raises(ValueError, match="images of width 2 ask for conditions 0 to 1: there are 2 of width 3"):
        measure_similarity(np.eye(2), np.ones((2, 3)), np.array([0, 1]))
