"""Generating images: what `PlaitForImageGeneration` adds to the denoiser."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...configuration import MODALITIES, ImageShape, PlaitDenoiserConfig
from ..core.rows import check_present_rows
from ..inputs import MODALITY_INPUTS
from ..outputs import TowerOutput
from .autoencoder import ImageAutoencoder, PixelCoder
from .condition import Condition, NullCondition
from .denoiser import PlaitDenoiser
from .flow import space_times
from .guidance import EVERYWHERE, GuidanceTerm, GuidedVelocity, Scale, build_terms, check_interval
from .images import GivenImages, convert_images, find_mode, read_given, repeat_given
from .noise import build_generators, draw_noise
from .sampling import Canvas, FlowSolver, Solver, cut_times, sample
from .schedulers import SchedulerSolver

INPUT_NAMES = frozenset(name for names in MODALITY_INPUTS.values() for name in names) | {"encoder_outputs"}
IMAGE_STRENGTH = 0.8  # of diffusers' image to image


class ImageSampler(PreTrainedModel):
    """The method `generate_images` of a model with a denoiser."""

    model: Any
    denoiser: PlaitDenoiser
    autoencoder: ImageAutoencoder | PixelCoder
    null_condition: NullCondition
    encode_towers: Callable[..., dict[str, TowerOutput]]
    fuse_condition: Callable[..., Condition]

    @torch.no_grad()
    def generate_images(
        self,
        *,
        num_inference_steps: int = 20,
        guidance_scale: Scale | None = None,
        guidance_interval: Sequence[float] = EVERYWHERE,
        negative_text: str | Sequence[str] | None = None,
        negative_inputs: Mapping[str, Any] | None = None,
        processor: Callable[..., Mapping[str, Any]] | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        num_images_per_prompt: int = 1,
        image: Any = None,
        strength: float | None = None,
        mask_image: Any = None,
        height: int | None = None,
        width: int | None = None,
        output_type: Literal["pil", "pt", "np", "latent"] = "pil",
        solver: Literal["euler", "heun"] = "euler",
        scheduler: Any = None,
        callback_on_step_end: Callable[..., Mapping[str, Any]] | None = None,
        progress: bool = False,
        **inputs: Any,
    ) -> Any:
        """Generates images under the condition of the inputs, with the arguments of diffusers' pipelines:

            images = model.generate_images(**processor(text=["a red dog"]), num_images_per_prompt=4)

        The towers run once; the state is float32 in a model of lower precision.

        Args:
            num_inference_steps: from noise to an image, spaced as `PlaitDenoiserConfig` says.
            guidance_scale: how far to follow the condition, 1 for no guidance, or `{modality: scale}`; see
                `build_terms` for the equations. Default: 2, or 1 for a model that was trained without
                `condition_dropout`.
            guidance_interval: the first and last time, from 0 (noise) to 1 (image), at which there is guidance
                (`GuidedVelocity`); guidance at the noisiest times costs variety, and shapes their form.
            negative_text: texts to stay away from, one for all rows or one for each, read by `processor`, in place of
                the empty condition; negative_inputs: the same as arguments of the model, of any modalities.
            generator: one, from which the seed of each image is drawn in turn, or a list with one per image: the same
                seed gives the same image whatever the batch (`build_generators`).
            num_images_per_prompt: images of each row, which follow one another in the result.
            image: to begin with, instead of noise alone: one for all rows or one for each (`read_given_images`);
                strength: how much of it is noise at the beginning, at time 1 - strength; 0 leaves it, 1 ignores it.
                Default: 0.8, or 1 with a mask.
            mask_image: where to generate (white); elsewhere the result is `image` (`read_masks`).
            height, width: in pixels, multiples of the patch size (times the autoencoder's downsampling); default: those
                of an `image` tensor, else the trained ones. Other sizes have interpolated positions.
            output_type: "pil", a list; "pt", (images, channels, height, width) from -1 to 1; "np", (images, height,
                width, channels) from 0 to 1; "latent", the standardized latents of a model with an autoencoder.
            solver: "euler", one prediction a step, or "heun", two, of second order (`FlowSolver`).
            scheduler: one of diffusers, in place of `solver` (`SchedulerSolver`).
            callback_on_step_end: called as (model, step, time that is reached, {"latents": images, or their latents, so
                far}); what it returns under "latents", if anything, replaces them.
            progress: whether to show a progress bar.
            inputs: the arguments of `PlaitModel`, as tensors or as a processor's lists; none: a single row without
                condition.

        Raises:
            TypeError: an unknown argument, or an image of another type.
            ValueError: an argument out of its range; numbers of rows that do not match; guidance that the model was not
                trained for; a prediction that is not finite.
        """
        settings, shape = self.denoiser.config, self.config.image_shape
        size = find_size(shape, height, width, image)
        start = find_start(image, strength, mask_image)
        check_options(num_inference_steps, num_images_per_prompt, solver)
        check_output(output_type, self.autoencoder.output_types, shape.channels)
        negative = encode_negative(negative_text, negative_inputs, processor)
        interval = check_interval(guidance_interval)
        velocity, rows = self.build_velocity(inputs, guidance_scale, interval, negative, num_images_per_prompt)
        generators = build_generators(generator, rows * num_images_per_prompt)
        dtype = torch.promote_types(self.dtype, torch.float)
        given = read_given(image, mask_image, shape.channels, size)
        latent_size = (settings.num_channels, *(side // shape.downsampling for side in size))
        noise = draw_noise(generators, latent_size).to(self.device, dtype)
        canvas = build_canvas(noise, given, self.autoencoder, num_images_per_prompt)
        times = space_times(num_inference_steps, settings.time_mean)
        method = build_solver(solver, scheduler, times, start, generators, noise.device)

        def report(step: int, time: float, x: Tensor) -> Tensor:
            return x if callback_on_step_end is None else call_back(callback_on_step_end, self, step, time, x)

        latents = sample(method, velocity, canvas, report, progress)
        if output_type == "latent":
            return latents
        return convert_images(given.restore(self.autoencoder.decode(latents), num_images_per_prompt), output_type)

    def build_velocity(
        self,
        inputs: Mapping[str, Any],
        scale: Scale | None,
        interval: tuple[float, float],
        negative: Mapping[str, Any] | None,
        count: int,
    ) -> tuple[GuidedVelocity, int]:
        """Builds the guided velocity of `count` images for each row of the inputs; returns it and the number of
        rows."""
        settings = self.denoiser.config
        outputs, rows = self.encode_rows(inputs)
        modalities = [name for name in MODALITIES if name in outputs]
        scale = find_scale(settings, scale, negative is not None, self.model.towers)
        terms = build_terms(scale, modalities)
        check_terms(settings, terms, modalities, scale, negative is not None)
        conditions = [self.build_condition(outputs, term.modalities, rows) for term in terms]
        full = self.build_condition(outputs, modalities, rows).repeat(count)
        if negative is not None:
            outputs, negatives = self.encode_rows(negative)
            if negatives not in (1, rows):
                raise ValueError(f"{negatives} negative rows for {rows} rows: pass one for all, or one for each")
            condition = self.build_condition(outputs, tuple(outputs), negatives)
            conditions[0] = condition.repeat(rows // negatives)
        repeated = [condition.repeat(count) for condition in conditions]
        return GuidedVelocity(self.denoiser, [term.weight for term in terms], repeated, full, interval), rows

    def encode_rows(self, inputs: Mapping[str, Any]) -> tuple[dict[str, TowerOutput], int]:
        """Runs the towers; returns their outputs and the number of rows, 1 without any."""
        unknown = sorted(set(inputs) - INPUT_NAMES)
        if unknown:
            raise TypeError(f"generate_images got the argument {unknown[0]!r}, which it does not have: leave it out")
        read = {name: each if name == "encoder_outputs" else self.as_input(each) for name, each in inputs.items()}
        outputs = self.encode_towers(read)
        counts = {name: len(output.mask) for name, output in outputs.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(f"the modalities have different numbers of rows: {counts}: pass one for each row")
        return outputs, next(iter(counts.values()), 1)

    def as_input(self, values: Any) -> Tensor | None:
        """Returns a processor's tensor, array or lists as a tensor on the model's device."""
        return None if values is None else torch.as_tensor(values, device=self.device)

    def build_condition(self, outputs: Mapping[str, TowerOutput], modalities: Sequence[str], rows: int) -> Condition:
        """Builds the condition of these modalities alone."""
        condition = self.fuse_condition({name: outputs[name] for name in modalities}, rows, {})
        if len(modalities) == len(outputs) and not self.denoiser.config.hides_conditions:
            check_present_rows(condition.mask.any(dim=1), self.model.towers)
        return self.null_condition.fill(condition)


def find_size(shape: ImageShape, height: int | None, width: int | None, image: Any) -> tuple[int, int]:
    """Returns the height and width of the images in pixels; raises ValueError for no multiples of the patch size."""
    usual = tuple(image.shape[-2:]) if isinstance(image, Tensor) and image.ndim >= 2 else (shape.height, shape.width)
    size = (usual[0] if height is None else height, usual[1] if width is None else width)
    if any(side < 1 or side % shape.multiple for side in size):
        raise ValueError(f"height {size[0]} and width {size[1]} must be multiples of {shape.rule}")
    return size


def find_start(image: Any, strength: float | None, mask: Any) -> float:
    """Returns the time to begin at, 0 for noise alone."""
    if image is None and mask is not None:
        raise ValueError("mask_image says which part of an image to generate anew: pass the image, too")
    if image is None and strength is not None:
        raise ValueError("strength says how much of an image becomes noise: pass the image, too, or leave it out")
    if image is None:
        return 0.0
    chosen = strength if strength is not None else IMAGE_STRENGTH if mask is None else 1.0
    if not 0 <= chosen <= 1:
        raise ValueError(f"strength is {strength}: expected a number from 0 (the image itself) to 1 (noise alone)")
    return 1.0 - chosen


def check_options(steps: int, count: int, solver: str) -> None:
    """Raises ValueError for an option that is out of its range."""
    for name, number in (("num_inference_steps", steps), ("num_images_per_prompt", count)):
        if number < 1:
            raise ValueError(f"{name} is {number}: expected at least 1")
    if solver not in ("euler", "heun"):
        raise ValueError(f"solver is {solver!r}: expected euler, heun")


def check_output(output_type: str, choices: Sequence[str], channels: int) -> None:
    """Raises ValueError for an `output_type` that a model without an autoencoder, or of such images, does not have."""
    if output_type not in choices:
        raise ValueError(f"output_type is {output_type!r}: expected {', '.join(choices)}")
    if output_type == "pil":
        find_mode(channels)


def encode_negative(
    text: str | Sequence[str] | None, inputs: Mapping[str, Any] | None, processor: Callable[..., Any] | None
) -> Mapping[str, Any] | None:
    """Returns the arguments of the model for what to stay away from; None for nothing."""
    if text is None or inputs is not None:
        if text is not None:
            raise ValueError("negative_text and negative_inputs say the same: pass one of them")
        return inputs
    if processor is None:
        raise ValueError(
            "negative_text needs a processor to read it: pass processor=processor, or negative_inputs=processor(...)"
        )
    return processor(text=[text] if isinstance(text, str) else list(text), return_tensors="pt")


def find_scale(settings: PlaitDenoiserConfig, scale: Scale | None, negative: bool, towers: Any) -> Scale:
    """Returns the guidance scale; raises ValueError for a modality without a tower."""
    if scale is None:
        return 2.0 if settings.hides_conditions or negative else 1.0
    others = sorted(set(scale) - set(towers)) if isinstance(scale, Mapping) else []
    if others:
        raise ValueError(f"guidance_scale names {', '.join(others)}, but the towers are {', '.join(towers)}")
    return scale


def check_terms(
    settings: PlaitDenoiserConfig,
    terms: Sequence[GuidanceTerm],
    modalities: Sequence[str],
    scale: Scale,
    negative: bool,
) -> None:
    """Raises ValueError for a condition that the model has not met in training, or negative inputs without effect."""
    chances = settings.condition_dropout
    for _, shown in terms:
        hidden = [name for name in modalities if name not in shown]
        if negative and not shown:
            continue
        if isinstance(chances, dict):
            met = all(chances.get(name, 0) > 0 for name in hidden)
        else:
            met = not hidden or (chances > 0 and not shown)
        if not met:
            raise ValueError(
                f"guidance_scale {scale} needs predictions without {' and '.join(hidden)}, which the model was not "
                f"trained for (denoiser_config.condition_dropout is {chances}): pass guidance_scale=1, or train with "
                f"condition_dropout {dict.fromkeys(modalities, 0.1)}"
            )
    if negative and terms[0].modalities and modalities:
        raise ValueError(f"negative inputs have no effect with guidance_scale {scale}: pass a number above 1")


def build_canvas(noise: Tensor, given: GivenImages, autoencoder: ImageAutoencoder | PixelCoder, count: int) -> Canvas:
    """Builds what images are generated from; see `generate_images`. Where any pixel of a latent is generated anew, the
    whole latent is."""
    if given.image is None:
        return Canvas(noise)
    latents = repeat_given("image", autoencoder.encode(given.image.to(noise)).to(noise), len(noise), count)
    if given.mask is None:
        return Canvas(noise, latents)
    factor = given.mask.shape[-1] // noise.shape[-1]
    covered = nn.functional.max_pool2d(given.mask.to(noise), factor) > 0
    return Canvas(noise, latents, repeat_given("mask_image", covered, len(noise), count))


def build_solver(
    name: str, scheduler: Any, times: list[float], start: float, generators: Sequence[torch.Generator], device: Any
) -> Solver:
    """Builds the solver; see `generate_images`."""
    if scheduler is None or start == 1:  # from 1 there is no step to take
        return FlowSolver(cut_times(times, start), second_order=name == "heun")
    return SchedulerSolver(scheduler, times, start, generators, device)


def call_back(callback: Callable[..., Mapping[str, Any]], model: Any, step: int, time: float, x: Tensor) -> Tensor:
    """Calls `callback_on_step_end` and returns the images it leaves."""
    returned = callback(model, step, time, {"latents": x})
    if not isinstance(returned, Mapping) or set(returned) - {"latents"}:
        raise ValueError(f"callback_on_step_end returned {returned!r}: return {{}} or {{'latents': tensor}}")
    return returned.get("latents", x).to(x)
