"""Pretrained checkpoints as models of one component: roles, every loading option, and clear errors."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

from plait import PlaitForClassification, PlaitForMaskedLM, PlaitModel
from plait.configuration import PlaitDecoderConfig
from plait.modeling.checkpoints import export

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TEXT = {"vocab_size": 40, "max_position_embeddings": 20, **SIZES}
IMAGE = {"image_size": 16, "patch_size": 8, **SIZES}
GPT2 = {"vocab_size": 40, "n_positions": 20, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 0}
GPT2 |= {"eos_token_id": 0, "pad_token_id": 0}


def drawn(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    drawn(hf.BertModel(hf.BertConfig(**TEXT))).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def words() -> dict[str, Tensor]:
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    return {
        "input_ids": torch.randint(1, 40, (2, 6), generator=torch.Generator().manual_seed(0)) * mask,
        "attention_mask": mask,
    }


def pictures() -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))}


ROLES: dict[str, tuple[Callable[[], nn.Module], type, Callable[[], dict[str, Tensor]]]] = {
    "bert fills masks": (lambda: hf.BertForMaskedLM(hf.BertConfig(**TEXT)), PlaitForMaskedLM, words),
    "roberta fills masks": (
        lambda: hf.RobertaForMaskedLM(hf.RobertaConfig(**TEXT, pad_token_id=0)),
        PlaitForMaskedLM,
        words,
    ),
    "bert classifies": (
        lambda: hf.BertForSequenceClassification(hf.BertConfig(**TEXT, num_labels=3)),
        PlaitForClassification,
        words,
    ),
    "gpt2 classifies": (
        lambda: hf.GPT2ForSequenceClassification(hf.GPT2Config(**GPT2, num_labels=3)),
        PlaitForClassification,
        words,
    ),
    "vit names pictures": (
        lambda: hf.ViTForImageClassification(hf.ViTConfig(**IMAGE, num_labels=4)),
        PlaitForClassification,
        pictures,
    ),
    "deit with a teacher": (
        lambda: hf.DeiTForImageClassificationWithTeacher(hf.DeiTConfig(**IMAGE, num_labels=4)),
        PlaitForClassification,
        pictures,
    ),
    "clip names pictures": (
        lambda: hf.CLIPForImageClassification(hf.CLIPConfig(vision_config=IMAGE, num_labels=4)),
        PlaitForClassification,
        pictures,
    ),
    "resnet names pictures": (
        lambda: hf.ResNetForImageClassification(
            hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=4)
        ),
        PlaitForClassification,
        pictures,
    ),
}


@pytest.mark.parametrize("role", ROLES)
def test_a_published_model_with_its_head(role: str, tmp_path: Path) -> None:
    build, model_class, inputs = ROLES[role]
    peer = drawn(build())
    peer.save_pretrained(tmp_path / "theirs")
    model, info = model_class.from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert model.config.id2label == peer.config.id2label
    with torch.no_grad():
        given = inputs()
        ours, theirs = model(**given).logits, peer(**given).logits
    valid = given["attention_mask"].bool() if ours.ndim == 3 else ...
    assert (ours[valid] - theirs[valid]).abs().max() / theirs.abs().max().clamp(min=1) <= 1e-5
    model.save_pretrained(tmp_path / "ours")
    again = model_class.from_pretrained(tmp_path / "ours")
    assert torch.equal(again(**given).logits, model(**given).logits)
    export(model, tmp_path / "back")
    back = type(peer).from_pretrained(tmp_path / "back")
    unused = "post_layernorm"  # CLIP's image classifier has this norm and does not read it
    kept = {name: tensor for name, tensor in peer.state_dict().items() if unused not in name}
    assert all(torch.equal(back.state_dict()[name], tensor) for name, tensor in kept.items())


def test_a_causal_checkpoint_alone_is_a_decoder(tmp_path: Path) -> None:
    peer = drawn(hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2)))
    peer.save_pretrained(tmp_path)
    model = PlaitModel.from_pretrained(tmp_path)
    assert isinstance(model.config.decoder_config, PlaitDecoderConfig) and not model.config.encoders
    outputs = model(**words())
    reference = peer.transformer(**words())
    valid = words()["attention_mask"].bool()
    torch.testing.assert_close(outputs.last_hidden_state[valid], reference.last_hidden_state[valid], atol=1e-5, rtol=0)
    whole = model(input_ids=words()["input_ids"][:1], use_cache=False).last_hidden_state
    start = model(input_ids=words()["input_ids"][:1, :4], use_cache=True)
    rest = model(input_ids=words()["input_ids"][:1, 4:], past_key_values=start.past_key_values)
    torch.testing.assert_close(rest.last_hidden_state, whole[:, 4:], atol=1e-5, rtol=1e-4)


def test_fresh_heads_are_listed(bert: Path) -> None:
    model, info = PlaitForClassification.from_pretrained(bert, num_labels=5, output_loading_info=True)
    assert set(info["missing_keys"]) == {"classifier.weight", "classifier.bias"}
    assert model.config.num_labels == 5 and model.classifier.out_features == 5


def test_dtype_and_device_map(bert: Path) -> None:
    assert PlaitModel.from_pretrained(bert).dtype == torch.float32
    assert PlaitModel.from_pretrained(bert, dtype=torch.bfloat16).dtype == torch.bfloat16
    assert PlaitModel.from_pretrained(bert, device_map="cpu").device.type == "cpu"
    hf.BertModel.from_pretrained(bert, dtype=torch.float16).save_pretrained(bert / "half")
    assert PlaitModel.from_pretrained(bert, subfolder="half").dtype == torch.float16


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attn_implementation(bert: Path, implementation: str) -> None:
    model = PlaitModel.from_pretrained(bert, attn_implementation=implementation)
    assert model.config.text_config._attn_implementation == implementation


def test_an_unknown_attention_is_an_error(bert: Path) -> None:
    with pytest.raises(ValueError, match="nonsense"):
        PlaitModel.from_pretrained(bert, attn_implementation="nonsense")


def test_variant_and_sharded_files(bert: Path, tmp_path: Path) -> None:
    expected = PlaitModel.from_pretrained(bert)
    peer = hf.BertModel.from_pretrained(bert)
    peer.save_pretrained(tmp_path / "variant", variant="fp32")
    peer.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    for folder, options in (("variant", {"variant": "fp32"}), ("shards", {})):
        model = PlaitModel.from_pretrained(tmp_path / folder, **options)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))
    with pytest.raises(OSError, match="variant|safetensors"):
        PlaitModel.from_pretrained(tmp_path / "variant")


def test_quantization_is_passed_on(bert: Path) -> None:
    with pytest.raises((ImportError, ValueError, RuntimeError, AssertionError), match="(?i)quant|torchao|accelerate"):
        PlaitModel.from_pretrained(
            bert, quantization_config={"quant_method": "torchao", "quant_type": "int8_weight_only"}
        )


def test_hub_options(bert: Path, tmp_path: Path) -> None:
    """A repository as it lies in the Hub's cache: two revisions, read offline."""
    repository = tmp_path / "cache" / "models--someone--bert"
    first, second = "1" * 40, "2" * 40
    for commit, scale in ((first, 1.0), (second, 2.0)):
        peer = hf.BertModel.from_pretrained(bert)
        with torch.no_grad():
            peer.embeddings.word_embeddings.weight.mul_(scale)
        peer.save_pretrained(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(second)
    (repository / "refs" / "v1").write_text(first)
    options = {"cache_dir": tmp_path / "cache", "local_files_only": True, "token": False}
    latest = PlaitModel.from_pretrained("someone/bert", **options)
    tagged = PlaitModel.from_pretrained("someone/bert", revision="v1", **options)
    torch.testing.assert_close(latest.get_input_embeddings().weight, 2 * tagged.get_input_embeddings().weight)
    assert latest.name_or_path == "someone/bert"
    with pytest.raises(OSError, match="someone/absent"):
        PlaitModel.from_pretrained("someone/absent", **options)


def test_missing_and_broken_files_are_named(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        PlaitModel.from_pretrained(tmp_path / "nowhere")
    weights = (bert / "model.safetensors").read_bytes()
    (bert / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises((OSError, ValueError), match="model.safetensors"):
        PlaitModel.from_pretrained(bert)
    (bert / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"):
        PlaitModel.from_pretrained(bert)


def test_a_pickle_is_read_only_when_asked_for(bert: Path) -> None:
    expected = PlaitModel.from_pretrained(bert)
    state = hf.BertModel.from_pretrained(bert).state_dict()
    (bert / "model.safetensors").unlink()
    torch.save(state, bert / "pytorch_model.bin")
    with pytest.raises(OSError, match="use_safetensors=False"):
        PlaitModel.from_pretrained(bert)
    model = PlaitModel.from_pretrained(bert, use_safetensors=False)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))


def test_a_config_that_does_not_fit_is_named(bert: Path) -> None:
    path = bert / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"intermediate_size": 65}))
    with pytest.raises((ValueError, RuntimeError), match="intermediate"):
        PlaitModel.from_pretrained(bert)
    path.write_text(json.dumps(config | {"model_type": "no-such-model"}))
    with pytest.raises((ValueError, OSError), match="no-such-model"):
        PlaitModel.from_pretrained(bert)


def test_an_unknown_family_alone_is_wrapped(tmp_path: Path) -> None:
    peer = drawn(hf.ConvNextModel(hf.ConvNextConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 16, 16], image_size=32)))
    peer.save_pretrained(tmp_path / "theirs")
    model = PlaitModel.from_pretrained(tmp_path / "theirs")
    pixels = torch.randn(2, 3, 64, 64)
    tokens = peer(pixels).last_hidden_state.flatten(2).transpose(1, 2)
    assert torch.equal(model(pixel_values=pixels).last_hidden_state, tokens)
    assert "wrapped" in str(model.composition())
    model.save_pretrained(tmp_path / "ours")
    again = PlaitModel.from_pretrained(tmp_path / "ours")
    assert torch.equal(again(pixel_values=pixels).last_hidden_state, tokens)


def test_the_source_is_never_written(bert: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in bert.iterdir() if path.is_file()}
    shutil.copytree(bert, tmp_path / "copy")
    PlaitModel.from_pretrained(bert).save_pretrained(tmp_path / "ours")
    assert {path.name: path.read_bytes() for path in bert.iterdir() if path.is_file()} == before
