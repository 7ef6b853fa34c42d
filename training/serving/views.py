"""How the answers of each task are shown: the components of a page, and their values for an answer."""

from collections.abc import Sequence
from html import escape
from typing import Any, ClassVar

from ...configuration.modalities import MODALITIES
from ..data.labels import MULTI, REGRESSION, SINGLE, read_config_labels
from ..data.media import Row
from .served_model import ServedModel
from .style import Bar, render_bars, render_chips, render_value

MOST_LABELS = 10  # bars of an answer; the API has all
ARTICLES = {"text": "a text", "image": "an image", "audio": "a sound", "video": "a video"}
ERROR_METRICS = ("mae", "rmse")  # of a regression, in the unit of its value


class AnswerView:
    """Shows the answers of one task.

    Args:
        served: the model.
        gradio: the module, which is imported for a page alone.
    """

    empty: ClassVar[str] = ""

    def __init__(self, served: ServedModel, gradio: Any) -> None:
        self.served, self.gradio = served, gradio

    def build(self) -> list[Any]:
        """Builds the components, inside the page's context."""
        return [self.gradio.HTML(container=True, padding=True, min_height=80)]

    def show(self, row: Row, answer: dict[str, Any]) -> list[Any]:
        """Returns the components' values for the answer of a row."""
        raise NotImplementedError


class LabelView(AnswerView):
    """Labels as bars of their probabilities; several labels also as chips; a number with its name."""

    def __init__(self, served: ServedModel, gradio: Any) -> None:
        super().__init__(served, gradio)
        self.kind = read_config_labels(served.model.config).problem_type
        target = served.recipe.data.columns.get("label", "label")
        self.name = target if isinstance(target, str) else "label"

    def build(self) -> list[Any]:
        """Builds the bars of one label, or the HTML of several and of a number."""
        if self.kind == SINGLE:
            return [self.gradio.Label(label=self.name, num_top_classes=MOST_LABELS)]
        return super().build()

    def show(self, row: Row, answer: dict[str, Any]) -> list[Any]:
        """Returns the probabilities, the labels with theirs, or the number."""
        if self.kind == REGRESSION:
            return [render_value(f"{answer['value']:,.4g}", self.name, self.describe_error())]
        if self.kind == MULTI:
            return [self.render_labels(answer)]
        return [answer["probabilities"]]

    def render_labels(self, answer: dict[str, Any]) -> str:
        """Returns the labels of an answer as chips, over the bars of the likeliest ones."""
        ranked = sorted(answer["probabilities"].items(), key=lambda pair: -pair[1])[:MOST_LABELS]
        chips = render_chips(answer["label"], chosen=True) if answer["label"] else "<p>none of the labels</p>"
        head = f'<p class="plait-note">{escape(self.name)}</p>'
        return head + chips + render_bars([Bar(name, share, f"{100 * share:.1f} %") for name, share in ranked])

    def describe_error(self) -> str:
        """Returns how far the model's values were from the true ones where it was measured."""
        for split in ("test", "validation"):
            scores = self.served.metrics.get(split, {}).get("model", {})
            found = [f"{name.upper()} {scores[name]:.4g} on {split}" for name in ERROR_METRICS if name in scores]
            if found:
                return ", ".join(found)
        return ""


class TextView(AnswerView):
    """A generated text."""

    def build(self) -> list[Any]:
        """Builds a box of text that can be copied."""
        return [self.gradio.Textbox(label="answer", lines=4, buttons=["copy"], interactive=False)]

    def show(self, row: Row, answer: dict[str, Any]) -> list[Any]:
        """Returns the text."""
        return [answer["generated_text"]]


class ContinuationView(AnswerView):
    """A text that goes on: the prompt, then what the model wrote, highlighted."""

    def build(self) -> list[Any]:
        """Builds the highlighted text."""
        return [
            self.gradio.HighlightedText(
                label="text", color_map={"written by the model": "orange"}, show_legend=True, show_inline_category=False
            )
        ]

    def show(self, row: Row, answer: dict[str, Any]) -> list[Any]:
        """Returns the prompt and its continuation."""
        return [[(row["text"], None), (answer["generated_text"], "written by the model")]]


class SpanView(AnswerView):
    """The answer to a question, highlighted in its context."""

    def build(self) -> list[Any]:
        """Builds the answer and the context."""
        (found,) = super().build()
        context = self.gradio.HighlightedText(
            label="context", color_map={"answer": "orange"}, show_legend=False, show_inline_category=False
        )
        return [found, context]

    def show(self, row: Row, answer: dict[str, Any]) -> list[Any]:
        """Returns the answer with its score, and the context in three parts."""
        context, start, end = row["context"], answer["start"], answer["end"]
        score = f"score {answer['score']:.3f}, among the best spans"
        if not answer["answer"]:
            return [render_value("no answer", "in this context", score), [(context, None)]]
        parts = [(context[:start], None), (context[start:end], "answer"), (context[end:], None)]
        return [render_value(answer["answer"], "answer", score), [part for part in parts if part[0]]]


class MaskView(AnswerView):
    """The likeliest tokens of each mask."""

    def show(self, row: Row, answer: dict[str, Any]) -> list[Any]:
        """Returns a chart for each mask."""
        charts = [
            render_bars(
                [Bar(token, share, f"{100 * share:.1f} %") for token, share in tokens.items()], f"mask {number}"
            )
            for number, tokens in enumerate(answer["masks"], 1)
        ]
        mask = self.served.processor.tokenizer.mask_token
        return ["".join(charts) or f"<p>The text has no {mask}: write {mask} where a word is missing.</p>"]


class PairView(AnswerView):
    """How well a text and an image, or two texts, match."""

    def show(self, row: Row, answer: dict[str, Any]) -> list[Any]:
        """Returns the scores as bars, or says what is missing for a pair."""
        if "embedding" in answer or not answer:
            return ["<p>Give both sides of the pair: one alone has nothing to match.</p>"]
        bars = [Bar(name, value, f"{value:.3f}") for name, value in answer.items() if isinstance(value, float)]
        return [render_bars(bars)]


class ReconstructionView(AnswerView):
    """An image as the autoencoder gives it back."""

    def build(self) -> list[Any]:
        """Builds the image and its measure."""
        image = self.gradio.Image(label="reconstruction", interactive=False, format="png", buttons=["download"])
        return [image, self.gradio.HTML()]

    def show(self, row: Row, answer: dict[str, Any]) -> list[Any]:
        """Returns the image and its peak signal-to-noise ratio."""
        (image,) = [value for name, value in answer.items() if name.endswith("_image")]
        (ratio,) = [value for value in answer.values() if isinstance(value, float)]
        return [image, render_value(f"{ratio:.1f} dB", "peak signal-to-noise ratio")]


VIEWS: dict[str, type[AnswerView]] = {
    "classification": LabelView,
    "masked_lm": MaskView,
    "generation": TextView,
    "causal_lm": ContinuationView,
    "question_answering": SpanView,
    "pretraining": PairView,
    "retrieval": PairView,
    "image_autoencoding": ReconstructionView,
}


def describe_inputs(modalities: Sequence[str]) -> str:
    """Returns modalities as words: "a text and an image"."""
    names = [ARTICLES[name] for name in MODALITIES if name in modalities]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
