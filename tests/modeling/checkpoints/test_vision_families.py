"""ViT, DeiT, DINOv2, CLIP and SigLIP read from transformers' files, against transformers itself."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from plait.modeling.checkpoints import build_component_config, read_component, write_component
from plait.modeling.checkpoints.source import open_checkpoint
from plait.modeling.towers.registry import TOWERS

# an epsilon that shows: with the usual ones a norm that ignores it would pass
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "layer_norm_eps": 1e-2}
WIDE = {**SIZES, "intermediate_size": 48}
PICTURE = {"image_size": 32, "patch_size": 8}
WORDS = {"vocab_size": 60, "max_position_embeddings": 16}
END = 30


def two_towers(kind: type[hf.PreTrainedConfig], **options: Any) -> hf.PreTrainedConfig:
    return kind(text_config={**WIDE, **WORDS}, vision_config={**WIDE, **PICTURE}, **options)


MODELS: dict[str, Callable[[], hf.PreTrainedModel]] = {
    "vit": lambda: hf.ViTModel(hf.ViTConfig(**WIDE, **PICTURE, pooler_output_size=20)),
    "vit-masked": lambda: hf.ViTModel(hf.ViTConfig(**WIDE, **PICTURE, qkv_bias=False), use_mask_token=True),
    "vit-bare": lambda: hf.ViTModel(hf.ViTConfig(**WIDE, **PICTURE), add_pooling_layer=False),
    "vit-classifier": lambda: hf.ViTForImageClassification(hf.ViTConfig(**WIDE, **PICTURE, num_labels=3)),
    "deit": lambda: hf.DeiTModel(hf.DeiTConfig(**WIDE, **PICTURE)),
    "deit-classifier": lambda: hf.DeiTForImageClassification(hf.DeiTConfig(**WIDE, **PICTURE, num_labels=3)),
    "deit-teacher": lambda: hf.DeiTForImageClassificationWithTeacher(hf.DeiTConfig(**WIDE, **PICTURE, num_labels=3)),
    "dinov2": lambda: hf.Dinov2Model(hf.Dinov2Config(**SIZES, **PICTURE, mlp_ratio=2)),
    "dinov2-unmasked": lambda: hf.Dinov2Model(hf.Dinov2Config(**SIZES, **PICTURE, use_mask_token=False)),
    "dinov2-swiglu": lambda: hf.Dinov2Model(hf.Dinov2Config(**SIZES, **PICTURE, mlp_ratio=3, use_swiglu_ffn=True)),
    "dinov2-classifier": lambda: hf.Dinov2ForImageClassification(hf.Dinov2Config(**SIZES, **PICTURE, num_labels=3)),
    "clip-image": lambda: hf.CLIPVisionModel(hf.CLIPVisionConfig(**WIDE, **PICTURE)),
    "clip-image-projection": lambda: hf.CLIPVisionModelWithProjection(hf.CLIPVisionConfig(**WIDE, **PICTURE)),
    "clip-classifier": lambda: hf.CLIPForImageClassification(two_towers(hf.CLIPConfig, num_labels=3)),
    "siglip-image": lambda: hf.SiglipVisionModel(hf.SiglipVisionConfig(**WIDE, **PICTURE)),
    "siglip-image-headless": lambda: hf.SiglipVisionModel(
        hf.SiglipVisionConfig(**WIDE, **PICTURE, vision_use_head=False)
    ),
    "siglip-classifier": lambda: hf.SiglipForImageClassification(two_towers(hf.SiglipConfig, num_labels=3)),
    "clip-text": lambda: hf.CLIPTextModel(hf.CLIPTextConfig(**WIDE, **WORDS, eos_token_id=END)),
    "clip-text-old": lambda: hf.CLIPTextModel(hf.CLIPTextConfig(**WIDE, **WORDS, eos_token_id=2)),
    "clip-text-projection": lambda: hf.CLIPTextModelWithProjection(
        hf.CLIPTextConfig(**WIDE, **WORDS, eos_token_id=END)
    ),
    "siglip-text": lambda: hf.SiglipTextModel(hf.SiglipTextConfig(**WIDE, **WORDS, projection_size=20)),
}
TEXT = [name for name in MODELS if "-text" in name]
IMAGE = [name for name in MODELS if name not in TEXT]
CLASSIFIERS = [name for name in MODELS if name.endswith(("classifier", "teacher"))]


# where a class with a head keeps its base model, if not under the prefix of its family
BASES = {
    "CLIPForImageClassification": "vision_model",
    "CLIPTextModelWithProjection": "text_model",
    "CLIPVisionModelWithProjection": "vision_model",
    "SiglipForImageClassification": "vision_model",
}


class Saved(NamedTuple):
    """A model of transformers with every parameter drawn at std 0.2, and the folder it was saved to."""

    model: hf.PreTrainedModel
    folder: Path

    @property
    def base(self) -> nn.Module:
        """The module that gives hidden states and the pooled output."""
        attribute = BASES.get(type(self.model).__name__, self.model.base_model_prefix)
        return getattr(self.model, attribute, self.model)

    def file(self) -> dict[str, Tensor]:
        return load_file(self.folder / "model.safetensors")


def save(model: hf.PreTrainedModel, folder: Path, **options: Any) -> Saved:
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    model.eval().save_pretrained(folder, **options)
    return Saved(model, folder)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Saved]:
    """Each model once, drawn from a seed of its own, with the attention implementation that the test asks for."""
    made: dict[str, Saved] = {}

    def get(name: str, attention: str = "sdpa") -> Saved:
        if name not in made:
            torch.manual_seed(len(name))
            made[name] = save(MODELS[name](), tmp_path_factory.mktemp(name))
        made[name].model.set_attn_implementation(attention)
        return made[name]

    return get


def tower_from(folder: Path, modality: str | None = None, attention: str = "sdpa") -> nn.Module:
    read = read_component(open_checkpoint(folder), modality)
    read.config._attn_implementation = attention
    tower = TOWERS[type(read.config)](read.config).eval()
    tower.load_state_dict(read.weights)
    return tower


def inputs_of(name: str) -> dict[str, Tensor]:
    """Pictures; or texts with right padding and their end token, which is not the largest id."""
    generator = torch.Generator().manual_seed(1)
    if name in IMAGE:
        return {"pixel_values": torch.randn(2, 3, 32, 32, generator=generator)}
    lengths = torch.tensor([5, 9, 3])
    ids = torch.randint(3, 50, (3, 9), generator=generator).scatter(1, lengths[:, None] - 1, END)
    mask = (torch.arange(9) < lengths[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


@torch.no_grad()
def run(model: nn.Module, inputs: dict[str, Tensor], **options: Any) -> dict[str, Tensor]:
    """Every tensor that a tower returns, zeros where there is padding."""
    outputs = model(**inputs, output_hidden_states=True, **options)
    mask = inputs.get("attention_mask", torch.ones(1, 1))[..., None]
    tensors = {f"hidden_states.{number}": state * mask for number, state in enumerate(outputs.hidden_states)}
    tensors["last_hidden_state"] = outputs.last_hidden_state * mask
    if outputs.pooler_output is not None:
        tensors["pooler_output"] = outputs.pooler_output
    return tensors


def difference(ours: Tensor, theirs: Tensor) -> float:
    theirs = theirs.double()
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1)).item()


def assert_parity(ours: dict[str, Tensor], theirs: dict[str, Tensor], exact: dict[str, Tensor] | None = None) -> None:
    """1e-5 of transformers' result; with `exact`, theirs in float64, an error of at most twice theirs as well."""
    for name, tensor in theirs.items():
        assert ours[name].shape == tensor.shape
        assert difference(ours[name], tensor) <= 1e-5, name
        if exact is not None:
            floor = torch.finfo(torch.float32).eps
            assert difference(ours[name], exact[name]) <= 2 * max(difference(tensor, exact[name]), floor), name


