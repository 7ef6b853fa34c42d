"""The page of a model: gradio Blocks with what its task needs."""

from collections.abc import Mapping
from typing import Any

from .about import render_about, render_header
from .answer_panel import AnswerPanel
from .chat_panel import ChatPanel
from .components import add_endpoint
from .drawing_panel import DrawingPanel
from .json_route import JsonRoute
from .search_panel import SearchPanel
from .served_model import ServedModel
from .settings import ServeSettings, require_gradio

PANELS: dict[str, Any] = {
    "dialogue": ChatPanel,
    "preference": ChatPanel,
    "image_generation": DrawingPanel,
    "retrieval": SearchPanel,
}


def build_blocks(
    model: str | ServedModel, settings: ServeSettings | None = None, overrides: Mapping[str, Any] | None = None
) -> Any:
    """Builds the page of a model as `gradio.Blocks`, ready for `launch_blocks`.

    Args:
        model: a run folder, a model folder or a Hub id; or a `ServedModel`, whose settings count.
        settings: where to listen and the limits of a request.
        overrides: changes to the run's recipe by dotted key, such as {"max_length": 64}.

    Raises RecipeError for a model that cannot be loaded, or without gradio.
    """
    gradio = require_gradio()
    served = model if isinstance(model, ServedModel) else ServedModel(model, settings, overrides)
    panel = PANELS.get(served.task.name, AnswerPanel)(gradio, served)
    with gradio.Blocks(title=f"{served.name} - plait", analytics_enabled=False, fill_width=False) as blocks:
        gradio.HTML(render_header(served), padding=False)
        panel.build()
        with gradio.Accordion("About this model", open=False):
            gradio.Markdown(render_about(served))
        if served.settings.api:
            add_endpoint(gradio, "about", lambda: describe_model(served), {}, "Says what the model is and reads.", 8)
    blocks.served = served
    blocks.json_route = build_json_route(served, panel)
    return blocks


def build_json_route(served: ServedModel, panel: Any) -> JsonRoute | None:
    """Builds the plain route of a page that answers rows, with the options of its endpoint; None without an API."""
    if not served.settings.api or not isinstance(panel, AnswerPanel | ChatPanel):
        return None
    return JsonRoute(served, panel.answer, {name: option.value for name, option in panel.options.items()})


def describe_model(served: ServedModel) -> dict[str, Any]:
    """Returns what the model is and reads, as JSON."""
    fields = [
        {"name": field.name, "column": field.column, "modality": field.modality, "required": field.required}
        for field in served.fields
    ]
    return {"name": served.name, "task": served.task.name, "inputs": fields, "metrics": served.metrics}
