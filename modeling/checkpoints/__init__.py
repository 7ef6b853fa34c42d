"""Published checkpoints in and out: one tower from a file, with the head that came with it, and exactly back."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES
from transformers.utils import CONFIG_NAME

from ...configuration import CONFIG_FIELDS, PlaitBaseConfig, PlaitDecoderConfig
from ..towers import TOWERS
from .convert import HEAD_MODULES, Family, Format, Names, convert, invert, listed, module_of
from .families import FAMILIES
from .source import Source, config_from, open_source

# checkpoints of two towers, and where in them a modality's tower stands: its config and the prefix of its names
TWO_TOWERS = ("clip", "siglip", "vision-text-dual-encoder")
PLACES = {"text": ("text_config", "text_model."), "image": ("vision_config", "vision_model.")}
# what joins the two: no part of a tower
JOINTS = ("logit_scale", "logit_bias", "text_projection.weight", "visual_projection.weight")

# fields that may change after a tower was read, and are written back
CHANGING_FIELDS = ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")
# fields that change no output of a tower, or are not the checkpoint's: it is exported whatever they are
FREE_FIELDS = frozenset(
    "attention_dropout hidden_dropout_prob initializer_range packing use_cache tie_word_embeddings family "
    "source_config".split()
)

EMBEDDING, OUTPUT = "embeddings.token_embedding.weight", "lm_head.weight"


class Tower(NamedTuple):
    """config: ours; weights: by their names inside the tower; heads: those of the checkpoint's own heads that have a
    place here, by their names in the task class."""

    config: Any
    weights: dict[str, Tensor]
    heads: dict[str, Tensor]


def tower_config_of(config: PreTrainedConfig, modality: str | None = None) -> PreTrainedConfig:
    """The config of one tower of a checkpoint: itself, but for one of two towers.

    Raises ValueError where there are two towers and none of them is named.
    """
    if config.model_type not in TWO_TOWERS:
        return config
    if modality not in PLACES:
        raise ValueError(f"a {config.model_type} checkpoint has the towers {', '.join(PLACES)}: name one of them")
    return getattr(config, PLACES[modality][0])


def family_of(config: PreTrainedConfig, modality: str | None = None) -> Family | None:
    """The family of a checkpoint (of its tower of that modality); None where the core does not know it.

    Raises ValueError where the checkpoint has no tower of that modality, or two and none is named.
    """
    config = tower_config_of(config, modality)
    family = FAMILIES.get(config.model_type)
    if family is not None and modality is not None and CONFIG_FIELDS[modality] != family.config_class.base_config_key:
        raise ValueError(f"a {config.model_type} checkpoint has no tower for the modality {modality!r}")
    return family


def known_family_of(config: PreTrainedConfig, modality: str | None = None) -> Family:
    """The same, but a ValueError where the core does not know the family."""
    family = family_of(config, modality)
    if family is None:
        model_type = tower_config_of(config, modality).model_type
        raise ValueError(f"{model_type!r} is none of the families {', '.join(sorted(FAMILIES))}")
    return family


def config_of(config: PreTrainedConfig, modality: str | None = None, names: Names | None = None) -> Any:
    """Our config of a checkpoint's tower. `names` are those on disk, without task prefix, where there is a file.

    A causal language model read alone (no modality) is a decoder.

    Raises:
        ValueError: an unknown family, or a setting that the core does not have (with its key and value).
    """
    family, config = known_family_of(config, modality), tower_config_of(config, modality)
    fields = family.config(config, names or Names({}))
    fields |= {"family": config.model_type, "source_config": config.to_diff_dict()}
    generates = any("lm_head" in table.values() for table in family.heads.values())
    alone = modality is None and generates and fields.get("is_causal")
    return (PlaitDecoderConfig if alone else family.config_class)(**fields)


def read_tower(source: Source, modality: str | None = None) -> Tower:
    """One tower of an opened checkpoint, and the heads that came with it; tensors stay memory-mapped where they can.

    Raises:
        ValueError: an unknown family, setting or name; a tensor of the tower that is missing or of another size.
    """
    tensors: Mapping[str, Tensor] = source.tensors
    if source.config.model_type in TWO_TOWERS:
        modality = modality or only_tower(tensors)
        tensors = tensors_of_tower(tensors, modality)
    try:
        family = known_family_of(source.config, modality)
        config = config_of(source.config, modality, family.names(tensors))
        layout = Format(family, config, family.task_of(source.config.architectures or ()))
        ours = convert(tensors, layout)
        weights = {name: tensor for name, tensor in ours.items() if module_of(name) not in HEAD_MODULES}
        check(weights, layout)
    except ValueError as error:
        raise ValueError(f"{source.path}: {error}") from error
    if source.config.model_type not in TWO_TOWERS:
        config.source_config = source.config_dict
    heads = {name: tensor for name, tensor in ours.items() if name not in weights}
    if "lm_head" in layout.head.values() and config.tie_word_embeddings:
        heads.setdefault(OUTPUT, weights[EMBEDDING])
    return Tower(config, weights, heads)


def only_tower(tensors: Mapping[str, Tensor]) -> str | None:
    """The modality of the tower in a file that could hold two, None where it holds both."""
    held = [modality for modality, (_, prefix) in PLACES.items() if any(name.startswith(prefix) for name in tensors)]
    return held[0] if len(held) == 1 else None


def tensors_of_tower(tensors: Mapping[str, Tensor], modality: str | None) -> dict[str, Tensor]:
    """The tensors of one of two towers, without its prefix, and of a head over it."""
    if modality not in PLACES:
        return dict(tensors)
    prefix = PLACES[modality][1]
    others = tuple(other for _, other in PLACES.values() if other != prefix) + JOINTS
    return {name.removeprefix(prefix): tensors[name] for name in tensors if not name.startswith(others)}


def check(weights: Mapping[str, Tensor], layout: Format) -> None:
    """Raise ValueError, with their names, where weights of a tower are missing or have another shape."""
    with torch.device("meta"):
        tower = TOWERS[type(layout.config)](layout.config)
    expected = {name: tuple(tensor.shape) for name, tensor in tower.state_dict().items()}
    theirs = {name: move.theirs for move in layout.write({**expected, **weights}) for name in move.ours}
    if missing := [theirs.get(name, name) for name in expected if name not in weights]:
        raise ValueError(f"the file lacks {listed(missing)}")
    if surplus := [theirs.get(name, name) for name in weights if name not in expected]:
        raise ValueError(f"a tower of this config has no place for {listed(surplus)}")
    for name, shape in expected.items():
        if weights[name].shape != shape:
            found = tuple(weights[name].shape)
            raise ValueError(f"{theirs[name]} (here {name}) has shape {found}, but by the config it is {shape}")


def export(model: Any, folder: str | Path, modality: str | None = None) -> None:
    """Save a tower in its family's own format: config.json and model.safetensors, as transformers reads them.

    A model of one strand goes with its head; of several, `modality` (or "decoder") names the tower that goes alone.

    Raises:
        ValueError: several towers and none named; a tower that came from no family, or that no longer is what the
            family's format can say.
    """
    parts = model.parts
    if modality is None and len(parts) > 1:
        raise ValueError(f"the model has the towers {', '.join(parts)}: name the one to export")
    part = parts[modality] if modality is not None else next(iter(parts.values()))
    named = model.state_dict() if modality is None else {}
    heads = {name: tensor for name, tensor in named.items() if module_of(name) in HEAD_MODULES}
    labels = ("id2label", "label2id", "problem_type") if "classifier.weight" in heads else ()
    write_tower(
        Tower(part.config, dict(part.state_dict()), heads),
        folder,
        **{name: getattr(model.config, name) for name in labels},
    )


def write_tower(tower: Tower, folder: str | Path, **changes: Any) -> None:
    """The inverse of `read_tower`, bit for bit; `changes` are put into config.json.

    Raises ValueError for what `export` does.
    """
    config = tower.config
    if not isinstance(config, PlaitBaseConfig) or config.family is None:
        raise ValueError("the tower came from no checkpoint of a family that plait knows: save it with save_pretrained")
    family = FAMILIES[config.family]
    layout = Format(family, config, family.task_for({module_of(name) for name in tower.heads}))
    tied = OUTPUT in tower.heads and torch.equal(tower.heads[OUTPUT], tower.weights[EMBEDDING])
    tensors = invert(tower.weights | tower.heads, layout, {OUTPUT} if tied else frozenset())
    names = family.names(tensors)
    content = config.source_config | changes
    if "num_labels" in content and "id2label" in content:
        content["num_labels"] = len(content["id2label"])
    if family.recognises is None:
        said = family.config(config_from(content), names)
        content |= {name: getattr(config, name) for name in CHANGING_FIELDS if name in said}
        content |= {"tie_word_embeddings": tied} if OUTPUT in tower.heads else {}
        content |= {"dtype": str(next(iter(tensors.values())).dtype).removeprefix("torch.")}
    check_config(layout, family.config_class(**family.config(config_from(content), names)))
    Path(folder).mkdir(parents=True, exist_ok=True)
    text = json.dumps(as_written(layout, content), indent=2, sort_keys=True)
    Path(folder, CONFIG_NAME).write_text(text + "\n", encoding="utf-8")
    save_torch_state_dict(tensors, folder, filename_pattern="model{suffix}.safetensors", max_shard_size="50GB")


def check_config(layout: Format, again: Any) -> None:
    """Raise ValueError where a tower's config is no longer what one read `again` from its checkpoint would be.

    A tower that goes alone and pools nothing (it was braided with others) says nothing of pooling.
    """
    config = layout.config
    own = again.__dataclass_fields__.keys() - PreTrainedConfig.__dataclass_fields__.keys() - FREE_FIELDS
    if layout.task is None and config.pooling == "none":
        own = {name for name in own if not name.startswith("pool")}
    for name in sorted(own):
        ours, theirs = getattr(config, name), getattr(again, name)
        if ours != theirs:
            raise ValueError(f"{name} is {ours!r}, but in the format of the family {config.family!r} it is {theirs!r}")


def as_written(layout: Format, content: dict[str, Any]) -> dict[str, Any]:
    """A config.json with the class that wrote it. A classifier over one of two towers has the config of both."""
    family, task = layout.config.family, layout.task
    if family not in MODEL_MAPPING_NAMES:
        return content
    pair = next((pair for pair in TWO_TOWERS if task is not None and family == f"{pair}_vision_model"), None)
    base = MODEL_MAPPING_NAMES[pair or family]
    architectures = {"architectures": [base if task is None else base.removesuffix("Model") + task]}
    if pair is None:
        return content | architectures
    labels = {name: content[name] for name in ("id2label", "label2id", "problem_type", "dtype") if name in content}
    return {"model_type": pair, "vision_config": content} | labels | architectures


__all__ = [
    "FAMILIES",
    "TWO_TOWERS",
    "Family",
    "Source",
    "Tower",
    "config_of",
    "export",
    "family_of",
    "open_source",
    "read_tower",
    "write_tower",
]
