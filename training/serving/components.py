"""The gradio components of a page's fields, and functions whose errors are shown in the page."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

from ...configuration.messages import to_one_line
from ..data.media import READ_ERRORS
from ..metrics.generation import DEFAULT_NEW_TOKENS
from .fields import InputField
from .served_model import ServedModel

BUTTONS = ["download", "fullscreen"]  # of pictures; not "share", which would send them to others
MOST_BEAMS, MOST_STEPS, MOST_GUIDANCE, MOST_TEMPERATURE = 8, 200, 15.0, 2.0


def build_field(gradio: Any, field: InputField) -> Any:
    """Builds the component of a field."""
    label = field.label if field.required else f"{field.label} (may be empty)"
    if field.modality == "text":
        return gradio.Textbox(label=label, lines=field.lines, max_lines=max(12, field.lines))
    made = {
        "image": lambda: gradio.Image(
            label=label, type="filepath", image_mode=None, sources=["upload", "clipboard"], height=260, buttons=BUTTONS
        ),
        "audio": lambda: gradio.Audio(
            label=label, type="filepath", sources=["upload", "microphone"], buttons=["download"]
        ),
        "video": lambda: gradio.Video(label=label, sources=["upload"], height=260, buttons=["download"]),
    }[field.modality]()
    return take_uploads(gradio, made)


def take_uploads(gradio: Any, component: Any) -> Any:
    """Makes a component hand on the path of the uploaded file, unread and unchanged, and refuse addresses: a server
    that fetched them would make requests that others choose. Returns the component."""
    move = component.async_move_resource_to_block_cache

    async def move_upload(path: Any) -> Any:
        if str(path).lower().startswith(("http:", "https:")):
            raise gradio.Error("addresses are not opened: upload the file", print_exception=False)
        return await move(path)

    def read_path(payload: Any) -> str | None:
        if payload is not None and payload.path is None:
            raise gradio.Error("the file has no path: upload it as a file", print_exception=False)
        return None if payload is None else payload.path

    component.async_move_resource_to_block_cache = move_upload
    component.preprocess = read_path
    return component


def show_errors(gradio: Any, function: Callable[..., Any], names: Sequence[str] = ()) -> Callable[..., Any]:
    """Returns a function whose errors about its inputs are shown in the page, and told to callers of the API, in one
    line. names: those of its inputs, each of which may be left out."""

    @wraps(function)
    def call(*args: Any, **values: Any) -> Any:
        try:
            return function(**dict(zip(names, args, strict=False)), **values)
        except READ_ERRORS as error:
            raise gradio.Error(to_one_line(error), duration=None, print_exception=False) from error

    if names:
        parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None) for name in names]
        signed: Any = call
        signed.__signature__ = inspect.Signature(parameters)
    return call


def add_endpoint(
    gradio: Any, name: str, function: Callable[..., Any], inputs: Mapping[str, Any], description: str, most: int
) -> None:
    """Adds an endpoint of the API that returns JSON: `function(**values)` of the inputs by name.

    most: calls that are in work at the same time; further ones wait.
    """
    found = gradio.JSON(visible=False, label="answer")
    gradio.Button(visible=False).click(
        show_errors(gradio, function, list(inputs)),
        inputs_kwargs=dict(inputs),
        outputs=found,
        api_name=name,
        api_description=description,
        concurrency_limit=most,
    )


def build_generation_options(gradio: Any, served: ServedModel) -> dict[str, Any]:
    """Builds the settings of a generated text, by name; their values are those of the run."""
    config: Any = served.model.generation_config
    most = served.settings.max_new_tokens
    decoder: Any = served.model.config.get_text_config()
    if decoder.position_type != "none":
        most = min(most, decoder.max_position_embeddings)
    usual = min(find_usual_length(served), most)
    with gradio.Accordion("Options", open=False):
        return {
            "max_new_tokens": gradio.Slider(1, most, usual, step=1, label="tokens at most"),
            "temperature": gradio.Slider(
                0, MOST_TEMPERATURE, 0, step=0.1, label="temperature", info="0: as the run generates; above: by chance"
            ),
            "num_beams": gradio.Slider(1, MOST_BEAMS, config.num_beams or 1, step=1, label="beams"),
        }


def find_usual_length(served: ServedModel) -> int:
    """Returns the number of tokens that the model generates at most, unless it is asked otherwise."""
    config: Any = served.model.generation_config
    return config.max_new_tokens or config.max_length or DEFAULT_NEW_TOKENS


def read_generation_options(served: ServedModel, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of generation that filled-in options stand for.

    Raises ValueError for one above its limit.
    """
    most = served.settings.max_new_tokens
    tokens, beams = int(values["max_new_tokens"] or 1), int(values["num_beams"] or 1)
    temperature = float(values["temperature"] or 0)
    if not 1 <= tokens <= most:
        raise ValueError(f"max_new_tokens is {tokens}: expected 1 .. {most}")
    if not 1 <= beams <= MOST_BEAMS:
        raise ValueError(f"num_beams is {beams}: expected 1 .. {MOST_BEAMS}")
    if not 0 <= temperature <= MOST_TEMPERATURE:
        raise ValueError(f"temperature is {temperature}: expected 0 .. {MOST_TEMPERATURE}")
    chance = {"do_sample": True, "temperature": temperature} if temperature else {}
    length = {} if tokens == find_usual_length(served) else {"max_new_tokens": tokens}
    return {**length, "num_beams": beams, **chance}
