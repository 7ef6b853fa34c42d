"""What the options of `generate_images` become: sizes, times to begin at, scales, solvers; and their mistakes."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from plait.configuration import ImageShape
from plait.modeling.diffusion.autoencoder import PixelCoder
from plait.modeling.diffusion.generation import (
    IMAGE_STRENGTH,
    build_canvas,
    build_solver,
    call_back,
    check_options,
    check_output,
    check_terms,
    encode_negative,
    find_scale,
    find_size,
    find_start,
)
from plait.modeling.diffusion.guidance import build_terms
from plait.modeling.diffusion.images import GivenImages
from plait.modeling.diffusion.sampling import FlowSolver

SHAPE = ImageShape(3, 16, 24, 4)


@pytest.mark.parametrize(
    ("height", "width", "image", "size"),
    [
        (None, None, None, (16, 24)),
        (8, None, None, (8, 24)),
        (None, 4, None, (16, 4)),
        (None, None, torch.zeros(1, 3, 4, 8), (4, 8)),
        (None, None, torch.zeros(3, 12, 8), (12, 8)),
        (None, None, torch.zeros(12, 8), (12, 8)),
        (None, None, torch.zeros(8), (16, 24)),
        (8, 8, torch.zeros(3, 12, 8), (8, 8)),
        (None, None, object(), (16, 24)),
    ],
)
def test_a_size_is_given_or_that_of_a_tensor_or_the_models(height: Any, width: Any, image: Any, size: Any) -> None:
    assert find_size(SHAPE, height, width, image) == size


@pytest.mark.parametrize(("height", "width"), [(0, 4), (4, 0), (-4, 4), (6, 4), (4, 6)])
def test_sizes_are_multiples(height: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"height {height} and width {width} must be multiples of"):
        find_size(SHAPE, height, width, None)


def test_where_a_flow_begins() -> None:
    image, mask = object(), object()
    assert find_start(None, None, None) == 0
    assert find_start(image, None, None) == pytest.approx(1 - 0.8) and IMAGE_STRENGTH == 0.8
    assert find_start(image, None, mask) == 0 and find_start(image, 0.25, mask) == find_start(image, 0.25, None) == 0.75
    assert find_start(image, 0.0, None) == 1 and find_start(image, 1.0, None) == 0
    for strength in (-0.01, 1.01):
        with pytest.raises(ValueError, match=f"strength is {strength}"):
            find_start(image, strength, None)
    with pytest.raises(ValueError, match="pass the image, too"):
        find_start(None, None, mask)
    with pytest.raises(ValueError, match="strength says how much"):
        find_start(None, 0.5, None)


def test_options_in_their_ranges() -> None:
    for solver in ("euler", "heun"):
        check_options(1, 1, solver)
    for options, name in (((0, 1, "euler"), "num_inference_steps"), ((1, 0, "euler"), "num_images_per_prompt"),
                          ((1, 1, "rk4"), "solver")):  # fmt: skip
        with pytest.raises(ValueError, match=f"{name} is"):
            check_options(*options)
    check_output("pil", ("pil", "pt"), 3)
    check_output("pt", ("pil", "pt"), 4)
    with pytest.raises(ValueError, match="output_type is 'latent': expected pil, pt"):
        check_output("latent", ("pil", "pt"), 3)
    with pytest.raises(ValueError, match="images of 4 channels"):
        check_output("pil", ("pil", "pt"), 4)


def test_negatives_are_read_by_the_processor() -> None:
    seen: list[Any] = []

    def process(text: list[str], return_tensors: str) -> dict[str, Any]:
        seen.append((text, return_tensors))
        return {"input_ids": 1}

    given = {"input_ids": 2}
    assert encode_negative(None, None, process) is None and encode_negative(None, given, None) is given
    assert encode_negative("a", None, process) == {"input_ids": 1} == encode_negative(("a", "b"), None, process)
    assert seen == [(["a"], "pt"), (["a", "b"], "pt")]
    with pytest.raises(ValueError, match="say the same"):
        encode_negative("a", given, process)
    with pytest.raises(ValueError, match="needs a processor"):
        encode_negative("a", None, None)


def settings(chances: Any) -> Any:
    hides = any(chances.values()) if isinstance(chances, dict) else chances > 0
    return SimpleNamespace(condition_dropout=chances, hides_conditions=hides)


def test_the_scale_is_two_where_something_can_be_stayed_away_from() -> None:
    towers = ("text", "image")
    assert find_scale(settings(0.1), None, False, towers) == 2 == find_scale(settings(0.0), None, True, towers)
    assert find_scale(settings(0.0), None, False, towers) == 1 and find_scale(settings(0.1), 5.0, True, towers) == 5
    assert find_scale(settings(0.1), {"text": 3.0}, False, towers) == {"text": 3.0}
    with pytest.raises(ValueError, match="guidance_scale names audio, but the towers are text, image"):
        find_scale(settings(0.1), {"text": 3.0, "audio": 1.0}, False, towers)


@pytest.mark.parametrize(
    ("chances", "scale", "negative", "problem"),
    [
        (0.1, 2.0, False, None),
        (0.0, 1.0, False, None),
        (0.0, 2.0, False, "without text and image"),
        (0.1, {"text": 2.0, "image": 3.0}, False, "without image"),
        ({"text": 0.1, "image": 0.1}, {"text": 2.0, "image": 3.0}, False, None),
        ({"text": 0.1}, {"text": 2.0, "image": 3.0}, False, "without"),
        ({"image": 0.1}, {"text": 1.0, "image": 3.0}, False, None),
        (0.0, 2.0, True, None),
        (0.0, 1.0, True, "negative inputs have no effect"),
        (0.1, 0.0, False, None),
    ],
)
def test_predictions_without_a_condition_must_have_been_trained(
    chances: Any, scale: Any, negative: bool, problem: str | None
) -> None:
    terms = build_terms(scale, ["text", "image"])
    if problem is None:
        check_terms(settings(chances), terms, ["text", "image"], scale, negative)
        return
    with pytest.raises(ValueError, match=problem):
        check_terms(settings(chances), terms, ["text", "image"], scale, negative)


def test_a_solver_begins_where_it_should() -> None:
    times = [0.0, 0.25, 0.5, 1.0]
    for name in ("euler", "heun"):
        found = build_solver(name, None, times, 0.25, [], "cpu")
        assert isinstance(found, FlowSolver) and found.second_order is (name == "heun")
        assert found.times == [0.25, 0.5, 1.0]
    whole = build_solver("euler", None, times, 0.0, [], "cpu")
    assert isinstance(whole, FlowSolver) and whole.times == times
    none = build_solver("euler", object(), times, 1.0, [], "cpu")
    assert isinstance(none, FlowSolver) and none.times == [1.0]


def test_a_callback_leaves_images_or_nothing() -> None:
    x, seen = torch.zeros(1, dtype=torch.double), []
    assert call_back(lambda *given: seen.append(given) or {}, "model", 3, 0.5, x) is x
    assert seen == [("model", 3, 0.5, {"latents": x})]
    found = call_back(lambda *given: {"latents": torch.ones(1)}, None, 0, 0.0, x)
    assert found.item() == 1 and found.dtype == torch.double
    for wrong in (None, {"other": x}, [x]):
        with pytest.raises(ValueError, match="callback_on_step_end returned"):
            call_back(lambda *given, wrong=wrong: wrong, None, 0, 0.0, x)


def test_a_latent_is_drawn_anew_where_any_of_its_pixels_is() -> None:
    noise, image = torch.randn(4, 1, 2, 2), torch.randn(2, 1, 2, 2)
    plain: Any = PixelCoder()
    assert build_canvas(noise, GivenImages(None, None), plain, 2) == (noise, None, None)
    started = build_canvas(noise, GivenImages(image, None), plain, 2)
    assert started[2] is None and torch.equal(started[1], image.repeat_interleave(2, 0))
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    mask[0, 0, 1, 2] = True
    covered = build_canvas(noise, GivenImages(image, mask), plain, 2)[2]
    assert covered.tolist() == [[[[False, True], [False, False]]]] * 4
