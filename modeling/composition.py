"""Composing: from towers anywhere to one model, and the table that says what came from where."""

import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..configuration import (
    CONFIG_FIELDS,
    OWN_CONFIGS,
    PlaitConfig,
    PlaitDecoderConfig,
    PlaitFusionConfig,
    PlaitTextConfig,
    PlaitTowerConfig,
    PlaitVisionConfig,
    width_of,
)
from .checkpoints import TWO_TOWERS, config_of, family_of, open_source, read_tower
from .pretrained import HUB_OPTIONS, PlaitPreTrainedModel, base_prefix, model_type_of, part_of
from .wrapped import load_wrapped, modality_of, without_pooler

Model = TypeVar("Model", bound=PlaitPreTrainedModel)
TowerArgument = Any  # a Hub id, a folder, a config (fresh weights) or a ready model


class Strand(NamedTuple):
    """One tower before it is braided: its config, its weights by name inside the tower (None: fresh ones), the heads
    that came with them, and where all of it came from."""

    config: PreTrainedConfig
    weights: Mapping[str, Tensor] | None
    heads: Mapping[str, Tensor]
    origin: str
    source_config: PreTrainedConfig | None = None


def compose(
    model_class: type[Model],
    text: TowerArgument = None,
    image: TowerArgument = None,
    audio: TowerArgument = None,
    video: TowerArgument = None,
    *,
    fusion: str | PlaitFusionConfig = "early",
    query: str | None = None,
    connector: str = "linear",
    fusion_config: Mapping[str, Any] | None = None,
    labels: Sequence[str] | int | None = None,
    freeze: str | Sequence[str] = (),
    verbose: bool = True,
    dtype: Any = None,
    attn_implementation: str | None = None,
    **options: Any,
) -> Model:
    """Braid towers into one model.

    Args:
        text, image, audio, video: a Hub id, a folder, a config (fresh weights) or a ready model. Of a two-tower
            checkpoint (CLIP) the tower of that modality is taken; a family that plait does not know is wrapped.
        fusion: a strategy's name, or a whole `PlaitFusionConfig`. One tower alone has no fusion.
        query: the modality that asks, in cross-attention fusion.
        connector: "linear", "mlp" or "resampler".
        fusion_config: further fields of `PlaitFusionConfig`, e.g. `{"num_hidden_layers": 4}`.
        labels: the classes' names, or their number.
        freeze: parts that are not trained: modalities, "fusion", "head".
        verbose: print the table of what is pretrained, fresh, frozen and trainable; `model.composition()` returns it.
        dtype, attn_implementation: as in `from_pretrained`.
        options: `token`, `cache_dir`, `local_files_only`, `use_safetensors`, ... of `from_pretrained`, for all towers;
            any other field of `PlaitConfig`.

    Raises:
        ValueError: no tower, an unknown fusion or part, or what `from_pretrained` raises for a broken checkpoint.
    """
    where = {key: options.pop(key) for key in (*HUB_OPTIONS, "variant", "use_safetensors") if key in options}
    given = {"text": text, "image": image, "audio": audio, "video": video}
    strands = {name: strand_of(name, tower, where) for name, tower in given.items() if tower is not None}
    if len(strands) > 1 or not model_class.reads_pooled:
        strands = {name: without_unused(strand, name) for name, strand in strands.items()}
    if not strands:
        raise ValueError("compose needs at least one tower: text=..., image=..., audio=... or video=...")
    fields = {CONFIG_FIELDS[name]: strand.config for name, strand in strands.items()}
    if len(strands) > 1:
        extra = {"query": query, "connector": connector, **(fusion_config or {})}
        fields["fusion_config"] = fusion_of(fusion, extra, {name: strand.config for name, strand in strands.items()})
    config = PlaitConfig(**fields, **label_fields(labels), **lifted(strands), **options)
    model = model_class._from_config(config, dtype=dtype, attn_implementation=attn_implementation)
    for name, strand in strands.items():
        if strand.weights is not None:
            load_exactly(model.parts[name], strand.weights, strand.origin)
    model.origins = {name: strand.origin for name, strand in strands.items()}
    model.freeze(*([freeze] if isinstance(freeze, str) else freeze))
    model.eval()
    if verbose:
        print(model.composition())
    return model


