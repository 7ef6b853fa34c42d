"""Causal language modelling: a decoder alone, or with images inside its text."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin
from transformers.masking_utils import create_masks_for_generate
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils.generic import can_return_tuple

from ...configuration import PlaitConfig
from ..backbone.image_tokens import count_image_tokens
from ..backbone.model import PlaitModel
from ..backbone.pretrained import PlaitPreTrainedModel
from ..core.positions import resolve_flattened_rows
from ..generation.continuing import count_cached_tokens, is_whole_text
from ..generation.mixin import PlaitGenerationMixin
from ..heads.language_model import LanguageModelHead, add_lm_head, check_decoder_config, shift_labels_left
from ..inputs import MODALITY_INPUTS, CausalLMInputs, expand_signature
from ..losses.cross_entropy import IGNORE_INDEX
from ..outputs import PlaitCausalLMOutput, TowerOutput


class PlaitForCausalLM(LanguageModelHead, PlaitGenerationMixin, PlaitPreTrainedModel, GenerationMixin):
    """A causal language model (GPT-style), which continues a text; with an image tower, a text in which image
    embeddings replace image tokens (LLaVA).

    Raises:
        ValueError: no decoder, or a decoder that cross-attends to a context (use `PlaitForConditionalGeneration`).
    """

    decoder_kind = "inline"
    # set only in an assistant model during `generate`: the outputs of its own image tower, empty without one
    assistant_images: dict[str, TowerOutput] | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        register_causal_name(cls.__name__)

    def __init__(self, config: PlaitConfig) -> None:
        super().__init__(config)
        check_decoder_config(config, type(self).__name__, reads_context=False)
        self.loss_type = "ForCausalLM"  # of a derived class too: by it the Trainer counts shifted labels
        self.model = PlaitModel(config)
        add_lm_head(self)
        self.post_init()

    @property
    def num_image_tokens(self) -> int:
        """The number of tokens of one image in the text: see `PlaitModel.num_image_tokens`."""
        return self.model.num_image_tokens

    def set_image_token_id(self, token_id: int) -> None:
        """Sets the token that image embeddings replace, usually `processor.image_token_id`, and extends the vocabulary
        to hold it.

        Raises ValueError for a model that reads no images, or a token id that is None or negative.
        """
        if not self.config.inline or token_id is None or token_id < 0:
            raise ValueError(
                f"cannot set image_token_id {token_id}: a model with images in its text, and a token id of 0 or "
                "more, are needed"
            )
        if token_id >= self.config.get_text_config().vocab_size:
            self.resize_token_embeddings(token_id + 1)
        self.config.image_token_id = token_id

    def agree_with(self, processor: Any) -> None:
        """Makes the model and a `PlaitProcessor` agree on images inside a text. The processor's `num_image_tokens`
        becomes the model's number of tokens for an image of the size that the processor makes (which may differ from
        the tower's `image_size`); the model's `image_token_id` becomes the processor's. Save both afterwards.

        Raises ValueError for a model without images inside its text, or a processor without an image token.
        """
        self.set_image_token_id(processor.image_token_id)
        pixel_values = processor(images=[np.zeros((64, 64, 3), dtype=np.uint8)], return_tensors="pt")["pixel_values"]
        processor.num_image_tokens = count_image_tokens(self.config, tuple(pixel_values.shape[-2:]))

    def select_targets(self, inputs: Mapping[str, Any]) -> Tensor | None:
        """Returns `shift_labels`, or the labels at the positions that predict them, (batch, length): -100 also where no
        token comes before, as at the beginning of a flattened row, and for image tokens, which stand for embeddings."""
        targets, labels, ids = (inputs.get(name) for name in ("shift_labels", "labels", "input_ids"))
        if targets is None and labels is not None:
            _, starts = resolve_flattened_rows(inputs)
            known = labels if starts is None else labels.masked_fill(starts.to(labels.device), IGNORE_INDEX)
            targets = shift_labels_left(known)
        if targets is None or not self.config.inline:
            return targets
        images = targets == self.config.image_token_id
        if ids is not None and ids.shape == targets.shape:
            images |= (shift_labels_left(ids) == self.config.image_token_id).to(images.device)
        return targets.masked_fill(images, IGNORE_INDEX)

    def generate(
        self, inputs: Tensor | None = None, generation_config: GenerationConfig | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Generates text by transformers' `generate`; the image tower runs once for any number of beams or sequences.

        Raises ValueError for images with `prefill_chunk_size`, or flattened rows.
        """
        if resolve_flattened_rows({"input_ids": inputs, **kwargs})[1] is not None:
            raise ValueError("generate cannot continue flattened rows, only padded ones: pad the rows on the left")
        kwargs["generation_config"] = generation_config
        self.check_generation({"input_ids": inputs, **kwargs})
        image = {name: kwargs.pop(name) for name in MODALITY_INPUTS["image"] if name in kwargs}
        new = self.select_new_tokens(inputs, kwargs)
        if self.config.inline and new is not None and not bool((new == self.config.image_token_id).any()):
            image = {}  # its tokens are in the cache
            kwargs.pop("encoder_outputs", None)
        assistant = use_assistant_images(kwargs.get("assistant_model"), image, kwargs.get("encoder_outputs"))
        if image.get("pixel_values") is not None:
            if self.find_option("prefill_chunk_size", kwargs):
                raise ValueError("prefill_chunk_size cuts a prompt, and the images inside it, into parts: leave it out")
            with torch.no_grad():
                kwargs["encoder_outputs"] = {"image": self.model.encode("image", **image)}
        if self.assistant_images is not None:  # not those of the model that it assists
            kwargs["encoder_outputs"] = self.assistant_images or None
        if self.config.inline:  # an image token stands for an image, which the model cannot generate
            kwargs["suppress_tokens"] = [
                *(self.find_option("suppress_tokens", kwargs) or ()),
                self.config.image_token_id,
            ]
        library: Any = super()
        with self.use_decode_step(), assistant:
            return library.generate(inputs, kwargs.pop("generation_config"), *args, **kwargs)

    def select_new_tokens(self, inputs: Tensor | None, kwargs: Mapping[str, Any]) -> Tensor | None:
        """Returns the token ids of the arguments of `generate` that are not in the cache; None without a cache, or for
        embeddings. Raises ValueError as `is_whole_text` does."""
        cache, mask = kwargs.get("past_key_values"), kwargs.get("attention_mask")
        ids, embeds = kwargs.get("input_ids") if inputs is None else inputs, kwargs.get("inputs_embeds")
        text = ids if embeds is None else embeds
        if not (cached := count_cached_tokens(cache)) or text is None:
            return None
        whole = is_whole_text(text, mask, cache)
        return None if text is embeds else text[:, cached:] if whole else text

    def _expand_inputs_for_generation(self, expand_size: int = 1, **kwargs: Any) -> tuple[Tensor, dict[str, Any]]:
        given = kwargs.get("encoder_outputs")
        if given and expand_size > 1:
            kwargs["encoder_outputs"] = {name: repeat_rows(output, expand_size) for name, output in given.items()}
        library: Any = super()
        return library._expand_inputs_for_generation(expand_size, **kwargs)

    def create_masks_for_generate(self, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        """Makes the masks of a static cache; for `bidirectional_images`, `forward` does so from the 2-D mask."""
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
        """Predicts the next token at each position. Takes the inputs of `PlaitModel`.

        Args:
            labels: (batch, length), the input ids, -100 where nothing is to be predicted; they are shifted here. Image
                tokens are never targets (a plain Trainer counts them in num_items_in_batch; PlaitTrainer does not).
            shift_labels: (batch, length), already shifted labels, in place of `labels`.
            logits_to_keep: the number of last positions to compute logits for (0: all), or a tensor of positions.
            num_items_in_batch: divides the summed loss, in place of the number of labels (gradient accumulation).
            label_smoothing: of the loss (0..1).
        """
        targets, smoothing = self.select_targets({**inputs, "labels": labels}), inputs.pop("label_smoothing", 0.0)
        inputs.pop("shift_labels", None)
        if targets is not None:
            inputs["use_cache"] = False
        elif (step := self.compute_step_logits(inputs)) is not None:
            return PlaitCausalLMOutput(logits=step, past_key_values=inputs.get("past_key_values"))
        options = (logits_to_keep, num_items_in_batch, smoothing)
        loss, logits, outputs = self.predict_tokens(inputs, targets, *options)
        return PlaitCausalLMOutput(loss, logits, outputs.past_key_values, outputs.hidden_states, outputs.attentions)


@contextmanager
def use_assistant_images(assistant: Any, image: Mapping[str, Any], given: Any) -> Iterator[None]:
    """Encodes the images by the assistant model's own tower, and keeps the result in it inside this block.

    Raises ValueError for an assistant with an image tower and images that are encoded already (`given`).
    """
    if not isinstance(assistant, PlaitForCausalLM):
        yield
        return
    if assistant.config.inline and given:
        raise ValueError("assistant_model has an image tower of its own: pass pixel_values instead of encoder_outputs")
    with torch.no_grad():
        reads = assistant.config.inline and image.get("pixel_values") is not None
        assistant.assistant_images = {"image": assistant.model.encode("image", **image)} if reads else {}
    try:
        yield
    finally:
        assistant.assistant_images = None


def register_causal_name(name: str) -> None:
    """Tells transformers' Trainer that the labels of the class of this name are shifted: with label_smoothing_factor it
    computes the loss itself, and shifts labels for these names alone."""
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[f"plait {name}"] = name


register_causal_name(PlaitForCausalLM.__name__)


def repeat_rows(output: TowerOutput, times: int) -> TowerOutput:
    """Repeats every row of a tower's output `times` times; copies of a row are adjacent."""
    tensors = {name: value for name, value in output.items() if isinstance(value, Tensor)}
    return TowerOutput(**{**output, **{name: value.repeat_interleave(times, 0) for name, value in tensors.items()}})
