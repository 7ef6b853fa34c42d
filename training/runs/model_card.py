"""The model card next to the weights: what was trained, on what, how well, and how to repeat it."""

import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ...configuration.modalities import MODALITIES
from ...configuration.version import VERSION
from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ..data.loading import DataSplits
from ..recipes.schema import Recipe
from ..storage.atomic import write_text
from ..storage.secret_values import find_secrets, hide_secrets
from ..tasks.base import Task

if TYPE_CHECKING:
    from datasets import Dataset

LIBRARIES = ("transformers", "torch", "datasets", "accelerate")
BASELINE_NOTES = {
    "majority": "majority: always the most frequent training answer.",
    "blind": "blind: for each text its most frequent training answer, without the image.",
    "most_frequent": "most_frequent: always the most frequent training target.",
    "copy": "copy: the input text, unchanged.",
    "mean_image": "mean_image: always the mean training image.",
}

CARD_TEMPLATE = """---
{metadata}
---

# {name}

A plait model for {task}, trained with plait {plait}.

```python
{usage}
```

## What it is made of

```
{composition}
```

{labels}

## Data

{data}

## Results

{results}
{modalities}{comparison}
## How to repeat it

```
{command}
```

The resolved recipe is `recipe.yaml` in this folder. Seed {seed}; Python {python}, {libraries}.
"""


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
    """Writes README.md into the folder of a run; `comparison` is the report of `plait compare` on this model and
    others, `name` that of the model (default: the folder's), `modalities` what each modality adds."""
    text = CARD_TEMPLATE.format(
        metadata=_build_metadata(folder, recipe, task, data, results).to_yaml(),
        name=name or folder.name,
        task=task.name.replace("_", " "),
        usage=_write_usage(task.auto_class, name or folder.name, recipe.lora is not None and not recipe.lora.merge),
        plait=VERSION,
        composition=model.composition(),
        labels=_describe_labels(data),
        data=_describe_data(recipe, task, data),
        results="" if comparison else render_results_table(results),
        comparison=f"{comparison}\n" if comparison else "\n",
        modalities=f"\n## What each modality adds\n\n{modalities}\n" if modalities else "",
        command=hide_secrets(command, find_secrets(asdict(recipe))),
        seed=recipe.seed,
        python=platform.python_version(),
        libraries=", ".join(f"{name} {version(name)}" for name in LIBRARIES),
    )
    write_text(folder / "README.md", str(ModelCard(text)))


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


def _write_usage(auto: str, folder: str, adapters: bool) -> str:
    """Returns the lines that load the model and its processor."""
    if adapters:
        return f'from plait.training import load_run\n\nmodel, processor = load_run("{folder}")'
    return (
        f'{_write_imports(auto)}\n\nmodel = {auto}.from_pretrained("{folder}")\n'
        f'processor = AutoProcessor.from_pretrained("{folder}")'
    )


def _write_imports(name: str) -> str:
    """Returns the imports of an auto class of transformers, or of plait's own class where there is none."""
    if name.startswith("Plait"):
        return f"from plait import {name}\nfrom transformers import AutoProcessor"
    return f"import plait\nfrom transformers import {name}, AutoProcessor"


def _has_modality(data: "Dataset", modality: str) -> bool:
    return any(name.startswith(modality) for name in data.column_names)


def _build_metadata(
    folder: Path, recipe: Recipe, task: Task, data: DataSplits, results: dict[str, Any]
) -> ModelCardData:
    modalities = tuple(name for name in MODALITIES if data.train is not None and _has_modality(data.train, name))
    hub_task = task.find_hub_task(modalities)
    source = _find_source_name(recipe)
    found = [
        EvalResult(hub_task, source, source, name, round(value, 6), dataset_split=split)
        for split, columns in results.items()
        for name, value in columns["model"].items()
    ]
    named: dict[str, Any] = {"model_name": folder.name, "eval_results": found} if found else {}
    return ModelCardData(library_name="plait", tags=["plait", task.name], **named)


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
