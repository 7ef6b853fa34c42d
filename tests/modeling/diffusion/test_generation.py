"""The arguments of `generate_images`."""

import weakref
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from plait import PlaitForImageGeneration
from plait.modeling.diffusion.images import to_pil_images

from .fields import PATCH, SIZE, build_model, make_inputs, seeded

MODEL = build_model()
BOTH = build_model(image=True, fusion="early", denoiser_config={"condition_dropout": {"text": 0.1, "image": 0.1}})
INPUTS, PAIRS = make_inputs(), make_inputs(image=True)
PICTURE = torch.rand(1, 3, SIZE, SIZE, generator=seeded(5)) * 2 - 1


def generate(model: PlaitForImageGeneration = MODEL, inputs: dict[str, Tensor] = INPUTS, **options: Any) -> Tensor:
    options = {"num_inference_steps": 4, "generator": seeded(), "output_type": "pt", **options}
    return model.generate_images(**inputs, **options)


def rows_of(inputs: dict[str, Tensor], *rows: int) -> dict[str, Tensor]:
    return {name: value[list(rows)] for name, value in inputs.items()}


def test_images_are_finite_and_depend_on_text_and_seed() -> None:
    images = generate()
    assert images.shape == (3, 3, SIZE, SIZE)
    assert images.abs().max() <= 1
    assert images.std() > 0.1
    assert torch.equal(images, generate())
    assert (images - generate(generator=seeded(4))).abs().mean() > 0.05
    changed = {**INPUTS, "input_ids": INPUTS["input_ids"].roll(1, dims=1)}
    assert (images - generate(inputs=changed)).abs().max() > 1e-3


@pytest.mark.parametrize("count", [1, 2])
def test_one_generator_gives_the_same_images_in_batches_of_any_size(count: int) -> None:
    whole = generate(num_images_per_prompt=count)
    generator = seeded()
    parts = [
        generate(inputs=rows_of(INPUTS, row), generator=generator, num_images_per_prompt=count) for row in (0, 1, 2)
    ]
    assert (whole - torch.cat(parts)).abs().max() < 1e-5


def test_a_list_of_generators_gives_each_image_its_own() -> None:
    whole = generate(generator=[seeded(row) for row in range(3)])
    for row in range(3):
        assert (generate(inputs=rows_of(INPUTS, row), generator=seeded(row)) - whole[row]).abs().max() < 1e-5


def test_images_of_one_prompt_differ_and_follow_one_another() -> None:
    images = generate(num_images_per_prompt=2)
    assert images.shape[0] == 6
    assert (images[0] - images[1]).abs().mean() > 0.05
    one = generate(inputs=rows_of(INPUTS, 0), num_images_per_prompt=2)
    assert (images[:2] - one).abs().max() < 1e-5


def test_padding_is_invisible() -> None:
    padded = {name: torch.nn.functional.pad(value, (0, 5)) for name, value in INPUTS.items()}
    assert (generate() - generate(inputs=padded)).abs().max() < 1e-5


def test_a_processors_lists_are_read() -> None:
    lists: Any = {name: value.tolist() for name, value in INPUTS.items()}
    assert torch.equal(generate(), generate(inputs=lists))


def test_the_towers_run_once_and_not_for_their_outputs() -> None:
    calls: list[int] = []
    hook = BOTH.model.towers["text"].register_forward_hook(lambda *_: calls.append(1))
    images = generate(BOTH, PAIRS, guidance_scale={"text": 3, "image": 2}, num_images_per_prompt=2, solver="heun")
    assert len(calls) == 1
    outputs = BOTH.encode_towers(PAIRS)
    calls.clear()
    given: Any = {"encoder_outputs": outputs}
    again = generate(BOTH, given, guidance_scale={"text": 3, "image": 2}, num_images_per_prompt=2, solver="heun")
    hook.remove()
    assert not calls
    assert torch.equal(images, again)


def test_no_graph_is_kept_and_every_step_frees_the_last() -> None:
    seen = []

    def look(model: Any, step: int, time: float, values: dict[str, Tensor]) -> dict[str, Tensor]:
        assert values["latents"].grad_fn is None
        seen.append((step, time, values["latents"].dtype))
        return {}

    images = generate(callback_on_step_end=look)
    assert not images.requires_grad
    assert [step for step, _, _ in seen] == [0, 1, 2, 3]
    assert seen[-1][1] == 1
    assert sorted(seen) == seen


