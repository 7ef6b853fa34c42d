"""Composing: from towers anywhere to one model."""

import copy
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel

from ...configuration import (
    CONFIG_FIELDS,
    INLINE,
    OWN_CONFIGS,
    PlaitConfig,
    PlaitDecoderConfig,
    PlaitFusionConfig,
    PlaitRNNConfig,
    PlaitTextConfig,
    PlaitTowerConfig,
    PlaitVideoConfig,
    PlaitVisionConfig,
    PlaitWaveformConfig,
    width_of,
)
from ..backbone.pretrained import HUB_OPTIONS, PlaitPreTrainedModel, model_type_of, start_of
from ..checkpoints import config_of, family_of, freeze_zeros, read_tower
from ..checkpoints.families.registry import FAMILIES
from ..checkpoints.source import Source, open_source, read_config
from ..towers.wrapped import load_wrapped, without_pooler
from ..towers.wrapped_decoder import check_cross_attention, load_wrapped_decoder
from ..towers.wrapped_inputs import is_video_family
from .components import Strand, own_strand, reading_class, strand_of_plait

Model = TypeVar("Model", bound=PlaitPreTrainedModel)
TowerArgument = Any  # a Hub id, a folder, a config (fresh weights) or a ready model


def compose(
    model_class: type[Model],
    text: TowerArgument = None,
    image: TowerArgument = None,
    audio: TowerArgument = None,
    video: TowerArgument = None,
    decoder: TowerArgument = None,
    *,
    fusion: str | PlaitFusionConfig | None = None,
    query: str | None = None,
    connector: str = "linear",
    fusion_config: Mapping[str, Any] | None = None,
    decoder_config: Mapping[str, Any] | None = None,
    video_config: Mapping[str, Any] | None = None,
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
            checkpoint (CLIP) the tower of that modality is taken; a family that plait does not know is wrapped. As
            `video` an image tower may be given too, through which the frames go (`PlaitVideoConfig`).
        decoder: likewise, of a class that generates: the text model that reads the towers.
        fusion: a strategy's name, or a whole `PlaitFusionConfig`; by default "early", and "concatenate" where a decoder
            reads the towers (its cross-attention braids them). One tower alone has no fusion, unless one is named.
        query: the modality that asks, in cross-attention fusion.
        connector: "linear", "mlp", "resampler" or "qformer".
        fusion_config: further fields of `PlaitFusionConfig`, e.g. `{"num_hidden_layers": 4}`.
        decoder_config: fields of the decoder's config to change, e.g. `{"gated_cross_attention": True}`.
        video_config: fields of `PlaitVideoConfig` around an image tower, e.g. `{"temporal": "mean"}`.
        labels: the classes' names, or their number.
        freeze: parts that are not trained: modalities, "fusion", "decoder", "head".
        verbose: print the table of what is pretrained, fresh, frozen and trainable; `model.composition()` returns it.
        dtype, attn_implementation: as in `from_pretrained`.
        options: `token`, `cache_dir`, `local_files_only`, `use_safetensors`, ... of `from_pretrained`, for all towers;
            any other field of `PlaitConfig`.

    Raises:
        ValueError: no tower, an unknown fusion or part, or what `from_pretrained` raises for a broken checkpoint.
    """
    where = {key: options.pop(key) for key in (*HUB_OPTIONS, "variant", "use_safetensors") if key in options}
    given = {"text": text, "image": image, "audio": audio, "video": as_video(video, dict(video_config or {}), where)}
    strands = {name: strand_of(name, tower, where) for name, tower in given.items() if tower is not None}
    if len(strands) > 1 or fusion is not None or not model_class.reads_pooled:
        strands = {name: without_unused(strand, name) for name, strand in strands.items()}
    if decoder is not None:
        strands["decoder"] = decoder_strand(model_class, decoder, bool(strands), dict(decoder_config or {}), where)
    if not strands:
        raise ValueError("compose needs at least one tower: text=..., image=..., audio=... or video=...")
    extra = {"query": query, "connector": connector, **(fusion_config or {})}
    fields = joined(model_class, strands, fusion, extra)
    config = PlaitConfig(**{**fields, **label_fields(labels), **lifted(strands), **options})
    model = model_class._from_config(config, dtype=dtype, attn_implementation=attn_implementation)
    fill(model, strands)
    model.freeze(*([freeze] if isinstance(freeze, str) else freeze))
    model.eval()
    if verbose:
        print(model.composition())
    return model


def joined(
    model_class: type[PlaitPreTrainedModel],
    strands: Mapping[str, Strand],
    fusion: str | PlaitFusionConfig | None,
    extra: dict[str, Any],
) -> dict[str, Any]:
    """The sub-configs of a plait: those of its parts, and a fusion's where there is something to join."""
    towers = {name: strand.config for name, strand in strands.items() if name != "decoder"}
    fields = {CONFIG_FIELDS[name]: config for name, config in towers.items()}
    if "decoder" not in strands:
        braided = len(towers) > 1 or fusion is not None
        return fields | ({"fusion_config": fusion_of(fusion or "early", extra, towers)} if braided else {})
    decoder = fields["decoder_config"] = strands["decoder"].config
    if towers:
        strategy = INLINE if model_class.decoder_kind == "inline" else fusion or model_class.context_fusion
        extra.setdefault("hidden_size", width_of(decoder))
        fields["fusion_config"] = fusion_of(strategy, extra, towers)
        if isinstance(decoder, PlaitDecoderConfig):
            decoder.context_size = fields["fusion_config"].hidden_size
    return fields


def fill(model: PlaitPreTrainedModel, strands: Mapping[str, Strand]) -> None:
    """Each part's weights, and what a decoder brings besides."""
    for name, strand in strands.items():
        load_strand(model, name, strand)
    model.origins = {name: strand.origin for name, strand in strands.items()}
    finish_decoder(model, strands.get("decoder"))
    freeze_zeros(model.parts.values())


def load_strand(model: PlaitPreTrainedModel, name: str, strand: Strand) -> None:
    """Copy a strand's weights into its part. What joins the frames of a video is left fresh, and a decoder's
    cross-attention where the checkpoint has none that reads a context of this width; their names are kept."""
    if strand.weights is None:
        return
    part = model.parts[name]
    own, weights = part.state_dict(), with_fitting_context(strand.weights, part)
    new = {key for key in own if key not in weights and (".cross_attn" in key or key.startswith("temporal."))}
    load_exactly(part, weights | {key: own[key] for key in new}, strand.origin)
    path = next(path for path, module in model.named_modules() if module is part)
    model.fresh_names |= {f"{path}.{key}" for key in new}


def with_fitting_context(weights: Mapping[str, Tensor], part: nn.Module) -> dict[str, Tensor]:
    """The weights without those of a cross-attention that the part does not have, or has of another width."""
    own = part.state_dict()
    crossing = {key for key in weights if ".cross_attn" in key}
    fits = all(weights[key].shape == own[key].shape for key in crossing if key in own)
    return {key: weight for key, weight in weights.items() if key not in crossing or (fits and key in own)}


def strand_of(modality: str, tower: TowerArgument, where: Mapping[str, Any]) -> Strand:
    """Resolve one tower argument."""
    if isinstance(tower, Strand):
        return tower
    if isinstance(tower, PreTrainedConfig):
        config = own_strand(modality, tower) if isinstance(tower, PlaitConfig) else tower
        foreign = type(config) not in OWN_CONFIGS.values() and family_of(config, modality) is not None
        return Strand(config_of(config, modality) if foreign else config, None, {}, "fresh")
    if isinstance(tower, PlaitPreTrainedModel):
        return strand_of_plait(modality, tower)
    if isinstance(tower, PreTrainedModel):
        with tempfile.TemporaryDirectory() as folder:  # names on disk are the ones that the tables know
            tower.save_pretrained(folder)
            strand = from_folder(modality, folder, {})
            weights = {name: weight.clone() for name, weight in (strand.weights or {}).items()}
        return strand._replace(weights=weights, origin=tower.name_or_path or "a ready model")
    return from_folder(modality, tower, where)


def as_video(tower: TowerArgument, fields: dict[str, Any], where: Mapping[str, Any]) -> TowerArgument:
    """A video tower as it is; an image tower as what reads the frames of one.

    Raises ValueError for `fields` without an image tower.
    """
    if tower is None or reads_videos(tower, where):
        if fields:
            raise ValueError(f"video_config {fields} is for an image tower that reads frames: pass it as video=...")
        return tower
    strand = without_unused(strand_of("image", tower, where), "image")
    config = PlaitVideoConfig(image_config=strand.config, **fields)
    weights = {f"frames.{name}": weight for name, weight in (strand.weights or {}).items()}
    return strand._replace(config=config, weights=None if strand.weights is None else weights, heads={})


def reads_videos(tower: TowerArgument, where: Mapping[str, Any]) -> bool:
    """Whether a tower argument is a video tower, or a plait that has one."""
    hub = {key: where[key] for key in HUB_OPTIONS if key in where}
    if isinstance(tower, PreTrainedModel):
        config: PreTrainedConfig = tower.config
    elif isinstance(tower, PreTrainedConfig):
        config = tower
    elif model_type_of(tower, hub) == PlaitConfig.model_type:
        config = PlaitConfig.from_pretrained(tower, **hub)
    else:
        config, _ = read_config(str(tower), **hub)
    if isinstance(config, PlaitConfig):
        return config.video_config is not None
    family = FAMILIES.get(config.model_type)
    own = family.config_class if family else type(config)
    return own.base_config_key == "video_config" or is_video_family(config)


def decoder_strand(
    model_class: type[PlaitPreTrainedModel],
    decoder: TowerArgument,
    reads: bool,
    fields: dict[str, Any],
    where: Mapping[str, Any],
) -> Strand:
    """A text model as a decoder: causal, with cross-attention where the class reads its towers that way.

    Raises ValueError for a class without a decoder.
    """
    if model_class.decoder_kind is None:
        raise ValueError(f"{model_class.__name__} has no decoder: compose a class that generates")
    strand = without_unused(strand_of("decoder", decoder, where), "text")
    crosses = reads and model_class.decoder_kind == "context"
    if not isinstance(strand.config, PlaitTextConfig):
        if fields:
            raise ValueError(f"decoder_config: a wrapped {strand.config.model_type} decoder keeps its own config")
        if crosses:
            check_cross_attention(strand.config)
        return strand
    own = {key: value for key, value in strand.config.to_dict().items() if key in PlaitTextConfig.__dataclass_fields__}
    if own["position_type"] == "counted":  # a decoder's padding is told by its mask and positions, not by its tokens
        own["position_type"] = "learned"
    own |= {"is_causal": True, "cross_attention": crosses, "pooling": "none", "context_size": None} | fields
    return strand._replace(config=PlaitDecoderConfig(**own))


def finish_decoder(model: PlaitPreTrainedModel, strand: Strand | None) -> None:
    """The decoder's own head where it is not tied, its generation config, and special tokens for every task."""
    if strand is None:
        return
    head: Any = model.get_output_embeddings()
    if head is not None and (weights := head_weights(strand, model.config)):
        load_exactly(head, dict(head.state_dict()) | weights, strand.origin)
        model.origins["head"] = strand.origin
    if model.config.inline:
        size, token = model.config.get_text_config().vocab_size, model.config.image_token_id
        model.config.image_token_id = token = size if token is None else token
        if token >= size:
            model.resize_token_embeddings(token + 1)
    if strand.generation is not None and model.can_generate():
        model.generation_config = copy.deepcopy(strand.generation)


def head_weights(strand: Strand, config: PlaitConfig) -> dict[str, Tensor]:
    """What a decoder's checkpoint has for the projection to the vocabulary, as far as it is not tied."""
    weights = {key.removeprefix("lm_head."): head for key, head in strand.heads.items() if key.startswith("lm_head.")}
    wanted = {"weight": not config.tie_word_embeddings, "bias": config.lm_head_bias}
    return {name: weight for name, weight in weights.items() if wanted[name]}


def from_folder(modality: str, name: Any, where: Mapping[str, Any]) -> Strand:
    """A tower (or "decoder") from a folder or Hub id: a plait's, a known family's, or any other that transformers loads
    (wrapped)."""
    hub = {key: where[key] for key in HUB_OPTIONS if key in where}
    if model_type_of(name, hub) == PlaitConfig.model_type:
        reader = reading_class(PlaitConfig.from_pretrained(name, **hub), modality)
        return strand_of_plait(modality, reader.from_pretrained(name, **where))
    source = open_source(name, **where)
    if family_of(source.config, modality) is not None:
        tower = read_tower(source, modality)
        generation = generation_of(source, hub) if modality in ("text", "decoder") else None
        return Strand(tower.config, tower.weights, tower.heads, str(name), source.config, generation)
    if modality == "decoder":
        return wrapped_decoder_strand(source, where)
    config, module = load_wrapped(name, modality, **where)
    weights = {f"model.{key}": weight for key, weight in module.state_dict().items()}
    return Strand(config, weights, {}, str(name), config)


def wrapped_decoder_strand(source: Source, where: Mapping[str, Any]) -> Strand:
    """A causal language model of a family that plait does not know, with its head."""
    config, model, head = load_wrapped_decoder(source.path, **where)
    weights = {f"model.{key}": weight for key, weight in model.state_dict().items()}
    heads = {f"lm_head.{key}": weight for key, weight in head.state_dict().items()}
    hub = {key: where[key] for key in HUB_OPTIONS if key in where}
    return Strand(config, weights, heads, source.path, config, generation_of(source, hub))


def generation_of(source: Source, hub: Mapping[str, Any]) -> GenerationConfig | None:
    """A checkpoint's generation_config.json with what its own class adds to it; None where there is none."""
    try:
        generation = GenerationConfig.from_pretrained(source.path, **hub)
    except OSError:
        return None
    return with_habits(generation, source.config)


def with_habits(generation: GenerationConfig, config: PreTrainedConfig) -> GenerationConfig:
    """The generation config with what a family's own class adds to it when it generates."""
    family = FAMILIES.get(config.model_type)
    if family is not None and family.generation is not None:
        for name, value in family.generation(generation).items():
            setattr(generation, name, value)
    return generation


def without_unused(strand: Strand, modality: str) -> Strand:
    """The strand without what a fusion or a masked language model does not read, its pooler and its mask token: they
    would never be trained."""
    if type(strand.config) not in OWN_CONFIGS.values():
        config, weights = without_pooler(strand.config, strand.weights, modality)
        return strand._replace(config=config, weights=weights)
    if not isinstance(strand.config, (PlaitTowerConfig, PlaitRNNConfig)):
        return strand
    config = copy.deepcopy(strand.config)
    config.pooling, config.pooler_size, config.pooler_act = "none", None, None
    if isinstance(config, PlaitTowerConfig):
        config.packing = True  # a pooler may have needed the padding computed
        config.pooler_norm = False
    if isinstance(config, (PlaitVisionConfig, PlaitWaveformConfig)):
        config.mask_token = False
    unused = ("pooler.", "embeddings.mask_token.")
    kept = {name: weight for name, weight in (strand.weights or {}).items() if not name.startswith(unused)}
    return strand._replace(config=config, weights=None if strand.weights is None else kept)


def lifted(strands: Mapping[str, Strand]) -> dict[str, Any]:
    """What the decoder's checkpoint, else the text tower's, says at its own root: transformers reads it there only."""
    strand = strands.get("decoder") or strands.get("text")
    if strand is None:
        return {}
    said = strand.source_config if isinstance(strand.source_config, PlaitConfig) else strand.config
    fields: dict[str, Any] = {"tie_word_embeddings": getattr(said, "tie_word_embeddings", True)}
    if "decoder" in strands:
        fields["decoder_start_token_id"] = start_of(strand.source_config, strand.generation)
        fields["lm_head_bias"] = "lm_head.bias" in strand.heads and "mlm_head.dense.weight" not in strand.heads
    return fields


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


def load_exactly(tower: nn.Module, weights: Mapping[str, Tensor], origin: str) -> None:
    """Copy weights into a tower; every name and every shape must fit."""
    try:
        tower.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise ValueError(f"the weights of {origin} do not fit its config: {error}") from error
