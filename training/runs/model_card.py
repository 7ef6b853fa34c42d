"""The model card next to the weights: what was trained, on what, how well, and how to repeat it."""

import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult

from ...configuration import cards
from ...configuration.modalities import MODALITIES
from ...configuration.version import VERSION
from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...modeling.backbone.sharing import describe_card
from ..data.loading import DataSplits
from ..recipes.schema import Recipe
from ..storage.secret_values import find_secrets, hide_secrets
from ..tasks.base import Task

if TYPE_CHECKING:
    from datasets import Dataset

USE_ADAPTERS = 'from plait.training import load_run\n\nmodel, processor = load_run("{name}")'
LIBRARIES = ("transformers", "torch", "datasets", "accelerate")
BASELINE_NOTES = {
    "start": "start: the model before this training.",
    "answer_alone": "answer_alone: the answer that was chosen more often in training, without prompt and image.",
    "majority": "majority: always the most frequent training answer.",
    "blind": "blind: for each text its most frequent training answer, without the image.",
    "most_frequent": "most_frequent: always the most frequent training target.",
    "copy": "copy: the input text, unchanged.",
    "mean_image": "mean_image: always the mean training image.",
}

HOW_TO_REPEAT = """```
{command}
```

The resolved recipe is `recipe.yaml` in this folder. Seed {seed}; Python {python}, {libraries}."""


def write_card(
    folder: Path,
    recipe: Recipe,
    task: Task,
    model: PlaitPreTrainedModel,
    data: DataSplits,
    results: dict[str, Any],
    command: str,
    comparison: str = "",
    name: str | None = None,
    modalities: str = "",
) -> None:
    """Writes README.md into the folder of a run, unless somebody wrote or edited one; `comparison` is the report of
    `plait compare` on this model and others, `name` that of the model (default: the folder's), `modalities` what each
    modality adds."""
    adapters = recipe.lora is not None and not recipe.lora.merge
    facts = describe_card(model, name or folder.name)
    facts.summary = f"A plait model for {task.name.replace('_', ' ')}, trained with plait {VERSION}."
    facts.usage = USE_ADAPTERS.format(name=facts.name) if adapters else facts.usage
    facts.sections = {
        "Labels": _describe_labels(data),
        "Data": _describe_data(recipe, task, data),
        "Results": comparison or render_results_table(results),
        "What each modality adds": modalities,
        "How to repeat it": _describe_repetition(recipe, command),
    }
    facts.pipeline_tag = _find_hub_task(task, data)
    facts.tags = list(dict.fromkeys((task.name, *facts.tags)))
    facts.results = _build_results(recipe, facts.pipeline_tag, results)
    cards.write_readme(folder, facts)


def _describe_repetition(recipe: Recipe, command: str) -> str:
    """Returns the command and the versions that the run was made with."""
    return HOW_TO_REPEAT.format(
        command=hide_secrets(command, find_secrets(asdict(recipe))),
        seed=recipe.seed,
        python=platform.python_version(),
        libraries=", ".join(f"{name} {version(name)}" for name in LIBRARIES),
    )


def render_results_table(results: dict[str, Any]) -> str:
    """Returns a Markdown table with a row per metric, of the model and the baselines."""
    if not results:
        return "No validation or test split: nothing was measured."
    kinds = list(dict.fromkeys(kind for columns in results.values() for kind in columns))
    lines = [f"| split | metric | {' | '.join(kinds)} |", "|---|---|" + "---|" * len(kinds)]
    for split, columns in results.items():
        for name in columns["model"]:
            cells = [f"{columns[kind][name]:.4f}" if name in columns.get(kind, {}) else "-" for kind in kinds]
            lines.append(f"| {split} | {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", " ".join(note for kind, note in BASELINE_NOTES.items() if kind in kinds)]).rstrip()


def _has_modality(data: "Dataset", modality: str) -> bool:
    return any(name.startswith(modality) for name in data.column_names)


def _find_hub_task(task: Task, data: DataSplits) -> str:
    """Returns the Hub's name of the task for the modalities of the training data."""
    return task.find_hub_task(
        tuple(name for name in MODALITIES if data.train is not None and _has_modality(data.train, name))
    )


def _build_results(recipe: Recipe, hub_task: str, results: dict[str, Any]) -> list[EvalResult]:
    """Returns the metrics of the model for the Hub's model-index."""
    source = _find_source_name(recipe)
    return [
        EvalResult(hub_task, source, source, name, round(value, 6), dataset_split=split)
        for split, columns in results.items()
        for name, value in columns["model"].items()
    ]


def _find_source_name(recipe: Recipe) -> str:
    """Returns the name of the data; of a local file only its own name, because cards are published."""
    source = recipe.data.source
    if not isinstance(source, str):
        return "local files"
    return Path(source).name if Path(source).expanduser().exists() else source


def _describe_labels(data: DataSplits) -> str:
    if data.labels is None:
        return ""
    names = ", ".join(data.labels.names)
    return f"Labels: {names}." if names else "The model predicts one number."


def _describe_data(recipe: Recipe, task: Task, data: DataSplits) -> str:
    source = recipe.data.source
    files = source if isinstance(source, dict) else {}
    shown = ", ".join(f"{split}: {Path(file).name}" for split, file in files.items()) or _find_source_name(recipe)
    sizes = ", ".join(f"{_describe_size(task, data, split)} for {split}" for split in data.splits)
    lost = "".join(f" {count} unreadable rows of {split} left out." for split, count in data.left_out.items())
    return f"Source: {shown}. {sizes}.{lost}"


def _describe_size(task: Task, data: DataSplits, split: str) -> str:
    """Returns the number of rows in a split, and of the examples that `prepare` made of them if it differs."""
    made = len(data.splits[split])
    rows = data.rows.get(split, made)
    return f"{rows} rows" if rows == made else f"{rows} rows ({made} {task.chunk_name})"
