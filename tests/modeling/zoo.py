"""Tiny models of every class and shape, with inputs: what the contract tests run over."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from plait import (
    PlaitConfig,
    PlaitForCausalLM,
    PlaitForClassification,
    PlaitForConditionalGeneration,
    PlaitForMaskedLM,
    PlaitForPreTraining,
    PlaitForQuestionAnswering,
    PlaitForRetrieval,
    PlaitModel,
)
from plait.modeling import PlaitPreTrainedModel

TEXT = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0}
TEXT |= {"norm_position": "post", "input_norm": True, "output_norm": False, "type_vocab_size": 2}
IMAGE = {"image_size": 16, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
DECODER = {
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "norm_type": "rms_norm",
}
DECODER |= {"gated_mlp": True, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}, "position_type": "none"}
FUSION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def fused(strategy: str, **fields: object) -> dict[str, object]:
    fusion = {**FUSION, "strategy": strategy, **fields}
    return {"text_config": dict(TEXT), "vision_config": {**IMAGE, "hidden_size": 48}, "fusion_config": fusion}


CONFIGS: dict[str, dict[str, object]] = {
    "text": {"text_config": {**TEXT, "pooling": "first", "pooler_size": 32, "pooler_act": "tanh"}},
    "image": {"vision_config": {**IMAGE, "pooling": "first"}},
    "decoder": {"decoder_config": {**DECODER, "pooling": "last"}},
    "early": fused("early"),
    "late": fused("late"),
    "cross_attention": fused("cross_attention", query="text"),
    "resampled": fused("early", connector="resampler", num_queries=3, resampler_layers=1),
    "translator": {"text_config": dict(TEXT), "decoder_config": {**DECODER, "cross_attention": True}},
    "captioner": {
        "vision_config": {**IMAGE, "hidden_size": 48},
        "decoder_config": {**DECODER, "cross_attention": True, "context_size": 16},
        "fusion_config": {**FUSION, "strategy": "concatenate", "hidden_size": 16},
    },
    "reader": {
        **fused("early"),
        "decoder_config": {
            **DECODER,
            "cross_attention": True,
            "cross_attention_layers": [1],
            "gated_cross_attention": True,
        },
    },
    "inline": {
        "vision_config": {**IMAGE, "hidden_size": 48},
        "decoder_config": dict(DECODER),
        "fusion_config": {**FUSION, "strategy": "inline"},
        "image_token_id": 39,
        "bidirectional_images": True,
    },
    "apart": {
        "text_config": {**TEXT, "pooling": "mean"},
        "vision_config": {**IMAGE, "hidden_size": 48, "pooling": "first"},
        "retrieval_config": {"projection_dim": 24},
    },
    "documents": {
        "text_config": {**TEXT, "pooling": "mean"},
        "retrieval_config": {"projection_dim": 24, "document": "text", "loss": "sigmoid"},
    },
}
APART = ("apart", "documents")
CONTEXT_SHAPES = ("translator", "captioner", "reader")
GENERATING = {"PlaitForCausalLM": ("decoder", "inline"), "PlaitForConditionalGeneration": CONTEXT_SHAPES}
TOKENS = {"decoder_start_token_id": 1, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
CLASSES: dict[str, type[PlaitPreTrainedModel]] = {
    "PlaitModel": PlaitModel,
    "PlaitForClassification": PlaitForClassification,
    "PlaitForMaskedLM": PlaitForMaskedLM,
    "PlaitForPreTraining": PlaitForPreTraining,
    "PlaitForQuestionAnswering": PlaitForQuestionAnswering,
    "PlaitForCausalLM": PlaitForCausalLM,
    "PlaitForConditionalGeneration": PlaitForConditionalGeneration,
    "PlaitForRetrieval": PlaitForRetrieval,
}
SHAPES = {
    "PlaitModel": tuple(shape for shape in CONFIGS if shape not in APART),
    "PlaitForClassification": tuple(shape for shape in CONFIGS if shape not in (*CONTEXT_SHAPES, *APART, "inline")),
    "PlaitForMaskedLM": ("text", "early", "cross_attention"),
    "PlaitForPreTraining": ("image", "early", "late"),
    "PlaitForQuestionAnswering": ("text", "early", "cross_attention"),
    "PlaitForRetrieval": APART,
    **GENERATING,
}
CASES = [(class_name, shape) for class_name in CLASSES for shape in SHAPES[class_name]]


def config_of(shape: str, **fields: object) -> PlaitConfig:
    tokens = TOKENS if "decoder_config" in CONFIGS[shape] else {}
    return PlaitConfig(**{**CONFIGS[shape], **tokens, "num_labels": 3, "initializer_range": 0.2, **fields})


def build(class_name: str, shape: str, **fields: object) -> PlaitPreTrainedModel:
    torch.manual_seed(0)
    model = CLASSES[class_name](config_of(shape, **fields))
    for parameter in model.parameters():  # biases and norms too: zeros and ones would hide faults
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


def inputs_of(shape: str, batch: int = 3) -> dict[str, Tensor]:
    """Ragged text and pictures, as the shape has them; rows 0 .. batch - 1 differ."""
    generator = torch.Generator().manual_seed(1)
    inputs = {}
    if shape not in ("image", "captioner"):
        lengths = torch.tensor([7, 4, 5, 2, 6])[:batch]
        inputs["attention_mask"] = (torch.arange(7)[None] < lengths[:, None]).long()
        inputs["input_ids"] = torch.randint(1, 40, (batch, 7), generator=generator) * inputs["attention_mask"]
    if shape not in ("text", "decoder", "translator", "documents"):
        inputs["pixel_values"] = torch.randn(batch, 3, 16, 16, generator=generator)
    if shape in CONTEXT_SHAPES:
        inputs["decoder_input_ids"] = torch.randint(3, 39, (batch, 5), generator=generator)
    if shape == "documents":  # their inputs stand in the same row
        for name in ("attention_mask", "input_ids"):
            inputs[f"document_{name}"] = inputs[name].flip(0)
    if shape == "inline":  # five image tokens before each row's text
        text = inputs["input_ids"].clamp(max=38)
        inputs["input_ids"] = torch.cat((torch.full((batch, 5), 39), text), dim=1)
        inputs["attention_mask"] = torch.cat((torch.ones(batch, 5, dtype=torch.long), inputs["attention_mask"]), dim=1)
    return inputs


def labels_of(class_name: str, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    if class_name == "PlaitForClassification":
        return {"labels": torch.arange(len(next(iter(inputs.values())))) % 3}
    if class_name == "PlaitForConditionalGeneration":
        return {"labels": inputs["decoder_input_ids"].roll(-1, dims=1)}
    if class_name == "PlaitForPreTraining" and "input_ids" in inputs:
        hidden = (torch.arange(7) % 2 == 1) & (inputs["attention_mask"] == 1)
        known = inputs["input_ids"].masked_fill(~hidden, -100)
        return {"input_ids_masked": inputs["input_ids"].masked_fill(hidden, 3), "mlm_labels": known}
    if class_name == "PlaitForPreTraining":
        return {"bool_masked_pos": torch.tensor([[True, False, True, False]] * len(inputs["pixel_values"]))}
    if class_name in ("PlaitForMaskedLM", "PlaitForCausalLM"):
        unread = (inputs["attention_mask"] == 0) | (inputs["input_ids"] == 39)
        return {"labels": inputs["input_ids"].masked_fill(unread, -100)}
    if class_name == "PlaitForQuestionAnswering":
        ends = inputs["attention_mask"].sum(dim=1) - 1
        return {"start_positions": ends // 2, "end_positions": ends}
    return {}


def main_tensor(outputs: object) -> Tensor:
    """The tensor a user reads: logits (of both ends of an answer, side by side), vectors of all sides, or the hidden
    state."""
    if hasattr(outputs, "start_logits"):
        return torch.stack((outputs.start_logits, outputs.end_logits), dim=-1)
    if hasattr(outputs, "text_embeds"):
        return torch.cat([value for name, value in outputs.items() if name.endswith("_embeds")], dim=-1)
    logits = getattr(outputs, "logits", None)
    return outputs.last_hidden_state if logits is None else logits


def recorded(outputs: object) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Attentions and hidden states: the decoder's, of a class that has an encoder too; of towers apart, the text's."""
    if hasattr(outputs, "text_embeds"):
        outputs = outputs.encoder_outputs["text"]
    owner = "decoder_" if hasattr(outputs, "decoder_attentions") else ""
    return getattr(outputs, f"{owner}attentions"), getattr(outputs, f"{owner}hidden_states")


Build = Callable[[str, str], PlaitPreTrainedModel]