def without_classifier_pooling(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What transformers' base model pools is not what its CLIP, SigLIP and DINOv2 classifiers read."""
    dropped = "pooler_output" if name in CLASSIFIERS else None
    return {key: tensor for key, tensor in tensors.items() if key != dropped}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", MODELS)
def test_family_matches_transformers(saved: Callable[..., Saved], name: str, attention: str) -> None:
    theirs, inputs = saved(name, attention), inputs_of(name)
    expected = without_classifier_pooling(name, run(theirs.base, inputs))
    doubled = {key: value.double() if value.is_floating_point() else value for key, value in inputs.items()}
    exact = run(theirs.base.double(), doubled)
    theirs.base.float()
    assert_parity(run(tower_from(theirs.folder, attention=attention), inputs), expected, exact)


@pytest.mark.parametrize("size", [(40, 24), (48, 48), (16, 64)])
@pytest.mark.parametrize("name", ["vit", "deit", "dinov2", "clip-image", "siglip-image"])
def test_other_picture_sizes_match(saved: Callable[..., Saved], name: str, size: tuple[int, int]) -> None:
    """Square, rectangular, and rectangular with the table's own number of patches; DINOv2 always interpolates."""
    inputs = {"pixel_values": torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2))}
    theirs = saved(name)
    options = {} if name == "dinov2" else {"interpolate_pos_encoding": True}
    exact = run(theirs.base.double(), {"pixel_values": inputs["pixel_values"].double()}, **options)
    expected = run(theirs.base.float(), inputs, **options)
    assert_parity(run(tower_from(theirs.folder), inputs), expected, exact)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", TEXT)
