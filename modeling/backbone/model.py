"""The model without a head: towers -> connectors -> fusion (-> decoder)."""

from collections.abc import Mapping
from typing import Any, Unpack, cast

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.utils.generic import can_return_tuple

from ...configuration import PlaitConfig, width_of
from ...configuration.modalities import MEDIA, MODALITIES, MODALITY_TABLE
from ..core.distributed import is_sharded, trains_distributed, zero_with_grad
from ..core.pooling import POOLINGS
from ..core.positions import resolve_flattened_rows
from ..core.rows import check_present_rows, check_text_rows
from ..fusion.base import Fusion, Stream
from ..fusion.connectors import build_connector
from ..fusion.inline import insert_image_tokens
from ..fusion.registry import build_fusion
from ..graphs import is_recording_graph
from ..inputs import (
    MODALITY_INPUTS,
    CacheInputs,
    DecoderInputs,
    FlattenedInputs,
    ModelInputs,
    OutputOptions,
    expand_signature,
    split_by_modality,
)
from ..outputs import ContextOutput, PlaitModelOutput, TowerOutput
from ..towers.items import build_blank_item, gather_items, scatter_items
from ..towers.registry import build_decoder, build_tower
from ..towers.text import TOKEN_EMBEDDING_WEIGHT
from .context import build_context_arguments, check_decoder_rows, check_unused, parse_context
from .image_tokens import count_image_tokens
from .pretrained import PlaitPreTrainedModel

AUDIO_AND_VIDEO_INPUTS = tuple(
    (name, item.name) for name in MEDIA if name != "image" for item in MODALITY_TABLE[name].items
)


