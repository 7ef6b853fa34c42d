"""The model without a head: towers -> connectors -> fusion (-> decoder)."""

from collections.abc import Mapping
from typing import Any, Unpack, cast

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.utils.generic import can_return_tuple
from transformers.utils.import_utils import is_torchdynamo_compiling

from ...configuration import PlaitConfig, width_of
from ...configuration.modalities import MEDIA, MODALITIES, MODALITY_TABLE
from ..core.distributed import trains_distributed, zero_with_grad
from ..core.pooling import POOLINGS
from ..fusion.base import Fusion, Stream
from ..fusion.connectors import build_connector
from ..fusion.inline import insert_image_tokens
from ..fusion.registry import build_fusion
from ..inputs import (
    MODALITY_INPUTS,
    CacheInputs,
    DecoderInputs,
    ModelInputs,
    OutputOptions,
    expand_signature,
    split_by_modality,
)
from ..outputs import ContextOutput, PlaitModelOutput, TowerOutput
from ..towers.items import gather_items, scatter_items
from ..towers.registry import build_decoder, build_tower
from ..towers.text import TOKEN_EMBEDDING_WEIGHT
from .context import build_context_arguments, check_decoder_rows, check_unused, parse_context
from .image_tokens import count_image_tokens
from .pretrained import PlaitPreTrainedModel

AUDIO_AND_VIDEO_INPUTS = tuple(
    (name, item.name) for name in MEDIA if name != "image" for item in MODALITY_TABLE[name].items
)


