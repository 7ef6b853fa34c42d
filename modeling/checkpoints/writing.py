"""Writes components in the format of the family that they came from."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES
from transformers.utils import CONFIG_NAME

from ...configuration import PlaitDecoderConfig
from ..towers.text import TOKEN_EMBEDDING_WEIGHT
from .component import Component
from .conversion.convert import CheckpointFormat, invert
from .conversion.family import Family, TensorNames, find_top_module
from .families.registry import FAMILIES
from .lookup import DUAL_ENCODERS
from .reading import LM_HEAD_WEIGHT
from .source import build_hub_config

# fields that may change after reading and are then written into config.json
CHANGING_FIELDS = ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")
# fields that do not change a tower's output, or that checkpoints do not have: export does not compare them
UNCHECKED_FIELDS = frozenset(
    "activation_dropout attention_dropout hidden_dropout_prob initializer_range packing use_cache tie_word_embeddings "
    "family source_config sentence_pooling sentence_layers".split()
)


def write_component(component: Component, folder: str | Path, **changes: Any) -> None:
    """Writes a checkpoint of one component, the exact inverse of `read_component`; config.json gets `changes`.

    Raises ValueError in the same cases as `export`.
    """
    write_components({"": component}, folder, **changes)


def write_components(components: Mapping[str, Component], folder: str | Path, **changes: Any) -> None:
    """Writes a checkpoint of its components, the exact inverse of `read_components`; config.json gets `changes`.

    Raises ValueError in the same cases as `export`.
    """
    family = find_shared_family(components)
    configs: list[Any] = [component.config for component in components.values()]
    heads = list(components.values())[-1].heads
    layout = CheckpointFormat(family, configs[0], family.find_task_by_heads({find_top_module(name) for name in heads}))
    ours = {
        family.find_prefix(name) + key: weight
        for name, component in components.items()
        for key, weight in component.weights.items()
    }
    ours |= heads
    tied = find_tied_names(ours)
    tensors = invert(ours, layout, tied)
    names = family.collect_names(tensors)
    content = configs[0].source_config | changes
    if "num_labels" in content and "id2label" in content:
        content["num_labels"] = len(content["id2label"])
    if family.recognises is None:
        content |= collect_changed_fields(family, configs[-1], content, names)
        content |= {"tie_word_embeddings": LM_HEAD_WEIGHT in tied} if LM_HEAD_WEIGHT in heads else {}
        content |= {"dtype": str(next(iter(tensors.values())).dtype).removeprefix("torch.")}
    check_config(layout, configs[0], family.config_class(**family.config(build_hub_config(content), names)))
    if family.decoder is not None:
        check_config(layout, configs[-1], PlaitDecoderConfig(**family.decoder(build_hub_config(content), names)))
    Path(folder).mkdir(parents=True, exist_ok=True)
    text = json.dumps(build_config_json(layout, content), indent=2, sort_keys=True)
    Path(folder, CONFIG_NAME).write_text(text + "\n", encoding="utf-8")
    save_torch_state_dict(tensors, folder, filename_pattern="model{suffix}.safetensors", max_shard_size="50GB")


def collect_changed_fields(family: Family, config: Any, content: dict[str, Any], names: TensorNames) -> dict[str, Any]:
    """Returns the fields of a component's config that may have changed since it was read and that its family has."""
    known = (family.decoder or family.config)(build_hub_config(content), names)
    return {name: getattr(config, name) for name in CHANGING_FIELDS if name in known}


def find_shared_family(components: Mapping[str, Component]) -> Family:
    """Returns the family of the one checkpoint that the components came from.

    Raises ValueError if there is none, or if a component of the checkpoint is missing.
    """
    families = {getattr(component.config, "family", None) for component in components.values()}
    name = families.pop()
    if families or name is None:
        raise ValueError(
            "the tower came from no checkpoint of a family that plait exports: use save_pretrained instead"
        )
    family = FAMILIES[name]
    if len(components) != (1 if family.decoder is None else 2):
        whole = "one component" if family.decoder is None else "an encoder with its decoder"
        raise ValueError(
            f"a checkpoint of the family {name!r} holds {whole}, not {', '.join(components) or 'this'} alone: "
            "use save_pretrained instead"
        )
    return family


def find_tied_names(ours: Mapping[str, Tensor]) -> frozenset[str]:
    """Returns the names of our tensors that are tied to the token embeddings (of an encoder-decoder, the decoder's):
    all that could be tied if all are equal, else none."""
    names = [
        name
        for name in (
            TOKEN_EMBEDDING_WEIGHT,
            f"encoder.{TOKEN_EMBEDDING_WEIGHT}",
            f"decoder.{TOKEN_EMBEDDING_WEIGHT}",
            LM_HEAD_WEIGHT,
        )
        if name in ours
    ]
    same = len(names) > 1 and all(torch.equal(ours[name], ours[names[0]]) for name in names[1:])
    return (
        frozenset(name for name in names if name == LM_HEAD_WEIGHT or name.startswith("encoder."))
        if same
        else frozenset()
    )


def check_config(layout: CheckpointFormat, config: Any, reloaded: Any) -> None:
    """Raises ValueError if a tower's config differs from `reloaded`, which is read from the config.json to be written.

    Pooling is not compared for a tower without head and pooling: composing with others removed its pooler.
    """
    own = reloaded.__dataclass_fields__.keys() - PreTrainedConfig.__dataclass_fields__.keys() - UNCHECKED_FIELDS
    if layout.task is None and config.pooling == "none":
        own = {name for name in own if not name.startswith("pool")}
    for name in sorted(own):
        ours, theirs = getattr(config, name), getattr(reloaded, name)
        if ours != theirs:
            raise ValueError(
                f"{name} is {ours!r}, but the format of the family {config.family!r} can only store {theirs!r}: "
                "use save_pretrained instead"
            )


def build_config_json(layout: CheckpointFormat, content: dict[str, Any]) -> dict[str, Any]:
    """Returns the config.json with its `architectures`; for a classifier on one of two towers, the whole type's."""
    family, task = layout.config.family, layout.task
    if family not in MODEL_MAPPING_NAMES:
        return content
    pair = next((pair for pair in DUAL_ENCODERS if task is not None and family == f"{pair}_vision_model"), None)
    base = MODEL_MAPPING_NAMES[pair or family]
    architectures = {"architectures": [base if task is None else base.removesuffix("Model") + task]}
    if pair is None:
        return content | architectures
    labels = {name: content[name] for name in ("id2label", "label2id", "problem_type", "dtype") if name in content}
    return {"model_type": pair, "vision_config": content} | labels | architectures
