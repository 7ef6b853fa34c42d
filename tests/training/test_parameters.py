"""Parts of a model: names, freezing, optimizer groups."""

from collections.abc import Callable

import pytest
import torch
from transformers import Trainer, TrainingArguments

from plait import PlaitForRetrieval, parameter_groups
from plait.configuration import PlaitTextConfig
from plait.modeling.backbone.parts import freeze, group_parameters_by_part
from plait.modeling.backbone.pretrained import PlaitPreTrainedModel
from plait.modeling.composition.parameter_names import part_of
from plait.training import fresh_modules

MakeModel = Callable[..., PlaitPreTrainedModel]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.towers.text.transformer.layers.0.mlp.up_proj.weight", "text"),
        ("towers.image.embeddings.class_tokens.0.weight", "image"),
        ("model.connectors.image.proj.weight", "fusion"),
        ("model.fusion.transformer.layers.0.mlp.decoder.weight", "fusion"),
        ("model.decoder.layers.0.weight", "decoder"),
        ("classifier.weight", "head"),
        ("module.model.towers.text.x", "text"),
        ("base_model.model.model.towers.text.q_proj.lora_A.default.weight", "text"),
        ("base_model.model.classifier.modules_to_save.default.weight", "head"),
        ("_orig_mod.model.fusion.x", "fusion"),
        ("_fsdp_wrapped_module.model.towers.image._fsdp_wrapped_module.x", "image"),
    ],
)
def test_part_of(name: str, part: str) -> None:
    assert part_of(name) == part


def test_groups_hold_every_trainable_parameter_once(make_model: MakeModel) -> None:
    model = make_model(freeze=["image"])
    groups = parameter_groups(model, {"text": 1e-5}, weight_decay=0.1, learning_rate=1e-3)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters() if parameter.requires_grad)
    assert {group["part"]: group["lr"] for group in groups} == {"text": 1e-5, "fusion": 1e-3, "head": 1e-3}


def test_norms_and_biases_do_not_decay(make_model: MakeModel) -> None:
    model = make_model()
    groups = parameter_groups(model, weight_decay=0.1)
    decaying = {id(parameter) for group in groups if group["weight_decay"] for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        assert (id(parameter) in decaying) == (not name.endswith("bias") and "norm" not in name), name


def test_a_rate_of_zero_freezes_a_part(make_model: MakeModel) -> None:
    model = make_model()
    groups = parameter_groups(model, {"text": 0.0, "image": 0.0})
    assert {group["part"] for group in groups} == {"fusion", "head"}
    assert {part_of(name) for name, parameter in model.named_parameters() if parameter.requires_grad} == {
        "fusion",
        "head",
    }
    assert all("lr" not in group for group in groups)


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        (
            {"txt": 1.0},
            "unknown part 'txt': the parts are text, image, audio, video, document, fusion, decoder, denoiser, "
            "autoencoder, head",
        ),
        ({"audio": 1.0}, "the model has no part 'audio': it has text, image, fusion, head"),
        ({"image": 1e-4}, "'image' has a learning rate of 0.0001 but is frozen"),
        ({"text": -1.0}, "pass 0 or more"),
        ({"text": 0, "fusion": 0, "head": 0}, "nothing to train"),
    ],
)
def test_contradictions_are_named(make_model: MakeModel, rates: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parameter_groups(make_model(freeze=["image"]), rates)


def test_freeze(make_model: MakeModel) -> None:
    model = make_model()
    count = freeze(model, ["text", "fusion"])
    parts = group_parameters_by_part(model)
    frozen = [parameter for part in ("text", "fusion") for parameter in parts[part].values()]
    assert count == sum(parameter.numel() for parameter in frozen)
    assert not any(parameter.requires_grad for parameter in frozen)
    assert all(parameter.requires_grad for part in ("image", "head") for parameter in parts[part].values())
    with pytest.raises(ValueError, match="the model has no part 'decoder': it has text, image, fusion, head"):
        freeze(model, ["decoder"])
    with pytest.raises(ValueError, match="the model has no part 'decoder': it has text, image, fusion, head"):
        model.freeze("decoder")


def test_a_document_tower_is_a_part() -> None:
    """A tower of its own for documents is trained, and frozen by its name."""
    text = PlaitTextConfig(vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    model = PlaitForRetrieval.compose(text=text, document=text, verbose=False)
    grouped = {id(parameter) for group in parameter_groups(model) for parameter in group["params"]}
    assert grouped == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert freeze(model, ["document"]) == sum(each.numel() for each in model.parts["document"].parameters())
    assert {group["part"] for group in parameter_groups(model)} == {"text", "head"}


def test_groups_work_with_a_plain_trainer(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> None:
    model = make_model()
    groups = parameter_groups(model, {"text": 1e-5})
    trainer = Trainer(
        model,
        TrainingArguments(str(tmp_path_factory.mktemp("run")), use_cpu=True, report_to="none"),
        optimizer_cls_and_kwargs=(torch.optim.AdamW, {"params": groups, "lr": 1e-3}),
    )
    rates = {group["part"]: group["lr"] for group in trainer.create_optimizer().param_groups}
    assert rates == {"text": 1e-5, "image": 1e-3, "fusion": 1e-3, "head": 1e-3}


def test_fresh_modules_cover_what_no_checkpoint_filled(make_model: MakeModel) -> None:
    model = make_model()
    assert fresh_modules(model)[:3] == ["model.connectors.text", "model.connectors.image", "model.fusion"]
    covered = tuple(f"{name}." for name in fresh_modules(model))
    assert all(name.startswith(covered) for name, _ in model.named_parameters())
    model.origins = {"text": "somewhere", "image": "somewhere"}
    covered = tuple(f"{name}." for name in fresh_modules(model))
    outside = {part_of(name) for name, _ in model.named_parameters() if not name.startswith(covered)}
    assert outside == {"text", "image"}


def test_nothing_decays_unless_asked(make_model: MakeModel) -> None:
    groups = parameter_groups(make_model(), learning_rate=1e-3)
    assert groups and {group["weight_decay"] for group in groups} == {0.0}
    assert {group["weight_decay"] for group in parameter_groups(make_model(), weight_decay=0.5)} == {0.0, 0.5}