class PlaitModel(PlaitPreTrainedModel):
    """The model without a head: towers, connectors and fusion, and a decoder if the config has one; or a single tower
    or decoder.

    Loads the folder of every plait class, and every pretrained checkpoint of a known family.
    """

    reads_apart = True

    def __init__(self, config: PlaitConfig) -> None:
        super().__init__(config)
        sides = config.sides
        self.towers = nn.ModuleDict({name: build_tower(part, sides[name]) for name, part in config.towers.items()})
        self.decoder = None if config.decoder_config is None else build_decoder(config.decoder_config)
        self.connectors = nn.ModuleDict()
        self.fusion: Fusion | None = None
        if config.fusion_config is not None:
            fusion, encoders = config.fusion_config, config.encoders
            self.connectors.update(
                {name: build_connector(fusion, width_of(part, name)) for name, part in encoders.items()}
            )
            self.fusion = None if config.inline else build_fusion(fusion, tuple(encoders))
        if config.tie_encoder_embeddings:
            self._tied_weights_keys = {f"towers.text.{TOKEN_EMBEDDING_WEIGHT}": f"decoder.{TOKEN_EMBEDDING_WEIGHT}"}
        self.post_init()

    @can_return_tuple
    @expand_signature
    def forward(self, **inputs: Unpack[ModelInputs]) -> PlaitModelOutput:
        """Turns any mix of modalities into one stream of tokens.

        Args:
            input_ids, attention_mask, token_type_ids, position_ids: (batch, length); a row whose mask is all 0 has no
                text. inputs_embeds: (batch, length, width), instead of input_ids.
            pixel_values: (batch, images, channels, height, width); 4-D is one image per row. image_present: (batch,
                images), False for an absent image.
            image_indices: (batch, images), the index of each row's images in pixel_values, which is then (all images,
                channels, height, width), or -1 for an absent one: rows that share an image encode it once.
            input_features: (batch, clips, mel bins, frames); input_values: (batch, clips, samples), or (batch, clips,
                frames, mel bins) for a tower of spectrogram patches; without `clips` it is one clip per row.
                audio_present: (batch, clips). input_features_mask, input_values_mask: (batch, clips, frames or
                samples), 1 inside a clip, 0 for the padding behind it.
            pixel_values_videos: (batch, clips, frames, channels, height, width); 5-D is one clip per row.
                video_present: (batch, clips). pixel_values_videos_mask: (batch, clips, frames), 0 for padding.
            encoder_outputs: outputs of `encode` by modality: their towers are not run again. Or, for a decoder with
                cross-attention, the output of `encode_context` or of an encoder of transformers (with attention_mask).
            decoder_input_ids, decoder_attention_mask, decoder_position_ids, decoder_inputs_embeds: the text of a
                decoder with cross-attention; a decoder alone, or with images inline, has its text in input_ids.

        Raises:
            ValueError: an input without a tower, a row with no modality at all, no text for the decoder, or image
                tokens that do not match the images.
        """
        parts, given = split_by_modality(inputs), inputs.get("encoder_outputs")
        recorded, cached = self.select_output_options(inputs), (inputs.get("past_key_values"), inputs.get("use_cache"))
        if self.decoder is None:
            check_unused(inputs, ENCODER_UNUSED, "this model has no decoder")
            return self.encode_and_fuse(parts, given, recorded)
        if not self.config.is_encoder_decoder:
            check_unused(inputs, DecoderInputs.__annotations__, "this decoder takes its text in input_ids")
            return self.continue_text(parts, given, *resolve_text(parts, inputs), recorded)
        check_unused(inputs, FlattenedInputs.__annotations__, "only a decoder alone takes flattened rows")
        context = self.build_context(parts, given, recorded)
        if given is not None and context.mask is not None and not has_cached_tokens(cached[0]):
            check_present_rows(context.mask.any(dim=1), self.towers)
        text = {name: inputs.get(f"decoder_{name}") for name in DECODER_TEXT_INPUTS}
        if text["input_ids"] is None and text["inputs_embeds"] is None:
            raise ValueError(NO_DECODER_TEXT)
        check_decoder_rows(text, context)
        output = self.decode({**text, **build_context_arguments(context)}, *cached, recorded)
        output.context = context
        return output

    def select_output_options(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Returns which hidden states and attentions to record: as the call says, else as the config does."""
        options = {name: inputs.get(name) for name in OutputOptions.__annotations__}
        return {name: getattr(self.config, name) if value is None else value for name, value in options.items()}

    def encode_and_fuse(
        self, inputs: dict[str, dict[str, Any]], given: Mapping[str, Any] | None, recorded: dict[str, Any]
    ) -> PlaitModelOutput:
        """Computes towers, connectors and fusion, or the single tower of a model of one component."""
        outputs = self.encode_all(inputs, given, recorded, complete=self.fusion is None)
        if self.fusion is None:
            if len(outputs) > 1:
                raise ValueError(f"these towers have no fusion: pass {' or '.join(outputs)}, or use PlaitForRetrieval")
            ((modality, output),) = outputs.items()
            if given:
                check_present_rows(output.mask.any(dim=1), (modality,))
            return build_single_output(output)
        return self.fuse(self.fusion, outputs, recorded)

    def build_context(
        self, inputs: dict[str, dict[str, Any]], given: Mapping[str, Any] | None, recorded: dict[str, Any]
    ) -> ContextOutput:
        """Returns the decoder's context: the one passed as `encoder_outputs`, or that of the inputs, computed."""
        if given is not None and (context := parse_context(given, inputs["text"]["attention_mask"])) is not None:
            return context
        fused = self.encode_and_fuse(inputs, given, recorded)
        recorded_layers = (fused.hidden_states, fused.attentions, fused.cross_attentions)
        return ContextOutput(fused.last_hidden_state, fused.mask, *recorded_layers)

    def encode_context(self, **inputs: Any) -> ContextOutput:
        """Computes all towers and the fusion on the arguments of `forward`, without those of the decoder.

        Returns the decoder's context, (batch, tokens, width), to pass as `encoder_outputs`. Raises TypeError for an
        argument that no tower takes.
        """
        recorded = {name: inputs.pop(name, None) or False for name in OutputOptions.__annotations__}
        given = inputs.pop("encoder_outputs", None)
        parts = {
            modality: {name: inputs.pop(name, None) for name in names} for modality, names in MODALITY_INPUTS.items()
        }
        if inputs:
            raise TypeError(f"unexpected arguments {', '.join(sorted(inputs))}: no tower takes them, leave them out")
        return self.build_context(parts, given, recorded)

    def encode(self, modality: str, **inputs: Any) -> TowerOutput:
        """Runs one tower on the present rows (or items) of its modality's arguments of `forward`.

        Returns tokens, (batch, length, width), and mask, (batch, length); an absent item has a mask of zeros. Raises
        ValueError if there is no such tower or nothing to encode.
        """
        recorded = {name: inputs.pop(name, False) for name in ("output_attentions", "output_hidden_states")}
        output = self.encode_all({modality: inputs}, None, recorded).get(modality)
        if output is None:
            raise ValueError(f"nothing to encode: no {modality} in the arguments {sorted(inputs)}, pass its inputs")
        return output

    def encode_all(
        self,
        inputs: dict[str, dict[str, Any]],
        given: Mapping[str, Any] | None,
        recorded: dict[str, Any],
        optional: bool = False,
        complete: bool = False,
    ) -> dict[str, TowerOutput]:
        """Encodes every modality that the batch has; returns those in `given` unchanged.

        Raises ValueError if there is no modality at all, unless `optional`; with `complete`, for a row that lacks one.
        """
        outputs = {name: TowerOutput(**value) for name, value in (given or {}).items()}
        for modality in MODALITIES:
            own = {name: value for name, value in inputs.get(modality, {}).items() if value is not None}
            if own and modality not in outputs:
                output = self.encode_tower(modality, modality, own, recorded, complete)
                outputs |= {} if output is None else {modality: output}
        if not outputs and not optional:
            raise ValueError(f"no inputs: pass those of one or more modalities ({', '.join(self.towers)})")
        return outputs

    def collect_item_options(self, tower: str, modality: str) -> dict[str, Any]:
        """Returns the number of dimensions of an audio clip, which depends on the tower (samples, or a spectrogram), as
        an argument of `gather_items`; nothing for other modalities."""
        known = modality == "audio" and tower in self.towers
        return {"dimensions": cast("Any", self.towers[tower]).item_dimensions} if known else {}

    def encode_tower(
        self,
        tower: str,
        modality: str,
        inputs: Mapping[str, Any],
        recorded: Mapping[str, Any],
        complete: bool = False,
    ) -> TowerOutput | None:
        """Runs a tower on the present items of a modality's inputs; None if there are none.

        Raises ValueError for inputs if the model has no such tower; with `complete`, for a row without an item.
        """
        present = gather_items(modality, inputs, **self.collect_item_options(tower, modality))
        if present is None:
            return None
        if tower not in self.towers:
            names = ", ".join(self.towers) or "none"
            raise ValueError(
                f"got {modality} inputs, but this model has no {tower} tower (towers: {names}): leave them out"
            )
        if complete and present.slots is not None:
            check_present_rows((present.slots >= 0).any(dim=1), (modality,))
        if not present.count:
            return self.run_absent(tower, modality, inputs, recorded) if is_sharded(self.towers[tower]) else None
        return scatter_items(self.towers[tower](**present.inputs, **recorded), present.slots)

    def run_absent(
        self, tower: str, modality: str, inputs: Mapping[str, Any], recorded: Mapping[str, Any]
    ) -> TowerOutput:
        """Runs a sharded tower, for which other processes wait, on one blank item: its tokens are masked."""
        blank, rows = build_blank_item(modality, inputs, **self.collect_item_options(tower, modality))
        return scatter_items(self.towers[tower](**blank, **recorded), torch.full((rows, 1), -1, device=self.device))

    def fuse(self, fusion: Fusion, outputs: dict[str, TowerOutput], recorded: dict[str, Any]) -> PlaitModelOutput:
        """Fuses the towers' streams, each through its connector."""
        streams = {name: Stream(output.last_hidden_state, output.mask.bool()) for name, output in outputs.items()}
        like = next(iter(streams.values())).tokens
        for modality, connector in self.connectors.items():
            stream = streams[modality] if modality in streams else self.build_empty_stream(modality, like)
            streams[modality] = connector(stream)
        fused = fusion(streams, **recorded)
        pooled = POOLINGS[fusion.config.pooling](fused.tokens, fused.mask)
        return PlaitModelOutput(
            last_hidden_state=fused.tokens,
            pooler_output=pooled,
            hidden_states=fused.hidden_states,
            attentions=fused.attentions,
            cross_attentions=fused.cross_attentions,
            mask=fused.mask.long(),
            encoder_outputs=outputs,
        )

    def build_empty_stream(self, modality: str, like: Tensor) -> Stream:
        """Builds a stream of length 0 for a modality that is missing in the whole batch of `like`: (batch, ...). Its
        connector still gets a gradient, of zeros, and so does its tower in distributed training: other processes,
        which may have the modality, wait for it."""
        tokens = like.new_zeros(like.shape[0], 0, cast("Any", self.connectors[modality]).input_size)
        if trains_distributed():
            tokens = tokens + zero_with_grad(self.towers[modality]).to(tokens)
        return Stream(tokens, tokens.new_zeros(tokens.shape[:2], dtype=torch.bool))

    def continue_text(
        self,
        inputs: dict[str, dict[str, Any]],
        given: Mapping[str, Any] | None,
        past_key_values: Cache | None,
        use_cache: bool | None,
        recorded: dict[str, Any],
    ) -> PlaitModelOutput:
        """Computes a decoder without cross-attention on its own text (GPT-style), with images inline if it has an image
        tower. Raises ValueError for inputs that it does not take, or images without their prompt."""
        text = inputs["text"]
        if past_key_values is None and not use_cache:  # with a cache, the first part of a text may be padding alone
            check_text_rows(text["attention_mask"])
        has_images = bool(given) or inputs["image"]["pixel_values"] is not None
        begun = has_cached_tokens(past_key_values) and not (has_images and is_recording_graph())
        if has_images and not self.config.inline or has_audio_or_video(inputs):
            raise ValueError(
                "this model is a decoder alone: it takes text, leave image, audio, video and encoder_outputs out"
            )
        given_text = text["input_ids"] is not None or text["inputs_embeds"] is not None
        if self.config.inline and given_text and not begun:
            text = self.insert_images(text, inputs["image"], given)
        elif has_images or self.has_new_image_tokens(text["input_ids"]):
            raise ValueError(
                "images replace image tokens of the prompt: pass both together, as pixel_values and input_ids; to add "
                "images to cached tokens, pass the whole text, with all its images and without past_key_values"
            )
        return self.decode(text, past_key_values, use_cache, recorded)

    def has_new_image_tokens(self, input_ids: Tensor | None) -> bool:
        """Returns whether a text that continues cached tokens has image tokens. (A single token was generated by the
        model, which generates no image tokens.)"""
        if not self.config.inline or input_ids is None or input_ids.shape[1] == 1 or is_recording_graph():
            return False
        return bool((input_ids == self.config.image_token_id).any())

    def find_image_places(self, text: Mapping[str, Any]) -> Tensor:
        """Returns where image tokens stand in the text, (batch, length): in `inputs_embeds` those that are equal to the
        image token's embedding."""
        embeds, token = text["inputs_embeds"], self.config.image_token_id
        if embeds is None:
            return text["input_ids"] == token
        return (embeds == self.get_input_embeddings()(torch.tensor(token, device=embeds.device))).all(dim=-1)

    def insert_images(
        self, text: dict[str, Any], image: dict[str, Any], given: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """Returns the text's inputs with the embeddings of its image tokens replaced by the tokens of its images.

        Raises ValueError for image tokens without images, or images of another number of rows.
        """
        is_image = self.find_image_places(text)
        mask = text["attention_mask"]  # with a static cache: one mask for each kind of layer
        if isinstance(mask, Tensor) and mask.ndim == 2:
            is_image &= mask[:, -is_image.shape[1] :].bool()
        outputs = self.encode_all({"image": image}, given, {}, optional=True)
        if "image" not in outputs:
            if bool(is_image.any()):
                row = int(is_image.any(dim=1).nonzero()[0])
                raise ValueError(f"row {row} has image tokens in its text, but there are no images: pass pixel_values")
            return text
        tower = outputs["image"]
        if tower.mask.shape[0] != is_image.shape[0]:
            raise ValueError(f"images of {len(tower.mask)} rows, but texts of {len(is_image)}: pass each row's images")
        stream = self.connectors["image"](Stream(tower.last_hidden_state, tower.mask.bool()))
        embeds = text["inputs_embeds"]
        embeds = self.get_input_embeddings()(text["input_ids"]) if embeds is None else embeds
        each = tower.item_length or tower.mask.shape[1]
        inline = insert_image_tokens(embeds, is_image, stream, tower.mask.shape[1] // each)
        blocks = {"blocks": inline.blocks} if self.config.bidirectional_images else {}
        return {**text, "input_ids": None, "inputs_embeds": inline.embeds, **blocks}

    def decode(
        self, inputs: dict[str, Any], past_key_values: Cache | None, use_cache: bool | None, recorded: dict[str, Any]
    ) -> PlaitModelOutput:
        """Computes the decoder on its arguments; creates a KV cache in eval mode if `use_cache` and none is passed."""
        config, decoder = self.config.get_text_config(), cast("Any", self.decoder)
        use_cache = getattr(config, "use_cache", False) if use_cache is None else use_cache
        if use_cache and decoder.keeps_cache and past_key_values is None and not self.training:
            past_key_values = DynamicCache(config=config)
            if self.config.is_encoder_decoder:
                past_key_values = EncoderDecoderCache(past_key_values, DynamicCache())
        return build_single_output(decoder(**inputs, past_key_values=past_key_values, **recorded))

    @property
    def num_image_tokens(self) -> int:
        """The number of tokens of one image of the tower's `image_size` behind its connector: the processor repeats a
        text's image token this many times. The attribute is absent without an image tower or its `image_size`: call
        `count_image_tokens`, which says why."""
        try:
            return count_image_tokens(self.config)
        except ValueError as error:
            raise AttributeError(str(error)) from error


def has_cached_tokens(cache: Cache | None) -> bool:
    """Returns whether the call continues tokens in a KV cache; in a compiled graph, which cannot depend on the length
    of a static cache, whether that cache has its memory."""
    length = 0 if cache is None else cache.get_seq_length()
    return (isinstance(length, Tensor) and is_recording_graph()) or bool(length > 0)


def has_audio_or_video(inputs: Mapping[str, Mapping[str, Any]]) -> bool:
    """Returns whether any of the inputs is audio or video."""
    return any(inputs[modality][name] is not None for modality, name in AUDIO_AND_VIDEO_INPUTS)


def build_single_output(output: TowerOutput) -> PlaitModelOutput:
    """Builds the output of a model of one component, or of the decoder, from the tower's."""
    return PlaitModelOutput(
        last_hidden_state=output.last_hidden_state,
        pooler_output=output.pooler_output,
        past_key_values=output.past_key_values,
        hidden_states=output.hidden_states,
        attentions=output.attentions,
        cross_attentions=output.cross_attentions,
        mask=output.mask,
    )


def resolve_text(parts: dict[str, dict[str, Any]], inputs: ModelInputs) -> tuple[Cache | None, bool | None]:
    """Puts the positions of flattened rows into the text's arguments; returns the KV cache and whether to make one:
    unless asked, not for flattened rows, of which only the last could be continued."""
    changed, starts = resolve_flattened_rows(inputs)
    parts["text"] |= changed
    cache, use_cache = inputs.get("past_key_values"), inputs.get("use_cache")
    return cache, False if starts is not None and use_cache is None else use_cache


NO_DECODER_TEXT = (
    "the decoder has no text: pass decoder_input_ids, or labels, from which they are built (a Trainer with "
    "label_smoothing_factor withholds the labels: use PlaitTrainer, or DataCollatorForSeq2Seq with model=...)"
)
# what a model without a decoder does not take
ENCODER_UNUSED = (*DecoderInputs.__annotations__, *CacheInputs.__annotations__, *FlattenedInputs.__annotations__)
# the decoder's arguments without their prefix, which tells them from those of a text tower
DECODER_TEXT_INPUTS = tuple(name.removeprefix("decoder_") for name in DecoderInputs.__annotations__)
