"""Tiny text models of transformers with weights of size, saved to disk, and what the tests of them share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers as hf
from safetensors.torch import load_file
from torch import Tensor, nn

from plait.modeling.checkpoints.component import Component
from plait.modeling.checkpoints.reading import read_component
from plait.modeling.checkpoints.source import open_checkpoint
from plait.modeling.towers.text import TextTower

SIZES = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
BERT = {**SIZES, "max_position_embeddings": 24, "num_labels": 3}
SPAN = {"num_labels": 2}  # a start and an end
ROBERTA = {**BERT, "pad_token_id": 1, "layer_norm_eps": 1e-3}
DISTIL = {"vocab_size": 60, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "num_labels": 3}
GPT2 = {
    "vocab_size": 60,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 24,
    "pad_token_id": 0,
    "num_labels": 3,
}
LLAMA = {**SIZES, "num_key_value_heads": 2, "max_position_embeddings": 24, "pad_token_id": 0, "num_labels": 3}
LLAMA |= {"rms_norm_eps": 1e-3, "rope_parameters": {"rope_type": "default", "rope_theta": 50.0}}
NEO = {"vocab_size": 60, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 24}
NEO |= {"attention_types": [[["local", "global"], 1]], "window_size": 4, "pad_token_id": 0, "num_labels": 3}
WINDOW = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
ROPES: dict[str, dict[str, Any]] = {
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 2.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 6},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 6,
    },
    "longrope": {
        "short_factor": [1.0, 1.5, 2.0, 3.0],
        "long_factor": [2.0, 3.0, 5.0, 8.0],
        "factor": 4.0,
        "original_max_position_embeddings": 6,
    },
}


def llama(head: str = "Model", **options: Any) -> hf.PreTrainedModel:
    return getattr(hf, f"Llama{head}")(hf.LlamaConfig(**(LLAMA | options)))


def roped(kind: str) -> Callable[[], hf.PreTrainedModel]:
    """The test's texts are longer than these positions: what scales by length does so."""
    rope = {"rope_type": kind, "rope_theta": 100.0, **ROPES[kind]}
    return lambda: llama(rope_parameters=rope, max_position_embeddings=8)


