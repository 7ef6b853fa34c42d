"""BERT, RoBERTa, DistilBERT, ELECTRA, GPT-2, Llama and Qwen read from transformers' files, against transformers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN

from plait.configuration import PlaitDecoderConfig, PlaitTextConfig
from plait.modeling.checkpoints import Tower, open_source, read_tower, write_tower
from plait.modeling.towers import TextTower

SIZES = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
BERT = {**SIZES, "max_position_embeddings": 24, "num_labels": 3}
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
    "roberta-questions": lambda: hf.RobertaForQuestionAnswering(hf.RobertaConfig(**ROBERTA)),
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
    "qwen3-window": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**LLAMA, **WINDOW, head_dim=16)),
}
CAUSAL = [name for name in MODELS if name.startswith(("gpt2", "llama", "qwen"))]
CLASSIFIERS = [name for name in MODELS if name.endswith("-classifier")]
MASKED = [name for name in MODELS if "-mlm" in name or name == "bert-pretraining"]
GENERATORS = [name for name in CAUSAL if "-lm" in name or name == "qwen3-window"]
# weights of another class's head, which have no place here
LEFT_OUT = {"bert-pretraining": 2, "bert-tagger": 2, "roberta-questions": 2, "electra-discriminator": 4}
# what transformers saves and never reads: an untied head adds the bias of its decoder
UNUSED = ("bert-mlm-untied", "cls.predictions.bias")


class Saved(NamedTuple):
    """A model of transformers with every parameter drawn at std 0.2, and the folder it was saved to."""

    model: hf.PreTrainedModel
    folder: Path

    def file(self) -> dict[str, Tensor]:
        return load_file(self.folder / "model.safetensors")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Saved]:
    """Each model once, drawn from a seed of its own."""
    made: dict[str, Saved] = {}

    def get(name: str) -> Saved:
        if name not in made:
            torch.manual_seed(len(name))
            model = MODELS[name]().eval()
            for parameter in model.parameters():
                nn.init.normal_(parameter, std=0.2)
            folder = tmp_path_factory.mktemp(name)
            model.save_pretrained(folder)
            made[name] = Saved(model, folder)
        return made[name]

    return get


def read(folder: Path, modality: str | None = None) -> Tower:
    return read_tower(open_source(folder), modality)


def tower_of(read: Tower, attention: str = "sdpa") -> TextTower:
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


def assert_parity(ours: dict[str, Tensor], theirs: dict[str, Tensor], exact: dict[str, Tensor]) -> None:
    """1e-5 of transformers' result, and an error to its result in float64 of at most twice its own."""
    for name, tensor in theirs.items():
        assert ours[name].shape == tensor.shape
        assert difference(ours[name], tensor) <= 1e-5, name
        floor = torch.finfo(torch.float32).eps
        assert difference(ours[name], exact[name]) <= 2 * max(difference(tensor, exact[name]), floor), name


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(
    ("name", "side"),
    [(name, "right") for name in MODELS] + [(name, "left") for name in CAUSAL if name not in CLASSIFIERS],
)
def test_tower_matches_transformers(saved: Callable[[str], Saved], name: str, side: str, attention: str) -> None:
    model, folder = saved(name)
    model.set_attn_implementation(attention)
    inputs = inputs_of(name, side)
    theirs = run(model.base_model, inputs, output_hidden_states=True)
    model.set_attn_implementation("sdpa")  # transformers' eager Llama takes its softmax in float32
    exact = run(model.double().base_model, inputs, output_hidden_states=True)
    model.float()
    tower = tower_of(read(folder), attention)
    assert_parity(run(tower, inputs, output_hidden_states=True), theirs, exact)
    returned = {key: theirs[key] for key in ("last_hidden_state", "pooler_output") if key in theirs}
    for packing in (True, False):
        tower.config.packing = packing
        ours = run(tower, inputs)
        assert_parity(ours, returned, exact)
    assert ("pooler_output" in ours) == ("pooler_output" in theirs or name in CLASSIFIERS)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifier_matches_transformers(saved: Callable[[str], Saved], name: str) -> None:
    model, folder = saved(name)
    found, inputs = read(folder), inputs_of(name)
    assert {head.split(".")[0] for head in found.heads} == {"classifier"}
    with torch.no_grad():
        pooled = tower_of(found)(**inputs).pooler_output
        logits = F.linear(pooled, found.heads["classifier.weight"], found.heads.get("classifier.bias"))
        assert difference(logits, model(**inputs).logits) <= 1e-5


