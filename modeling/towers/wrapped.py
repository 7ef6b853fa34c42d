"""Wrapped towers: families without a native tower, built and run by transformers, behind the interface of towers."""

import copy
import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import MODEL_MAPPING, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from ...configuration import CONFIG_FIELDS, width_of
from ...configuration.modalities import MEDIA, MODALITY_TABLE
from ..core.pooling import last_token
from ..core.sentence import build_sentence_pooler
from ..outputs import LayerChoice, TowerOutput
from .wrapped_inputs import compute_clip_mask, disable_augmentation, is_video_family, rename_inputs
from .wrapped_positions import PositionLimit
from .wrapped_rows import arrange_text, find_row_layout, restore_output

# tokenizers make these for every family: they are dropped for a family that does not take them
OPTIONAL_INPUTS = frozenset({"token_type_ids", "attention_mask"})
FLOAT_INPUTS = frozenset(MODALITY_TABLE[name].main_input for name in MEDIA)  # cast to the model's dtype

# modules that only the pooled output of a family needs, if not called `pooler`: module -> families
POOLER_MODULES = {
    "head": ("aimv2_vision_model", "siglip_vision_model", "siglip_text_model", "siglip2_text_model"),
    "layernorm": ("convnext", "convnextv2"),
    "post_layernorm": (
        "altclip_vision_model",
        "chinese_clip_vision_model",
        "clip_vision_model",
        "clipseg_vision_model",
        "metaclip_2_vision_model",
        "mlcd_vision_model",
        "owlv2_vision_model",
        "owlvit_vision_model",
    ),
}
# modules that a tower's forward never uses: mask tokens of pretraining, heads, cross-attention without an encoder,
# global attention (Longformer), the predictor of masked patches (V-JEPA 2)
UNUSED_MODULES = frozenset(
    "mask_token mask_emb masked_spec_embed contact_head crossattention query_global key_global value_global "
    "predictor".split()
)

# registered only as causal language models, but their attention is bidirectional
BIDIRECTIONAL_FAMILIES = ("bert-generation", "xlnet")

# these drop random tokens, also in evaluation
RANDOM_MASKING_CLASSES = ("ViTMAEModel",)