MODELS: dict[str, Callable[[], hf.PreTrainedModel]] = {
    "bert": lambda: hf.BertModel(hf.BertConfig(**BERT)),
    "bert-relu": lambda: hf.BertModel(hf.BertConfig(**BERT, hidden_act="relu", layer_norm_eps=1e-3)),
    "bert-unpooled": lambda: hf.BertModel(hf.BertConfig(**BERT), add_pooling_layer=False),
    "bert-mlm": lambda: hf.BertForMaskedLM(hf.BertConfig(**BERT)),
    "bert-mlm-untied": lambda: hf.BertForMaskedLM(hf.BertConfig(**BERT, tie_word_embeddings=False)),
    "bert-classifier": lambda: hf.BertForSequenceClassification(hf.BertConfig(**BERT)),
    "bert-pretraining": lambda: hf.BertForPreTraining(hf.BertConfig(**BERT)),
    "bert-tagger": lambda: hf.BertForTokenClassification(hf.BertConfig(**BERT)),
    "roberta": lambda: hf.RobertaModel(hf.RobertaConfig(**ROBERTA)),
    "roberta-mlm": lambda: hf.RobertaForMaskedLM(hf.RobertaConfig(**ROBERTA)),
    "roberta-classifier": lambda: hf.RobertaForSequenceClassification(hf.RobertaConfig(**ROBERTA)),
    "bert-questions": lambda: hf.BertForQuestionAnswering(hf.BertConfig(**BERT | SPAN)),
    "roberta-questions": lambda: hf.RobertaForQuestionAnswering(hf.RobertaConfig(**ROBERTA | SPAN)),
    "distilbert-questions": lambda: hf.DistilBertForQuestionAnswering(hf.DistilBertConfig(**DISTIL | SPAN)),
    "electra-questions": lambda: hf.ElectraForQuestionAnswering(hf.ElectraConfig(**BERT | SPAN, embedding_size=16)),
    "xlm-roberta": lambda: hf.XLMRobertaModel(hf.XLMRobertaConfig(**ROBERTA)),
    "xlm-roberta-mlm": lambda: hf.XLMRobertaForMaskedLM(hf.XLMRobertaConfig(**ROBERTA)),
    "camembert-classifier": lambda: hf.CamembertForSequenceClassification(hf.CamembertConfig(**ROBERTA)),
    "distilbert": lambda: hf.DistilBertModel(hf.DistilBertConfig(**DISTIL)),
    "distilbert-mlm": lambda: hf.DistilBertForMaskedLM(hf.DistilBertConfig(**DISTIL, activation="relu")),
    "distilbert-classifier": lambda: hf.DistilBertForSequenceClassification(hf.DistilBertConfig(**DISTIL)),
    "electra": lambda: hf.ElectraModel(hf.ElectraConfig(**BERT, embedding_size=32)),
    "electra-narrow": lambda: hf.ElectraModel(
        hf.ElectraConfig(**BERT, embedding_size=16, hidden_act="relu", layer_norm_eps=1e-3)
    ),
    "electra-discriminator": lambda: hf.ElectraForPreTraining(hf.ElectraConfig(**BERT, embedding_size=16)),
    "electra-mlm": lambda: hf.ElectraForMaskedLM(hf.ElectraConfig(**BERT, embedding_size=16)),
    "electra-classifier": lambda: hf.ElectraForSequenceClassification(hf.ElectraConfig(**BERT, embedding_size=16)),
    "gpt2": lambda: hf.GPT2Model(hf.GPT2Config(**GPT2)),
    "gpt2-lm": lambda: hf.GPT2LMHeadModel(
        hf.GPT2Config(**GPT2, n_inner=40, activation_function="relu", layer_norm_epsilon=1e-3)
    ),
    "gpt2-classifier": lambda: hf.GPT2ForSequenceClassification(hf.GPT2Config(**GPT2)),
    "gpt2-unscaled": lambda: hf.GPT2Model(hf.GPT2Config(**GPT2, scale_attn_weights=False)),
    "gpt2-inverse": lambda: hf.GPT2Model(
        hf.GPT2Config(**GPT2, scale_attn_by_inverse_layer_idx=True, reorder_and_upcast_attn=True)
    ),
    "gpt2-lm-untied": lambda: hf.GPT2LMHeadModel(
        hf.GPT2Config(**GPT2, tie_word_embeddings=False, scale_attn_by_inverse_layer_idx=True, scale_attn_weights=False)
    ),
    "gpt-neo": lambda: hf.GPTNeoModel(hf.GPTNeoConfig(**NEO)),
    "gpt-neo-lm": lambda: hf.GPTNeoForCausalLM(
        hf.GPTNeoConfig(**NEO, intermediate_size=48, activation_function="relu", layer_norm_epsilon=1e-3)
    ),
    "gpt-neo-lm-untied": lambda: hf.GPTNeoForCausalLM(
        hf.GPTNeoConfig(**{**NEO, "attention_types": [[["global", "local"], 1]]}, tie_word_embeddings=False)
    ),
    "gpt-neo-classifier": lambda: hf.GPTNeoForSequenceClassification(hf.GPTNeoConfig(**NEO)),
    "llama": llama,
    "llama-biased": lambda: llama(attention_bias=True, mlp_bias=True, head_dim=12, hidden_act="gelu"),
    "llama-lm": lambda: llama("ForCausalLM"),
    "llama-lm-tied": lambda: llama("ForCausalLM", tie_word_embeddings=True),
    "llama-classifier": lambda: llama("ForSequenceClassification"),
    **{f"llama-{kind}": roped(kind) for kind in ROPES},
    "qwen2": lambda: hf.Qwen2Model(hf.Qwen2Config(**LLAMA)),
    "qwen2-window": lambda: hf.Qwen2Model(hf.Qwen2Config(**LLAMA, **WINDOW)),
    "qwen2-lm": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**LLAMA, tie_word_embeddings=True)),
    "qwen2-classifier": lambda: hf.Qwen2ForSequenceClassification(hf.Qwen2Config(**LLAMA)),
    "qwen3": lambda: hf.Qwen3Model(hf.Qwen3Config(**LLAMA, head_dim=12)),
    "mistral": lambda: hf.MistralModel(hf.MistralConfig(**LLAMA, sliding_window=4)),
    "mistral-wide": lambda: hf.MistralModel(hf.MistralConfig(**LLAMA, sliding_window=None, head_dim=12)),
    "mistral-lm": lambda: hf.MistralForCausalLM(hf.MistralConfig(**LLAMA, sliding_window=4)),
    "mistral-lm-tied": lambda: hf.MistralForCausalLM(
        hf.MistralConfig(**LLAMA, sliding_window=None, tie_word_embeddings=True)
    ),
    "mistral-classifier": lambda: hf.MistralForSequenceClassification(hf.MistralConfig(**LLAMA, sliding_window=4)),
    "qwen3-window": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**LLAMA, **WINDOW, head_dim=16)),
}
CAUSAL = [name for name in MODELS if name.startswith(("gpt", "llama", "mistral", "qwen"))]
CLASSIFIERS = [name for name in MODELS if name.endswith("-classifier")]
MASKED = [name for name in MODELS if "-mlm" in name or name == "bert-pretraining"]
QUESTIONS = [name for name in MODELS if name.endswith("-questions")]
GENERATORS = [name for name in CAUSAL if "-lm" in name or name == "qwen3-window"]
# weights of another class's head, which have no place here
LEFT_OUT = {"bert-pretraining": 2, "bert-tagger": 2, "electra-discriminator": 4}
# what transformers saves and never reads: an untied head adds the bias of its decoder
UNUSED = ("bert-mlm-untied", "cls.predictions.bias")