@pytest.mark.parametrize("name", MASKED)
def test_masked_lm_head_matches_transformers(saved: Callable[[str], Saved], name: str) -> None:
    model, folder = saved(name)
    (config, _, heads), inputs = found = read(folder), inputs_of(name)
    with torch.no_grad():
        x = tower_of(found[0])(**inputs).last_hidden_state
        x = ACT2FN[config.mlm_act](F.linear(x, heads["mlm_head.dense.weight"], heads["mlm_head.dense.bias"]))
        x = F.layer_norm(x, x.shape[-1:], heads["mlm_head.norm.weight"], heads["mlm_head.norm.bias"], config.norm_eps)
        ours = F.linear(x, heads["lm_head.weight"], heads["lm_head.bias"])
        output = model(**inputs)
    theirs = output.prediction_logits if name == "bert-pretraining" else output.logits
    mask = inputs["attention_mask"][..., None]
    assert difference(ours * mask, theirs * mask) <= 1e-5


@pytest.mark.parametrize("name", GENERATORS)
def test_language_model_head_matches_transformers(saved: Callable[[str], Saved], name: str) -> None:
    model, folder = saved(name)
    found, inputs = read(folder), inputs_of(name)
    mask = inputs["attention_mask"][..., None]
    with torch.no_grad():
        ours = F.linear(tower_of(found)(**inputs).last_hidden_state, found.heads["lm_head.weight"])
        assert difference(ours * mask, model(**inputs).logits * mask) <= 1e-5


@pytest.mark.parametrize("name", CAUSAL)
def test_a_causal_checkpoint_read_alone_is_a_decoder(saved: Callable[[str], Saved], name: str) -> None:
    assert type(read(saved(name).folder).config) is PlaitDecoderConfig
    assert type(read(saved(name).folder, "text").config) is PlaitTextConfig


@pytest.mark.parametrize("name", MODELS)
def test_export_is_bit_equal_and_transformers_reads_it(
    saved: Callable[[str], Saved], name: str, tmp_path: Path
) -> None:
    model, folder = saved(name)
    write_tower(read(folder), tmp_path)
    theirs, ours = saved(name).file(), load_file(tmp_path / "model.safetensors")
    assert len(theirs) - len(ours) == LEFT_OUT.get(name, 0)
    bare = {key.removeprefix(f"{model.base_model_prefix}."): tensor for key, tensor in theirs.items()}
    for key, tensor in ours.items():
        source = theirs[key] if name not in LEFT_OUT else bare[key.removeprefix(f"{model.base_model_prefix}.")]
        assert torch.equal(tensor, source) or (name, key) == UNUSED, key
    kind = type(model) if name not in LEFT_OUT else type(model.base_model)
    again, report = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert not [key for key in report["missing_keys"] if "pooler" not in key or name in CLASSIFIERS]
    inputs = inputs_of(name)
    with torch.no_grad():
        expected, found = (run(each.base_model, inputs) for each in (model, again.eval()))
        assert torch.equal(found["last_hidden_state"], expected["last_hidden_state"])
        if name not in LEFT_OUT and name not in (*MASKED, *GENERATORS, *CLASSIFIERS):
            return
        assert name in LEFT_OUT or torch.equal(again(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize("name", ["bert-mlm", "gpt2-lm", "llama", "electra-classifier"])
def test_shards_are_read_like_one_file(saved: Callable[[str], Saved], name: str, tmp_path: Path) -> None:
    model, folder = saved(name)
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert_same(read(tmp_path), read(folder))


def assert_same(first: Tower, second: Tower) -> None:
    for ours, theirs in ((first.weights, second.weights), (first.heads, second.heads)):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


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
        ("bert", "is_decoder", True),
        ("roberta", "add_cross_attention", True),
        ("gpt2", "scale_attn_by_inverse_layer_idx", True),
        ("gpt2", "scale_attn_weights", False),
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