def strand_of(modality: str, tower: TowerArgument, where: Mapping[str, Any]) -> Strand:
    """Resolve one tower argument."""
    if isinstance(tower, PreTrainedConfig):
        config = own_strand(modality, tower) if isinstance(tower, PlaitConfig) else tower
        foreign = type(config) not in OWN_CONFIGS.values() and family_of(config, modality) is not None
        return Strand(config_of(config, modality) if foreign else config, None, {}, "fresh")
    if isinstance(tower, PlaitPreTrainedModel):
        config = own_strand(modality, tower.config)
        part = tower.parts.get(modality) or tower.parts["decoder"]
        return Strand(as_tower(config), part.state_dict(), {}, tower.name_or_path or "a ready model")
    if isinstance(tower, PreTrainedModel):
        with tempfile.TemporaryDirectory() as folder:  # names on disk are the ones that the tables know
            tower.save_pretrained(folder)
            strand = from_folder(modality, folder, {})
            weights = {name: weight.clone() for name, weight in (strand.weights or {}).items()}
        return strand._replace(weights=weights, origin=tower.name_or_path or "a ready model")
    return from_folder(modality, tower, where)


def from_folder(modality: str | None, name: Any, where: Mapping[str, Any]) -> Strand:
    """A tower from a folder or Hub id: a plait's, a known family's, or any other that transformers loads (wrapped)."""
    hub = {key: where[key] for key in HUB_OPTIONS if key in where}
    if model_type_of(name, hub) == PlaitConfig.model_type:
        from .plait import PlaitModel

        return strand_of(modality or "text", PlaitModel.from_pretrained(name, **where), where)
    source = open_source(name, **where)
    undecided = modality is None and source.config.model_type in TWO_TOWERS  # the file may hold one tower alone
    if undecided or family_of(source.config, modality) is not None:
        tower = read_tower(source, modality)
        return Strand(tower.config, tower.weights, tower.heads, str(name), source.config)
    config, module = load_wrapped(name, modality, **where)
    weights = {f"model.{key}": weight for key, weight in module.state_dict().items()}
    return Strand(config, weights, {}, str(name), config)


def without_unused(strand: Strand, modality: str) -> Strand:
    """The strand without what a fusion or a masked language model does not read, its pooler and its mask token: they
    would never be trained."""
    if type(strand.config) not in OWN_CONFIGS.values():
        config, weights = without_pooler(strand.config, strand.weights, modality)
        return strand._replace(config=config, weights=weights)
    if not isinstance(strand.config, PlaitTowerConfig):
        return strand
    config = copy.deepcopy(strand.config)
    config.packing = True  # a pooler may have needed the padding computed
    config.pooling, config.pooler_norm, config.pooler_size, config.pooler_act = "none", False, None, None
    if isinstance(config, PlaitVisionConfig):
        config.mask_token = False
    unused = ("pooler.", "embeddings.mask_token.")
    kept = {name: weight for name, weight in (strand.weights or {}).items() if not name.startswith(unused)}
    return strand._replace(config=config, weights=None if strand.weights is None else kept)


def published_strand(
    model_class: type[PlaitPreTrainedModel], name: Any, overrides: dict[str, Any], where: dict[str, Any]
) -> tuple[PlaitConfig, dict[str, Tensor]]:
    """Config and weights of a published checkpoint as a plait of one strand, heads of `model_class` included."""
    strand = from_folder(None, name, where)
    field, path = place_of(strand)
    if field == "text_config" and not model_class.reads_pooled:
        strand = without_unused(strand, "text")
    heads = {key: value for key, value in strand.heads.items() if key.split(".")[0] in model_class.published_heads}
    fields = {field: strand.config, **task_fields(strand, heads), **overrides}
    base = base_prefix(model_class)
    weights = {f"{base}{path}.{key}": value for key, value in (strand.weights or {}).items()} | heads
    # out of the mapped file: its pages are small and its tensors unaligned, which costs a matrix product 5 %
    return PlaitConfig(**fields), {name: value.clone() for name, value in weights.items()}


def place_of(strand: Strand) -> tuple[str, str]:
    """The field of `PlaitConfig` and the path of the module where a lone strand belongs."""
    if isinstance(strand.config, PlaitDecoderConfig):
        return "decoder_config", "decoder"
    wrapped = type(strand.config) not in OWN_CONFIGS.values()
    if isinstance(strand.config, PlaitTextConfig) or (wrapped and modality_of(strand.config) == "text"):
        return "text_config", "towers.text"
    return "vision_config", "towers.image"


def task_fields(strand: Strand, heads: Mapping[str, Tensor]) -> dict[str, Any]:
    """What a checkpoint's config says of its task: labels and special tokens, lifted to the root."""
    source = strand.source_config
    fields: dict[str, Any] = lifted({"text": strand}) if place_of(strand)[0] != "vision_config" else {}
    if "classifier.weight" in heads and source is not None:
        fields |= {"id2label": source.id2label, "label2id": source.label2id, "problem_type": source.problem_type}
        fields["classifier_bias"] = "classifier.bias" in heads
        fields["distillation_head"] = "distillation_classifier.weight" in heads
    return fields


