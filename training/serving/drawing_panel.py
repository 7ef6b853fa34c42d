"""The page of image generation: the condition, the seed, the steps, the guidance and the size; a gallery of images."""

import random
from typing import Any

from ..explanations.pages.colours import to_data_url
from ..runs.image_output import find_drawing_options
from .components import BUTTONS, MOST_GUIDANCE, MOST_STEPS, add_endpoint, build_field, show_errors
from .served_model import ServedModel

MOST_IMAGES, MOST_SEED, USUAL_STEPS, USUAL_GUIDANCE = 8, 2**31 - 1, 20, 2.0


class DrawingPanel:
    """Draws images for a condition.

    Args:
        gradio: the module.
        served: the model.
    """

    def __init__(self, gradio: Any, served: ServedModel) -> None:
        self.gradio, self.served = gradio, served
        config: Any = served.model.config
        self.shape = config.image_shape
        self.guided = bool(config.denoiser_config.hides_conditions) and bool(served.fields)

    def build(self) -> None:
        """Builds the fields, the settings and the gallery."""
        gradio, settings = self.gradio, self.served.settings
        with gradio.Row(equal_height=False):
            with gradio.Column(scale=5):
                inputs = {field.name: build_field(gradio, field) for field in self.served.fields}
                options = self.build_options()
                button = gradio.Button("Draw", variant="primary")
            with gradio.Column(scale=6):
                gallery = gradio.Gallery(
                    label="images", columns=2, object_fit="contain", format="png", height=480, buttons=BUTTONS
                )
        given = inputs | options
        call = {"outputs": [gallery, options["seed"]], "api_visibility": "private"}
        show = show_errors(gradio, self.show, list(given))
        button.click(show, inputs_kwargs=given, concurrency_limit=settings.batch_size, **call)
        if settings.api:
            about = "Draws images: PNG files in data URLs, with their seeds."
            add_endpoint(gradio, "predict", self.answer, given, about, settings.batch_size)

    def build_options(self) -> dict[str, Any]:
        """Builds the settings of images, by name; their values are those of the run."""
        gradio, usual = self.gradio, find_drawing_options(self.served.recipe)
        steps, guidance = usual.get("num_inference_steps", USUAL_STEPS), usual.get("guidance_scale") or USUAL_GUIDANCE
        with gradio.Row():
            options = {
                "seed": gradio.Number(0, precision=0, label="seed", minimum=0, maximum=MOST_SEED, min_width=90),
                "random_seed": gradio.Checkbox(True, label="a new seed each time", container=True, min_width=130),
            }
        options["num_images"] = gradio.Slider(1, MOST_IMAGES, 1, step=1, label="images")
        options["num_inference_steps"] = gradio.Slider(1, MOST_STEPS, steps, step=1, label="steps")
        if self.guided:
            options["guidance_scale"] = gradio.Slider(1, MOST_GUIDANCE, guidance, step=0.1, label="guidance")
        with gradio.Row():
            for name in ("height", "width"):
                usual_side, step = getattr(self.shape, name), self.shape.multiple
                most = max(usual_side, self.served.settings.max_pixels // usual_side // step * step)
                options[name] = gradio.Slider(step, min(most, 4 * usual_side), usual_side, step=step, label=name)
        return options

    def answer(self, **values: Any) -> dict[str, Any]:
        """Returns the images of the fields as JSON."""
        images = self.draw(values)
        return {"images": [to_data_url(image) for image, _ in images], "seeds": [seed for _, seed in images]}

    def show(self, **values: Any) -> tuple[list[Any], int]:
        """Returns the images of the fields with their seeds, and the first seed."""
        images = self.draw(values)
        return [(image, f"seed {seed}") for image, seed in images], images[0][1]

    def draw(self, values: dict[str, Any]) -> list[tuple[Any, int]]:
        """Returns the images of the fields, each with its seed: the first one's, and the numbers after it."""
        options = self.read_options(values)
        row = self.served.build_row(values) if self.served.fields else {}
        first = random.randrange(MOST_SEED) if values.get("random_seed") else int(values.get("seed") or 0)
        if not 0 <= first <= MOST_SEED:
            raise ValueError(f"seed is {first}: expected 0 .. {MOST_SEED}")
        seeds = range(first, first + int(values["num_images"] or 1))
        return [(self.served.predict({**row, "seed": seed}, **options)["image"], seed) for seed in seeds]

    def read_options(self, values: dict[str, Any]) -> dict[str, Any]:
        """Returns the arguments of `generate_images` that filled-in settings stand for. Raises ValueError for one out
        of its range."""
        ranges = {"num_images": (1, MOST_IMAGES), "num_inference_steps": (1, MOST_STEPS)}
        ranges |= {"guidance_scale": (1, MOST_GUIDANCE)} if self.guided else {}
        for name, (low, high) in ranges.items():
            if not low <= values[name] <= high:
                raise ValueError(f"{name} is {values[name]}: expected {low} .. {high}")
        height, width = int(values["height"]), int(values["width"])
        if height * width > max(self.served.settings.max_pixels, self.shape.height * self.shape.width):
            raise ValueError(
                f"{height} x {width} are {height * width:,} pixels, more than {self.served.settings.max_pixels:,}: "
                "draw a smaller image"
            )
        guidance = {"guidance_scale": float(values["guidance_scale"])} if self.guided else {}
        return {"num_inference_steps": int(values["num_inference_steps"]), "height": height, "width": width, **guidance}
