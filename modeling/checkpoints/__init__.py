"""Published checkpoints in and out: the strands of a file, with the head that came with them, and exactly back.

A strand is a tower or a decoder. Most files hold one; an encoder-decoder holds both.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES
from transformers.utils import CONFIG_NAME

from ...configuration import CONFIG_FIELDS, PlaitDecoderConfig, PlaitTowerConfig
from ..towers.text import EMBEDDING, TOWERS
from .conversion.convert import HEAD_MODULES, Family, Format, Names, convert, heads_of, invert, listed, module_of
from .families.registry import FAMILIES
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
    "activation_dropout attention_dropout hidden_dropout_prob initializer_range packing use_cache tie_word_embeddings "
    "family source_config".split()
)
MODALITIES = {field: modality for modality, field in CONFIG_FIELDS.items()}

OUTPUT = "lm_head.weight"


class Tower(NamedTuple):
    """A strand. config: ours; weights: by their names inside the tower; heads: those of the checkpoint's own heads that
    have a place here, by their names in the task class (beside an encoder there are none)."""

    config: Any
    weights: dict[str, Tensor]
    heads: dict[str, Tensor]


def tower_config_of(config: PreTrainedConfig, modality: str | None = None) -> PreTrainedConfig:
    """The config of one tower of a checkpoint: itself, but for one of two towers.

    Raises ValueError where there are two towers and none of them is named.
    """
    if config.model_type not in TWO_TOWERS:
        return config
    modality = "text" if modality == "decoder" else modality
    if modality not in PLACES:
        raise ValueError(f"a {config.model_type} checkpoint has the towers {', '.join(PLACES)}: name one of them")
    return getattr(config, PLACES[modality][0])


def family_of(config: PreTrainedConfig, modality: str | None = None) -> Family | None:
    """The family of a checkpoint (of its tower of that modality); None where the core does not know it.

    Raises ValueError where the checkpoint has no tower of that modality, or two and none is named.
    """
    config = tower_config_of(config, modality)
    family = FAMILIES.get(config.model_type)
    if family is not None and modality is not None and not holds(family, modality):
        raise ValueError(f"a {config.model_type} checkpoint has no tower for the modality {modality!r}")
    return family


def holds(family: Family, modality: str) -> bool:
    """Whether a checkpoint of the family has a tower of that modality, or what can be made the "decoder"."""
    own = MODALITIES[family.config_class.base_config_key]
    return own == modality or (modality == "decoder" and (own == "text" or family.decoder is not None))


def known_family_of(config: PreTrainedConfig, modality: str | None = None) -> Family:
    """The same, but a ValueError where the core does not know the family."""
    family = family_of(config, modality)
    if family is None:
        model_type = tower_config_of(config, modality).model_type
        raise ValueError(f"{model_type!r} is none of the families {', '.join(sorted(FAMILIES))}")
    return family


def configs_of(config: PreTrainedConfig, modality: str | None = None, names: Names | None = None) -> dict[str, Any]:
    """Our configs of a checkpoint by strand: a modality, or "decoder". `names` are those on disk, without task prefix,
    where there is a file.

    A causal language model read alone (no modality) is a decoder.

    Raises:
        ValueError: an unknown family, or a setting that the core does not have (with its key and value).
    """
    family, config, names = known_family_of(config, modality), tower_config_of(config, modality), names or Names({})
    fields = family.config(config, names)
    said = {"family": config.model_type, "source_config": config.to_diff_dict()}
    if modality is None and family.generates and fields.get("is_causal"):
        return {"decoder": PlaitDecoderConfig(**fields, **said)}
    configs: dict[str, Any] = {MODALITIES[family.config_class.base_config_key]: family.config_class(**fields, **said)}
    if family.decoder is not None and (not names or any(name.startswith("decoder.") for name in names)):
        configs["decoder"] = PlaitDecoderConfig(**family.decoder(config, names), **said)
    return configs


def config_of(config: PreTrainedConfig, modality: str | None = None, names: Names | None = None) -> Any:
    """Our config of one strand of a checkpoint: see `configs_of`."""
    configs = configs_of(config, modality, names)
    return configs.get(modality or "", next(iter(configs.values())))


def read_strands(source: Source, modality: str | None = None) -> dict[str, Tower]:
    """All strands of an opened checkpoint (of two towers, that of one modality) by modality, or as "decoder"; tensors
    stay memory-mapped where they can.

    Raises:
        ValueError: an unknown family, setting or name; a tensor that is missing or of another size.
    """
    tensors: Mapping[str, Tensor] = source.tensors
    if source.config.model_type in TWO_TOWERS:
        modality = "text" if modality == "decoder" else modality or only_tower(tensors)
        tensors = tensors_of_tower(tensors, modality)
    try:
        family = known_family_of(source.config, modality)
        configs = configs_of(source.config, modality, family.names(tensors))
        layout = Format(family, next(iter(configs.values())), family.task_of(source.config.architectures or ()))
        ours = convert(tensors, layout)
        heads = {name: tensor for name, tensor in ours.items() if module_of(name) in HEAD_MODULES}
        strands = {name: Tower(config, inside(ours, name, config, layout), {}) for name, config in configs.items()}
    except ValueError as error:
        raise ValueError(f"{source.path}: {error}") from error
    name, last = list(strands.items())[-1]
    if "lm_head" in heads_of(layout.head) and last.config.tie_word_embeddings:
        heads.setdefault(OUTPUT, last.weights[EMBEDDING])
    strands[name] = last._replace(heads=heads)
    if source.config.model_type not in TWO_TOWERS:
        for strand in strands.values():
            strand.config.source_config = source.config_dict
    return strands


def read_tower(source: Source, modality: str | None = None) -> Tower:
    """One strand of an opened checkpoint: of that modality (or "decoder"); the first where none is named."""
    strands = read_strands(source, modality)
    return strands.get(modality or "", next(iter(strands.values())))


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


def inside(ours: Mapping[str, Tensor], strand: str, config: Any, layout: Format) -> dict[str, Tensor]:
    """The weights of one strand by their names inside it, those that the format leaves out as zeros filled in.

    Raises ValueError, with their names, where weights are missing or have another shape.
    """
    with torch.device("meta"):
        tower = TOWERS[type(config)](config)
    prefix = layout.family.prefix(strand)
    expected = {prefix + name: tuple(tensor.shape) for name, tensor in tower.state_dict().items()}
    given = {name: ours[name] for name in ours if name.startswith(prefix) and module_of(name) not in HEAD_MODULES}
    theirs = {name: move.theirs for move in layout.write({**expected, **given}) for name in move.ours}
    dtype = next((tensor.dtype for tensor in given.values()), None)
    zeros = [name for name in expected if name not in given and layout.family.is_zero(name)]
    given |= {name: torch.zeros(expected[name], dtype=dtype) for name in zeros}
    if missing := [theirs.get(name, name) for name in expected if name not in given]:
        raise ValueError(f"the file lacks {listed(missing)}")
    if surplus := [theirs.get(name, name) for name in given if name not in expected]:
        raise ValueError(f"a tower of this config has no place for {listed(surplus)}")
    for name, shape in expected.items():
        if given[name].shape != shape:
            found = tuple(given[name].shape)
            raise ValueError(f"{theirs[name]} (here {name}) has shape {found}, but by the config it is {shape}")
    return {name.removeprefix(prefix): tensor for name, tensor in given.items()}


def export(model: Any, folder: str | Path, modality: str | None = None) -> None:
    """Save a tower in its family's own format: config.json and model.safetensors, as transformers reads them.

    A model of one strand, or an encoder with its decoder, goes with its head (and its generation config); of several,
    `modality` (or "decoder") names the tower that goes alone. Two towers of one space that were published together go
    together.

    Raises:
        ValueError: several towers and none named; a tower that came from no family, or that no longer is what the
            family's format can say.
    """
    parts = model.parts
    if modality is None and model.config.retrieval_config is not None and len(parts) > 1:
        from .dual_encoders import export_pair

        export_pair(model, folder)
        return
    if modality is None and len(parts) > 1 and model.config.fusion_config is not None:
        raise ValueError(f"the model has the towers {', '.join(parts)}: name the one to export")
    chosen = parts if modality is None else {modality: parts[modality]}
    named = model.state_dict() if modality is None else {}
    heads = {name: tensor for name, tensor in named.items() if module_of(name) in HEAD_MODULES}
    strands = {name: Tower(part.config, dict(part.state_dict()), {}) for name, part in chosen.items()}
    last = list(strands)[-1]
    strands[last] = strands[last]._replace(heads=heads)
    labels = ("id2label", "label2id", "problem_type") if "classifier.weight" in heads else ()
    write_strands(strands, folder, **{name: getattr(model.config, name) for name in labels})
    if OUTPUT in heads and model.can_generate():
        model.generation_config.save_pretrained(folder)


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


__all__ = [
    "FAMILIES",
    "TWO_TOWERS",
    "Family",
    "Source",
    "Tower",
    "config_of",
    "export",
    "family_of",
    "freeze_zeros",
    "open_source",
    "read_strands",
    "read_tower",
    "write_strands",
    "write_tower",
]
