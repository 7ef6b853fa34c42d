"""Wrapped towers: a family that the core does not know, built and run by transformers, behind the towers' interface."""

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
from ..outputs import LayerChoice, TowerOutput
from .wrapped_inputs import compute_clip_mask, disable_augmentation, is_video_family, rename_inputs
from .wrapped_positions import PositionLimit

# tokenizers make these for every family; one without segments or without a mask does without
OPTIONAL_INPUTS = frozenset({"token_type_ids", "attention_mask"})
FLOAT_INPUTS = frozenset(MODALITY_TABLE[name].main_input for name in MEDIA)  # they take the model's dtype

# modules that a family's pooler alone uses, where they are not called `pooler`: module -> families
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
# what a tower's forward pass never reads: mask tokens of pretraining, heads beside the stream, attention to an encoder
# that is not there, attention that must be switched on (Longformer), what predicts hidden parts (V-JEPA 2)
UNUSED_MODULES = frozenset(
    "mask_token mask_emb masked_spec_embed contact_head crossattention query_global key_global value_global "
    "predictor".split()
)

# registered as causal language models alone, and yet they look both ways
BIDIRECTIONAL_FAMILIES = ("bert-generation", "xlnet")

# these drop tokens at random, in evaluation as well
RANDOM_MASKING_CLASSES = ("ViTMAEModel",)


