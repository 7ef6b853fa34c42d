"""The page of tasks that answer a row: the fields on the left, the answer and its explanation on the right."""

from typing import Any

from .components import (
    add_endpoint,
    build_field,
    build_generation_options,
    read_generation_options,
    show_errors,
)
from .explanation_tab import add_explanation_tab
from .served_model import ServedModel
from .views import VIEWS, AnswerView


class AnswerPanel:
    """The fields of a model, a button, and the answer.

    Args:
        gradio: the module.
        served: the model.
    """

    def __init__(self, gradio: Any, served: ServedModel) -> None:
        self.gradio, self.served = gradio, served
        self.view: AnswerView = VIEWS[served.task.name](served, gradio)
        self.inputs: dict[str, Any] = {}
        self.options: dict[str, Any] = {}
        self.endpoint = "predict"

    def build(self) -> None:
        """Builds the page, inside its context."""
        gradio, settings = self.gradio, self.served.settings
        with gradio.Row(equal_height=False):
            with gradio.Column(scale=5):
                self.inputs = {field.name: build_field(gradio, field) for field in self.served.fields}
                if self.served.task.generates:
                    self.options = build_generation_options(gradio, self.served)
                button = gradio.Button("Answer", variant="primary")
            with gradio.Column(scale=6), gradio.Tabs():
                with gradio.Tab("Answer"):
                    outputs = self.view.build()
                add_explain = add_explanation_tab(gradio, self.served, self.inputs)
        given = self.inputs | self.options
        call = {"outputs": outputs, "api_visibility": "private", "concurrency_limit": settings.batch_size}
        show = show_errors(gradio, self.show, list(given))
        button.click(show, inputs_kwargs=given, **call)
        boxes = [box for box in self.inputs.values() if isinstance(box, gradio.Textbox) and box.lines < 3]
        for box in boxes:
            box.submit(show, inputs_kwargs=given, **call)
        if settings.api:
            about = f"Answers one row of the task {self.served.task.name}, as `plait predict` prints it."
            add_endpoint(gradio, self.endpoint, self.answer, given, about, settings.batch_size)
            add_explain()

    def answer(self, **values: Any) -> dict[str, Any]:
        """Returns the answer of the fields as JSON."""
        _, found = self.predict(values)
        return found

    def show(self, **values: Any) -> Any:
        """Returns the answer of the fields as the values of the view's components."""
        row, found = self.predict(values)
        shown = self.view.show(row, found)
        return shown[0] if len(shown) == 1 else shown

    def predict(self, values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns the row of the fields, and its answer."""
        row = self.served.build_row(values)
        options = read_generation_options(self.served, values) if self.options else {}
        return row, self.served.predict(row, **options)