def test_texts_match_when_packing_may_happen(saved: Callable[..., Saved], name: str, attention: str) -> None:
    """Nothing is recorded here, so that CLIP's padded texts are packed; SigLIP pools a padded position."""
    theirs, inputs = saved(name, attention), inputs_of(name)
    with torch.no_grad():
        ours, expected = tower_from(theirs.folder, attention=attention)(**inputs), theirs.base(**inputs)
    mask = inputs["attention_mask"][..., None]
    assert difference(ours.last_hidden_state * mask, expected.last_hidden_state * mask) <= 1e-5
    assert difference(ours.pooler_output, expected.pooler_output) <= 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_a_sharded_checkpoint_holds_the_same_tower(saved: Callable[..., Saved], name: str, tmp_path: Path) -> None:
    theirs = saved(name)
    theirs.model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert_same_tower(tmp_path, theirs.folder)


def assert_same_tower(folder: Path, other: Path, modality: str | None = None) -> None:
    read, expected = (read_component(open_checkpoint(place), modality) for place in (folder, other))
    assert read.weights.keys() == expected.weights.keys()
    assert all(torch.equal(tensor, expected.weights[name]) for name, tensor in read.weights.items())


@pytest.mark.parametrize("name", ["vit-classifier", "deit-teacher", "dinov2-classifier", "clip-text-projection"])
def test_the_task_prefix_is_optional(saved: Callable[..., Saved], name: str, tmp_path: Path) -> None:
    theirs = saved(name)
    theirs.base.save_pretrained(tmp_path)
    assert_same_tower(tmp_path, theirs.folder)


@pytest.mark.parametrize(("name", "prefix"), [("clip-image", "vision_model."), ("clip-text", "text_model.")])
def test_an_old_clip_file_holds_the_same_tower(
    saved: Callable[..., Saved], name: str, prefix: str, tmp_path: Path
) -> None:
    """Old files have the prefix of the two-tower model, and a buffer that holds nothing to learn."""
    theirs = saved(name)
    tensors = {prefix + key: tensor for key, tensor in theirs.file().items()}
    tensors[f"{prefix}embeddings.position_ids"] = torch.arange(17)[None]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text((theirs.folder / "config.json").read_text())
    assert_same_tower(tmp_path, theirs.folder)


# weights that these classes carry and never use
UNUSED = {"clip-classifier": "vision_model.post_layernorm", "siglip-classifier": "vision_model.head"}


@pytest.mark.parametrize("name", MODELS)
def test_export_is_bit_equal(saved: Callable[..., Saved], name: str, tmp_path: Path) -> None:
    theirs = saved(name)
    write_component(read_component(open_checkpoint(theirs.folder)), tmp_path)
    expected = {key: tensor for key, tensor in theirs.file().items() if not key.startswith(UNUSED.get(name, "_"))}
    if name.endswith("projection"):  # the projection is no part of a tower
        expected = {key.partition(".")[2]: tensor for key, tensor in expected.items() if "projection" not in key}
    written = load_file(tmp_path / "model.safetensors")
    assert written.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in written.items())


# what transformers must be told, as for the file that it wrote itself
LOADING = {"vit-masked": {"use_mask_token": True}, "vit-bare": {"add_pooling_layer": False}}