class WrappedTower(nn.Module):
    """A tower that wraps any model `AutoModel` builds: of a model with two towers it takes the one of this modality, of
    an encoder-decoder the encoder.

    It uses no packing: speed and masking are the family's own, and a family without `attention_mask` attends to the
    padding, as in its training. `token_type_ids` are dropped for a family without segments. A causal family pools its
    last token. With `config.add_pooling_layer = False` there is no pooler.

    Raises:
        ValueError: a model that does not read this modality, or needs inputs that a tower does not get.
    """

    item_dimensions = 1  # an audio clip has one dimension: samples

    def __init__(self, config: PreTrainedConfig, modality: str) -> None:
        super().__init__()
        self.config = config
        self.modality = modality
        self.width = width_of(config, modality)
        self.model = self.build_model()
        self.takes = find_accepted_arguments(self.model, modality)
        self.pools = getattr(config, "add_pooling_layer", True)
        self.pools_last = is_causal(config, modality)
        self.sentence = build_sentence_pooler(config, self.width)
        if not self.pools:
            remove_pooler(config, self.model, modality)
        if modality == "audio":
            disable_augmentation(self.model)
        self.positions = PositionLimit(select_wrapped_config(config, modality), self.model)
        self.fixed = tuple(name for name, weight in self.model.named_parameters() if is_fixed(name, weight))
        self.train(self.training)
        keep_names(self.model)

    def build_model(self) -> PreTrainedModel:
        """Builds the newly initialized part of the family's model that reads the modality."""
        return find_part(build_wrapped_model(self.config), self.modality)

    def train(self, mode: bool = True) -> Self:
        """Sets the training mode as in torch, and freezes again what never learns: `from_pretrained` unfreezes it."""
        for name in self.fixed:
            self.model.get_parameter(name).requires_grad_(False)
        return super().train(mode)

    def forward(
        self, output_hidden_states: LayerChoice = False, output_attentions: bool = False, **inputs: Any
    ) -> TowerOutput:
        """Encodes one modality.

        Text: input_ids, attention_mask, token_type_ids, position_ids (batch, length), inputs_embeds (batch, length,
        width), past_key_values. Image: pixel_values (images, channels, height, width). Audio: input_values (clips,
        samples), clip_mask of that shape. Video: pixel_values_videos (clips, frames, channels, height, width).

        Raises ValueError for an input that the family does not take, a text longer than its positions, or a video with
        absent frames.
        """
        inputs = rename_inputs(inputs, self.takes)
        wanted = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        layout = find_row_layout(inputs) if self.modality == "text" else None
        inputs = inputs if layout is None else arrange_text(inputs, layout)
        arguments = self.select_arguments(inputs) | {name: value for name, value in wanted.items() if value}
        eager = use_eager_attention(self.model) if output_attentions else nullcontext()
        with eager, self.positions.guard(arguments, self.model):
            output = self.model(**arguments, return_dict=True)
        tokens = self.compute_tokens(output.get("last_hidden_state"))
        mask = self.compute_mask(tokens, inputs.get("attention_mask"), "past_key_values" in arguments)
        states = output.get("hidden_states") or ()
        result = TowerOutput(
            last_hidden_state=tokens,
            mask=mask.long(),
            pooler_output=self.pool(output.get("pooler_output"), tokens, mask),
            hidden_states=tuple(state if state is None else as_tokens(state) for state in states) or None,
            attentions=tuple(item for item in output.get("attentions") or () if item is not None) or None,
            past_key_values=output.get("past_key_values"),
        )
        return result if layout is None else restore_output(result, layout)

    def select_arguments(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the given inputs that the family takes; a KV cache is used only if one is given.

        Raises ValueError for an input that it does not take (but for `OPTIONAL_INPUTS`).
        """
        given = {name: value for name, value in inputs.items() if value is not None}
        refused = given.keys() - self.takes - OPTIONAL_INPUTS
        if refused:
            raise ValueError(
                f"a wrapped {self.config.model_type} tower does not take {', '.join(sorted(refused))}: leave them out"
            )
        given = {name: value for name, value in given.items() if name in self.takes}
        if "use_cache" in self.takes:
            given["use_cache"] = "past_key_values" in given
        if "skip_predictor" in self.takes:
            given["skip_predictor"] = True
        return {name: value.to(self.model.dtype) if name in FLOAT_INPUTS else value for name, value in given.items()}

    def compute_mask(self, tokens: Tensor, attention_mask: Tensor | None, cached: bool) -> Tensor:
        """Returns (batch, length), True for real tokens."""
        if self.modality == "audio" and attention_mask is not None:
            return compute_clip_mask(self.model, tokens, attention_mask)
        return compute_wrapped_mask(tokens, attention_mask, cached)

    def compute_tokens(self, x: Tensor | None) -> Tensor:
        """Returns the model's output as (batch, length, width); raises ValueError if the config says another width."""
        family = type(self.model).__name__
        if x is None:
            raise ValueError(f"{family} returns no last_hidden_state: it cannot be a tower")
        tokens = as_tokens(x)
        if tokens.shape[-1] != self.width:
            raise ValueError(f"{family} returns tokens of width {tokens.shape[-1]}, its config says {self.width}")
        return tokens

    def pool(self, pooled: Tensor | None, tokens: Tensor, mask: Tensor) -> Tensor | None:
        """Returns the vector of a sentence encoder; else the family's own pooled vector, (batch, width); else the last
        token of a causal family, else None."""
        if self.sentence is not None:
            return self.sentence(tokens, mask)
        if pooled is not None and self.pools and pooled.flatten(1).shape[-1] == self.width:
            return pooled.flatten(1)
        return last_token(tokens, mask) if self.pools_last else None

    def get_input_embeddings(self) -> nn.Module:
        """Returns the token embedding of text; for other modalities, the first module with weights."""
        if "input_ids" in self.takes:
            return self.model.get_input_embeddings()
        leaves = (module for module in self.model.modules() if not any(True for _ in module.children()))
        return next(leaf for leaf in leaves if any(True for _ in leaf.parameters()))

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the token embedding."""
        self.model.set_input_embeddings(value)


def load_wrapped(
    name_or_path: Any, modality: str | None = None, use_safetensors: bool = True, dtype: Any = None, **options: Any
) -> tuple[PreTrainedConfig, nn.Module]:
    """Loads a tower of a pretrained checkpoint by `AutoModel`. Returns the config from which `WrappedTower` builds it
    again, and the loaded model (the tower's `model`), without a pooler if the checkpoint has no weights for it.

    Args:
        modality: "text", "image", "audio" or "video"; None: the modality that the model reads.
        use_safetensors: False allows a pickle file.
        dtype: None: torch's default.
        options: those of `from_pretrained` (revision, token, local_files_only, trust_remote_code, ...).

    Raises:
        ValueError: a family that does not read this modality, or a checkpoint that lacks weights of the tower.
    """
    whole, info = AutoModel.from_pretrained(
        name_or_path,
        use_safetensors=use_safetensors,
        dtype=dtype or torch.get_default_dtype(),
        output_loading_info=True,
        **options,
    )
    modality = modality or find_family_modality(whole.config)
    part = find_part(whole, modality)
    find_accepted_arguments(part, modality)
    config = find_part_config(whole, part, modality)
    fresh = find_fresh_names(whole, part, info["missing_keys"])
    poolers = find_pooler_names(config, modality)
    lost = sorted(
        name for name in fresh if name.split(".")[0] not in poolers and UNUSED_MODULES.isdisjoint(name.split("."))
    )
    if lost:
        raise ValueError(f"{name_or_path} has no weights for {', '.join(lost[:5])} ({len(lost)} weights are missing)")
    if any(name.split(".")[0] in poolers for name in fresh):
        config = remove_pooler(config, part, modality)
    return config, part


def without_pooler(
    config: PreTrainedConfig, weights: Mapping[str, Tensor], modality: str
) -> tuple[PreTrainedConfig, dict[str, Tensor]]:
    """Returns a wrapped tower's config and weights (by their names in the tower) without the pooler."""
    config = copy.deepcopy(config)
    config.add_pooling_layer = False
    prefixes = tuple(f"model.{name}." for name in find_pooler_names(config, modality))
    return config, {name: weight for name, weight in weights.items() if not name.startswith(prefixes)}


def remove_pooler(config: PreTrainedConfig, part: nn.Module, modality: str) -> PreTrainedConfig:
    """Removes the trainable modules of the pooler from `part`; returns the config of a tower without them."""
    for name, module in list(part.named_children()):
        if name in find_pooler_names(config, modality) and any(True for _ in module.parameters()):
            setattr(part, name, nn.Identity())
    return without_pooler(config, {}, modality)[0]


def find_pooler_names(config: PreTrainedConfig, modality: str) -> tuple[str, ...]:
    """Returns the names of the modules that only the family's pooled output needs."""
    family = select_wrapped_config(config, modality).model_type
    return ("pooler", *(name for name, families in POOLER_MODULES.items() if family in families))


def select_wrapped_config(config: PreTrainedConfig, modality: str) -> PreTrainedConfig:
    """Returns the sub-config of this modality if the config has several towers, else the config."""
    field = CONFIG_FIELDS[modality]
    return getattr(config, field) if field in config.sub_configs else config


def build_wrapped_model(config: PreTrainedConfig) -> PreTrainedModel:
    """Builds a newly initialized model of the family, in torch's default dtype."""
    return build_from_config(AutoModel, config)


def build_from_config(auto_class: Any, config: PreTrainedConfig) -> Any:
    """Builds a newly initialized model by one of transformers' Auto classes, in torch's default dtype."""
    if config._attn_implementation == "sdpa":  # the default: None falls back to eager in a family that has no other
        config._attn_implementation = None
    return auto_class.from_config(config, dtype=torch.get_default_dtype())


def find_part(model: PreTrainedModel, modality: str) -> PreTrainedModel:
    """Returns the part of a model that reads a modality: one of its towers, the encoder of an encoder-decoder, or all.

    Raises ValueError if the model has no such part.
    """
    config = select_wrapped_config(model.config, modality)
    if config is not model.config:
        parts = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
        found = [part for part in parts if part.config is config]
        if not found:
            raise ValueError(f"{type(model).__name__} has no separate {modality} tower: it cannot be a tower")
        return find_part(found[0], modality)
    two_sided = config.is_encoder_decoder or config.model_type in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    part = model.get_encoder() if two_sided else model
    if not isinstance(part, PreTrainedModel):
        raise ValueError(f"the encoder of {type(model).__name__} is not a PreTrainedModel: it cannot be a tower")
    return part


def find_family_modality(config: PreTrainedConfig) -> str:
    """Returns the modality that a family reads; raises ValueError for several towers, or an input of no modality."""
    towers = [name for name, field in CONFIG_FIELDS.items() if field in config.sub_configs]
    if len(towers) > 1:
        raise ValueError(f"a {config.model_type} checkpoint has the towers {', '.join(towers)}: name one of them")
    classes: Any = MODEL_MAPPING[type(config)]
    first = (classes[0] if isinstance(classes, tuple) else classes).main_input_name
    readers = [name for name, row in MODALITY_TABLE.items() if row.main_input == first]
    found = ["video"] if is_video_family(config) else readers
    if not found and not towers:
        raise ValueError(f"a {config.model_type} model reads {first}, which no modality has: it cannot be a tower")
    return (towers or found)[0]


def find_part_config(whole: PreTrainedModel, part: PreTrainedModel, modality: str) -> PreTrainedConfig:
    """Returns the smallest config from which `AutoModel` builds this part again, with equal weight names and shapes."""
    if MODEL_MAPPING.get(type(part.config), None) is type(part):
        with torch.device("meta"):
            again = find_part(build_wrapped_model(part.config), modality)
        if {name: weight.shape for name, weight in again.state_dict().items()} == {
            name: weight.shape for name, weight in part.state_dict().items()
        }:
            return part.config
    return whole.config


def find_fresh_names(whole: nn.Module, part: nn.Module, missing: Iterable[str]) -> list[str]:
    """Returns the missing weights of the part, by their names in it; counters of batches (batch norm) do not count."""
    prefix = next(name for name, module in whole.named_modules() if module is part)
    held = {f"{prefix}.{name}" if prefix else name: name for name in part.state_dict()}
    return [held[name] for name in missing if name in held and not name.endswith("num_batches_tracked")]


def find_accepted_arguments(model: PreTrainedModel, modality: str) -> frozenset[str]:
    """Returns the names of the arguments of a model's forward.

    Raises ValueError if it does not read this modality, or needs an argument that a tower does not get.
    """
    parameters = inspect.signature(model.forward).parameters
    needed = [name for name, parameter in parameters.items() if parameter.default is parameter.empty]
    needed = [name for name in needed if parameters[name].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    family, first = type(model).__name__, MODALITY_TABLE[modality].main_input
    is_video = is_video_family(model.config)
    if modality == "video" and is_video and first not in parameters:
        first = MODALITY_TABLE["image"].main_input
    if first not in parameters or (modality == "image" and is_video):
        raise ValueError(f"{family} does not read {first}: it is no tower for the modality {modality!r}")
    if more := sorted(set(needed) - {first, *MODALITY_TABLE[modality].wrapped_inputs}):
        raise ValueError(f"{family} needs {', '.join(more)} in addition to {first}: it cannot be a tower")
    if family in RANDOM_MASKING_CLASSES:
        raise ValueError(f"{family} hides patches at random in every forward: it cannot be a tower")
    return frozenset(parameters)


def is_fixed(name: str, weight: Tensor) -> bool:
    """Returns whether a weight never learns: the family froze it (sinusoidal positions), or no forward uses it."""
    return not weight.requires_grad or not UNUSED_MODULES.isdisjoint(name.split("."))


def is_causal(config: PreTrainedConfig, modality: str) -> bool:
    """Returns whether a family's text model has causal attention."""
    model_type = select_wrapped_config(config, modality).model_type
    both_ways = (
        *BIDIRECTIONAL_FAMILIES,
        *MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        *MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    )
    return model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and model_type not in both_ways


def as_tokens(x: Tensor) -> Tensor:
    """Returns (batch, length, channels) unchanged, a feature map (batch, channels, height, width) as its places."""
    return x.flatten(2).transpose(1, 2) if x.ndim == 4 else x


def compute_wrapped_mask(tokens: Tensor, attention_mask: Tensor | Mapping[str, Tensor] | None, cached: bool) -> Tensor:
    """Returns (batch, length), True for real tokens. If the family changes the length (Perceiver's latents), all tokens
    of a row with any input are real. Without a 2-D mask (a static cache has one by type of layer), all are."""
    if not isinstance(attention_mask, Tensor) or attention_mask.ndim != 2:
        return tokens.new_ones(tokens.shape[:2], dtype=torch.bool)
    if attention_mask.shape[1] == tokens.shape[1] or cached:
        return attention_mask[:, -tokens.shape[1] :].bool()
    return attention_mask.any(dim=1, keepdim=True).expand(tokens.shape[:2])


@contextmanager
def use_eager_attention(model: PreTrainedModel) -> Iterator[None]:
    """Uses eager attention inside the context: the fast kernels return no attention weights."""
    before = model.config._attn_implementation
    if before is None or before == "eager":
        yield
        return
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def keep_names(model: nn.Module) -> None:
    """Keeps the parameters' names on saving and loading: transformers renames those of its own families on the way to
    and from disk, also inside other models, and some of its patterns do not map back exactly."""
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            vars(module)["is_custom_code"] = is_custom_code


def is_custom_code() -> bool:
    """Returns True: transformers then does not rename a model's parameters."""
    return True
