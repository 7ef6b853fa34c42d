"""Classifier-free guidance."""

from typing import Any

import pytest
import torch
from torch import Tensor

from plait import PlaitForImageGeneration
from plait.modeling.diffusion.guidance import EVERYWHERE, build_terms

from .fields import SIZE, build_model, make_inputs, seeded

DROPOUT = {"text": 0.1, "image": 0.2}
BOTH = build_model(image=True, fusion="early", denoiser_config={"condition_dropout": DROPOUT})
PAIRS = make_inputs(image=True)
TEXT = {name: PAIRS[name] for name in ("input_ids", "attention_mask")}
NOISY = torch.randn(3, 3, SIZE, SIZE, generator=seeded(7))


def velocity(inputs: dict[str, Tensor], scale: Any, model: PlaitForImageGeneration = BOTH, **options: Any) -> Tensor:
    with torch.no_grad():
        interval = options.get("interval", EVERYWHERE)
        field, rows = model.build_velocity(inputs, scale, interval, options.get("negative"), 1)
    assert rows == 3
    with torch.no_grad():
        return field(NOISY, 0.4)


def test_a_number_is_the_equation() -> None:
    full, empty = velocity(PAIRS, 1), velocity(PAIRS, 0)
    assert (full - empty).abs().max() > 1e-3
    assert torch.allclose(velocity(PAIRS, 3.5), empty + 3.5 * (full - empty), atol=1e-5)


def test_a_scale_for_each_modality_is_the_equation() -> None:
    empty, text, full = velocity(PAIRS, 0), velocity(TEXT, 1), velocity(PAIRS, 1)
    assert torch.allclose(
        velocity(PAIRS, {"image": 1.5, "text": 4}), empty + 4 * (text - empty) + 1.5 * (full - text), atol=1e-5
    )
    assert torch.allclose(velocity(PAIRS, {"text": 2, "image": 2}), velocity(PAIRS, 2), atol=1e-5)
    assert torch.allclose(velocity(PAIRS, {"text": 2}), velocity(PAIRS, {"text": 2, "image": 1}), atol=1e-5)


@pytest.mark.parametrize("scale", [0, 1, 2.5, {"text": 3}, {"text": 2, "image": 0.5, "audio": 3}])
@pytest.mark.parametrize("modalities", [(), ("text",), ("text", "image"), ("text", "image", "audio")])
def test_weights_sum_to_one(scale: Any, modalities: tuple[str, ...]) -> None:
    terms = build_terms(scale, modalities)
    assert sum(term.weight for term in terms) == pytest.approx(1)
    assert all(term.modalities == modalities[: len(term.modalities)] for term in terms)


def test_only_what_counts_is_predicted() -> None:
    assert len(build_terms(1, ("text", "image"))) == 1
    assert len(build_terms(2, ("text", "image"))) == 2
    assert len(build_terms({"text": 2, "image": 3}, ("text", "image"))) == 3


@pytest.mark.parametrize("interval", [(0.4, 0.6), (0.0, 0.4), (0.3, 0.5)])
def test_within_its_interval_guidance_is_as_everywhere(interval: tuple[float, float]) -> None:
    scale = {"text": 3, "image": 2}
    assert torch.equal(velocity(PAIRS, scale, interval=interval), velocity(PAIRS, scale))


@pytest.mark.parametrize("interval", [(0.41, 1.0), (0.0, 0.39)])
@pytest.mark.parametrize("scale", [0, 3, {"text": 3, "image": 0}])
def test_outside_its_interval_there_is_the_condition_alone(interval: tuple[float, float], scale: Any) -> None:
    without = velocity(PAIRS, 1)
    assert (velocity(PAIRS, scale) - without).abs().max() > 1e-3
    assert torch.allclose(velocity(PAIRS, scale, interval=interval), without, atol=1e-6)


def test_images_are_guided_in_the_interval() -> None:
    options: dict[str, Any] = {"num_inference_steps": 4, "output_type": "pt"}
    images = [
        BOTH.generate_images(**PAIRS, guidance_scale=3, guidance_interval=interval, generator=seeded(), **options)
        for interval in ((0, 1), (0.1, 1), (0.98, 1))
    ]
    plain = BOTH.generate_images(**PAIRS, guidance_scale=1, generator=seeded(), **options)
    assert torch.allclose(images[2], plain, atol=1e-6)
    assert all((images[1] - other).abs().max() > 1e-4 for other in (images[0], plain))


@pytest.mark.parametrize("interval", [(0.5,), (0.5, 0.5), (0.6, 0.5), (-0.1, 1), (0, 1.1), 0.5, (0, float("nan"))])
def test_an_interval_is_two_times_in_order(interval: Any) -> None:
    with pytest.raises(ValueError, match=r"guidance_interval is .*: expected two times, 0 <= first < last <= 1"):
        BOTH.generate_images(**PAIRS, guidance_interval=interval)


