"""Tiny encoder-decoders of transformers with weights of size, saved to disk, and what the tests of them share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

from .text_models import Saved

STACKS = {"encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 48}
STACKS |= {"decoder_layers": 3, "decoder_attention_heads": 2, "decoder_ffn_dim": 40}
BART = {"vocab_size": 60, "d_model": 32, "max_position_embeddings": 24, **STACKS}
WHISPER = {"vocab_size": 60, "d_model": 32, "num_mel_bins": 8, "max_source_positions": 12, **STACKS}
WHISPER |= {"max_target_positions": 20, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
WHISPER |= {"decoder_start_token_id": 1, "suppress_tokens": None, "begin_suppress_tokens": None}


def bart(head: str = "ForConditionalGeneration", **options: Any) -> hf.PreTrainedModel:
    return getattr(hf, f"Bart{head}")(hf.BartConfig(**(BART | options)))


def whisper(head: str = "ForConditionalGeneration", **options: Any) -> hf.PreTrainedModel:
    return getattr(hf, f"Whisper{head}")(hf.WhisperConfig(**(WHISPER | options)))


MODELS: dict[str, Callable[[], hf.PreTrainedModel]] = {
    "bart": bart,
    "bart-untied": lambda: bart(tie_word_embeddings=False, activation_function="relu"),
    "bart-scaled": lambda: bart(scale_embedding=True, activation_function="gelu_new"),
    "whisper": whisper,
    "whisper-untied": lambda: whisper(tie_word_embeddings=False, activation_function="relu"),
}
# what transformers saves and never reads: of embeddings that are not tied, the table that would be shared
UNUSED = ("bart-untied", "model.shared.weight")


def save(model: hf.PreTrainedModel, folder: Path) -> Saved:
    """A model with every tensor drawn at std 0.2, from one seed, in a folder."""
    torch.manual_seed(1)
    for tensor in model.state_dict().values():
        nn.init.normal_(tensor, std=0.2)
    model.eval().save_pretrained(folder)
    return Saved(model, folder)


def sources_of(name: str) -> dict[str, Tensor]:
    """What the encoder reads: padded texts of 7, 12 and 4 tokens, or three clips."""
    generator = torch.Generator().manual_seed(1)
    if name.startswith("whisper"):
        return {"input_features": torch.randn(3, 8, 24, generator=generator)}
    mask = (torch.arange(12) < torch.tensor([7, 12, 4])[:, None]).long()
    ids = torch.randint(5, 60, (3, 12), generator=generator)
    return {"input_ids": ids * mask + 1 - mask, "attention_mask": mask}


def texts_of(name: str, side: str = "right") -> dict[str, Tensor]:
    """What the decoder reads: padded texts of 5, 9 and 2 tokens."""
    mask = (torch.arange(9) < torch.tensor([5, 9, 2])[:, None]).long()
    mask = mask.flip(1) if side == "left" else mask
    ids = torch.randint(5, 60, (3, 9), generator=torch.Generator().manual_seed(2))
    return {"decoder_input_ids": ids * mask + 1 - mask, "decoder_attention_mask": mask}


@torch.no_grad()
def outputs_of(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Logits, and the hidden states of both components, zeros where there is padding."""
    outputs = model(**inputs, output_hidden_states=True)
    padding = ~inputs["decoder_attention_mask"][..., None].bool()
    tensors = {f"decoder.{number}": state for number, state in enumerate(outputs.decoder_hidden_states)}
    tensors["logits"] = outputs.logits
    tensors = {key: tensor.masked_fill(padding, 0) for key, tensor in tensors.items()}
    states = {f"encoder.{number}": state for number, state in enumerate(outputs.encoder_hidden_states)}
    states["encoder"] = outputs.encoder_last_hidden_state
    if "attention_mask" in inputs:
        padding = ~inputs["attention_mask"][..., None].bool()
        states = {key: state.masked_fill(padding, 0) for key, state in states.items()}
    return tensors | states
