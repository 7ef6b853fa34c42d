"""The part of the matrix with a decoder: every encoder family x every decoder family.

A decoder that the core knows reads the tower through cross-attention (`PlaitForConditionalGeneration`); a wrapped one,
which has none, has the picture among its text (`PlaitForCausalLM`), so it meets the image families alone.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers as hf
from torch import Tensor
from zoo import CAUSAL, IMAGES, LLAMA, OPT, PIXELS, TEXTS, VOCABULARY, Family, drawn

from plait import PlaitForCausalLM, PlaitForConditionalGeneration

BLOOM = {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2}
NATIVE = ("bert", "roberta", "gpt2", "gpt-neo", "llama", "mistral", "qwen2", "qwen3", "bart")
DECODERS = (
    *(family for family in TEXTS if family.name in (*NATIVE, "gpt-neox")),
    Family("opt", "opt", {**OPT, "max_position_embeddings": 80}, native=False),
    Family("gemma", "gemma", {**LLAMA, "head_dim": 8}, native=False),
    Family("phi", "phi", CAUSAL, native=False),
    Family("bloom", "bloom", {**BLOOM, "pad_token_id": 0}, native=False),
)
GREEDY = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}


class Writing(NamedTuple):
    """What is composed: a tower and the decoder that reads it."""

    encoder: Family
    decoder: Family

    def __str__(self) -> str:
        return f"{self.encoder.name} -> {self.decoder.name}"

    @property
    def shows(self) -> bool:
        """Whether the tower reads pictures."""
        return self.encoder in IMAGES


def writings_of(sample: int | None) -> list[Writing]:
    """All pairs, or a sample: each encoder meets `sample` decoders."""
    encoders = (*TEXTS, *IMAGES)
    every = [Writing(a, b) for a in encoders for b in DECODERS if b.native or a in IMAGES]
    if sample is None:
        return every
    rows = [[cell for cell in every if cell.encoder is encoder] for encoder in encoders]
    return [row[(number + step) % len(row)] for number, row in enumerate(rows) for step in range(min(sample, len(row)))]


def decoder_source(family: Family, folder: Path) -> str:
    """A checkpoint of the family with its head."""
    config = hf.AutoConfig.for_model(family.model_type, **family.fields)
    if family.name in ("bert", "roberta"):
        model = hf.AutoModelForMaskedLM.from_config(config)
    elif family.name == "bart":
        model = hf.AutoModelForSeq2SeqLM.from_config(config)
    else:
        model = hf.AutoModelForCausalLM.from_config(config)
    drawn(model).save_pretrained(folder)
    return str(folder)


def composed(cell: Writing, sources: dict[str, Any], decoders: dict[str, str]) -> Any:
    tower = {"image" if cell.shows else "text": sources[cell.encoder.name]}
    model_class = PlaitForConditionalGeneration if cell.decoder.native else PlaitForCausalLM
    tokens = {"decoder_start_token_id": 1, "eos_token_id": 2} if cell.decoder.name == "bert" else {}
    return model_class.compose(**tower, decoder=decoders[cell.decoder.name], verbose=False, **tokens)


def inputs_of(cell: Writing, model: Any) -> dict[str, Tensor]:
    """Three rows for `generate`: padded texts, or a picture each (with its tokens, where they stand in the text)."""
    generator = torch.Generator().manual_seed(0)
    if not cell.shows:
        mask = torch.tensor([[1] * 9, [1] * 5 + [0] * 4, [1] * 9])
        ids = torch.randint(3, VOCABULARY - 1, (3, 9), generator=generator)
        return {"input_ids": ids, "attention_mask": mask}
    inputs = {"pixel_values": torch.randn(3, 1, 3, PIXELS, PIXELS, generator=generator)}
    if not cell.decoder.native:
        with torch.no_grad():
            count = model.model.encode("image", **inputs).mask.shape[1]
        image = torch.full((3, count), model.config.image_token_id)
        inputs["input_ids"] = torch.cat((image, torch.randint(3, VOCABULARY, (3, 4), generator=generator)), dim=1)
    return inputs


def labelled(cell: Writing, model: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same rows for training."""
    if cell.decoder.native:
        return {**inputs, "labels": torch.tensor([[5, 9, 7, 3], [8, 4, 3, -100], [6, 3, -100, -100]])}
    shown = inputs["input_ids"] == model.config.image_token_id
    return {**inputs, "labels": inputs["input_ids"].masked_fill(shown, -100)}


def check_generation(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """The same text with and without a cache."""
    text = model.eval().generate(**inputs, **GREEDY)
    assert torch.equal(text, model.generate(**inputs, **GREEDY, use_cache=False)), "the cache changes the text"
    return text
