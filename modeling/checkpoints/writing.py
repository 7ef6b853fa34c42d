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
from ..towers.text import TOKEN_EMBEDDING_WEIGHT
from .component import Component
from .conversion.convert import CheckpointFormat, invert
from .conversion.family import Family, TensorNames, find_top_module
from .families.registry import FAMILIES
from .lookup import DUAL_ENCODERS
from .reading import LM_HEAD_WEIGHT
from .source import build_hub_config

# fields that may change after a tower was read, and are written back
CHANGING_FIELDS = ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")
# fields that change no output of a tower, or are not the checkpoint's: it is exported whatever they are
UNCHECKED_FIELDS = frozenset(
    "activation_dropout attention_dropout hidden_dropout_prob initializer_range packing use_cache tie_word_embeddings "
    "family source_config".split()
)


def write_component(component: Component, folder: str | Path, **changes: Any) -> None:
    """Writes a file of one component, bit for bit what `read_component` read; `changes` are put into config.json.

    Raises ValueError for what `export` does.
    """
    write_components({"": component}, folder, **changes)


def write_components(components: Mapping[str, Component], folder: str | Path, **changes: Any) -> None:
    """Writes components, bit for bit what `read_components` read; `changes` are put into config.json.

    Raises ValueError for what `export` does.
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
    """Returns what may have changed in a component since it was read, as far as the family's config says it."""
    said = (family.decoder or family.config)(build_hub_config(content), names)
    return {name: getattr(config, name) for name in CHANGING_FIELDS if name in said}


def freeze_zeros(parts: Iterable[Any]) -> None:
    """Stops training what the parts' families know only as zeros: it changes nothing, and could not be exported."""
    for part in parts:
        family = FAMILIES.get(part.config.family or "") if isinstance(part.config, PlaitTowerConfig) else None
        prefix = "decoder." if isinstance(part.config, PlaitDecoderConfig) else "encoder."
        for name, parameter in part.named_parameters():
            if family is not None and family.is_zero(prefix + name):
                parameter.requires_grad_(False)


def find_shared_family(components: Mapping[str, Component]) -> Family:
    """Returns the family that the components came from together.

    Raises ValueError where there is none, or a component missing or too many.
    """
    families = {getattr(component.config, "family", None) for component in components.values()}
    name = families.pop()
    if families or name is None:
        raise ValueError("the tower came from no checkpoint of a family that plait knows: save it with save_pretrained")
    family = FAMILIES[name]
    if len(components) != (1 if family.decoder is None else 2):
        whole = "one component" if family.decoder is None else "an encoder with its decoder"
        raise ValueError(
            f"a checkpoint of the family {name!r} holds {whole}, not {', '.join(components) or 'this'} alone"
        )
    return family


def find_tied_names(ours: Mapping[str, Tensor]) -> frozenset[str]:
    """Which of our tensors are the token embeddings (of the decoder, where there is an encoder) once more: all that
    could be, or none."""
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
    """Raise ValueError where a tower's config is no longer what one read `again` from its checkpoint would be.

    A tower that goes alone and pools nothing (it was braided with others) says nothing of pooling.
    """
    own = reloaded.__dataclass_fields__.keys() - PreTrainedConfig.__dataclass_fields__.keys() - UNCHECKED_FIELDS
    if layout.task is None and config.pooling == "none":
        own = {name for name in own if not name.startswith("pool")}
    for name in sorted(own):
        ours, theirs = getattr(config, name), getattr(reloaded, name)
        if ours != theirs:
            raise ValueError(f"{name} is {ours!r}, but in the format of the family {config.family!r} it is {theirs!r}")


def build_config_json(layout: CheckpointFormat, content: dict[str, Any]) -> dict[str, Any]:
    """A config.json with the class that wrote it. A classifier over one of two towers has the config of both."""
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