def test_memory_is_constant_in_the_steps() -> None:
    """No state outlives the next step."""
    states: list[Any] = []
    alive = []

    def look(model: Any, step: int, time: float, values: dict[str, Tensor]) -> dict[str, Tensor]:
        states.append(weakref.ref(values["latents"]))
        alive.append(sum(state() is not None for state in states))
        return {}

    generate(callback_on_step_end=look, num_inference_steps=12)
    assert len(states) == 12
    assert max(alive) <= 2


def test_many_steps_of_euler_and_few_of_heun_agree() -> None:
    model = build_model(denoiser_config={"prediction": "velocity", "time_mean": 0.0}, spread=0.04)
    one = rows_of(INPUTS, 0)
    few, many = (generate(model, one, num_inference_steps=steps) for steps in (4, 250))
    heun = generate(model, one, num_inference_steps=50, solver="heun")
    assert (few - many).abs().max() > 0.01
    assert (heun - many).abs().max() < 0.002  # of values from -1 to 1


def test_a_callback_replaces_the_images_so_far() -> None:
    def grey(model: Any, step: int, time: float, values: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"latents": torch.zeros_like(values["latents"])} if time == 1 else {}

    assert not generate(callback_on_step_end=grey).any()
    with pytest.raises(ValueError, match="callback_on_step_end returned None"):
        generate(callback_on_step_end=lambda *_: None)


