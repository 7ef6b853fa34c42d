"""Causal language modelling: a decoder alone, or with images among its text."""

from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin
from transformers.masking_utils import create_masks_for_generate
from transformers.utils.generic import can_return_tuple

from ...configuration import PlaitConfig
from ..backbone.image_tokens import count_image_tokens
from ..backbone.model import PlaitModel
from ..backbone.pretrained import PlaitPreTrainedModel
from ..generation.mixin import PlaitGenerationMixin
from ..heads.language_model import LanguageModelHead, add_lm_head, check_decoder_config, shift_labels_left
from ..inputs import MODALITY_INPUTS, CausalLMInputs, expand_signature
from ..outputs import PlaitCausalLMOutput, TowerOutput


class PlaitForCausalLM(LanguageModelHead, PlaitGenerationMixin, PlaitPreTrainedModel, GenerationMixin):
    """Writes text (GPT-style); with an image tower, text in which images stand in the place of image tokens (LLaVA).

    Raises:
        ValueError: no decoder, or one that reads a context: that is `PlaitForConditionalGeneration`.
    """

    decoder_kind = "inline"

    def __init__(self, config: PlaitConfig) -> None:
        super().__init__(config)
        check_decoder_config(config, type(self).__name__, reads_context=False)
        self.model = PlaitModel(config)
        add_lm_head(self)
        self.post_init()

    @property
    def num_image_tokens(self) -> int:
        """How many tokens one picture has in the text: see `PlaitModel`."""
        return self.model.num_image_tokens

    def set_image_token_id(self, token_id: int) -> None:
        """Make this the token in whose place images stand: `processor.image_token_id`. The vocabulary grows to hold it.

        Raises ValueError for a model that reads no images, or no token.
        """
        if not self.config.inline or token_id is None or token_id < 0:
            raise ValueError(f"image_token_id {token_id}: a model with images in its text, and a token, are needed")
        if token_id >= len(self.get_input_embeddings().get_parameter("weight")):
            self.resize_token_embeddings(token_id + 1)
        self.config.image_token_id = token_id

    def agree_with(self, processor: Any) -> None:
        """Settle with a `PlaitProcessor` that has an image token how pictures stand in a text: its `num_image_tokens`
        becomes what the model gives for a picture of the size that the processor makes (which may differ from the
        tower's own `image_size`), and the model's `image_token_id` its image token. Save both afterwards.

        Raises ValueError for a model that reads no images among its text, or a processor without an image token.
        """
        self.set_image_token_id(processor.image_token_id)
        picture = processor(images=[np.zeros((64, 64, 3), dtype=np.uint8)], return_tensors="pt")["pixel_values"]
        processor.num_image_tokens = count_image_tokens(self.config, tuple(picture.shape[-2:]))

    def generate(
        self, inputs: Tensor | None = None, generation_config: GenerationConfig | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """transformers' `generate`; the image tower runs once, whatever the number of beams or returned sequences."""
        kwargs["generation_config"] = generation_config
        image = {name: kwargs.pop(name) for name in MODALITY_INPUTS["image"] if name in kwargs}
        if image.get("pixel_values") is not None:
            if self.find_option("prefill_chunk_size", kwargs):
                raise ValueError("prefill_chunk_size cuts a prompt into parts, and its images with it: leave it out")
            with torch.no_grad():
                kwargs["encoder_outputs"] = {"image": self.model.encode("image", **image)}
        if self.config.inline:  # an image token stands for an image: the model cannot write one
            kwargs["suppress_tokens"] = [
                *(self.find_option("suppress_tokens", kwargs) or ()),
                self.config.image_token_id,
            ]
        library: Any = super()
        with self.use_decode_step():
            return library.generate(inputs, kwargs.pop("generation_config"), *args, **kwargs)

    def _expand_inputs_for_generation(self, expand_size: int = 1, **kwargs: Any) -> tuple[Tensor, dict[str, Any]]:
        given = kwargs.get("encoder_outputs")
        if given and expand_size > 1:
            kwargs["encoder_outputs"] = {name: repeat_rows(output, expand_size) for name, output in given.items()}
        library: Any = super()
        return library._expand_inputs_for_generation(expand_size, **kwargs)

    def create_masks_for_generate(self, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        """The masks for a static cache; where tokens of an image see each other, `forward` makes them."""
        if self.config.inline and self.config.bidirectional_images:
            return attention_mask
        return create_masks_for_generate(attention_mask=attention_mask, **kwargs)

    @can_return_tuple
    @expand_signature
    def forward(
        self,
        *,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | int | None = None,
        **inputs: Unpack[CausalLMInputs],
    ) -> PlaitCausalLMOutput:
        """Inputs as in `PlaitModel`.

        Args:
            labels: (batch, length), the input ids, -100 where nothing is to be predicted; they are shifted here.
            shift_labels: (batch, length), labels that are shifted already, in their place.
            logits_to_keep: logits of so many last positions alone (0: of all), or of the positions in a tensor.
            num_items_in_batch: divides the summed loss in the place of the number of labels (gradient accumulation).
            label_smoothing: of the loss.
        """
        targets, smoothing = inputs.pop("shift_labels", None), inputs.pop("label_smoothing", 0.0)
        if targets is None and labels is not None:
            targets = shift_labels_left(labels)
        if targets is not None:
            inputs["use_cache"] = False
        elif (step := self.compute_step_logits(inputs)) is not None:
            return PlaitCausalLMOutput(logits=step, past_key_values=inputs.get("past_key_values"))
        asked = (logits_to_keep, num_items_in_batch, smoothing)
        loss, logits, outputs = self.predict_tokens(inputs, targets, *asked)
        return PlaitCausalLMOutput(loss, logits, outputs.past_key_values, outputs.hidden_states, outputs.attentions)


def repeat_rows(output: TowerOutput, times: int) -> TowerOutput:
    """A tower's output with every row so many times in a row."""
    tensors = {name: value for name, value in output.items() if isinstance(value, Tensor)}
    return TowerOutput(**{**output, **{name: value.repeat_interleave(times, 0) for name, value in tensors.items()}})
