"""A model of plait in its families' own formats again."""

import json
from pathlib import Path

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file

from plait import PlaitForClassification, PlaitForMaskedLM, PlaitModel
from plait.modeling.checkpoints import export

SIZES = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
INPUTS = {"input_ids": torch.arange(2, 14).reshape(2, 6), "attention_mask": torch.tensor([[1] * 6, [1, 1, 1, 1, 0, 0]])}
PICTURES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def made(model: hf.PreTrainedModel, folder: Path) -> Path:
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return made(hf.BertForMaskedLM(hf.BertConfig(**SIZES)), tmp_path / "bert")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    vision = {**SIZES, "image_size": 16, "patch_size": 8}
    return made(hf.CLIPModel(hf.CLIPConfig(text_config=SIZES, vision_config=vision)), tmp_path / "clip")


def assert_equal_files(first: Path, second: Path) -> None:
    ours, theirs = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_a_masked_language_model_comes_back(bert: Path, tmp_path: Path) -> None:
    model = PlaitForMaskedLM.from_pretrained(bert).eval()
    export(model, tmp_path / "out")
    assert_equal_files(tmp_path / "out", bert)
    again = hf.AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        difference = (again(**INPUTS).logits - model(**INPUTS).logits)[INPUTS["attention_mask"].bool()]
    assert difference.abs().max() <= 1e-5


def test_a_resized_vocabulary_comes_back(bert: Path, tmp_path: Path) -> None:
    model = PlaitForMaskedLM.from_pretrained(bert)
    model.resize_token_embeddings(35)
    export(model, tmp_path / "out")
    again = hf.AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    assert torch.equal(again.get_output_embeddings().weight, model.get_input_embeddings().weight)


def test_a_trained_classifier_takes_its_labels_along(tmp_path: Path) -> None:
    source = made(hf.RobertaModel(hf.RobertaConfig(**SIZES, pad_token_id=1)), tmp_path / "roberta")
    labels = {0: "no", 1: "yes", 2: "perhaps"}
    model = PlaitForClassification.from_pretrained(source, id2label=labels).eval()
    export(model, tmp_path / "out")
    again = hf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert again.config.id2label == labels
    with torch.no_grad():
        assert (again(**INPUTS).logits - model(**INPUTS).logits).abs().max() <= 1e-5


@pytest.mark.parametrize("modality", ["text", "image"])
def test_a_braided_tower_comes_back_alone(bert: Path, clip: Path, tmp_path: Path, modality: str) -> None:
    model = PlaitModel.compose(text=str(bert), image=str(clip), fusion="early", verbose=False)
    export(model, tmp_path / "out", modality)
    exported, report = hf.AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    theirs = hf.AutoModel.from_pretrained(bert if modality == "text" else clip)
    theirs = theirs if modality == "text" else theirs.vision_model
    # what only a pooled vector would have read stays behind
    assert all("pooler" in key or "post_layernorm" in key for key in report["missing_keys"])
    inputs = INPUTS if modality == "text" else {"pixel_values": PICTURES}
    with torch.no_grad():
        outputs = [each.eval()(**inputs).last_hidden_state for each in (exported, theirs)]
    assert torch.equal(*outputs)


def test_one_of_several_towers_must_be_named(bert: Path, clip: Path, tmp_path: Path) -> None:
    model = PlaitModel.compose(text=str(bert), image=str(clip), fusion="early", verbose=False)
    with pytest.raises(ValueError, match="text, image: name the one"):
        export(model, tmp_path / "out")


def test_a_fresh_tower_has_no_format(tmp_path: Path) -> None:
    config = hf.AutoConfig.for_model("plait_text", **SIZES)
    model = PlaitModel.compose(text=config, verbose=False)
    with pytest.raises(ValueError, match="no checkpoint of a family"):
        export(model, tmp_path / "out")


def test_a_decoder_comes_back(tmp_path: Path) -> None:
    source = made(hf.GPT2Model(hf.GPT2Config(vocab_size=30, n_embd=16, n_layer=2, n_head=2)), tmp_path / "gpt2")
    export(PlaitModel.from_pretrained(source), tmp_path / "out")
    assert_equal_files(tmp_path / "out", source)


def test_a_config_is_written_for_readers(bert: Path, tmp_path: Path) -> None:
    """Indented, in the order of the alphabet, with the type of its weights."""
    model = PlaitForMaskedLM.from_pretrained(bert, dtype=torch.bfloat16)
    export(model, tmp_path / "back")
    text = (tmp_path / "back" / "config.json").read_text(encoding="utf-8")
    content = json.loads(text)
    assert text == json.dumps(content, indent=2, sort_keys=True) + "\n"
    assert content["dtype"] == "bfloat16" and content["tie_word_embeddings"] is True
    assert content["model_type"] == "bert" and content["architectures"] == ["BertForMaskedLM"]


def test_folders_on_the_way_are_made_and_a_folder_is_written_again(bert: Path, tmp_path: Path) -> None:
    model = PlaitForMaskedLM.from_pretrained(bert)
    for _ in range(2):
        export(model, tmp_path / "new" / "deep" / "out")
        assert_equal_files(bert, tmp_path / "new" / "deep" / "out")