@pytest.mark.parametrize("name", MODELS)
def test_transformers_reads_the_export(saved: Callable[..., Saved], name: str, tmp_path: Path) -> None:
    theirs, inputs = saved(name), inputs_of(name)
    labels = {"id2label": theirs.model.config.id2label} if name in CLASSIFIERS else {}
    write_component(read_component(open_checkpoint(theirs.folder)), tmp_path, **labels)
    architecture = json.loads((tmp_path / "config.json").read_text())["architectures"][0]
    kind, options = getattr(hf, architecture), LOADING.get(name, {})
    again, report = kind.from_pretrained(tmp_path, output_loading_info=True, **options)
    assert not report["unexpected_keys"]
    assert all(key.startswith(UNUSED.get(name, "_")) for key in report["missing_keys"])
    expected = run(theirs.base, inputs)
    outputs = without_classifier_pooling(name, run(Saved(again.eval(), tmp_path).base, inputs))
    assert all(torch.equal(tensor, expected[key]) for key, tensor in outputs.items())


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifier_comes_with_the_tower(saved: Callable[..., Saved], name: str) -> None:
    theirs, inputs = saved(name), inputs_of(name)
    heads, tower = read_component(open_checkpoint(theirs.folder)).heads, tower_from(theirs.folder)
    with torch.no_grad():
        outputs, expected = tower(**inputs), theirs.model(**inputs).logits
    logits = nn.functional.linear(outputs.pooler_output, heads["classifier.weight"], heads["classifier.bias"])
    if name == "deit-teacher":
        teacher = (heads["distillation_classifier.weight"], heads["distillation_classifier.bias"])
        logits = (logits + nn.functional.linear(outputs.last_hidden_state[:, 1], *teacher)) / 2
    assert difference(logits, expected) <= 1e-5


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("modality", ["text", "image"])
@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
def test_two_tower_folders_give_each_tower(tmp_path: Path, kind: str, modality: str, attention: str) -> None:
    """The projections and the temperature are heads of another class: known, and not in a tower."""
    torch.manual_seed(3)
    theirs = save(getattr(hf, f"{kind}Model")(two_towers(getattr(hf, f"{kind}Config"))), tmp_path)
    theirs.model.set_attn_implementation(attention)
    inputs = inputs_of("clip-text" if modality == "text" else "clip-image")
    expected = theirs.model.text_model if modality == "text" else theirs.model.vision_model
    assert_parity(run(tower_from(tmp_path, modality, attention), inputs), run(expected, inputs))
    assert not read_component(open_checkpoint(tmp_path), modality).heads


@pytest.mark.parametrize("modality", ["text", "image"])
@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
def test_one_of_two_towers_is_exported_alone(tmp_path: Path, kind: str, modality: str) -> None:
    torch.manual_seed(3)
    theirs = save(getattr(hf, f"{kind}Model")(two_towers(getattr(hf, f"{kind}Config"))), tmp_path / "both").model
    write_component(read_component(open_checkpoint(tmp_path / "both"), modality), tmp_path / "one")
    alone, prefix = ("TextModel", "text_model.") if modality == "text" else ("VisionModel", "vision_model.")
    again, report = getattr(hf, kind + alone).from_pretrained(tmp_path / "one", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert all(torch.equal(tensor, theirs.state_dict()[prefix + key]) for key, tensor in again.state_dict().items())


def test_clip_text_needs_one_end_token(tmp_path: Path) -> None:
    theirs = save(hf.CLIPTextModel(hf.CLIPTextConfig(**WIDE, **WORDS, eos_token_id=[END, 7])), tmp_path)
    with pytest.raises(ValueError, match=r"eos_token_id.*\[30, 7\]"):
        read_component(open_checkpoint(theirs.folder))


@pytest.mark.parametrize("kind", [hf.ViTConfig, hf.DeiTConfig, hf.Dinov2Config, hf.CLIPVisionConfig])
def test_dropout_comes_along(kind: type[hf.PreTrainedConfig]) -> None:
    """No parity test sees it: it acts in training only."""
    named = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.2, "attention_dropout": 0.3}
    theirs = kind(**{name: value for name, value in named.items() if hasattr(kind(), name)})
    ours = build_component_config(theirs, "image")
    assert ours.hidden_dropout_prob == getattr(theirs, "hidden_dropout_prob", 0.0)
    assert ours.attention_dropout == getattr(theirs, "attention_dropout", 0.2)


@pytest.mark.slow
def test_real_dinov2_matches_transformers() -> None:
    """DINOv2-small, float16 on disk, computed in float32, at its own size and at a smaller one."""
    root = os.environ.get("PLAIT_CHECKPOINTS")
    if root is None:
        pytest.skip("PLAIT_CHECKPOINTS names no folder of checkpoints")
    folder = Path(root) / "dinov2-small-saliency"
    theirs, ours = hf.AutoModel.from_pretrained(folder, dtype=torch.float32).eval(), tower_from(folder)
    generator = torch.Generator().manual_seed(4)
    for size in [(518, 518), (140, 280)]:
        inputs = {"pixel_values": torch.randn(1, 3, *size, generator=generator)}
        expected = run(theirs, inputs)
        exact = run(theirs.double(), {"pixel_values": inputs["pixel_values"].double()})
        theirs.float()
        assert_parity(run(ours, inputs), expected, exact)
