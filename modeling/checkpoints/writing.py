"""Components written in their own family's format again."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES
from transformers.utils import CONFIG_NAME

from ...configuration import PlaitDecoderConfig, PlaitTowerConfig
from ..towers.text import EMBEDDING
from .conversion.convert import Format, invert
from .conversion.family import Family, Names, module_of
from .families.registry import FAMILIES
from .lookup import TWO_TOWERS
from .reading import OUTPUT, Tower
from .source import config_from

# fields that may change after a tower was read, and are written back
CHANGING_FIELDS = ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")
# fields that change no output of a tower, or are not the checkpoint's: it is exported whatever they are
FREE_FIELDS = frozenset(
    "activation_dropout attention_dropout hidden_dropout_prob initializer_range packing use_cache tie_word_embeddings "
    "family source_config".split()
)


def write_tower(tower: Tower, folder: str | Path, **changes: Any) -> None:
    """The inverse of `read_tower` for a file of one strand, bit for bit; `changes` are put into config.json.

    Raises ValueError for what `export` does.
    """
    write_strands({"": tower}, folder, **changes)


def write_strands(strands: Mapping[str, Tower], folder: str | Path, **changes: Any) -> None:
    """The inverse of `read_strands`, bit for bit; `changes` are put into config.json.

    Raises ValueError for what `export` does.
    """
    family = only_family(strands)
    towers = list(strands.values())
    heads, last = towers[-1].heads, towers[-1].config
    layout = Format(family, towers[0].config, family.task_for({module_of(name) for name in heads}))
    ours = {
        family.prefix(name) + key: weight for name, tower in strands.items() for key, weight in tower.weights.items()
    }
    tied = tied_names(ours | heads)
    tensors = invert(ours | heads, layout, tied)
    names = family.names(tensors)
    content = towers[0].config.source_config | changes
    if "num_labels" in content and "id2label" in content:
        content["num_labels"] = len(content["id2label"])
    if family.recognises is None:
        content |= changed_fields(family, last, content, names)
        content |= {"tie_word_embeddings": OUTPUT in tied} if OUTPUT in heads else {}
        content |= {"dtype": str(next(iter(tensors.values())).dtype).removeprefix("torch.")}
    check_config(layout, towers[0].config, family.config_class(**family.config(config_from(content), names)))
    if family.decoder is not None:
        check_config(layout, last, PlaitDecoderConfig(**family.decoder(config_from(content), names)))
    Path(folder).mkdir(parents=True, exist_ok=True)
    text = json.dumps(as_written(layout, content), indent=2, sort_keys=True)
    Path(folder, CONFIG_NAME).write_text(text + "\n", encoding="utf-8")
    save_torch_state_dict(tensors, folder, filename_pattern="model{suffix}.safetensors", max_shard_size="50GB")


def changed_fields(family: Family, config: Any, content: dict[str, Any], names: Names) -> dict[str, Any]:
    """What may have changed in a strand since it was read, as far as the family's config says it."""
    said = (family.decoder or family.config)(config_from(content), names)
    return {name: getattr(config, name) for name in CHANGING_FIELDS if name in said}


def freeze_zeros(parts: Iterable[Any]) -> None:
    """Stop training what the parts' families know only as zeros: it changes nothing, and could not be exported."""
    for part in parts:
        family = FAMILIES.get(part.config.family or "") if isinstance(part.config, PlaitTowerConfig) else None
        prefix = "decoder." if isinstance(part.config, PlaitDecoderConfig) else "encoder."
        for name, parameter in part.named_parameters():
            if family is not None and family.is_zero(prefix + name):
                parameter.requires_grad_(False)


def only_family(strands: Mapping[str, Tower]) -> Family:
    """The family that the strands came from together.

    Raises ValueError where there is none, or a strand missing or too many.
    """
    families = {getattr(tower.config, "family", None) for tower in strands.values()}
    name = families.pop()
    if families or name is None:
        raise ValueError("the tower came from no checkpoint of a family that plait knows: save it with save_pretrained")
    family = FAMILIES[name]
    if len(strands) != (1 if family.decoder is None else 2):
        whole = "one strand" if family.decoder is None else "an encoder with its decoder"
        raise ValueError(f"a checkpoint of the family {name!r} holds {whole}, not {', '.join(strands) or 'this'} alone")
    return family


def tied_names(ours: Mapping[str, Tensor]) -> frozenset[str]:
    """Which of our tensors are the token embeddings (of the decoder, where there is an encoder) once more: all that
    could be, or none."""
    names = [name for name in (EMBEDDING, f"encoder.{EMBEDDING}", f"decoder.{EMBEDDING}", OUTPUT) if name in ours]
    same = len(names) > 1 and all(torch.equal(ours[name], ours[names[0]]) for name in names[1:])
    return frozenset(name for name in names if name == OUTPUT or name.startswith("encoder.")) if same else frozenset()


def check_config(layout: Format, config: Any, again: Any) -> None:
    """Raise ValueError where a tower's config is no longer what one read `again` from its checkpoint would be.

    A tower that goes alone and pools nothing (it was braided with others) says nothing of pooling.
    """
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