class Saved(NamedTuple):
    """A model of transformers with every parameter drawn at std 0.2, and the folder it was saved to."""

    model: hf.PreTrainedModel
    folder: Path

    def file(self) -> dict[str, Tensor]:
        return load_file(self.folder / "model.safetensors")


def save(name: str, folder: Path) -> Saved:
    """A model, drawn from a seed of its own."""
    torch.manual_seed(len(name))
    model = MODELS[name]().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return Saved(model, folder)


def read(folder: Path, modality: str | None = None) -> Component:
    return read_component(open_checkpoint(folder), modality)


def tower_of(read: Component, attention: str = "sdpa") -> TextTower:
    read.config._attn_implementation = attention
    tower = TextTower(read.config).eval()
    tower.load_state_dict(read.weights)
    return tower


def inputs_of(name: str, side: str = "right") -> dict[str, Tensor]:
    """Three padded texts of 7, 12 and 4 tokens; segments where the family has them, positions for left padding."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([7, 12, 4])
    mask = (torch.arange(12) < lengths[:, None]).long()
    mask = mask.flip(1) if side == "left" else mask
    ids = torch.randint(5, 60, (3, 12), generator=generator)
    pad = 1 if name.startswith(("roberta", "xlm", "camembert")) else 0
    inputs = {"input_ids": ids * mask + pad * (1 - mask), "attention_mask": mask}
    if name.startswith(("bert", "roberta", "electra")):
        inputs["token_type_ids"] = torch.randint(0, 2, (3, 12), generator=generator)
    if side == "left":
        inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    return inputs


@torch.no_grad()
def run(model: nn.Module, inputs: dict[str, Tensor], **options: Any) -> dict[str, Tensor]:
    """Every tensor that a tower returns, zeros where there is padding."""
    outputs = model(**inputs, **options)
    padding = ~inputs["attention_mask"][..., None].bool()
    states = getattr(outputs, "hidden_states", None) or ()
    tensors = {f"hidden_states.{number}": state.masked_fill(padding, 0) for number, state in enumerate(states)}
    tensors["last_hidden_state"] = outputs.last_hidden_state.masked_fill(padding, 0)
    pooled = getattr(outputs, "pooler_output", None)
    return tensors if pooled is None else tensors | {"pooler_output": pooled}


def difference(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1)).item()


def assert_same(first: Component, second: Component) -> None:
    for ours, theirs in ((first.weights, second.weights), (first.heads, second.heads)):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