class PlaitModel(PlaitPreTrainedModel):
    """Towers, connectors and fusion, and a decoder that reads them; of one strand, the tower or decoder alone.

    Loads the folder of every plait class, and every published checkpoint of a known family.
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
        """Any mix of modalities to one stream of tokens.

        Args:
            input_ids, attention_mask, token_type_ids, position_ids: (batch, length); a row whose mask is all 0 has no
                text. inputs_embeds: (batch, length, width) in the place of input_ids.
            pixel_values: (batch, images, channels, height, width); 4-D is one image a row. image_present: (batch,
                images), False where a row has no such image.
            image_indices: (batch, images), then pixel_values is (pictures, channels, height, width) and each row names
                its pictures by number, -1 for none: rows that share a picture encode it once.
            input_features: (batch, clips, mel bins, frames); input_values: (batch, clips, samples), or (batch, clips,
                frames, mel bins) for a tower of spectrogram patches; without `clips` it is one clip a row.
                audio_present: (batch, clips). input_features_mask, input_values_mask: (batch, clips, frames or
                samples), 1 where the clip is, 0 behind its end.
            pixel_values_videos: (batch, clips, frames, channels, height, width); 5-D is one clip a row. video_present:
                (batch, clips). pixel_values_videos_mask: (batch, clips, frames), 0 behind a clip's last frame.
            encoder_outputs: what `encode` returned, by modality: that tower is not run again. Or, for a decoder that
                reads a context, what `encode_context` returned, or an encoder of transformers (with attention_mask).
            decoder_input_ids and its kin: the decoder's text, where it reads a context; a decoder alone, or with images
                inline, has its text in input_ids.

        Raises:
            ValueError: an input without a tower, a row with no modality at all, no text for the decoder, or image
                tokens that do not fit.
        """
        parts, given, recorded = (
            split_by_modality(inputs),
            inputs.get("encoder_outputs"),
            self.select_output_options(inputs),
        )
        cached = (inputs.get("past_key_values"), inputs.get("use_cache"))
        if self.decoder is None:
            check_unused(inputs, (*DecoderInputs.__annotations__, *CacheInputs.__annotations__), "there is no decoder")
            return self.encode_and_fuse(parts, given, recorded)
        if not self.config.is_encoder_decoder:
            check_unused(inputs, DecoderInputs.__annotations__, "the decoder's text is in input_ids and its kin")
            return self.continue_text(parts, given, *cached, recorded)
        context = self.build_context(parts, given, recorded)
        written = {name: inputs.get(f"decoder_{name}") for name in DECODER_TEXT_INPUTS}
        if written["input_ids"] is None and written["inputs_embeds"] is None:
            raise ValueError("the decoder has no text: pass decoder_input_ids, or labels, of which they are made")
        check_decoder_rows(written, context)
        output = self.decode({**written, **build_context_arguments(context)}, *cached, recorded)
        output.context = context
        return output

    def select_output_options(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """What to record: as asked in the call, else as the config says."""
        asked = {name: inputs.get(name) for name in OutputOptions.__annotations__}
        return {name: getattr(self.config, name) if value is None else value for name, value in asked.items()}

    def encode_and_fuse(
        self, inputs: dict[str, dict[str, Any]], given: Mapping[str, Any] | None, recorded: dict[str, Any]
    ) -> PlaitModelOutput:
        """Towers, connectors and fusion; of one strand the tower's output."""
        outputs = self.encode_all(inputs, given, recorded)
        if self.fusion is None:
            if len(outputs) > 1:
                raise ValueError(f"these towers have no fusion: pass {' or '.join(outputs)}, or use PlaitForRetrieval")
            (output,) = outputs.values()
            return build_single_output(output)
        return self.fuse(self.fusion, outputs, recorded)

    def build_context(
        self, inputs: dict[str, dict[str, Any]], given: Mapping[str, Any] | None, recorded: dict[str, Any]
    ) -> ContextOutput:
        """What the decoder reads: computed, or as it was given."""
        if given is not None and (context := parse_context(given, inputs["text"]["attention_mask"])) is not None:
            return context
        fused = self.encode_and_fuse(inputs, given, recorded)
        return ContextOutput(fused.last_hidden_state, fused.mask, fused.hidden_states, fused.attentions)

    def encode_context(self, **inputs: Any) -> ContextOutput:
        """Run all towers and the fusion on the inputs of `forward` (those of the decoder left out): what a decoder
        reads, (batch, tokens, width), to be passed on as `encoder_outputs`."""
        recorded = {name: inputs.pop(name, None) or False for name in OutputOptions.__annotations__}
        given = inputs.pop("encoder_outputs", None)
        parts = {
            modality: {name: inputs.pop(name, None) for name in names} for modality, names in MODALITY_INPUTS.items()
        }
        if inputs:
            raise TypeError(f"no tower reads {', '.join(sorted(inputs))}")
        return self.build_context(parts, given, recorded)

    def encode(self, modality: str, **inputs: Any) -> TowerOutput:
        """Run one tower on the rows (or pictures) that are there; the inputs are those of `forward`.

        Returns tokens and mask, (batch, length, ...); an absent item has an all-False mask. Raises ValueError when
        there is no such tower or nothing to encode.
        """
        recorded = {name: inputs.pop(name, False) for name in ("output_attentions", "output_hidden_states")}
        output = self.encode_all({modality: inputs}, None, recorded).get(modality)
        if output is None:
            raise ValueError(f"nothing to encode: no {modality} in {sorted(inputs)}")
        return output

    def encode_all(
        self,
        inputs: dict[str, dict[str, Any]],
        given: Mapping[str, Any] | None,
        recorded: dict[str, Any],
        optional: bool = False,
    ) -> dict[str, TowerOutput]:
        """Every modality that the batch holds, encoded; those in `given` are taken as they are. Nothing at all is a
        ValueError, unless that is `optional`."""
        outputs = {name: TowerOutput(**value) for name, value in (given or {}).items()}
        for modality in MODALITIES:
            own = {name: value for name, value in inputs.get(modality, {}).items() if value is not None}
            if own and modality not in outputs:
                output = self.encode_tower(modality, modality, own, recorded)
                outputs |= {} if output is None else {modality: output}
        if not outputs and not optional:
            raise ValueError(f"no inputs: this model reads {', '.join(self.towers)}")
        return outputs

    def collect_item_options(self, tower: str, modality: str) -> dict[str, Any]:
        """How many dimensions a clip has, which the tower alone tells: samples, or frames of a spectrogram."""
        known = modality == "audio" and tower in self.towers
        return {"dimensions": self.get_encoder(tower).item_dimensions} if known else {}

    def encode_tower(
        self, tower: str, modality: str, inputs: Mapping[str, Any], recorded: Mapping[str, Any]
    ) -> TowerOutput | None:
        """What the tower of that name makes of a modality's inputs; None where nothing is there.

        Raises ValueError where there is something, and no such tower.
        """
        present = gather_items(modality, inputs, **self.collect_item_options(tower, modality))
        if present is None:
            return None
        if tower not in self.towers:
            names = ", ".join(self.towers) or "none"
            raise ValueError(f"got {modality} inputs, but this model has no {tower} tower (towers: {names})")
        return scatter_items(self.towers[tower](**present.inputs, **recorded), present.slots) if present.count else None

    def fuse(self, fusion: Fusion, outputs: dict[str, TowerOutput], recorded: dict[str, Any]) -> PlaitModelOutput:
        """Connects and fuses the towers' streams."""
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
            mask=fused.mask.long(),
            encoder_outputs=outputs,
        )

    def build_empty_stream(self, modality: str, like: Tensor) -> Stream:
        """Returns the stream, of length 0, of a modality that the whole batch of `like` lacks: its connector still gets
        a gradient (of zeros), as does its tower where other processes may run theirs, so that none waits for the
        other."""
        tokens = like.new_zeros(len(like), 0, cast("Any", self.connectors[modality]).input_size)
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
        """The decoder over its own text (GPT-style), with images among it where there is an image tower."""
        text, begun = inputs["text"], past_key_values is not None and past_key_values.get_seq_length() > 0
        shown = bool(given) or inputs["image"]["pixel_values"] is not None
        if shown and not self.config.inline or has_audio_or_video(inputs):
            raise ValueError("this model is a decoder alone: it reads text, no image, audio, video or encoder outputs")
        if self.config.inline and text["input_ids"] is not None and not begun:
            text = self.insert_images(text, inputs["image"], given)
        elif shown or self.has_new_image_tokens(text["input_ids"]):
            raise ValueError(
                "images take the place of image tokens: pass input_ids, and the images with the prompt; of a text that "
                "goes on behind cached tokens pass the whole, with all its images and without past_key_values"
            )
        return self.decode(text, past_key_values, use_cache, recorded)

    def has_new_image_tokens(self, input_ids: Tensor | None) -> bool:
        """Whether a text that goes on behind cached tokens has image tokens. (A single token was written by the model,
        which writes none.)"""
        if not self.config.inline or input_ids is None or input_ids.shape[1] == 1 or is_torchdynamo_compiling():
            return False
        return bool((input_ids == self.config.image_token_id).any())

    def insert_images(
        self, text: dict[str, Any], image: dict[str, Any], given: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """The text's inputs, the tokens of its images put in."""
        places = text["input_ids"] == self.config.image_token_id
        mask = text["attention_mask"]  # one for each kind of layer, with a static cache
        if isinstance(mask, Tensor) and mask.ndim == 2:
            places &= mask[:, -places.shape[1] :].bool()
        outputs = self.encode_all({"image": image}, given, {}, optional=True)
        if "image" not in outputs:
            if bool(places.any()):
                row = int(places.any(dim=1).nonzero()[0])
                raise ValueError(f"row {row} has image tokens in its text, but there are no images: pass pixel_values")
            return text
        tower = outputs["image"]
        if len(tower.mask) != len(places):
            raise ValueError(f"images of {len(tower.mask)} rows beside texts of {len(places)}: every row has its own")
        stream = self.connectors["image"](Stream(tower.last_hidden_state, tower.mask.bool()))
        embeds = self.get_input_embeddings()(text["input_ids"])
        each = tower.item_length or tower.mask.shape[1]
        inline = insert_image_tokens(embeds, places, stream, tower.mask.shape[1] // each)
        blocks = {"blocks": inline.blocks} if self.config.bidirectional_images else {}
        return {**text, "input_ids": None, "inputs_embeds": inline.embeds, **blocks}

    def decode(
        self, inputs: dict[str, Any], past_key_values: Cache | None, use_cache: bool | None, recorded: dict[str, Any]
    ) -> PlaitModelOutput:
        """The decoder, with its cache."""
        config, decoder = self.config.get_text_config(), cast("Any", self.decoder)
        use_cache = getattr(config, "use_cache", False) if use_cache is None else use_cache
        if use_cache and decoder.keeps_cache and past_key_values is None and not self.training:
            past_key_values = DynamicCache(config=config)
            if self.config.is_encoder_decoder:
                past_key_values = EncoderDecoderCache(past_key_values, DynamicCache())
        return build_single_output(decoder(**inputs, past_key_values=past_key_values, **recorded))

    @property
    def num_image_tokens(self) -> int:
        """How many tokens one picture of the tower's own size has behind its connector: what the processor puts into a
        text for an image token. Raises ValueError where there is no image tower, or none with an `image_size`."""
        return count_image_tokens(self.config)

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        """The tower of that modality; where none is named, the first."""
        return self.towers[modality or next(iter(self.towers))]


def has_audio_or_video(inputs: Mapping[str, Mapping[str, Any]]) -> bool:
    """Returns whether any audio or video is among the inputs."""
    return any(inputs[modality][name] is not None for modality, name in AUDIO_AND_VIDEO_INPUTS)


def build_single_output(output: TowerOutput) -> PlaitModelOutput:
    """The output of a plait of one strand: its tower's."""
    return PlaitModelOutput(
        last_hidden_state=output.last_hidden_state,
        pooler_output=output.pooler_output,
        past_key_values=output.past_key_values,
        hidden_states=output.hidden_states,
        attentions=output.attentions,
        cross_attentions=output.cross_attentions,
        mask=output.mask,
    )


# the decoder's arguments, without the prefix that they have beside those of a text tower
DECODER_TEXT_INPUTS = tuple(name.removeprefix("decoder_") for name in DecoderInputs.__annotations__)
