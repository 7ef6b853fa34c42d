"""Text checkpoints as older libraries wrote them, and those that ask for what the core does not have."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from .text_models import Saved, assert_same, difference, inputs_of, read, run, save, tower_of


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Saved]:
    """Each model once."""
    return cache(lambda name: save(name, tmp_path_factory.mktemp(name)))


def with_old_norms(file: dict[str, Tensor]) -> dict[str, Tensor]:
    old = {".LayerNorm.weight": ".LayerNorm.gamma", ".LayerNorm.bias": ".LayerNorm.beta"}
    for new, name in old.items():
        file = {key.replace(new, name): tensor for key, tensor in file.items()}
    return file


def with_buffers(prefix: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda file: file | {f"{prefix}embeddings.position_ids": torch.arange(24)[None]}


def with_decoder(prefix: str, embedding: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """The masked-LM head's tied tensors under their second names."""
    return lambda file: (
        file
        | {
            f"{prefix}.decoder.weight": file[embedding].clone(),
            f"{prefix}.decoder.bias": file[f"{prefix}.bias"].clone(),
        }
    )


def without_prefix(prefix: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda file: {key.removeprefix(prefix): tensor for key, tensor in file.items()}


def with_prefix(prefix: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda file: {prefix + key: tensor for key, tensor in file.items()}


def with_masks(prefix: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    buffers = {"attn.bias": torch.ones(1, 1, 24, 24).tril(), "attn.masked_bias": torch.tensor(-1e4)}
    return lambda file: file | {f"{prefix}h.{layer}.{key}": t.clone() for layer in (0, 1) for key, t in buffers.items()}


def with_local_masks(file: dict[str, Tensor]) -> dict[str, Tensor]:
    """As GPT-Neo's first files hold them."""
    buffers = {"bias": torch.ones(1, 1, 24, 24).tril(), "masked_bias": torch.tensor(-1e9)}
    names = {f"transformer.h.{layer}.attn.attention.{key}": key for layer in (0, 1) for key in buffers}
    return file | {name: buffers[key].clone() for name, key in names.items()}


def with_frequencies(file: dict[str, Tensor]) -> dict[str, Tensor]:
    return file | {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.rand(4) for layer in (0, 1)}


PUBLISHED = {
    "bert-gamma": ("bert-pretraining", with_old_norms),
    "bert-buffers": ("bert-mlm", with_buffers("bert.")),
    "bert-decoder": ("bert-mlm", with_decoder("cls.predictions", "bert.embeddings.word_embeddings.weight")),
    "bert-bare": ("bert-classifier", without_prefix("bert.")),
    "bert-prefixed": ("bert", with_prefix("bert.")),
    "roberta-decoder": ("roberta-mlm", with_decoder("lm_head", "roberta.embeddings.word_embeddings.weight")),
    "roberta-buffers": ("roberta-classifier", with_buffers("roberta.")),
    "distilbert-bare": ("distilbert-mlm", without_prefix("distilbert.")),
    "electra-buffers": ("electra", with_buffers("")),
    "gpt2-bare": ("gpt2-lm", without_prefix("transformer.")),
    "gpt2-masks": ("gpt2-lm", with_masks("transformer.")),
    "gpt2-bare-masks": ("gpt2", with_masks("")),
    "gpt2-prefixed": ("gpt2", with_prefix("transformer.")),
    "gpt-neo-masks": ("gpt-neo-lm", with_local_masks),
    "llama-frequencies": ("llama-lm", with_frequencies),
    "llama-prefixed": ("llama", with_prefix("model.")),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_of_old_files_are_known(saved: Callable[[str], Saved], name: str, tmp_path: Path) -> None:
    model, rewrite = PUBLISHED[name]
    theirs = saved(model)
    save_file(rewrite(theirs.file()), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((theirs.folder / "config.json").read_text())
    assert_same(read(tmp_path), read(theirs.folder))


def test_old_rope_settings_are_read(saved: Callable[[str], Saved], tmp_path: Path) -> None:
    theirs = saved("llama-llama3")
    save_file(theirs.file(), tmp_path / "model.safetensors")
    config = json.loads((theirs.folder / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
    (tmp_path / "config.json").write_text(json.dumps(config))
    expected = run(theirs.model, inputs_of("llama"))["last_hidden_state"]
    assert difference(run(tower_of(read(tmp_path)), inputs_of("llama"))["last_hidden_state"], expected) <= 1e-5


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("bert", "position_embedding_type", "relative_key"),
        ("roberta", "add_cross_attention", True),
        ("gpt-neo", "attention_layers", ["sparse", "global"]),
        ("mistral", "layer_types", ["full_attention", "sliding_attention"]),
        ("qwen2", "layer_types", ["full_attention", "chunked_attention"]),
        ("llama", "rope_parameters", {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}),
    ],
)
def test_a_setting_that_the_core_lacks_is_refused(
    saved: Callable[[str], Saved], name: str, key: str, value: Any, tmp_path: Path
) -> None:
    theirs = saved(name)
    save_file(theirs.file(), tmp_path / "model.safetensors")
    config = json.loads((theirs.folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(ValueError, match=key if key != "rope_parameters" else "partial_rotary_factor"):
        read(tmp_path)
