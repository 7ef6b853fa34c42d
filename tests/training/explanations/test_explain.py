"""`plait.explain` over every class and kind of input."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import plait
from plait.modeling.attribution.methods import METHODS

from ...compatibility.tiny_models import TOWERS, build, fill_with_numbers, join_towers, list_tiny_models
from ...compatibility.tiny_processors import RATE, TEXTS, make_clips, make_images, make_tokenizer, make_videos

VALUES = {"text": TEXTS[0], "image": make_images()[0], "video": [*make_videos()[0]]}
VALUES["audio"] = {"array": np.tile(make_clips()[0], 6), "sampling_rate": RATE}
SCORED = "Classification Retrieval QuestionAnswering MaskedLM ConditionalGeneration CausalLM".split()
NAMES = [name for name, tiny in list_tiny_models().items() if tiny.class_name.removeprefix("PlaitFor") in SCORED]
METHOD_NAMES, IG = tuple(METHODS), "integrated_gradients"


@cache
def make_processor(name: str) -> Any:
    config = plait.PlaitConfig(**list_tiny_models()[name].config)
    parts: dict[str, Any] = {}
    if config.text_config is not None:
        parts["text"] = make_tokenizer()
    if config.vision_config is not None:
        parts["image"] = config
    if config.audio_config is not None:
        parts["audio"] = config.audio_config
    if config.video_config is not None:
        parts |= {"video": config, "num_frames": 4}
    if config.decoder_config is not None:
        parts["decoder"] = make_tokenizer(length=24)
    if config.inline:
        parts |= {"image_token": "<image>", "num_image_tokens": 5}
    return plait.PlaitProcessor.compose(**parts)


def make_row(name: str) -> dict[str, Any]:
    """A row with what the model reads."""
    tiny = list_tiny_models()[name]
    config = plait.PlaitConfig(**tiny.config)
    row = {side: VALUES[modality] for side, modality in config.sides.items()}
    if tiny.class_name == "PlaitForQuestionAnswering":
        del row["text"]
        return row | {"question": "what is red", "context": "the cat is red a dog is blue"}
    if tiny.class_name == "PlaitForMaskedLM":
        row["text"] = "the [MASK] is red"
    if tiny.class_name == "PlaitForCausalLM":
        row["text"] = "<image> the cat" if config.inline else "the cat"
    return row


def explain(name: str, row: Any = None, **options: Any) -> plait.Explanation:
    if list_tiny_models()[name].class_name in ("PlaitForCausalLM", "PlaitForConditionalGeneration"):
        options.setdefault("target", "red dog")
    given = make_row(name) if row is None else row
    return plait.explain(build_once(name), make_processor(name), given, **options)


@cache
def build_once(name: str) -> Any:
    return build(list_tiny_models()[name])


@pytest.mark.parametrize("name", NAMES)
def test_every_class_and_method(name: str) -> None:
    """One row of every model by every method: each input has finite amounts, which add up where they promise it."""
    columns = set(make_row(name))
    for method in METHOD_NAMES:
        (row,) = explain(name, method=method, num_samples=24, num_steps=24, cells=3, segments=6)
        assert set(row.attributions) == columns and row.target
        for found in row.attributions.values():
            assert np.isfinite(found.values).all() and found.values.dtype == np.float32
        total = sum(found.total for found in row.attributions.values())
        if method in ("integrated_gradients", "perturbation"):
            scale = 1 + abs(row.score) + abs(row.baseline_score)
            assert row.completeness_error == pytest.approx(0, abs=0.02 * scale)
            assert row.score - row.baseline_score == pytest.approx(total, abs=0.03 * scale)
        if method.startswith("attention"):
            assert all((found.values >= 0).all() for found in row.attributions.values()) and total > 0


def test_the_model_is_left_as_it_was() -> None:
    model, name = build(list_tiny_models()["classification_text_image"]), "classification_text_image"
    model.train()
    model.freeze("text")
    modes = [module.training for module in model.modules()]
    trained = {key: value.requires_grad for key, value in model.named_parameters()}
    state = {key: value.clone() for key, value in model.state_dict().items()}
    implementation = model.config._attn_implementation, model.config.fusion_config._attn_implementation
    hooks = count_hooks(model)
    torch.manual_seed(3)
    random, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()
    for method in METHOD_NAMES:
        plait.explain(model, make_processor(name), make_row(name), method=method)
    with pytest.raises(ValueError, match="no class"):
        plait.explain(model, make_processor(name), make_row(name), target="purple")
    assert [module.training for module in model.modules()] == modes
    assert {key: value.requires_grad for key, value in model.named_parameters()} == trained
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert (model.config._attn_implementation, model.config.fusion_config._attn_implementation) == implementation
    assert count_hooks(model) == hooks and all(value.grad is None for value in model.parameters())
    assert torch.equal(torch.get_rng_state(), random) and np.array_equal(np.random.get_state()[1], numbers)


def count_hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize("method", METHOD_NAMES)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_row_does_not_depend_on_its_neighbours(method: str, implementation: str) -> None:
    """Alone, or behind a longer row; under SDPA, with packing, and eager."""
    name = "classification_text_image"
    model = build(list_tiny_models()[name])
    model.set_attn_implementation(implementation)
    row = {"text": "a dog", "image": make_images()[1]}
    processor, options = make_processor(name), {"method": method, "num_samples": 8, "num_steps": 8, "cells": 2}
    (alone,) = plait.explain(model, processor, row, **options)
    _, beside = plait.explain(model, processor, [make_row(name), row], **options)
    assert alone.to_dict() == beside.to_dict()


def test_more_steps_are_more_complete() -> None:
    errors = [
        abs(explain("retrieval_text_audio", method=IG, num_steps=steps, num_baselines=1)[0].completeness_error or 0)
        for steps in (2, 32)
    ]
    assert errors[1] < errors[0] / 10 and errors[1] < 1e-3


def test_an_input_without_effect_gets_nothing() -> None:
    """Behind a gate that is closed the image changes nothing."""
    torch.manual_seed(0)
    config = plait.PlaitConfig(**join_towers("gated_cross_attention"), id2label={0: "a", 1: "b"})
    model = plait.PlaitForClassification(config)
    for method in METHOD_NAMES:
        if method == "attention_rollout":  # which is blind to what the model does with its attention
            continue
        (row,) = plait.explain(model, make_processor("classification_text_image"), make_row(NAMES[0]), method=method)
        assert np.abs(row.attributions["image"].values).max() < 1e-5 < np.abs(row.attributions["text"].values).max()


@pytest.mark.parametrize("tower", [name for name in TOWERS if name.startswith(("audio", "video"))])
def test_clips_and_videos(tower: str) -> None:
    """The amounts of segments and frames are those of the map, and the times those of the clip."""
    config = plait.PlaitConfig(**TOWERS[tower], id2label={0: "a", 1: "b"})
    torch.manual_seed(0)
    model = fill_with_numbers(plait.PlaitForClassification(config))
    modality = tower[:5]
    parts = {"audio": config.audio_config} if modality == "audio" else {"video": config, "num_frames": 4}
    processor = plait.PlaitProcessor.compose(**parts)
    (row,) = plait.explain(model, processor, {modality: VALUES[modality]}, method=IG, num_steps=8, num_baselines=1)
    found = row.attributions[modality]
    assert found.times is not None and found.modality == modality
    if modality == "video":
        assert found.times.tolist() == [0, 1, 3, 4] and found.maps is not None and found.maps.shape == (4, 8, 8)
        assert found.maps.sum(axis=(1, 2)) == pytest.approx(found.values, abs=1e-5)
        return
    seconds = 0.12 if tower == "audio_spectrogram" else 0.24  # which reads 12 frames
    assert len(found.times) == len(found.values) + 1 and found.times[-1] == pytest.approx(seconds, abs=0.011)
    assert (found.maps is None) == tower.startswith("audio_waveform")
    if found.maps is not None:
        assert found.maps.sum() == pytest.approx(found.total, abs=1e-4)


def test_several_images_and_absent_inputs() -> None:
    name = "classification_text_image"
    both, image, text = explain(
        name,
        [
            {"text": "is the cat red", "image": make_images()},
            {"text": None, "image": make_images()[0]},
            {"text": "is the cat", "image": None},
        ],
        method="occlusion",
        cells=2,
    )
    assert {key: one.values.shape for key, one in both.attributions.items()} == {
        "text": (4,),
        "image.0": (6, 7),
        "image.1": (9, 5),
    }
    assert set(image.attributions) == {"image"} and set(text.attributions) == {"text"}


def test_modalities_are_chosen_and_the_others_stay() -> None:
    name = "question_answering_text_image"
    (row,) = explain(name, modalities="image")
    assert set(row.attributions) == {"image"}
    (row,) = explain(name, modalities=["question", "image"], method=IG)
    assert set(row.attributions) == {"question", "image"}
    assert row.completeness_error == pytest.approx(0, abs=0.01)


def test_baselines_are_chosen_by_name_and_modality() -> None:
    name = "classification_text_image"
    rows = [make_row(name), {"text": "a dog", "image": make_images()[1]}]
    scores = {
        str(baseline): explain(name, rows, baseline=baseline, method="occlusion", cells=1)[0].baseline_score
        for baseline in ("blur", "zero", "rows", {"text": "pad"}, {"image": "noise", "text": "unk"}, None)
    }
    assert len({round(score, 6) for score in scores.values()}) == len(scores)


def test_a_generator_changes_the_random_baselines() -> None:
    name = "classification_image"
    first, again, other = (
        explain(name, baseline="noise", generator=torch.Generator().manual_seed(seed))[0] for seed in (1, 1, 2)
    )
    assert first.to_dict() == again.to_dict() != other.to_dict()


ERRORS = [
    ({"method": "gradcam"}, "no method 'gradcam': choose integrated_gradients, "),
    ({"baseline": "grey"}, "no baseline 'grey'"),
    ({"baseline": {"picture": "blur"}}, "baseline of 'picture': give those of text, image"),
    ({"modalities": "audio"}, "modality 'audio' is not in the rows: choose text, image"),
    ({"target": "purple"}, "target 'purple' is no class: choose one of "),
    ({"target": "purple"}, "or its number$"),
    ({"target": 9}, "target 9 is no class"),
    ({"target": ["red"] * 3}, "3 targets for 1 rows"),
    ({"steps": 3}, "no setting 'steps': the settings are num_steps"),
    ({"rows": []}, "there are no rows"),
    ({"rows": {"label": 1}}, "the columns label lack what the model reads"),
    ({"rows": {"text": "a", "audio": None}}, "column audio: the model has no audio tower"),
    ({"baseline": "rows"}, "pass two rows or more"),
]


@pytest.mark.parametrize(("options", "message"), ERRORS)
def test_errors_say_what_to_do(options: dict[str, Any], message: str) -> None:
    given = dict(options)
    name = "classification_text_image"
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        explain(name, given.pop("rows", None), **given)


@pytest.mark.parametrize("name", ["pretraining", "image_generation_text"])
def test_a_class_without_a_score_is_an_error(name: str) -> None:
    model = build(list_tiny_models()[name])
    with pytest.raises(ValueError, match="has no score of a row to explain: load the folder as one of PlaitForClass"):
        plait.explain(model, make_processor(name), make_row(name))


class Detached(nn.Module):
    """Computes without gradients, as integer kernels do."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x).detach()


