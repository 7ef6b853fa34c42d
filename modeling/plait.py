"""The model without a head: towers -> connectors -> fusion (-> decoder)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, DynamicCache
from transformers.utils.generic import can_return_tuple

from ..configuration import PlaitConfig, width_of
from .connectors import connector_of
from .fusion import Fusion, Stream, fusion_of
from .outputs import LayerChoice, PlaitModelOutput, TowerOutput
from .pooling import POOLINGS
from .present import image_items, scatter_rows, text_rows
from .pretrained import PlaitPreTrainedModel
from .towers import TOWERS
from .wrapped import WrappedTower


def tower_of(config: PreTrainedConfig, modality: str) -> nn.Module:
    """The native tower of a plait config; any other transformers model is wrapped."""
    if type(config) in TOWERS:
        return TOWERS[type(config)](config)
    return WrappedTower(config, modality)


class PlaitModel(PlaitPreTrainedModel):
    """Towers, connectors and fusion; of one strand, the tower alone.

    Loads the folder of every plait class, and every published checkpoint of a known family.
    """

    def __init__(self, config: PlaitConfig) -> None:
        super().__init__(config)
        if config.decoder_config is not None and config.encoders:
            raise ValueError("a decoder beside towers needs a generating class, and this version of plait has none")
        self.towers = nn.ModuleDict({name: tower_of(part, name) for name, part in config.encoders.items()})
        self.decoder = None if config.decoder_config is None else tower_of(config.decoder_config, "text")
        self.connectors = nn.ModuleDict()
        self.fusion: Fusion | None = None
        if config.fusion_config is not None:
            fusion, encoders = config.fusion_config, config.encoders
            self.connectors.update(
                {name: connector_of(fusion, width_of(part, name)) for name, part in encoders.items()}
            )
            self.fusion = fusion_of(fusion, tuple(encoders))
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_present: Tensor | None = None,
        image_indices: Tensor | None = None,
        encoder_outputs: Mapping[str, Any] | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: LayerChoice | None = None,
    ) -> PlaitModelOutput:
        """Any mix of modalities to one stream of tokens.

        Args:
            input_ids, attention_mask, token_type_ids, position_ids: (batch, length); a row whose mask is all 0 has no
                text. inputs_embeds: (batch, length, width) in the place of input_ids.
            pixel_values: (batch, images, channels, height, width); 4-D is one image a row. image_present: (batch,
                images), False where a row has no such image.
            image_indices: (batch, images), then pixel_values is (pictures, channels, height, width) and each row names
                its pictures by number, -1 for none: rows that share a picture encode it once.
            encoder_outputs: what `encode` returned, by modality: that tower is not run again.

        Raises:
            ValueError: an input without a tower, or a row with no modality at all.
        """
        text = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        text |= {"position_ids": position_ids, "inputs_embeds": inputs_embeds}
        image = {"pixel_values": pixel_values, "image_present": image_present, "image_indices": image_indices}
        recorded = self.recorded(output_attentions, output_hidden_states)
        if self.decoder is not None:
            if pixel_values is not None or encoder_outputs:
                raise ValueError("this model is a decoder alone: it reads text, and no image or encoder outputs")
            return self.decode(self.decoder, text, past_key_values, use_cache, recorded)
        if past_key_values is not None or use_cache:
            raise ValueError("past_key_values and use_cache are for a decoder, and this model has none: leave both out")
        outputs = self.encode_all({"text": text, "image": image}, encoder_outputs, recorded)
        if self.fusion is None:
            (output,) = outputs.values()
            return single_output(output)
        return self.fuse(self.fusion, outputs, recorded)

    def recorded(self, output_attentions: bool | None, output_hidden_states: LayerChoice | None) -> dict[str, Any]:
        """What to record: as asked in the call, else as the config says."""
        asked = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        return {name: getattr(self.config, name) if value is None else value for name, value in asked.items()}

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
        self, inputs: dict[str, dict[str, Any]], given: Mapping[str, Any] | None, recorded: dict[str, Any]
    ) -> dict[str, TowerOutput]:
        """Every modality that the batch holds, encoded; those in `given` are taken as they are."""
        outputs = {name: TowerOutput(**value) for name, value in (given or {}).items()}
        for modality, read in PRESENT.items():
            present = read(**inputs[modality]) if modality in inputs and modality not in outputs else None
            if present is None:
                continue
            if modality not in self.towers:
                names = ", ".join(self.towers) or "none"
                raise ValueError(f"got {modality} inputs, but this model has no {modality} tower (towers: {names})")
            if present.count:
                output = self.towers[modality](**present.inputs, **recorded)
                outputs[modality] = scatter_rows(output, present)
        if not outputs:
            raise ValueError(f"no inputs: this model reads {', '.join(self.towers)}")
        return outputs

    def fuse(self, fusion: Fusion, outputs: dict[str, TowerOutput], recorded: dict[str, Any]) -> PlaitModelOutput:
        """Connect and braid the towers' streams; a modality that the whole batch lacks is a stream of length 0, so that
        its connector still gets a gradient (of zeros) and no distributed run waits for it."""
        streams = {name: Stream(output.last_hidden_state, output.mask.bool()) for name, output in outputs.items()}
        like = next(iter(streams.values())).tokens
        for modality, config in self.config.encoders.items():
            empty = like.new_zeros(len(like), 0, width_of(config, modality))
            stream = streams.get(modality, Stream(empty, empty.new_zeros(empty.shape[:2], dtype=torch.bool)))
            streams[modality] = self.connectors[modality](stream)
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

    def decode(
        self,
        decoder: nn.Module,
        text: dict[str, Any],
        past_key_values: Cache | None,
        use_cache: bool | None,
        recorded: dict[str, Any],
    ) -> PlaitModelOutput:
        """The decoder alone (GPT-style), with its cache."""
        config = self.config.get_text_config()
        use_cache = config.use_cache if use_cache is None else use_cache
        if use_cache and past_key_values is None and not self.training:
            past_key_values = DynamicCache(config=config)
        return single_output(decoder(**text, past_key_values=past_key_values, **recorded))


def single_output(output: TowerOutput) -> PlaitModelOutput:
    """The output of a plait of one strand: its tower's."""
    return PlaitModelOutput(
        last_hidden_state=output.last_hidden_state,
        pooler_output=output.pooler_output,
        past_key_values=output.past_key_values,
        hidden_states=output.hidden_states,
        attentions=output.attentions,
        mask=output.mask,
    )


PRESENT = {"text": text_rows, "image": image_items}
