"""Using a trained model: its metrics on other data, and its answers."""

import csv
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import Module
from tqdm.auto import tqdm
from transformers import PreTrainedConfig

from ..modeling.classification import PlaitForClassification
from ..modeling.masked_lm import PlaitForMaskedLM
from ..modeling.pretrained import PlaitPreTrainedModel
from ..processing import PlaitProcessor
from .arguments import PlaitTrainingArguments
from .build import MODELS, resolve
from .collator import PlaitDataCollator
from .data import load_data
from .inputs import tokenizer_in
from .labels import Labels, labels_of
from .metrics import REGRESSION, SINGLE
from .recipe import Recipe, RecipeError, build_recipe, set_dotted
from .run import is_run, make_collator, make_metrics, saved_recipe
from .trainer import PlaitTrainer

if TYPE_CHECKING:
    from datasets import Dataset

TIMES = ("_runtime", "_per_second", "_preparation_time")


def load_model(reference: str) -> tuple[PlaitPreTrainedModel, PlaitProcessor]:
    """Model and processor of a run folder, a plait, or any published checkpoint (as a classifier).

    Raises:
        RecipeError: nothing that can be loaded there.
    """
    try:
        config, _ = PreTrainedConfig.get_config_dict(resolve(reference))
        names = {model.__name__: model for model in MODELS.values()}
        model_class = names.get(next(iter(config.get("architectures") or []), ""), PlaitForClassification)
        return model_class.from_pretrained(resolve(reference)), PlaitProcessor.from_pretrained(resolve(reference))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{reference}: {' '.join(str(error).split())}") from error


def recipe_of(reference: str, overrides: Mapping[str, Any]) -> Recipe:
    """The run's own recipe, or an empty one, with the given changes."""
    folder = Path(reference).expanduser()
    content = asdict(saved_recipe(folder)) if is_run(folder) else {}
    for key, value in overrides.items():
        set_dotted(content, key, value)
    return build_recipe(content)


def evaluate(reference: str, recipe: Recipe, split: str | None = None) -> dict[str, float]:
    """A model's metrics on one split of the recipe's data; default: test, else validation, else what there is.

    Raises:
        RecipeError: no such model, data or split.
    """
    model, processor = load_model(reference)
    labels = labels_of(model.config) if isinstance(model, PlaitForClassification) else None
    recipe = replace(recipe, task="classification" if labels is not None else "masked_lm")
    data = load_data(recipe.data, recipe.seed, labels, needs_labels=labels is not None)
    rows: Any = choose_split(data.splits, split)
    with tempfile.TemporaryDirectory() as folder:
        trainer = PlaitTrainer(
            model,
            evaluation_arguments(recipe, folder),
            data_collator=make_collator(recipe, processor, labels),
            compute_metrics=make_metrics(recipe, labels),
        )
        scores = trainer.evaluate(rows)
    return {name.removeprefix("eval_"): value for name, value in scores.items() if not name.endswith(TIMES)}


def evaluation_arguments(recipe: Recipe, folder: str) -> PlaitTrainingArguments:
    """The recipe's arguments that matter without training."""
    kept = ("per_device_eval_batch_size", "dataloader_num_workers", "use_cpu", "bf16", "fp16", "disable_tqdm")
    chosen = {name: recipe.training[name] for name in kept if name in recipe.training}
    return PlaitTrainingArguments(output_dir=folder, seed=recipe.seed, **chosen)


def choose_split(splits: Mapping[str, "Dataset"], name: str | None) -> "Dataset":
    """The named split, or test, else validation, else the only one."""
    if name is None:
        name = next(split for split in ("test", "validation", "train") if split in splits)
    if name not in splits:
        raise RecipeError(f"there is no split {name!r}, only {', '.join(splits)}")
    return splits[name]