@pytest.mark.parametrize("method", [name for name in METHOD_NAMES if name not in ("occlusion", "perturbation")])
def test_no_gradient_is_an_error_that_names_another_method(method: str) -> None:
    name = "classification_text_image"
    model = build(list_tiny_models()[name])
    model.classifier = Detached(model.classifier)
    with pytest.raises(ValueError, match='method="occlusion"'):
        plait.explain(model, make_processor(name), make_row(name), method=method)
    assert len(plait.explain(model, make_processor(name), make_row(name), method="occlusion", cells=2)) == 1


def test_inference_mode_around_the_call_changes_nothing() -> None:
    name = "classification_text_image"
    plain = explain(name, method=IG, num_steps=4)
    with torch.inference_mode():
        assert explain(name, method=IG, num_steps=4).to_dict() == plain.to_dict()


def test_a_wrapped_model_is_an_error() -> None:
    with pytest.raises(TypeError, match=r"pass the one inside it \(PEFT: get_base_model"):
        plait.explain(nn.Sequential(), make_processor("masked_lm"), {"text": "a"})


def test_features_of_a_cache_are_an_error() -> None:
    from plait.modeling.attribution.scored_row import ScoredRow
    from plait.modeling.attribution.target import Target

    inputs: Any = {"encoder_outputs": {"text": {}}, "pixel_values": torch.zeros(1, 1, 3, 8, 8)}
    with pytest.raises(ValueError, match="a tower that was run before"):
        ScoredRow(build_once("classification_image"), inputs, Target("class", torch.tensor([0])), ["pixel_values"])


def test_explanations_are_saved_and_loaded(tmp_path: Any) -> None:
    found = explain("classification_text_image", method=IG, num_steps=4)
    found.save(tmp_path / "explained")
    loaded = plait.Explanation.load(tmp_path / "explained")
    assert loaded.to_dict() == found.to_dict() and len(loaded) == 1
    assert plait.Explanation.from_dict(found.to_dict()).to_dict() == found.to_dict()
    assert found[0].attributions["text"].words == TEXTS[0].split()
    with pytest.raises(FileNotFoundError):
        plait.Explanation.load(tmp_path)
