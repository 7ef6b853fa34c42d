"""The engine itself: rules that invert exactly, and a clear error for every kind of bad checkpoint."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from torch import Tensor

from plait.modeling.checkpoints import build_component_config, find_family, write_component
from plait.modeling.checkpoints.conversion.rules import Leading, Rule, Split, Transposed, TransposedSplit
from plait.modeling.checkpoints.reading import read_component
from plait.modeling.checkpoints.source import open_checkpoint

SIZES = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
WEIGHTS = "model.safetensors"


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    folder = tmp_path / "bert"
    hf.BertForMaskedLM(hf.BertConfig(**SIZES)).save_pretrained(folder)
    return folder


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    hf.BertModel(hf.BertConfig(**SIZES)).save_pretrained(folder, max_shard_size="4KB")
    return folder


def rewrite(folder: Path, **tensors: Tensor | None) -> None:
    """Replace, add or (None) take away tensors of a file."""
    file = load_file(folder / WEIGHTS) | {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    save_file({name: tensor for name, tensor in file.items() if tensor is not None}, folder / WEIGHTS)


def reconfigure(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    kept = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))


@pytest.mark.parametrize(
    ("rule", "shape", "ours"),
    [
        (Rule("a"), (6, 4), [(6, 4)]),
        (Split("a", "b", "c"), (6, 4), [(2, 4)] * 3),
        (Split("a", "b"), (6,), [(3,)] * 2),
        (Transposed("a"), (6, 4), [(4, 6)]),
        (Transposed("a"), (6,), [(6,)]),
        (TransposedSplit("a", "b", "c"), (4, 6), [(2, 4)] * 3),
        (TransposedSplit("a", "b", "c"), (6,), [(2,)] * 3),
        (Leading("a", 2), (6,), [(1, 1, 6)]),
        (Leading("a", -1), (1, 4, 6), [(4, 6)]),
    ],
)
def test_a_rule_is_undone_exactly(rule: Rule, shape: tuple[int, ...], ours: list[tuple[int, ...]]) -> None:
    tensor = torch.randn(shape)
    parts = rule.forward(tensor)
    assert [tuple(part.shape) for part in parts] == ours
    assert torch.equal(rule.backward(*parts), tensor)


def test_only_dimensions_of_size_one_are_taken_away() -> None:
    with pytest.raises(ValueError, match=r"\(2, 4, 6\)"):
        Leading("a", -1).forward(torch.randn(2, 4, 6))


def test_layers_keep_their_numbers_beyond_nine(tmp_path: Path) -> None:
    hf.GPT2Model(hf.GPT2Config(vocab_size=30, n_embd=8, n_layer=12, n_head=2, n_positions=8)).save_pretrained(tmp_path)
    file, read = load_file(tmp_path / WEIGHTS), read_component(open_checkpoint(tmp_path))
    for layer in range(12):
        query = file[f"h.{layer}.attn.c_attn.weight"][:, :8].T
        assert torch.equal(read.weights[f"transformer.layers.{layer}.self_attn.q_proj.weight"], query)


def test_weights_are_mapped_not_copied(bert: Path) -> None:
    source = open_checkpoint(bert)
    read = read_component(source)
    name = "bert.encoder.layer.1.output.dense.weight"
    assert read.weights["transformer.layers.1.mlp.down_proj.weight"].data_ptr() == source.tensors[name].data_ptr()


def test_the_checkpoints_own_config_is_kept(bert: Path) -> None:
    read = read_component(open_checkpoint(bert))
    assert read.config.family == "bert"
    assert read.config.source_config == json.loads((bert / "config.json").read_text())


# what is not there


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        open_checkpoint(tmp_path / "nowhere")


def test_a_missing_config_is_named(bert: Path) -> None:
    (bert / "config.json").unlink()
    with pytest.raises(OSError, match=r"config\.json"):
        open_checkpoint(bert)


def test_missing_weights_are_named(bert: Path) -> None:
    (bert / WEIGHTS).unlink()
    with pytest.raises(OSError, match=r"neither model\.safetensors nor model\.safetensors\.index\.json"):
        open_checkpoint(bert)


def test_a_missing_variant_is_named(bert: Path) -> None:
    with pytest.raises(OSError, match=r"neither model\.fp16\.safetensors"):
        open_checkpoint(bert, variant="fp16")


def test_a_missing_shard_is_named(shards: Path) -> None:
    shard = sorted(shards.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(OSError, match=shard.name):
        open_checkpoint(shards)


def test_a_tensor_missing_from_its_shard_is_named(shards: Path) -> None:
    index = shards / f"{WEIGHTS}.index.json"
    content = json.loads(index.read_text())
    shard = content["weight_map"]["pooler.dense.bias"]
    content["weight_map"]["phantom"] = shard
    index.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"phantom is in {shard}"):
        open_checkpoint(shards)


# what is broken


@pytest.mark.parametrize("end", [4, 2000, -1])
def test_a_truncated_file_is_named(bert: Path, end: int) -> None:
    (bert / WEIGHTS).write_bytes((bert / WEIGHTS).read_bytes()[:end])
    with pytest.raises(ValueError, match=rf"{bert / WEIGHTS} is truncated or corrupt"):
        open_checkpoint(bert)


def test_a_corrupt_file_is_named(bert: Path) -> None:
    content = bytearray((bert / WEIGHTS).read_bytes())
    content[8:40] = b"\xff" * 32
    (bert / WEIGHTS).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{bert / WEIGHTS} is truncated or corrupt"):
        open_checkpoint(bert)


def test_a_corrupt_shard_is_named(shards: Path) -> None:
    shard = sorted(shards.glob("*.safetensors"))[0]
    shard.write_bytes(b"no tensors here")
    with pytest.raises(ValueError, match=shard.name):
        open_checkpoint(shards)


# what does not fit


def test_a_wrong_size_names_key_and_both_shapes(bert: Path) -> None:
    rewrite(bert, bert__encoder__layer__1__output__dense__weight=torch.zeros(16, 25))
    with pytest.raises(ValueError, match=r"bert\.encoder\.layer\.1\.output\.dense\.weight .*\(16, 25\).*\(16, 24\)"):
        read_component(open_checkpoint(bert))


def test_a_missing_tensor_is_named(bert: Path) -> None:
    rewrite(bert, bert__encoder__layer__1__attention__self__query__bias=None)
    with pytest.raises(ValueError, match=r"lacks bert\.encoder\.layer\.1\.attention\.self\.query\.bias"):
        read_component(open_checkpoint(bert))


def test_an_unknown_tensor_is_named(bert: Path) -> None:
    rewrite(bert, bert__encoder__layer__1__adapter__weight=torch.zeros(2))
    with pytest.raises(ValueError, match=r"'bert' does not know bert\.encoder\.layer\.1\.adapter\.weight"):
        read_component(open_checkpoint(bert))


def test_a_layer_too_many_is_named(bert: Path) -> None:
    reconfigure(bert, num_hidden_layers=1)
    with pytest.raises(ValueError, match=r"no place for bert\.encoder\.layer\.1\..* and \d+ more"):
        read_component(open_checkpoint(bert))


# model types


def test_a_type_unknown_to_transformers_is_named(bert: Path) -> None:
    reconfigure(bert, model_type="no-such-type")
    with pytest.raises(ValueError, match="'no-such-type'; update transformers"):
        open_checkpoint(bert)


def test_code_in_the_repository_is_never_run(bert: Path) -> None:
    reconfigure(bert, model_type="no-such-type", auto_map={"AutoConfig": "code.Config"})
    (bert / "code.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ValueError, match="trust_remote_code=True and pass the model"):
        open_checkpoint(bert)


def test_no_type_at_all_is_an_error(bert: Path) -> None:
    reconfigure(bert, model_type=None)
    with pytest.raises(ValueError, match="no model_type"):
        open_checkpoint(bert)


def test_a_family_that_the_core_does_not_know_is_no_family(tmp_path: Path) -> None:
    hf.AlbertModel(hf.AlbertConfig(**SIZES, embedding_size=8)).save_pretrained(tmp_path)
    source = open_checkpoint(tmp_path)
    assert find_family(source.config) is None
    with pytest.raises(ValueError, match="'albert' is none of the families .*bart, bert"):
        read_component(source)


def test_a_tower_of_another_modality_is_refused(bert: Path) -> None:
    with pytest.raises(ValueError, match="no tower for the modality 'image'"):
        read_component(open_checkpoint(bert), "image")


def test_one_of_two_towers_must_be_named() -> None:
    with pytest.raises(ValueError, match="text, image: name one"):
        build_component_config(hf.CLIPConfig())


@pytest.mark.parametrize("modality", ["text", "image"])
def test_a_dual_encoder_gives_each_of_its_towers(tmp_path: Path, modality: str) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    text = hf.BertModel(hf.BertConfig(**sizes, vocab_size=30))
    image = hf.ViTModel(hf.ViTConfig(**sizes, image_size=16, patch_size=8))
    alone = {"text": text, "image": image}[modality]
    hf.VisionTextDualEncoderModel(text_model=text, vision_model=image).save_pretrained(tmp_path / "both")
    alone.save_pretrained(tmp_path / "alone")
    ours, theirs = (
        read_component(open_checkpoint(tmp_path / "both"), modality),
        read_component(open_checkpoint(tmp_path / "alone")),
    )
    assert ours.config.family == theirs.config.family
    assert ours.weights.keys() == theirs.weights.keys()
    assert all(torch.equal(tensor, theirs.weights[name]) for name, tensor in ours.weights.items())


# pickles


@pytest.fixture
def pickled(bert: Path) -> Path:
    torch.save(load_file(bert / WEIGHTS), bert / "pytorch_model.bin")
    (bert / WEIGHTS).unlink()
    return bert


@pytest.mark.parametrize("use_safetensors", [None, True])
def test_a_pickle_is_not_read_unasked(pickled: Path, use_safetensors: bool | None) -> None:
    with pytest.raises(OSError, match=r"only the pickle pytorch_model\.bin: pass use_safetensors=False"):
        open_checkpoint(pickled, use_safetensors=use_safetensors)


def test_a_pickle_is_read_when_asked(bert: Path, tmp_path: Path) -> None:
    theirs = read_component(open_checkpoint(shutil.copytree(bert, tmp_path / "copy")))
    torch.save(load_file(bert / WEIGHTS), bert / "pytorch_model.bin")
    ours = read_component(open_checkpoint(bert, use_safetensors=False))
    assert ours.weights.keys() == theirs.weights.keys()
    assert all(torch.equal(tensor, theirs.weights[name]) for name, tensor in ours.weights.items())


class Mine:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("ran",)


def test_code_in_a_pickle_is_never_run(pickled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pickled / "pytorch_model.bin").unlink()
    torch.save({"weight": Mine()}, pickled / "pytorch_model.bin")
    with pytest.raises(ValueError, match="is no pickle of tensors, or is damaged"):
        open_checkpoint(pickled, use_safetensors=False)
    assert "ran" not in capsys.readouterr().out


# where it is


def cached(cache: Path, folder: Path, revision: str, subfolder: str = "") -> None:
    """A folder as huggingface_hub keeps a downloaded revision of the repository some/bert."""
    repository = cache / "models--some--bert"
    commit = revision.encode().hex().ljust(40, "0")
    shutil.copytree(folder, repository / "snapshots" / commit / subfolder)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / revision).write_text(commit)


def test_revision_subfolder_and_cache_are_honoured(bert: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cached(cache, bert, "main")
    rewrite(bert, cls__predictions__bias=torch.ones(30))
    cached(cache, bert, "v2", "deep/er")
    where = {"cache_dir": str(cache), "local_files_only": True}
    first = open_checkpoint("some/bert", **where)
    second = open_checkpoint("some/bert", revision="v2", subfolder="deep/er", **where)
    assert not first.tensors["cls.predictions.bias"].any()
    assert second.tensors["cls.predictions.bias"].all()
    with pytest.raises(OSError, match="cached files"):
        open_checkpoint("some/bert", revision="v2", **where)
    with pytest.raises(OSError, match="some/bert"):
        open_checkpoint("some/bert", cache_dir=str(tmp_path / "empty"), local_files_only=True)


def test_a_variant_is_read(bert: Path) -> None:
    hf.BertModel.from_pretrained(bert).half().save_pretrained(bert, variant="fp16")
    assert read_component(open_checkpoint(bert, variant="fp16")).weights["pooler.dense.weight"].dtype == torch.float16


def test_a_variant_in_shards_is_read(bert: Path) -> None:
    model = hf.BertModel(hf.BertConfig(**SIZES))
    model.save_pretrained(bert, variant="fp16", max_shard_size="4KB")
    read = read_component(open_checkpoint(bert, variant="fp16"))
    assert torch.equal(read.weights["pooler.dense.weight"], model.pooler.dense.weight)


# the way back


def test_a_resized_vocabulary_is_exported(bert: Path, tmp_path: Path) -> None:
    read = read_component(open_checkpoint(bert))
    embedding = torch.randn(33, 16)
    read.weights["embeddings.token_embedding.weight"] = read.heads["lm_head.weight"] = embedding
    read.heads["lm_head.bias"] = torch.randn(33)
    read.config.vocab_size = 33
    write_component(read, tmp_path / "out")
    again = hf.BertForMaskedLM.from_pretrained(tmp_path / "out")
    assert again.config.vocab_size == 33
    assert torch.equal(again.get_output_embeddings().weight, embedding)


def test_another_precision_is_exported(bert: Path, tmp_path: Path) -> None:
    read = read_component(open_checkpoint(bert))
    weights, heads = ({name: tensor.bfloat16() for name, tensor in part.items()} for part in (read.weights, read.heads))
    write_component(read._replace(weights=weights, heads=heads), tmp_path / "out")
    assert hf.AutoModelForMaskedLM.from_pretrained(tmp_path / "out").dtype == torch.bfloat16


def test_labels_are_exported(bert: Path, tmp_path: Path) -> None:
    hf.BertModel(hf.BertConfig(**SIZES)).save_pretrained(bert)
    read = read_component(open_checkpoint(bert))
    heads = {"classifier.weight": torch.randn(2, 16), "classifier.bias": torch.randn(2)}
    write_component(read._replace(heads=heads), tmp_path / "out", id2label={"0": "no", "1": "yes"})
    again = hf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert again.config.id2label == {0: "no", 1: "yes"}
    assert torch.equal(again.classifier.weight, heads["classifier.weight"])


def test_a_file_is_overwritten_while_it_is_mapped(bert: Path) -> None:
    read = read_component(open_checkpoint(bert))
    before = {name: tensor.clone() for name, tensor in read.weights.items()}
    write_component(read, bert)
    again = read_component(open_checkpoint(bert)).weights
    assert all(torch.equal(again[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize(("field", "value"), [("norm_eps", 1e-3), ("hidden_act", "relu"), ("is_causal", True)])
def test_a_tower_that_the_format_cannot_say_is_refused(bert: Path, tmp_path: Path, field: str, value: Any) -> None:
    read = read_component(open_checkpoint(bert))
    setattr(read.config, field, value)
    with pytest.raises(ValueError, match=field):
        write_component(read, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_head_without_its_pooler_is_refused(bert: Path, tmp_path: Path) -> None:
    read = read_component(open_checkpoint(bert))._replace(heads={"classifier.weight": torch.randn(2, 16)})
    with pytest.raises(ValueError, match=r"ForSequenceClassification .* needs pooler\.dense"):
        write_component(read, tmp_path / "out")


def test_a_head_that_the_family_does_not_have_is_refused(bert: Path, tmp_path: Path) -> None:
    read = read_component(open_checkpoint(bert))._replace(heads={"distillation_classifier.weight": torch.randn(2, 16)})
    with pytest.raises(ValueError, match="no class with the heads distillation_classifier"):
        write_component(read, tmp_path / "out")


def test_a_weight_without_a_name_is_refused(bert: Path, tmp_path: Path) -> None:
    read = read_component(open_checkpoint(bert))
    read.weights["transformer.layers.0.self_attn_scale.scale"] = torch.ones(16)
    with pytest.raises(ValueError, match=r"no name for transformer\.layers\.0\.self_attn_scale\.scale"):
        write_component(read, tmp_path / "out")


def test_a_tower_of_no_family_is_refused(bert: Path, tmp_path: Path) -> None:
    read = read_component(open_checkpoint(bert))
    read.config.family = None
    with pytest.raises(ValueError, match="no checkpoint of a family"):
        write_component(read, tmp_path / "out")
