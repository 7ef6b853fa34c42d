"""Composing: from towers anywhere to one model."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedConfig

from ...configuration import (
    CONFIG_FIELDS,
    INLINE,
    PlaitConfig,
    PlaitDecoderConfig,
    PlaitFusionConfig,
    width_of,
)
from ...configuration.hub import HUB_OPTIONS
from ..checkpoints.writing import freeze_zeros
from .components import (
    Component,
    TowerArgument,
    as_video_component,
    build_component,
    without_unused_modules,
)
from .composable import ComposableModel, Model
from .decoder import build_decoder_component, finish_decoder
from .hub import find_start_token
from .weights import load_component_weights


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
    given = {
        "text": text,
        "image": image,
        "audio": audio,
        "video": as_video_component(video, dict(video_config or {}), where),
    }
    strands = {name: build_component(name, tower, where) for name, tower in given.items() if tower is not None}
    if len(strands) > 1 or fusion is not None or not model_class.reads_pooled:
        strands = {name: without_unused_modules(strand, name) for name, strand in strands.items()}
    if decoder is not None:
        strands["decoder"] = build_decoder_component(
            model_class, decoder, bool(strands), dict(decoder_config or {}), where
        )
    if not strands:
        raise ValueError("compose needs at least one tower: text=..., image=..., audio=... or video=...")
    extra = {"query": query, "connector": connector, **(fusion_config or {})}
    fields = build_sub_configs(model_class, strands, fusion, extra)
    config = PlaitConfig(**{**fields, **build_label_fields(labels), **collect_root_fields(strands), **options})
    model = model_class._from_config(config, dtype=dtype, attn_implementation=attn_implementation)
    load_weights(model, strands)
    model.freeze(*([freeze] if isinstance(freeze, str) else freeze))
    model.eval()
    if verbose:
        print(model.composition())
    return model


def build_sub_configs(
    model_class: type[ComposableModel],
    components: Mapping[str, Component],
    fusion: str | PlaitFusionConfig | None,
    extra: dict[str, Any],
) -> dict[str, Any]:
    """The sub-configs of a plait: those of its parts, and a fusion's where there is something to join."""
    towers = {name: strand.config for name, strand in components.items() if name != "decoder"}
    fields = {CONFIG_FIELDS[name]: config for name, config in towers.items()}
    if "decoder" not in components:
        braided = len(towers) > 1 or fusion is not None
        return fields | ({"fusion_config": build_fusion_config(fusion or "early", extra, towers)} if braided else {})
    decoder = fields["decoder_config"] = components["decoder"].config
    if towers:
        strategy = INLINE if model_class.decoder_kind == "inline" else fusion or model_class.context_fusion
        extra.setdefault("hidden_size", width_of(decoder))
        fields["fusion_config"] = build_fusion_config(strategy, extra, towers)
        if isinstance(decoder, PlaitDecoderConfig):
            decoder.context_size = fields["fusion_config"].hidden_size
    return fields


def load_weights(model: ComposableModel, components: Mapping[str, Component]) -> None:
    """Each part's weights, and what a decoder brings besides."""
    for name, strand in components.items():
        load_component_weights(model, name, strand)
    model.origins = {name: strand.origin for name, strand in components.items()}
    finish_decoder(model, components.get("decoder"))
    freeze_zeros(model.parts.values())


def collect_root_fields(components: Mapping[str, Component]) -> dict[str, Any]:
    """What the decoder's checkpoint, else the text tower's, says at its own root: transformers reads it there only."""
    strand = components.get("decoder") or components.get("text")
    if strand is None:
        return {}
    said = strand.source_config if isinstance(strand.source_config, PlaitConfig) else strand.config
    fields: dict[str, Any] = {"tie_word_embeddings": getattr(said, "tie_word_embeddings", True)}
    if "decoder" in components:
        fields["decoder_start_token_id"] = find_start_token(strand.source_config, strand.generation)
        fields["lm_head_bias"] = "lm_head.bias" in strand.heads and "mlm_head.dense.weight" not in strand.heads
    return fields


def build_label_fields(labels: Sequence[str] | int | None) -> dict[str, Any]:
    if labels is None or isinstance(labels, int):
        return {} if labels is None else {"num_labels": labels}
    names = [str(label) for label in labels]
    if len(set(names)) < len(names):
        raise ValueError(f"labels must differ, got {names}")
    return {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}


def build_fusion_config(
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