def test_negative_inputs_take_the_place_of_the_empty_condition() -> None:
    other = {**TEXT, "input_ids": TEXT["input_ids"].flip(1)}
    against = velocity(PAIRS, 3, negative=other)
    full, negative = velocity(PAIRS, 1), velocity(other, 1)
    assert torch.allclose(against, negative + 3 * (full - negative), atol=1e-5)
    one = {name: value[:1] for name, value in other.items()}
    expanded = {name: value.expand(3, -1) for name, value in one.items()}
    assert torch.allclose(velocity(PAIRS, 3, negative=one), velocity(PAIRS, 3, negative=expanded), atol=1e-6)


def test_negative_text_is_read_by_the_processor() -> None:
    def processor(text: list[str], return_tensors: str) -> dict[str, Tensor]:
        assert text == ["ugly"]
        assert return_tensors == "pt"
        return {name: value[:1] for name, value in TEXT.items()}

    options: dict[str, Any] = {"num_inference_steps": 2, "output_type": "pt"}
    written = BOTH.generate_images(**PAIRS, negative_text="ugly", processor=processor, generator=seeded(), **options)
    encoded = BOTH.generate_images(
        **PAIRS, negative_inputs={name: value[:1] for name, value in TEXT.items()}, generator=seeded(), **options
    )
    assert torch.equal(written, encoded)
    with pytest.raises(ValueError, match="say the same"):
        BOTH.generate_images(**PAIRS, negative_text="ugly", negative_inputs=TEXT, **options)


def test_rows_lacking_a_modality_are_guided_as_in_a_batch_of_their_own() -> None:
    holes = {**PAIRS, "attention_mask": PAIRS["attention_mask"].clone(), "image_present": torch.ones(3, 1).bool()}
    holes["attention_mask"][1] = 0
    holes["image_present"][2] = False
    options: dict[str, Any] = {"num_inference_steps": 3, "output_type": "pt", "guidance_scale": {"text": 3, "image": 2}}
    whole = BOTH.generate_images(**holes, generator=seeded(), **options)
    generator = seeded()
    alone = ({**PAIRS}, {"pixel_values": PAIRS["pixel_values"]}, dict(TEXT))
    for row, inputs in enumerate(alone):
        one = {name: value[row : row + 1] for name, value in inputs.items()}
        image = BOTH.generate_images(**one, generator=generator, **options)
        assert (whole[row] - image[0]).abs().max() < 1e-5


def test_a_row_without_any_condition_is_generated_from_the_learned_token() -> None:
    options: dict[str, Any] = {"num_inference_steps": 3, "output_type": "pt"}
    nothing = BOTH.generate_images(generator=seeded(), **options)
    empty = {"input_ids": TEXT["input_ids"][:1], "attention_mask": torch.zeros(1, 7, dtype=torch.long)}
    assert torch.allclose(nothing, BOTH.generate_images(**empty, generator=seeded(), **options), atol=1e-5)
    assert nothing.shape == (1, 3, SIZE, SIZE)


class TestWithoutDropoutInTraining:
    """A model that has never met a hidden condition."""

    def test_guidance_is_refused_and_off_by_default(self) -> None:
        model = build_model(denoiser_config={"condition_dropout": 0.0})
        options: dict[str, Any] = {"num_inference_steps": 2, "output_type": "pt"}
        with pytest.raises(ValueError, match=r"without text.*condition_dropout is 0.0.*guidance_scale=1"):
            model.generate_images(**TEXT, guidance_scale=2, **options)
        usual = model.generate_images(**TEXT, generator=seeded(), **options)
        assert torch.equal(usual, model.generate_images(**TEXT, guidance_scale=1, generator=seeded(), **options))
        against = model.generate_images(**TEXT, negative_inputs=TEXT, generator=seeded(), **options)
        assert torch.allclose(usual, against, atol=1e-5)  # away from itself: nowhere

    def test_so_is_a_row_without_condition(self) -> None:
        model = build_model(denoiser_config={"condition_dropout": 0.0})
        empty = {**TEXT, "attention_mask": TEXT["attention_mask"] * torch.tensor([1, 0, 1])[:, None]}
        with pytest.raises(ValueError, match="row 1"):
            model.generate_images(**empty)
        with pytest.raises(ValueError, match="row 0"):
            model.generate_images()

    def test_one_number_hides_all_modalities_together(self) -> None:
        model = build_model(image=True, fusion="early", denoiser_config={"condition_dropout": 0.1})
        velocity(PAIRS, 2, model)
        with pytest.raises(ValueError, match="predictions without image"):
            velocity(PAIRS, {"text": 2, "image": 3}, model)
        one = build_model(image=True, fusion="early", denoiser_config={"condition_dropout": {"image": 0.1}})
        velocity(PAIRS, {"text": 1, "image": 3}, one)
        with pytest.raises(ValueError, match="predictions without text and image"):
            velocity(PAIRS, 2, one)
