"""Composing: towers from any source, a fusion and a decoder become one model."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedConfig

from ...configuration import (
    INLINE,
    PlaitDecoderConfig,
    PlaitFusionConfig,
    width_of,
)
from ..checkpoints.component import Component
from .assembly import assemble_model
from .components import TowerArgument, as_video_component, build_component, select_pooler
from .composable import ComposableModel, Model
from .decoder import build_decoder_component
from .hub import pop_checkpoint_options


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
    """Composes towers into one model of `model_class`: see `PlaitPreTrainedModel.compose`, which documents the other
    arguments and the errors."""
    where = pop_checkpoint_options(options)
    video = as_video_component(video, dict(video_config or {}), where)
    given = {"text": text, "image": image, "audio": audio, "video": video}
    components = {name: build_component(name, tower, where) for name, tower in given.items() if tower is not None}
    pooled = len(components) == 1 and fusion is None and model_class.reads_pooled
    components = {name: select_pooler(component, name, pooled) for name, component in components.items()}
    if decoder is not None:
        changes = dict(decoder_config or {})
        components["decoder"] = build_decoder_component(model_class, decoder, bool(components), changes, where)
    if not components:
        raise ValueError("compose needs at least one tower: text=..., image=..., audio=... or video=...")
    extra = {"query": query, "connector": connector, **(fusion_config or {})}
    fields = build_fusion_fields(model_class, components, fusion, extra) | build_label_fields(labels)
    return assemble_model(model_class, components, fields | options, freeze, verbose, dtype, attn_implementation)


def build_fusion_fields(
    model_class: type[ComposableModel],
    components: Mapping[str, Component],
    fusion: str | PlaitFusionConfig | None,
    extra: dict[str, Any],
) -> dict[str, Any]:
    """Returns the fusion's config as a field of `PlaitConfig`, empty without a fusion; sets the `context_size` of the
    decoder's config to its width."""
    towers = {name: component.config for name, component in components.items() if name != "decoder"}
    if "decoder" not in components:
        fused = len(towers) > 1 or fusion is not None
        return {"fusion_config": build_fusion_config(fusion or "early", extra, towers)} if fused else {}
    if not towers:
        return {}
    decoder = components["decoder"].config
    strategy = INLINE if model_class.decoder_kind == "inline" else fusion or model_class.context_fusion
    embedded = strategy == INLINE and isinstance(decoder, PlaitDecoderConfig)  # inline tokens stand among embeddings
    extra.setdefault("hidden_size", decoder.embedding_size if embedded else width_of(decoder))
    config = build_fusion_config(strategy, extra, towers)
    if isinstance(decoder, PlaitDecoderConfig):
        decoder.context_size = config.hidden_size
    return {"fusion_config": config}


def build_label_fields(labels: Sequence[str] | int | None) -> dict[str, Any]:
    """Returns the labels as fields of `PlaitConfig`; raises ValueError for equal names."""
    if labels is None or isinstance(labels, int):
        return {} if labels is None else {"num_labels": labels}
    names = [str(label) for label in labels]
    if len(set(names)) < len(names):
        raise ValueError(f"the names of labels must differ, got {names}")
    return {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}


def build_fusion_config(
    fusion: str | PlaitFusionConfig, extra: dict[str, Any], towers: Mapping[str, PreTrainedConfig]
) -> PlaitFusionConfig:
    """Builds the fusion's config; its width is the text tower's (else the widest tower's) unless `extra` sets it."""
    if isinstance(fusion, PlaitFusionConfig):
        return fusion
    widths = {name: width_of(config, name) for name, config in towers.items()}
    extra.setdefault("hidden_size", widths.get("text", max(widths.values())))
    width = extra["hidden_size"]
    extra.setdefault("num_attention_heads", next(n for n in (width // 64, 8, 4, 2, 1) if n and width % n == 0))
    return PlaitFusionConfig(strategy=fusion, **extra)