def lifted(strands: Mapping[str, Strand]) -> dict[str, Any]:
    """Tying and special tokens of the text tower: transformers reads them at the root only."""
    config = strands["text"].config if "text" in strands else None
    names = ("pad_token_id", "bos_token_id", "eos_token_id", "tie_word_embeddings")
    return {} if config is None else {name: getattr(config, name) for name in names if name in config.to_dict()}


def label_fields(labels: Sequence[str] | int | None) -> dict[str, Any]:
    if labels is None or isinstance(labels, int):
        return {} if labels is None else {"num_labels": labels}
    names = [str(label) for label in labels]
    if len(set(names)) < len(names):
        raise ValueError(f"labels must differ, got {names}")
    return {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}


def fusion_of(
    fusion: str | PlaitFusionConfig, extra: dict[str, Any], towers: Mapping[str, PreTrainedConfig]
) -> PlaitFusionConfig:
    """The fusion's config; the joint width is the text tower's (else the widest) unless `extra` says otherwise."""
    if isinstance(fusion, PlaitFusionConfig):
        return fusion
    widths = {name: width_of(config, name) for name, config in towers.items()}
    extra.setdefault("hidden_size", widths.get("text", max(widths.values())))
    width = extra["hidden_size"]
    extra.setdefault("num_attention_heads", next(n for n in (width // 64, 8, 4, 2, 1) if n and width % n == 0))
    return PlaitFusionConfig(strategy=fusion, **extra)


def own_strand(modality: str, config: PlaitConfig) -> PreTrainedConfig:
    """The config of a plait's tower of this modality (its decoder, where that is its text)."""
    found = config.encoders.get(modality) or (config.decoder_config if modality == "text" else None)
    if found is None:
        raise ValueError(f"that plait has no {modality} tower, only {', '.join(config.encoders) or 'a decoder'}")
    return found


def as_tower(config: PreTrainedConfig) -> PreTrainedConfig:
    """A decoder's config as that of a causal text tower; any other as it is."""
    if not isinstance(config, PlaitDecoderConfig):
        return config
    fields = {key: value for key, value in config.to_dict().items() if key in PlaitTextConfig.__dataclass_fields__}
    return PlaitTextConfig(**fields)


def load_exactly(tower: nn.Module, weights: Mapping[str, Tensor], origin: str) -> None:
    """Copy weights into a tower; every name and every shape must fit."""
    try:
        tower.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise ValueError(f"the weights of {origin} do not fit its config: {error}") from error


@dataclass
class Row:
    """One part of a model: parameters by number."""

    part: str
    kind: str
    origin: str
    parameters: int = 0
    trainable: int = 0


@dataclass
class Composition:
    """What a model is made of, part by part: family, where its weights came from, how many are trained."""

    rows: list[Row]

    @classmethod
    def of(cls, model: PlaitPreTrainedModel) -> "Composition":
        rows: dict[str, Row] = {}
        saved = model.name_or_path or "fresh"
        for name, parameter in model.named_parameters():
            part = part_of(name)
            kind = kind_of(model.config, part)
            row = rows.setdefault(part, Row(part, kind, model.origins.get(part, saved)))
            row.parameters += parameter.numel()
            row.trainable += parameter.numel() * parameter.requires_grad
        return cls(list(rows.values()))

    def __str__(self) -> str:
        head = f"{'part':10s} {'made of':28s} {'parameters':>12s} {'pretrained':>12s} {'fresh':>12s}"
        lines = [f"{head} {'frozen':>12s} {'trainable':>12s}  weights from"]
        for row in self.rows:
            fresh = row.parameters if row.origin == "fresh" else 0
            numbers = (row.parameters, row.parameters - fresh, fresh, row.parameters - row.trainable, row.trainable)
            lines.append(f"{row.part:10s} {row.kind:28s} " + " ".join(f"{n:12,d}" for n in numbers) + f"  {row.origin}")
        return "\n".join(lines)


def kind_of(config: PlaitConfig, part: str) -> str:
    """How the table calls a part: a native family, a wrapped one, a fusion."""
    fusion = config.fusion_config
    if part == "fusion" and fusion is not None:
        return f"{fusion.strategy}, {fusion.connector}"
    tower = config.decoder_config if part == "decoder" else config.encoders.get(part)
    if tower is None:
        return "-"
    own = type(tower) in OWN_CONFIGS.values()
    return (tower.family or tower.model_type) if own else f"{tower.model_type} (wrapped)"