def test_low_precision_keeps_the_state_in_float32() -> None:
    low, seen = build_model().to(torch.bfloat16), []

    def look(model: Any, step: int, time: float, values: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(values["latents"].dtype)
        return {}

    images = generate(low, callback_on_step_end=look)
    assert set(seen) == {torch.float32}
    assert (images - generate()).abs().mean() < 0.1
    with torch.autocast("cpu", torch.bfloat16):
        generate(callback_on_step_end=look)
    assert set(seen) == {torch.float32}


def test_output_types_hold_the_same_image() -> None:
    pixels, array, pictures = (generate(output_type=kind) for kind in ("pt", "np", "pil"))
    assert array.shape == (3, SIZE, SIZE, 3)
    assert np.allclose(array, (pixels.permute(0, 2, 3, 1).numpy() + 1) / 2)
    assert [picture.size for picture in pictures] == [(SIZE, SIZE)] * 3
    assert np.abs(np.asarray(pictures[0]) / 255 - array[0]).max() <= 0.5 / 255 + 1e-6


def test_grey_images() -> None:
    model = build_model(denoiser_config={"num_channels": 1})
    assert [picture.mode for picture in generate(model, output_type="pil")] == ["L"] * 3
    assert generate(model, image=Image.new("RGB", (30, 30), "red"), strength=0.5).shape == (3, 1, SIZE, SIZE)


@pytest.mark.parametrize(("height", "width"), [(SIZE + PATCH, SIZE), (PATCH, 2 * SIZE)])
def test_other_sizes_than_the_trained_one(height: int, width: int) -> None:
    images = generate(height=height, width=width)
    assert images.shape == (3, 3, height, width)
    assert images.std() > 0.1


class TestImageToImage:
    def test_strength_0_gives_the_image_and_1_none_of_it(self) -> None:
        assert torch.equal(generate(image=PICTURE, strength=0), PICTURE.expand(3, -1, -1, -1))
        assert torch.equal(generate(image=PICTURE, strength=1), generate())

    def test_less_strength_stays_nearer(self) -> None:
        model = build_model(denoiser_config={"prediction": "velocity"}, spread=0.02)
        near, far = (
            (generate(model, image=PICTURE, strength=strength) - PICTURE).abs().mean() for strength in (0.1, 0.9)
        )
        assert near < far / 2

    def test_each_row_may_have_its_own_in_every_form(self) -> None:
        given = torch.cat([PICTURE, -PICTURE, PICTURE.flip(3)])
        given = ((given + 1) * 127.5).round() / 127.5 - 1  # as Pillow keeps it
        whole = generate(image=given, num_images_per_prompt=2)
        assert (whole - generate(image=to_pil_images(given), num_images_per_prompt=2)).abs().max() < 1e-5
        generator = seeded()
        for row in range(3):
            one = rows_of(INPUTS, row)
            part = generate(inputs=one, image=given[row : row + 1], generator=generator, num_images_per_prompt=2)
            assert (whole[2 * row : 2 * row + 2] - part).abs().max() < 1e-5

    def test_a_pillow_image_is_resized_and_a_tensor_gives_the_size(self) -> None:
        assert generate(image=Image.new("P", (50, 20))).shape[-2:] == (SIZE, SIZE)
        assert generate(image=torch.zeros(1, 3, SIZE, 2 * SIZE)).shape[-2:] == (SIZE, 2 * SIZE)


class TestInpainting:
    def test_known_pixels_stay_and_the_others_are_generated(self) -> None:
        mask = torch.zeros(SIZE, SIZE)
        mask[:, SIZE // 2 :] = 1
        images = generate(image=PICTURE, mask_image=mask)
        assert torch.equal(images[..., : SIZE // 2], PICTURE.expand(3, -1, -1, -1)[..., : SIZE // 2])
        assert (images[..., SIZE // 2 :] - PICTURE[..., SIZE // 2 :]).abs().mean() > 0.1
        white = Image.fromarray((mask.numpy() * 255).astype(np.uint8))
        assert torch.equal(images, generate(image=PICTURE, mask_image=white))

    def test_a_white_mask_is_no_mask_and_a_black_one_the_image(self) -> None:
        assert torch.equal(generate(image=PICTURE, mask_image=torch.ones(1, SIZE, SIZE)), generate())
        black = generate(image=PICTURE, mask_image=torch.zeros(1, SIZE, SIZE))
        assert torch.equal(black, PICTURE.expand(3, -1, -1, -1))

    def test_known_pixels_follow_their_path(self) -> None:
        noise = []

        def look(model: Any, step: int, time: float, values: dict[str, Tensor]) -> dict[str, Tensor]:
            known = values["latents"]
            if time < 1:
                noise.append((known - time * PICTURE) / (1 - time))
            return {}

        generate(image=PICTURE, mask_image=torch.zeros(1, SIZE, SIZE), callback_on_step_end=look)
        assert (noise[0] - noise[-1]).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt is 0"),
        ({"height": 18}, "height 18 and width 16 must be multiples of patch_size 4"),
        ({"width": 0}, "width 0"),
        ({"image": PICTURE, "strength": 1.5}, "strength is 1.5"),
        ({"strength": 0.5}, "pass the image, too"),
        ({"mask_image": torch.ones(SIZE, SIZE)}, "pass the image, too"),
        ({"image": PICTURE[..., :-PATCH], "height": SIZE, "width": SIZE}, "image has shape"),
        ({"image": PICTURE * 3}, "image has values from"),
        ({"image": PICTURE, "mask_image": torch.ones(4, 4)}, "mask_image has shape"),
        ({"image": PICTURE.expand(2, -1, -1, -1)}, "2 of image for 3 rows"),
        ({"output_type": "latent"}, "output_type is 'latent'"),
        ({"solver": "dpm"}, "solver is 'dpm'"),
        ({"generator": [seeded()] * 2}, "2 generators for 3 images"),
        ({"negative_text": "ugly"}, "negative_text needs a processor"),
        ({"negative_inputs": rows_of(INPUTS, 0, 1)}, "2 negative rows for 3 rows"),
        ({"negative_inputs": rows_of(INPUTS, 0), "guidance_scale": 1}, "no effect with guidance_scale 1"),
        ({"guidance_scale": {"audio": 2}}, "guidance_scale names audio, but the towers are text"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        generate(**options)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"image": "dog.png"}, "image is a str"),
        ({"num_inference_step": 3}, "'num_inference_step'"),
        ({"generator": 3}, "generator is a int"),
    ],
)
def test_values_of_another_type_are_named(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(TypeError, match=problem):
        generate(**options)


def test_a_prediction_that_is_not_finite_is_named_with_its_step() -> None:
    model = build_model()
    with torch.no_grad():
        model.denoiser.output_proj.bias[0] = float("nan")
    with pytest.raises(ValueError, match="step 1 of 4, at time 0.000"):
        generate(model)


def test_images_of_four_channels_are_no_pillow_images() -> None:
    model = build_model(denoiser_config={"num_channels": 4})
    with pytest.raises(ValueError, match="images of 4 channels"):
        generate(model, output_type="pil")
    assert generate(model).shape[1] == 4
