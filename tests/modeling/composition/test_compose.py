"""Composing towers from anywhere, missing modalities, several pictures a row, freezing, and clear errors."""

from pathlib import Path

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

from plait import PlaitConfig, PlaitForClassification, PlaitForMaskedLM, PlaitModel
from plait.configuration import PlaitTextConfig, PlaitVisionConfig
from plait.modeling import part_of

from ..zoo import IMAGE, TEXT, build, inputs_of

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
FUSION = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
FUSIONS = ("early", "late", "cross_attention")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Published checkpoints, as transformers saves them."""
    torch.manual_seed(0)
    clip = {"vocab_size": 40, "max_position_embeddings": 20, "bos_token_id": 0, "eos_token_id": 39}
    vision = {"image_size": 16, "patch_size": 8, **SIZES}
    models = {
        "bert": hf.BertModel(hf.BertConfig(vocab_size=40, max_position_embeddings=20, **SIZES)),
        "vit": hf.ViTModel(hf.ViTConfig(**vision)),
        "clip": hf.CLIPModel(hf.CLIPConfig(text_config={**clip, **SIZES}, vision_config=vision)),
        "gpt2": hf.GPT2LMHeadModel(
            hf.GPT2Config(vocab_size=40, n_positions=20, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
        ),
    }
    parent = tmp_path_factory.mktemp("published")
    for name, model in models.items():
        model.save_pretrained(parent / name)
    return {name: parent / name for name in models}


def compose(
    folders: dict[str, Path], text: str = "bert", image: str = "vit", **options: object
) -> PlaitForClassification:
    torch.manual_seed(0)
    options = {"fusion_config": FUSION, "labels": ["no", "yes"], "verbose": False, **options}
    return PlaitForClassification.compose(text=folders[text], image=folders[image], **options)


def run(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model(**inputs).logits


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize(("text", "image"), [("bert", "vit"), ("clip", "clip"), ("gpt2", "clip"), ("gpt2", "vit")])
def test_published_towers_compose_train_and_reload(
    folders: dict[str, Path], fusion: str, text: str, image: str, tmp_path: Path
) -> None:
    model = compose(folders, text, image, fusion=fusion)
    inputs = inputs_of("early")
    model.train()(**inputs, labels=torch.tensor([0, 1, 1])).loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)
    model.eval().save_pretrained(tmp_path)
    again = PlaitForClassification.from_pretrained(tmp_path)
    assert torch.equal(run(again, inputs), run(model, inputs)) and again.config.id2label == {0: "no", 1: "yes"}


def test_the_towers_keep_their_pretrained_weights(folders: dict[str, Path]) -> None:
    model = compose(folders, text="gpt2", image="clip")
    alone = PlaitModel.from_pretrained(folders["gpt2"])
    text = model.model.towers["text"]
    assert text.config.is_causal
    assert all(
        torch.equal(weight, text.state_dict()[name])
        for name, weight in alone.decoder.state_dict().items()
        if "pooler" not in name
    )
    inputs = inputs_of("text")
    valid = inputs["attention_mask"].bool()
    composed = model.model.encode("text", **inputs).last_hidden_state[valid]
    torch.testing.assert_close(composed, alone(**inputs).last_hidden_state[valid], atol=1e-5, rtol=1e-4)


def test_every_kind_of_tower_argument(folders: dict[str, Path]) -> None:
    config = PlaitVisionConfig(**IMAGE)
    ready = hf.BertModel.from_pretrained(folders["bert"])
    alone = PlaitModel.from_pretrained(folders["vit"])
    foreign = hf.ViTConfig(image_size=16, patch_size=8, **SIZES)
    for text, image in ((ready, config), (str(folders["bert"]), alone), (folders["bert"], foreign)):
        model = PlaitModel.compose(text=text, image=image, fusion_config=FUSION, verbose=False)
        assert model(**inputs_of("early")).pooler_output.shape == (3, 32)
        word = ready.embeddings.word_embeddings.weight
        assert torch.equal(model.get_input_embeddings().weight, word)
    patch = alone.towers["image"].embeddings.patch_embedding.weight
    again = PlaitModel.compose(text=ready, image=alone, fusion_config=FUSION, verbose=False)
    assert torch.equal(again.towers["image"].embeddings.patch_embedding.weight, patch)


def test_one_tower_has_neither_connector_nor_fusion(folders: dict[str, Path]) -> None:
    model = PlaitForClassification.compose(image=folders["vit"], labels=3, verbose=False)
    assert model.config.fusion_config is None and not model.model.connectors
    assert model(**inputs_of("image")).logits.shape == (3, 3)


def test_one_tower_gets_the_fusion_that_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    """A connector and a joint transformer over one stream: what a single modality is compared with in a fusion."""
    options = {"fusion": "early", "fusion_config": FUSION, "labels": 3, "verbose": False}
    model = PlaitForClassification.compose(image=folders["vit"], **options)
    assert list(model.model.connectors) == ["image"] and model.config.hidden_size == FUSION["hidden_size"]
    model.save_pretrained(tmp_path)
    again = PlaitForClassification.from_pretrained(tmp_path)
    assert torch.equal(again(**inputs_of("image")).logits, model(**inputs_of("image")).logits)


def test_the_table_says_what_is_fresh_and_frozen(folders: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    model = compose(folders, freeze=("text",), verbose=True)
    printed = capsys.readouterr().out
    rows = {row.part: row for row in model.composition().rows}
    assert list(rows) == ["text", "image", "fusion", "head"] and str(model.composition()) in printed
    assert rows["text"].trainable == 0 and rows["image"].trainable == rows["image"].parameters
    assert rows["text"].origin == str(folders["bert"]) and rows["fusion"].origin == rows["head"].origin == "fresh"
    assert [row.kind for row in rows.values()] == ["bert", "vit", "early, linear", "-"]
    assert rows["text"].fresh == rows["image"].fresh == 0
    assert all(rows[part].fresh == rows[part].parameters > 0 for part in ("fusion", "head"))
    assert sum(row.parameters for row in rows.values()) == sum(p.numel() for p in model.parameters())
    assert {part_of(name) for name, p in model.named_parameters() if not p.requires_grad} == {"text"}


def test_frozen_towers_stay_in_eval_mode(folders: dict[str, Path]) -> None:
    model = compose(folders, freeze="text").train()
    assert not model.model.towers["text"].training and model.model.towers["image"].training and model.training
    inputs = inputs_of("text")
    first, second = (model.model.encode("text", **inputs).last_hidden_state for _ in range(2))
    assert torch.equal(first, second)  # BERT's own dropout of 0.1 would show


PATTERNS = [("text", "image"), ("text",), ("image",)]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_pattern_of_present_modalities(fusion: str) -> None:
    model, inputs = build("PlaitForClassification", fusion), inputs_of(fusion)
    patterns = PATTERNS
    here = torch.tensor([[m in pattern for m in ("text", "image")] for pattern in patterns])
    mixed = dict(inputs)
    mixed["attention_mask"] = inputs["attention_mask"] * here[:, :1]
    mixed["image_present"] = here[:, 1:]
    logits = run(model, mixed)
    assert torch.isfinite(logits).all()
    for row, pattern in enumerate(patterns):
        alone = {}
        if "text" in pattern:
            alone |= {name: inputs[name][row : row + 1] for name in ("input_ids", "attention_mask")}
        if "image" in pattern:
            alone["pixel_values"] = inputs["pixel_values"][row : row + 1]
        torch.testing.assert_close(run(model, alone)[0], logits[row], atol=1e-5, rtol=1e-4)
    junk = {name: value.clone() for name, value in mixed.items()}
    junk["input_ids"][2], junk["pixel_values"][1] = 7, torch.nan
    assert torch.equal(run(model, junk), logits)
    for name, row in (("input_ids", 1), ("pixel_values", 2)):
        changed = {key: value.clone() for key, value in mixed.items()}
        changed[name][row] = (changed[name][row] + 3) % 40 if name == "input_ids" else changed[name][row] + 1
        assert not torch.allclose(run(model, changed)[row], logits[row])


def test_a_row_without_anything_is_an_error() -> None:
    model, inputs = build("PlaitForClassification", "early"), inputs_of("early")
    inputs["attention_mask"][1] = 0
    with pytest.raises(ValueError, match="row 1"):
        model(**inputs, image_present=torch.tensor([[True], [False], [True]]))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_several_pictures_a_row(fusion: str) -> None:
    model, inputs = build("PlaitForClassification", fusion), inputs_of(fusion)
    pictures = torch.randn(3, 2, 3, 16, 16)
    present = torch.tensor([[True, True], [True, False], [False, True]])
    given = {**inputs, "pixel_values": pictures, "image_present": present}
    logits = run(model, given)
    one = {**{name: value[1:2] for name, value in inputs.items()}, "pixel_values": pictures[1:2, 0]}
    torch.testing.assert_close(run(model, one)[0], logits[1], atol=1e-5, rtol=1e-4)
    shared = {**inputs, "pixel_values": pictures.flatten(0, 1)}
    shared["image_indices"] = torch.tensor([[0, 1], [2, -1], [5, -1]])
    torch.testing.assert_close(run(model, shared)[:2], logits[:2], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(run(model, shared)[2], logits[2], atol=1e-5, rtol=1e-4)


def test_a_shared_picture_is_encoded_once() -> None:
    model, inputs = build("PlaitForClassification", "early"), inputs_of("early")
    seen = []
    model.model.towers["image"].register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    picture = inputs["pixel_values"][:1]
    shared = run(model, {**inputs, "pixel_values": picture, "image_indices": torch.zeros(3, 1, dtype=torch.long)})
    repeated = run(model, {**inputs, "pixel_values": picture.expand(3, -1, -1, -1)})
    assert seen == [1, 3]
    torch.testing.assert_close(shared, repeated, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_given_encoder_outputs_skip_the_tower(fusion: str) -> None:
    model, inputs = build("PlaitForClassification", fusion), inputs_of(fusion)
    expected = run(model, inputs)
    text = {name: inputs.pop(name) for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        encoded = model.model.encode("text", **text)
    model.model.towers["text"].forward = None  # must not run
    for given in (encoded, dict(encoded)):
        torch.testing.assert_close(run(model, {**inputs, "encoder_outputs": {"text": given}}), expected)


def test_absent_from_the_whole_batch_costs_no_tower(folders: dict[str, Path]) -> None:
    model = compose(folders).train()
    model.model.towers["image"].forward = None  # must not run
    loss = model(**inputs_of("text"), labels=torch.tensor([0, 1, 1])).loss
    loss.backward()
    without = {part_of(name) for name, p in model.named_parameters() if p.grad is None}
    assert without == {"image"}


def test_modality_dropout_hides_modalities_in_training_only() -> None:
    model = build("PlaitForClassification", "early")
    model.config.fusion_config.modality_dropout = 0.5
    model = PlaitForClassification(model.config)
    inputs = {name: value[:1].expand(64, *value.shape[1:]) for name, value in inputs_of("early").items()}
    assert len({tuple(row.tolist()) for row in run(model.train(), inputs).round(decimals=4)}) == 3
    assert len({tuple(row.tolist()) for row in run(model.eval(), inputs).round(decimals=4)}) == 1


@pytest.mark.parametrize(
    ("labels", "problem_type", "count"),
    [
        (torch.tensor([0.5, -1.0, 2.0]), "regression", 1),
        (torch.tensor([[1.0, 0.0, 1.0]] * 3), "multi_label_classification", 3),
        (torch.tensor([2, 0, 1]), "single_label_classification", 3),
    ],
)
def test_problem_types(labels: Tensor, problem_type: str, count: int) -> None:
    config = PlaitConfig(text_config={**TEXT, "pooling": "mean"}, num_labels=count)
    model, inputs = PlaitForClassification(config).eval(), inputs_of("text")
    logits = run(model, inputs)
    expected = {
        "regression": nn.functional.mse_loss(logits[:, 0], labels) if count == 1 else None,
        "multi_label_classification": nn.functional.binary_cross_entropy_with_logits(logits, labels.float())
        if labels.ndim == 2
        else None,
        "single_label_classification": nn.functional.cross_entropy(logits, labels)
        if labels.dtype == torch.long
        else None,
    }[problem_type]
    torch.testing.assert_close(model(**inputs, labels=labels).loss, expected)
    model.config.problem_type = problem_type
    torch.testing.assert_close(model(**inputs, labels=labels).loss, expected)


def test_masked_lm_with_a_picture_uses_it() -> None:
    model, inputs = build("PlaitForMaskedLM", "cross_attention"), inputs_of("cross_attention")
    before = run(model, inputs)
    inputs["pixel_values"] = inputs["pixel_values"] + 1
    assert (run(model, inputs) - before).abs().amax(dim=(1, 2)).min() > 1e-4


ERRORS = [
    ({}, "at least one tower"),
    ({"text": PlaitTextConfig(**TEXT), "image": PlaitVisionConfig(**IMAGE), "fusion": "erly"}, "early"),
    ({"text": PlaitTextConfig(**TEXT), "image": PlaitVisionConfig(**IMAGE), "freeze": "audio"}, "audio"),
    ({"text": PlaitTextConfig(**TEXT), "image": PlaitVisionConfig(**IMAGE), "query": "audio"}, "audio"),
    ({"text": PlaitTextConfig(**TEXT), "labels": ["yes", "yes"]}, "differ"),
]


@pytest.mark.parametrize(("arguments", "message"), ERRORS, ids=[message for _, message in ERRORS])
def test_what_cannot_be_composed_is_said(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PlaitForClassification.compose(verbose=False, **arguments)


def test_a_misspelt_option_is_an_error() -> None:
    with pytest.raises(TypeError, match="classifier_dropout"):
        PlaitForClassification.compose(text=PlaitTextConfig(**TEXT), clasifier_dropout=0.1, verbose=False)
    with pytest.raises(TypeError, match="hidden_size"):
        PlaitConfig(text_config={"hiden_size": 3})


def test_an_input_without_its_tower_is_an_error() -> None:
    with pytest.raises(ValueError, match="no image tower"):
        build("PlaitForClassification", "text")(**inputs_of("early"))
    with pytest.raises(ValueError, match="decoder alone"):
        build("PlaitModel", "decoder")(**inputs_of("early"))
    with pytest.raises(ValueError, match="leave them out"):
        build("PlaitModel", "text")(**inputs_of("text"), use_cache=True)
    with pytest.raises(ValueError, match="no inputs"):
        build("PlaitForClassification", "text")()
    with pytest.raises(ValueError, match="shape"):
        build("PlaitForClassification", "image")(pixel_values=torch.zeros(3, 16, 16))
    with pytest.raises(ValueError, match="positions"):
        build("PlaitForClassification", "text")(input_ids=torch.ones(1, 513, dtype=torch.long))
    with pytest.raises(ValueError, match="label 3"):
        build("PlaitForClassification", "text")(**inputs_of("text"), labels=torch.tensor([0, 1, 3]))


@pytest.mark.parametrize(
    "fields", [{"fusion_config": {"strategy": "late"}}, {"fusion_config": {"connector": "resampler"}}]
)
def test_masked_lm_needs_the_texts_tokens(fields: dict[str, object]) -> None:
    config = PlaitConfig(text_config=dict(TEXT), vision_config=dict(IMAGE), **fields)
    with pytest.raises(ValueError, match="text's tokens"):
        PlaitForMaskedLM(config)


def test_a_wrong_checkpoint_for_a_modality_is_an_error(folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="image"):
        PlaitModel.compose(image=folders["bert"], verbose=False)