def rows_of(texts: Sequence[str], images: Sequence[str]) -> list[dict[str, Any]]:
    """One row a text and picture; a single one of either goes with all of the other.

    Raises:
        RecipeError: nothing at all, numbers that do not fit, or a missing picture file.
    """
    count = max(len(texts), len(images))
    if not count:
        raise RecipeError("nothing to predict: give --text, --image or --data")
    for name, values in (("--text", texts), ("--image", images)):
        if len(values) not in (0, 1, count):
            raise RecipeError(f"{len(values)} {name} for {count} rows: give one, or one a row")
    for image in images:
        if not Path(image).is_file():
            raise RecipeError(f"--image {image}: no such file")
    columns = {"text": texts, "image": images}
    given = {name: list(values) * (count // len(values)) for name, values in columns.items() if values}
    return [{name: values[row] for name, values in given.items()} for row in range(count)]


def data_rows(recipe: Recipe) -> "Dataset":
    """The rows of the recipe's data, labels aside; the columns need not have any."""
    columns = {role: name for role, name in recipe.data.columns.items() if role != "label"}
    data = load_data(replace(recipe.data, columns=columns), recipe.seed, needs_labels=False)
    return choose_split(data.splits, None)


def predict(
    reference: str, rows: "Sequence[Mapping[str, Any]] | Dataset", recipe: Recipe, batch_size: int = 32
) -> Iterator[dict[str, Any]]:
    """Answers row by row: the label with its probability and all others' (classes), the value (regression), the labels
    above one half (several), or the likeliest tokens for each mask (masked language modeling)."""
    model, processor = load_model(reference)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    Module.to(model, device).eval()
    collator = PlaitDataCollator(processor, max_length=recipe.max_length)
    for start in tqdm(range(0, len(rows), batch_size), desc="predict", unit="batch", disable=len(rows) <= batch_size):
        batch = collate(collator, [rows[row] for row in range(start, min(start + batch_size, len(rows)))])
        inputs = {name: value.to(device) for name, value in batch.items()}
        with torch.no_grad():
            logits = model(**inputs).logits.float().cpu()
        if isinstance(model, PlaitForMaskedLM):
            yield from filled_masks(logits, batch["input_ids"], processor)
        else:
            yield from answers(logits, labels_of(model.config))


def collate(collator: PlaitDataCollator, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch; one line that says which input cannot be read."""
    try:
        return collator(rows)
    except (OSError, TypeError, ValueError) as error:
        raise RecipeError(" ".join(str(error).split())) from error


def answers(logits: torch.Tensor, labels: Labels) -> Iterator[dict[str, Any]]:
    """logits: (batch, labels) to one answer a row."""
    for row in logits:
        if labels.problem_type == REGRESSION:
            yield {"value": round(row.item(), 6)}
            continue
        single = labels.problem_type == SINGLE
        scores = row.softmax(-1) if single else row.sigmoid()
        probabilities = {name: round(score, 6) for name, score in zip(labels.names, scores.tolist(), strict=True)}
        best = max(probabilities, key=lambda name: probabilities[name])
        if single:
            yield {"label": best, "score": probabilities[best], "probabilities": probabilities}
        else:
            chosen = [name for name, score in probabilities.items() if score > 0.5]
            yield {"label": chosen, "probabilities": probabilities}


def filled_masks(logits: torch.Tensor, tokens: torch.Tensor, processor: PlaitProcessor) -> Iterator[dict[str, Any]]:
    """The five likeliest tokens, with probabilities, for every mask of a row."""
    tokenizer = tokenizer_in(processor)
    for scores, row in zip(logits.softmax(-1), tokens.tolist(), strict=True):
        masks = [place for place, token in enumerate(row) if token == tokenizer.mask_token_id]
        top = [scores[place].topk(5) for place in masks]
        yield {
            "masks": [
                {tokenizer.decode([token]): round(score, 6) for score, token in zip(*pair, strict=True)}
                for pair in ((found.values.tolist(), found.indices.tolist()) for found in top)
            ]
        }


def write_predictions(
    rows: "Sequence[Mapping[str, Any]] | Dataset", predictions: Iterator[dict[str, Any]], output: Path | None
) -> int:
    """Write answers beside the texts and picture paths as .jsonl or .csv, or (None) as JSON lines to the console."""
    if output is not None and output.suffix not in (".jsonl", ".csv"):
        raise RecipeError(f"--output {output}: the suffixes are .jsonl and .csv")
    lines = ({**_shown(rows[number]), **answer} for number, answer in enumerate(predictions))
    if output is None:
        return sum(1 for line in lines if sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n"))
    with output.open("w", encoding="utf-8", newline="") as file:
        return _write_csv(file, lines) if output.suffix == ".csv" else _write_jsonl(file, lines)


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row's columns that can be written down: everything but the bytes of pictures."""
    return {name: value["path"] if isinstance(value, Mapping) else value for name, value in row.items()}


def _write_jsonl(file: Any, lines: Iterator[dict[str, Any]]) -> int:
    return sum(1 for line in lines if file.write(json.dumps(line, ensure_ascii=False) + "\n"))


def _write_csv(file: Any, lines: Iterator[dict[str, Any]]) -> int:
    table = [{name: value for name, value in line.items() if name != "probabilities"} for line in lines]
    writer = csv.DictWriter(file, list(table[0]))
    writer.writeheader()
    writer.writerows(table)
    return len(table)