class WrappedTower(nn.Module):
    """Any model that `AutoModel` builds, as a tower: of two towers the one of this modality, of an encoder-decoder the
    encoder.

    Nothing is packed here: speed and masking are the family's own, and one without an `attention_mask` sees the
    padding, as it did when it was trained. A family without segments does without `token_type_ids`. A causal family
    pools its last token. With `config.add_pooling_layer = False` there is no pooler.

    Raises:
        ValueError: a model that does not read this modality, or needs inputs that a tower does not get.
    """

    item_dimensions = 1  # of a clip of sound: samples

    def __init__(self, config: PreTrainedConfig, modality: str) -> None:
        super().__init__()
        self.config = config
        self.modality = modality
        self.width = width_of(config, modality)
        self.model = find_part(build_wrapped_model(config), modality)
        self.takes = find_accepted_arguments(self.model, modality)
        self.pools = getattr(config, "add_pooling_layer", True)
        self.pools_last = is_causal(config, modality)
        if not self.pools:
            remove_pooler(config, self.model, modality)
        if modality == "audio":
            disable_augmentation(self.model)
        self.positions = PositionLimit(select_wrapped_config(config, modality), self.model)
        self.fixed = tuple(name for name, weight in self.model.named_parameters() if is_fixed(name, weight))
        self.train(self.training)
        keep_names(self.model)

    def train(self, mode: bool = True) -> Self:
        """As in torch; what never learns stays frozen, though `from_pretrained` makes every weight trainable again."""
        for name in self.fixed:
            self.model.get_parameter(name).requires_grad_(False)
        return super().train(mode)

    def forward(
        self, output_hidden_states: LayerChoice = False, output_attentions: bool = False, **inputs: Any
    ) -> TowerOutput:
        """Text: input_ids, attention_mask, token_type_ids, position_ids (batch, length), inputs_embeds (batch, length,
        width), past_key_values. Image: pixel_values (images, channels, height, width). Audio: input_values (clips,
        samples), clip_mask likewise. Video: pixel_values_videos (clips, frames, channels, height, width).

        Raises ValueError for an input that the family does not take, a text longer than its positions, or a video with
        frames that are not there.
        """
        inputs = rename_inputs(inputs, self.takes)
        wanted = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        arguments = self.select_arguments(inputs) | {name: value for name, value in wanted.items() if value}
        with use_eager_attention(self.model) if output_attentions else nullcontext(), self.positions.guard(arguments):
            output = self.model(**arguments, return_dict=True)
        tokens = self.compute_tokens(output.get("last_hidden_state"))
        mask = self.compute_mask(tokens, inputs.get("attention_mask"), "past_key_values" in arguments)
        states = output.get("hidden_states") or ()
        return TowerOutput(
            last_hidden_state=tokens,
            mask=mask.long(),
            pooler_output=self.pool(output.get("pooler_output"), tokens, mask),
            hidden_states=tuple(state if state is None else as_tokens(state) for state in states) or None,
            attentions=tuple(item for item in output.get("attentions") or () if item is not None) or None,
            past_key_values=output.get("past_key_values"),
        )

    def select_arguments(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """What was given, as far as the family takes it; a cache is used only where one is given."""
        given = {name: value for name, value in inputs.items() if value is not None}
        refused = given.keys() - self.takes - OPTIONAL_INPUTS
        if refused:
            raise ValueError(f"a wrapped {self.config.model_type} tower does not take {', '.join(sorted(refused))}")
        given = {name: value for name, value in given.items() if name in self.takes}
        if "use_cache" in self.takes:
            given["use_cache"] = "past_key_values" in given
        if "skip_predictor" in self.takes:
            given["skip_predictor"] = True
        return {name: value.to(self.model.dtype) if name in FLOAT_INPUTS else value for name, value in given.items()}

    def compute_mask(self, tokens: Tensor, attention_mask: Tensor | None, cached: bool) -> Tensor:
        """(batch, length), True where there is a token."""
        if self.modality == "audio" and attention_mask is not None:
            return compute_clip_mask(self.model, tokens, attention_mask)
        return compute_wrapped_mask(tokens, attention_mask, cached)

    def compute_tokens(self, x: Tensor | None) -> Tensor:
        """The model's output as (batch, length, width); raises ValueError where the config says another width."""
        family = type(self.model).__name__
        if x is None:
            raise ValueError(f"{family} gives no last_hidden_state: it cannot be a tower")
        tokens = as_tokens(x)
        if tokens.shape[-1] != self.width:
            raise ValueError(f"{family} gives tokens of width {tokens.shape[-1]}, its config says {self.width}")
        return tokens

    def pool(self, pooled: Tensor | None, tokens: Tensor, mask: Tensor) -> Tensor | None:
        """The family's own pooled vector, (batch, width), or a causal family's last token."""
        if pooled is not None and self.pools and pooled.flatten(1).shape[-1] == self.width:
            return pooled.flatten(1)
        return last_token(tokens, mask) if self.pools_last else None

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding; of an image tower the first layer, wherever the family keeps it."""
        if "input_ids" in self.takes:
            return self.model.get_input_embeddings()
        leaves = (module for module in self.model.modules() if not any(True for _ in module.children()))
        return next(leaf for leaf in leaves if any(True for _ in leaf.parameters()))

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)


def load_wrapped(
    name_or_path: Any, modality: str | None = None, use_safetensors: bool = True, dtype: Any = None, **options: Any
) -> tuple[PreTrainedConfig, nn.Module]:
    """A tower of a published checkpoint through `AutoModel`: the config from which `WrappedTower` builds it again, and
    the loaded model (the tower's `model`). Where the checkpoint has no weights for the pooler, there is none.

    Args:
        modality: "text", "image", "audio" or "video"; where None, what the model reads decides.
        use_safetensors: False reads a pickle. dtype: torch's default where None.
        options: those of `from_pretrained` (revision, token, local_files_only, trust_remote_code, ...).

    Raises:
        ValueError: a family that does not read this modality, or a tower of which the checkpoint lacks weights.
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
    """A wrapped tower's config and weights (by their names in the tower) without the pooler."""
    config = copy.deepcopy(config)
    config.add_pooling_layer = False
    prefixes = tuple(f"model.{name}." for name in find_pooler_names(config, modality))
    return config, {name: weight for name, weight in weights.items() if not name.startswith(prefixes)}


def remove_pooler(config: PreTrainedConfig, part: nn.Module, modality: str) -> PreTrainedConfig:
    """Take the learned modules of the pooler out of `part`; returns the config of a tower without them."""
    for name, module in list(part.named_children()):
        if name in find_pooler_names(config, modality) and any(True for _ in module.parameters()):
            setattr(part, name, nn.Identity())
    return without_pooler(config, {}, modality)[0]


def find_pooler_names(config: PreTrainedConfig, modality: str) -> tuple[str, ...]:
    """The modules of a family's model that only its pooled output needs."""
    family = select_wrapped_config(config, modality).model_type
    return ("pooler", *(name for name, families in POOLER_MODULES.items() if family in families))


def select_wrapped_config(config: PreTrainedConfig, modality: str) -> PreTrainedConfig:
    """Of a config of several towers that of this modality; any other as it is."""
    field = CONFIG_FIELDS[modality]
    return getattr(config, field) if field in config.sub_configs else config


def build_wrapped_model(config: PreTrainedConfig) -> PreTrainedModel:
    """A fresh model of the family, in torch's default dtype."""
    if config._attn_implementation == "sdpa":  # the default, which gives way to eager in a family that has no other
        config._attn_implementation = None
    return AutoModel.from_config(config, dtype=torch.get_default_dtype())


def find_part(model: PreTrainedModel, modality: str) -> PreTrainedModel:
    """The part of a model that reads a modality: of several towers this one, of an encoder-decoder the encoder."""
    config = select_wrapped_config(model.config, modality)
    if config is not model.config:
        parts = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
        found = [part for part in parts if part.config is config]
        if not found:
            raise ValueError(f"{type(model).__name__} has no {modality} tower of its own")
        return find_part(found[0], modality)
    two_sided = config.is_encoder_decoder or config.model_type in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    part = model.get_encoder() if two_sided else model
    if not isinstance(part, PreTrainedModel):
        raise ValueError(f"the encoder of {type(model).__name__} is no model of its own: it cannot be a tower")
    return part


def find_family_modality(config: PreTrainedConfig) -> str:
    """What a family reads; raises ValueError for one of several towers, or one that reads none of the modalities."""
    towers = [name for name, field in CONFIG_FIELDS.items() if field in config.sub_configs]
    if len(towers) > 1:
        raise ValueError(f"a {config.model_type} checkpoint has the towers {', '.join(towers)}: name one of them")
    classes: Any = MODEL_MAPPING[type(config)]
    first = (classes[0] if isinstance(classes, tuple) else classes).main_input_name
    readers = [name for name, row in MODALITY_TABLE.items() if row.main_input == first]
    found = ["video"] if is_video_family(config) else readers
    if not found and not towers:
        raise ValueError(f"a {config.model_type} model reads {first}: no tower is given that")
    return (towers or found)[0]


def find_part_config(whole: PreTrainedModel, part: PreTrainedModel, modality: str) -> PreTrainedConfig:
    """The smallest config from which `AutoModel` builds this part again, name by name."""
    if MODEL_MAPPING.get(type(part.config), None) is type(part):
        with torch.device("meta"):
            again = find_part(build_wrapped_model(part.config), modality)
        if {name: weight.shape for name, weight in again.state_dict().items()} == {
            name: weight.shape for name, weight in part.state_dict().items()
        }:
            return part.config
    return whole.config


def find_fresh_names(whole: nn.Module, part: nn.Module, missing: Iterable[str]) -> list[str]:
    """Those of the missing weights that are in the part, by their names there; a counter of batches is no weight."""
    prefix = next(name for name, module in whole.named_modules() if module is part)
    held = {f"{prefix}.{name}" if prefix else name: name for name in part.state_dict()}
    return [held[name] for name in missing if name in held and not name.endswith("num_batches_tracked")]


def find_accepted_arguments(model: PreTrainedModel, modality: str) -> frozenset[str]:
    """The arguments that a model's forward takes.

    Raises ValueError where it does not read this modality, or needs more than a tower gets.
    """
    parameters = inspect.signature(model.forward).parameters
    needed = [name for name, parameter in parameters.items() if parameter.default is parameter.empty]
    needed = [name for name in needed if parameters[name].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    family, first = type(model).__name__, MODALITY_TABLE[modality].main_input
    films = is_video_family(model.config)
    if modality == "video" and films and first not in parameters:
        first = MODALITY_TABLE["image"].main_input
    if first not in parameters or (modality == "image" and films):
        raise ValueError(f"{family} does not read {first}: it is no tower for the modality {modality!r}")
    if more := sorted(set(needed) - {first, *MODALITY_TABLE[modality].wrapped_inputs}):
        raise ValueError(f"{family} needs {', '.join(more)} beside {first}: it cannot be a tower")
    if family in RANDOM_MASKING_CLASSES:
        raise ValueError(f"{family} hides patches at random in every pass: it cannot be a tower")
    return frozenset(parameters)


def is_fixed(name: str, weight: Tensor) -> bool:
    """Whether a weight never learns: the family froze it (sinusoidal positions), or no forward pass reads it."""
    return not weight.requires_grad or not UNUSED_MODULES.isdisjoint(name.split("."))


def is_causal(config: PreTrainedConfig, modality: str) -> bool:
    """Whether a family's text model looks back only."""
    model_type = select_wrapped_config(config, modality).model_type
    both_ways = (
        *BIDIRECTIONAL_FAMILIES,
        *MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        *MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    )
    return model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and model_type not in both_ways


def as_tokens(x: Tensor) -> Tensor:
    """(batch, length, channels) as it is; a feature map (batch, channels, height, width) as height * width tokens."""
    return x.flatten(2).transpose(1, 2) if x.ndim == 4 else x


def compute_wrapped_mask(tokens: Tensor, attention_mask: Tensor | Mapping[str, Tensor] | None, cached: bool) -> Tensor:
    """(batch, length), True where there is a token; a family that changes the length gives tokens wherever a row has
    any (Perceiver's latents). With a static cache the mask is one for each kind of layer, and made elsewhere."""
    if not isinstance(attention_mask, Tensor) or attention_mask.ndim != 2:
        return tokens.new_ones(tokens.shape[:2], dtype=torch.bool)
    if attention_mask.shape[1] == tokens.shape[1] or cached:
        return attention_mask[:, -tokens.shape[1] :].bool()
    return attention_mask.any(dim=1, keepdim=True).expand(tokens.shape[:2])


@contextmanager
def use_eager_attention(model: PreTrainedModel) -> Iterator[None]:
    """Eager attention for a while: the fast kernels return no attention weights."""
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
    """Save and load the parameters under the names they have: transformers renames those of its own families on the
    way to and from disk, inside other models too, and some patterns are not exact there and back."""
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            vars(module)["is_custom_code"] = is_custom_code


def is_custom_code() -> bool:
    """What transformers asks a model before it renames its parameters."""
    return True
