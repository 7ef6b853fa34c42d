"""What a page says about its model: name, task, metrics, and its limits."""

import re
from html import escape
from typing import Any

from ...configuration.version import VERSION
from ..data.labels import MULTI, REGRESSION, read_config_labels
from ..runs.model_card import render_results_table
from .fields import list_modalities
from .served_model import ServedModel
from .settings import MEGABYTE
from .style import STYLE, render_chips
from .views import describe_inputs

MOST_CHIPS, MOST_NAMES = 4, 20
HEADING = re.compile(r"^##\s+(.+?)\s*$", re.MULTILINE)
LIMIT_SECTIONS = ("limits", "limitations", "bias, risks, and limitations", "intended use", "intended uses", "data")
PURPOSES = {  # what a model of each task does with its inputs
    "masked_lm": "masked words in {inputs}",
    "generation": "a text for {inputs}",
    "causal_lm": "{inputs} that goes on",
    "dialogue": "a conversation with {inputs}",
    "preference": "a conversation with {inputs}",
    "question_answering": "question answering in {inputs}",
    "pretraining": "how well {inputs} match",
    "retrieval": "search by {inputs}",
    "image_generation": "images for {inputs}",
    "image_autoencoding": "{inputs}, compressed and restored",
}


def render_header(served: ServedModel) -> str:
    """Returns the head of the page: the model's name, what it does, its task and its first metrics."""
    split = find_measured_split(served)
    scores = [f"{split} {name} {value:.3g}" for name, value in list_main_metrics(served).items()]
    chips = [f"task {find_task_words(served)}", *scores]
    head = f'<div class="plait-head"><h1>{escape(served.name)}</h1><p>{escape(describe_purpose(served))}</p></div>'
    return STYLE + head + render_chips(chips)


def describe_purpose(served: ServedModel) -> str:
    """Returns what the model does with what it reads: "one of 13 labels for a text and an image"."""
    inputs = describe_inputs(list_modalities(served.fields)) if served.fields else "no input"
    if not served.task.needs_labels:
        return PURPOSES[served.task.name].format(inputs=inputs)
    labels = read_config_labels(served.model.config)
    if labels.problem_type == REGRESSION:
        return f"a number for {inputs}"
    return f"{'any' if labels.problem_type == MULTI else 'one'} of {labels.count} labels for {inputs}"


def find_task_words(served: ServedModel) -> str:
    """Returns the name of the task in words; classification of a number is regression."""
    labels = served.task.needs_labels and read_config_labels(served.model.config).problem_type
    return "regression" if labels == REGRESSION else served.task.name.replace("_", " ")


def find_measured_split(served: ServedModel) -> str | None:
    """Returns the split whose metrics count: test, else validation; None if nothing was measured."""
    return next((split for split in ("test", "validation") if split in served.metrics), None)


def list_main_metrics(served: ServedModel) -> dict[str, float]:
    """Returns the first metrics of the model: those that its recipe names, else all but the loss."""
    split = find_measured_split(served)
    scores: dict[str, float] = served.metrics[split]["model"] if split else {}
    named = [name for name in served.recipe.metrics if name in scores]
    names = named or [name for name in scores if name != "loss"] or list(scores)
    return {name: scores[name] for name in names[:MOST_CHIPS]}


def render_about(served: ServedModel) -> str:
    """Returns what is known of the model as Markdown: what it reads and answers, its metrics beside the baselines, the
    limits that its card names, and those of this page."""
    measured = render_results_table(served.metrics) if served.metrics else "Nothing is known: there is no metrics.json."
    parts = ["### Measured", measured, *list_card_sections(served.card)]
    parts += ["### Limits of this page", "\n".join(f"- {line}" for line in list_limits(served))]
    return "\n\n".join([*parts, f"Served by plait {VERSION}."])


def list_card_sections(card: str) -> list[str]:
    """Returns the sections of a model card that say what the model is not for, or what it was trained on."""
    text = card.partition("\n---\n")[2] if card.startswith("---\n") else card
    pieces = HEADING.split(text)[1:]
    sections = zip(pieces[::2], pieces[1::2], strict=True)
    return [f"### {name}\n\n{body.strip()}" for name, body in sections if name.lower() in LIMIT_SECTIONS]


def list_limits(served: ServedModel) -> list[str]:
    """Returns the limits of the model's answers and of a request, one sentence each."""
    settings, config = served.settings, served.model.config
    found = [*describe_labels(served)]
    tokenizer: Any = served.processor.find_part("tokenizer")
    if tokenizer is not None and served.task.name not in ("question_answering", "image_autoencoding"):
        length = min(served.recipe.max_length or tokenizer.model_max_length, tokenizer.model_max_length)
        if length < settings.text_characters:
            found.append(f"The model reads at most {length:,} tokens of a text.")
    if len(config.encoders) > 1 and served.task.name not in ("question_answering", "masked_lm"):
        found.append("Inputs may be left empty, as long as one is filled in.")
    found.append(f"A text may have {settings.text_characters:,} characters.")
    if any(field.modality not in ("text", "messages") for field in served.fields):
        found.append(f"A file may have {settings.file_bytes / MEGABYTE:g} MB.")
    return found


def describe_labels(served: ServedModel) -> list[str]:
    """Returns a sentence on the labels of a classifier: it knows no others."""
    if not served.task.needs_labels:
        return []
    names = list(read_config_labels(served.model.config).names)
    if not names:
        return []
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return [f"The model knows {len(names)} labels and no others: {', '.join(names[:MOST_NAMES])}{more}."]
