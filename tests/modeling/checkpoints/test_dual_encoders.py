"""CLIP, SigLIP and VisionTextDualEncoder checkpoints as one model of two towers, against transformers, and back."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file
from torch import Tensor, nn

from plait import PlaitForClassification, PlaitForRetrieval, PlaitModel
from plait.modeling.checkpoints import export

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TEXT = {"vocab_size": 40, "max_position_embeddings": 12, **SIZES}
IMAGE = {"image_size": 16, "patch_size": 8, **SIZES, "hidden_size": 48}
END = 39


def clip(end: int) -> nn.Module:
    text = {**TEXT, "eos_token_id": end, "bos_token_id": 1, "pad_token_id": 0}
    return hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=IMAGE, projection_dim=24))


def siglip() -> nn.Module:
    text, image = {**TEXT, "projection_size": 48, "pad_token_id": 1}, {**IMAGE, "num_attention_heads": 6}
    return hf.SiglipModel(hf.SiglipConfig(text_config=text, vision_config=image))


def siglip2() -> nn.Module:
    """SigLIP 2 of fixed resolution has SigLIP's form, Gemma's tokens, and at its largest a wider image tower."""
    tokens = {"vocab_size": 80, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    text, image = {**TEXT, **tokens, "projection_size": 72}, {**IMAGE, "hidden_size": 72, "num_attention_heads": 6}
    return hf.SiglipModel(hf.SiglipConfig(text_config=text, vision_config=image))


def dual(image: Callable[[], hf.PreTrainedConfig]) -> nn.Module:
    parts = {"text_config": hf.BertConfig(**TEXT).to_dict(), "vision_config": image().to_dict()}
    return hf.VisionTextDualEncoderModel(hf.VisionTextDualEncoderConfig(**parts, projection_dim=20))


PAIRS: dict[str, Callable[[], nn.Module]] = {
    "clip": lambda: clip(END),
    "old clip, pooled at the largest id": lambda: clip(2),
    "siglip": siglip,
    "siglip 2": siglip2,
    "bert with vit": lambda: dual(lambda: hf.ViTConfig(**IMAGE)),
    "bert with clip": lambda: dual(lambda: hf.CLIPVisionConfig(**IMAGE)),
}


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[nn.Module, Path]:
    torch.manual_seed(0)
    model = PAIRS[request.param]().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(tmp_path / "theirs")
    return model, tmp_path / "theirs"


def inputs_of(model: nn.Module, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Texts of three lengths (SigLIP's are all padded to one) and four pictures."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 38, (3, 9), generator=generator)
    mask = (torch.arange(9) < torch.tensor([[6], [9], [8]])).long()
    ids[torch.arange(3), mask.sum(1) - 1] = END
    pictures = torch.randn(4, 3, 16, 16, generator=generator, dtype=dtype)
    padding = {} if isinstance(model, hf.SiglipModel) else {"attention_mask": mask}
    return {"input_ids": ids * mask, "pixel_values": pictures, **padding}


def differences(ours: nn.Module, theirs: nn.Module, inputs: dict[str, Tensor]) -> dict[str, float]:
    """max|a - b| / max(1, max|b|) of all that both compute."""
    text = {name: value for name, value in inputs.items() if name != "pixel_values"}
    image = {"pixel_values": inputs["pixel_values"]}
    with torch.no_grad():
        a, b = ours(**inputs), theirs(**inputs)
        pairs = {name: (a[name], b[name].to(a[name].dtype)) for name in EMBEDS}
        pairs["text features"] = ours.get_text_features(**text), theirs.get_text_features(**text)
        pairs["image features"] = ours.get_image_features(**image), theirs.get_image_features(**image)
    pooled = (
        (name, (getattr(x, "pooler_output", x), getattr(y, "pooler_output", y))) for name, (x, y) in pairs.items()
    )
    return {name: float((x - y).abs().max() / y.abs().max().clamp(min=1)) for name, (x, y) in pooled}


EMBEDS = ("logits_per_text", "logits_per_image", "text_embeds", "image_embeds")


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_features_and_logits_are_those_of_transformers(pair: tuple[nn.Module, Path], implementation: str) -> None:
    theirs, folder = pair
    theirs.set_attn_implementation(implementation)
    ours = PlaitForRetrieval.from_pretrained(folder, attn_implementation=implementation)
    worst = differences(ours, theirs, inputs_of(theirs))
    assert len(worst) == 6 and max(worst.values()) <= 1e-5, worst


def test_the_error_to_float64_is_at_most_twice_that_of_transformers(pair: tuple[nn.Module, Path]) -> None:
    theirs, folder = pair
    ours = PlaitForRetrieval.from_pretrained(folder)
    inputs = inputs_of(theirs)
    with torch.no_grad():
        single = [model(**inputs).logits_per_text.double() for model in (ours, theirs)]
        exact = theirs.double()(**inputs_of(theirs) | {"pixel_values": inputs["pixel_values"].double()}).logits_per_text
    mine, their_own = (float((logits - exact).abs().max()) for logits in single)
    assert mine <= 2 * their_own + 1e-7


def test_it_goes_back_bit_for_bit(pair: tuple[nn.Module, Path], tmp_path: Path) -> None:
    theirs, folder = pair
    ours = PlaitForRetrieval.from_pretrained(folder)
    export(ours, tmp_path / "back")
    before, after = (load_file(place / "model.safetensors") for place in (folder, tmp_path / "back"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) and before[name].shape == after[name].shape for name in before)
    again = type(theirs).from_pretrained(tmp_path / "back").eval()
    with torch.no_grad():
        inputs = inputs_of(theirs)
        assert torch.equal(again(**inputs).logits_per_text, theirs(**inputs).logits_per_text)
    with torch.no_grad():
        ours.model.towers["text"].embeddings.token_embedding.weight += 1
        ours.similarity.logit_scale += 1
    export(ours, tmp_path / "trained")
    changed = load_file(tmp_path / "trained" / "model.safetensors")
    assert sum(not torch.equal(before[name], changed[name]) for name in before) == 2


def test_its_own_folder_holds_the_same_model(pair: tuple[nn.Module, Path], tmp_path: Path) -> None:
    theirs, folder = pair
    ours, inputs = PlaitForRetrieval.from_pretrained(folder), inputs_of(theirs)
    ours.save_pretrained(tmp_path / "own")
    for auto in (PlaitForRetrieval, hf.AutoModelForZeroShotImageClassification):
        again = auto.from_pretrained(tmp_path / "own")
        assert type(again) is PlaitForRetrieval
        with torch.no_grad():
            assert torch.equal(again(**inputs).logits_per_text, ours(**inputs).logits_per_text)
    base = PlaitModel.from_pretrained(tmp_path / "own")
    with torch.no_grad():
        image = base(pixel_values=inputs["pixel_values"]).pooler_output
        assert torch.equal(
            ours.project("image", image), ours.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output
        )
        with pytest.raises(ValueError, match="no fusion: pass text or image"):
            base(**{name: value[:3] for name, value in inputs.items()})


def test_a_class_that_braids_says_what_it_lacks(tmp_path: Path) -> None:
    clip(END).save_pretrained(tmp_path / "theirs")
    PlaitForRetrieval.from_pretrained(tmp_path / "theirs").save_pretrained(tmp_path / "own")
    with pytest.raises(ValueError, match=r"PlaitForClassification fuses its towers.*compose"):
        PlaitForClassification.from_pretrained(tmp_path / "own")
    model = PlaitForClassification.compose(text=tmp_path / "own", image=tmp_path / "own", labels=2, verbose=False)
    assert set(model.model.towers) == {"text", "image"}


def test_the_loss_is_that_of_transformers(pair: tuple[nn.Module, Path]) -> None:
    theirs, folder = pair
    inputs = {name: value[:3] for name, value in inputs_of(theirs).items()}
    ours = PlaitForRetrieval.from_pretrained(folder)
    with torch.no_grad():
        expected, found = (model(**inputs, return_loss=True).loss for model in (theirs, ours))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [siglip, lambda: clip(END)])
def test_an_exported_config_names_the_type_of_its_weights(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    make().save_pretrained(tmp_path / "theirs")
    ours = PlaitForRetrieval.from_pretrained(tmp_path / "theirs")
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        export(ours.to(dtype), tmp_path / name)
        content = json.loads((tmp_path / name / "config.json").read_text())
        assert content["dtype"] == name
        assert {tensor.dtype for tensor in load_file(tmp_path / name / "model.safetensors").values()} == {dtype}
