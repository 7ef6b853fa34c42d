"""The tab that explains an answer: the words, pixels, moments and frames that it is owed to."""

from collections.abc import Callable
from functools import partial
from html import escape
from typing import Any

from ...modeling.attribution.methods import DEFAULT_METHOD, METHODS
from ..data.labels import read_config_labels
from ..explanations.pages.page import render_attributions
from ..explanations.targets import find_score_unit
from .components import add_endpoint, show_errors
from .fields import select_present
from .served_model import ServedModel

EXPLAINED = ("classification", "masked_lm", "generation", "causal_lm", "question_answering", "retrieval")
PREDICTED = "what the model predicts"
WAITING = "<p class='plait-note'>Press the button: the answer is computed once for every part that is taken away.</p>"


def add_explanation_tab(gradio: Any, served: ServedModel, inputs: dict[str, Any]) -> Callable[[], None]:
    """Adds the tab of a task whose answers can be explained, nothing for another; returns what adds its endpoint, which
    does not belong among the tabs."""
    if served.task.name not in EXPLAINED:
        return lambda: None
    tab = ExplanationTab(served)
    with gradio.Tab("Explanation"):
        with gradio.Row():
            method = gradio.Dropdown(list(METHODS), value=DEFAULT_METHOD, label="method")
            target = build_target(gradio, served)
        button = gradio.Button("Explain")
        found = gradio.HTML(WAITING)
    given = {**inputs, "method": method, "target": target}
    shown = show_errors(gradio, tab.show, list(given))
    button.click(shown, inputs_kwargs=given, outputs=found, api_visibility="private", concurrency_limit=1)
    about = "Explains the answer of one row: what its words, pixels, moments and frames add to the score."
    return partial(add_endpoint, gradio, "explain", tab.explain, given, about, 1)


def build_target(gradio: Any, served: ServedModel) -> Any:
    """Builds the choice of what is explained: a class, or a text."""
    if served.task.needs_labels:
        names = [PREDICTED, *read_config_labels(served.model.config).names]
        return gradio.Dropdown(names, value=PREDICTED, label="explain", allow_custom_value=False)
    return gradio.Textbox(label="explain", value="", placeholder=PREDICTED)


class ExplanationTab:
    """Explains rows of a served model."""

    def __init__(self, served: ServedModel) -> None:
        self.served = served

    def find(self, values: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        """Returns the row of the fields, and its explanation."""
        target = values.pop("target", None)
        method = values.pop("method", None) or DEFAULT_METHOD
        row = self.served.build_row(values)
        wanted = None if target in (None, "", PREDICTED) else target
        (found,) = self.served.explain(row, method=method, target=wanted)
        return row, found

    def explain(self, **values: Any) -> dict[str, Any]:
        """Returns the explanation of the fields as JSON (`RowExplanation.to_dict`)."""
        _, found = self.find(values)
        return found.to_dict()

    def show(self, **values: Any) -> str:
        """Returns the explanation of the fields as HTML."""
        row, found = self.find(values)
        heading = f"<h2>Why: {escape(found.target)}</h2>"
        note = "<p class='value'>Orange adds to the score, purple takes from it.</p>"
        parts = render_attributions(select_present(row), found, find_score_unit(self.served.model))
        return f'<div class="plait-explained">{heading}{note}{parts}</div>'
