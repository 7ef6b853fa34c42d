"""Chooses towers, fusion, decoder, metrics and settings for what is read and what is to be predicted."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..recipes.errors import RecipeError
from .columns import ColumnFacts
from .inputs import InputColumns
from .target import TargetFacts
from .towers import TowerChoice, choose_tower, find_hub_failure, list_cached_models

METRICS_OF_TARGET = {
    "classes": ["f1_weighted", "accuracy", "f1_macro"],
    "labels": ["f1_micro", "f1_macro", "accuracy"],
    "number": ["rmse", "mae", "r2"],
}
SENTENCE_NAMES = ("sentence-transformers", "minilm", "bge-", "gte-", "e5-")
VIDEO_FRAMES = 8
SHORT_ANSWER_WORDS = 3
SEQ2SEQ = "facebook/bart-base"
LIGHT_FUSION = {
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "hidden_dropout_prob": 0.1,
}


class ModelPlan(NamedTuple):
    """The recipe's `model`, and what follows from it.

    content: the section; towers: the chosen towers; frozen, trained, fresh: their names by what is trained; metrics:
    names, the one that decides first; sections: further sections of the recipe (processor, tokenizer, settings, ...);
    training: further training arguments; reasons: by dotted key.
    """

    content: dict[str, Any]
    towers: dict[str, TowerChoice]
    frozen: list[str]
    trained: list[str]
    fresh: list[str]
    metrics: list[str]
    sections: dict[str, Any]
    training: dict[str, Any]
    reasons: dict[str, str]


def plan_model(
    task: str,
    inputs: InputColumns,
    columns: Mapping[str, ColumnFacts],
    target: TargetFacts | None,
    rows: int,
    given: Mapping[str, Any],
) -> ModelPlan:
    """Chooses the model for a task. Raises RecipeError where a tower is missing; the message says what to pass."""
    whole = find_whole_model(task, inputs, given)
    parts = [] if whole is not None else list_parts(task, inputs)
    towers = {part: find_tower_choice(part, columns, inputs, target, rows, given) for part in parts}
    fresh = [part for part, tower in towers.items() if tower.is_new]
    frozen = list_frozen(task, towers, given)
    trained = [part for part in towers if part not in (*fresh, *frozen)]
    content: dict[str, Any] = {part: tower.source for part, tower in towers.items()}
    reasons = {f"model.{part}": tower.why for part, tower in towers.items()}
    if whole is not None:
        content["from_pretrained"], reasons["model.from_pretrained"] = whole
        trained = ["text"] if task != "generation" else ["text", "decoder"]
    if frozen:
        content["freeze"] = frozen
        reasons["model.freeze"] = explain_freezing(task)
    plan = ModelPlan(content, towers, frozen, trained, fresh, choose_metrics(task, target), {}, {}, reasons)
    add_task_options(plan, task, target, inputs, rows)
    return plan


def find_whole_model(task: str, inputs: InputColumns, given: Mapping[str, Any]) -> tuple[str, str] | None:
    """Returns a whole pretrained model and why: the one that the user names, or for text to text an encoder with its
    decoder; None where towers are composed."""
    if given.get("model.from_pretrained") is not None:
        return str(given["model.from_pretrained"]), "as given"
    own = any(key.startswith("model.") for key in given)
    if task != "generation" or inputs.modalities != ["text"] or own:
        return None
    if SEQ2SEQ in list_cached_models():
        return SEQ2SEQ, "an encoder and its decoder, pretrained together, in the Hub's cache of this machine"
    return None if find_hub_failure() else (SEQ2SEQ, "an encoder and its decoder, pretrained together, from the Hub")


def list_parts(task: str, inputs: InputColumns) -> list[str]:
    """Returns the towers that the task needs."""
    return [*inputs.modalities, *(["decoder"] if task == "generation" else [])]


def find_tower_choice(
    part: str,
    columns: Mapping[str, ColumnFacts],
    inputs: InputColumns,
    target: TargetFacts | None,
    rows: int,
    given: Mapping[str, Any],
) -> TowerChoice:
    """Returns the tower that the user names, or the best that there is."""
    own = given.get(f"model.{part}")
    if own is not None:
        return TowerChoice(own, "as given", part != "text" or looks_like_sentence_encoder(own))
    if part == "decoder" and target is not None:
        return choose_tower(part, target.words * 100 if target.words > SHORT_ANSWER_WORDS else 1, rows)
    sizes = [columns[name].media for name in inputs.used if columns[name].kind == part]
    size = max((facts.size for facts in sizes if facts is not None), default=0.0)
    return choose_tower(part, size, rows)


def looks_like_sentence_encoder(source: Any) -> bool:
    """Returns whether a frozen text tower of this folder or name gives useful vectors."""
    if not isinstance(source, str):
        return False
    folder = Path(source).expanduser()
    known = list_cached_models().get(source)
    if folder.is_dir():
        return (folder / "modules.json").is_file()
    return known.encodes_sentences if known is not None else any(name in source.lower() for name in SENTENCE_NAMES)


def list_frozen(task: str, towers: Mapping[str, TowerChoice], given: Mapping[str, Any]) -> list[str]:
    """Returns the towers that are frozen: those that the user names, or pretrained ones where fine-tuning them would
    take long (no accelerator) and their outputs are useful as they are."""
    if "model.freeze" in given:
        return [part for part in given["model.freeze"] or [] if part in towers]
    keeps = task in ("generation", "retrieval", "image_generation")  # recipes that freeze their towers everywhere
    if torch.accelerator.is_available() and not keeps:
        return []
    return [
        part for part, tower in towers.items() if not tower.is_new and tower.encodes_sentences and part != "decoder"
    ]


def explain_freezing(task: str) -> str:
    """Returns why pretrained towers are frozen."""
    if task == "classification":
        return "without a GPU training them takes long, for a few points"
    return "what they know is kept; what joins them is trained"


def choose_metrics(task: str, target: TargetFacts | None) -> list[str]:
    """Returns the metrics, the one that decides first; those of texts that need a package only if it is installed."""
    if task == "retrieval":
        return ["mean_recall"]
    if target is None or task == "image_generation":
        return []
    if task == "classification":
        return list(METRICS_OF_TARGET[target.kind])
    if target.words <= SHORT_ANSWER_WORDS:
        return ["exact_match", "token_f1"]
    packaged = ["chrf", "bleu"] if find_spec("sacrebleu") is not None else []
    return ["cider", *packaged, "distinct"]


def add_task_options(plan: ModelPlan, task: str, target: TargetFacts | None, inputs: InputColumns, rows: int) -> None:
    """Adds to the plan what the task needs beside towers: fusion, decoder settings, processor, tokenizer."""
    content = plan.content
    several = len(plan.towers) - ("decoder" in plan.towers) > 1
    if task == "classification" and several:
        content.update({"fusion": "early", "fusion_config": dict(LIGHT_FUSION)})
        plan.reasons["model.fusion"] = "one transformer over the tokens of all; rows may lack any of them"
    add_video_options(plan)
    if task == "retrieval":
        sides = {"document": "shared"} if "document" in inputs.columns else {}
        content["options"] = {"retrieval_config": {"projection_dim": 256}, **sides}
        plan.training.update({"per_device_train_batch_size": min(128, max(2, rows)), "learning_rate": 1e-3})
    if task == "generation" and target is not None:
        add_writing_options(plan, target)
    if task == "image_generation":
        content["options"] = {"image_size": 64, "patch_size": 8, "hidden_size": 256, "num_hidden_layers": 8}
        plan.training.update({"optim": "muon", "learning_rate": 2e-3, "adam_beta2": 0.95, "average_decay": 0.999})
        plan.training.update({"image_cache": 1.0})


def add_video_options(plan: ModelPlan) -> None:
    """Adds the number of frames, and how they are joined: by their mean if the tower is frozen."""
    tower = plan.towers.get("video")
    if tower is None:
        return
    plan.sections["processor"] = {"num_frames": VIDEO_FRAMES}
    if tower.is_new:
        plan.content["options"] = {"initializer_range": 0.1}
        plan.reasons["model.options"] = "weights of a small new model begin larger, or it is long until it attends"
    else:
        joined: dict[str, Any] = {"num_frames": VIDEO_FRAMES}
        joined |= {"temporal": "mean"} if "video" in plan.frozen else {"num_hidden_layers": 2, "num_attention_heads": 6}
        plan.content["options"] = {"video_config": joined}


def add_writing_options(plan: ModelPlan, target: TargetFacts) -> None:
    """Adds to a generating model how it reaches its decoder, its tokenizer and how it writes."""
    fresh = [part for part in ("text", "decoder") if part in plan.fresh]
    if fresh:
        plan.sections["tokenizer"] = {"train": {"vocab_size": 4000, "lowercase": False}}
        plan.reasons["tokenizer"] = "a new decoder learns its vocabulary from your texts"
        plan.content["options"] = {"initializer_range": 0.08}
    elif "decoder" in plan.towers:
        plan.content["decoder_config"] = {"gated_cross_attention": True}
        plan.reasons["model.decoder_config"] = "it begins by writing as it did before, and learns to look"
    plan.sections["generation"] = {"max_new_tokens": int(max(8, 4 * target.words))}
    if "decoder" in plan.trained and plan.frozen:
        plan.sections["generation"]["num_beams"] = 3
    plan.sections["settings"] = {"references": "each"}


def check_installed_reader(modality: str) -> None:
    """Raises RecipeError if the package that reads files of a modality is not installed."""
    package = {"audio": "soundfile", "video": "av"}.get(modality)
    if package is not None and find_spec(package) is None:
        raise RecipeError(f'{modality} files are read with {package}: pip install "plait[{modality}]"')
