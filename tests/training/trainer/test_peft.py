"""Adapters that also train and save the fresh modules, of every class."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from plait import PlaitTrainer
from plait.modeling.backbone.pretrained import PlaitPreTrainedModel
from plait.modeling.composition.parameter_names import part_of
from plait.training import fresh_modules
from plait.training.data.loading import DataSplits

from ...modeling import zoo

peft = pytest.importorskip("peft")
MakeModel = Callable[..., PlaitPreTrainedModel]


@pytest.fixture
def adapted(make_model: MakeModel) -> Callable[[], tuple[PlaitPreTrainedModel, torch.nn.Module]]:
    """A model whose text tower counts as pretrained, and the same with adapters on it."""

    def make() -> tuple[PlaitPreTrainedModel, torch.nn.Module]:
        model = make_model()
        model.origins = {"text": "pretrained", "image": "fresh"}
        config = peft.LoraConfig(
            r=2, target_modules=r".*towers\.text\..*(q_proj|v_proj)", modules_to_save=fresh_modules(model)
        )
        return model, peft.get_peft_model(model, config)

    return make


def test_adapters_and_fresh_modules_train_and_come_back(
    adapted: Callable[[], tuple[PlaitPreTrainedModel, torch.nn.Module]],
    make_trainer: Callable[..., PlaitTrainer],
    make_model: MakeModel,
    data: DataSplits,
    tmp_path: Path,
) -> None:
    _, model = adapted()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    trainer = make_trainer(model, num_train_epochs=3, learning_rates={"text": 0.5, "fusion": 0.2}, share_images=True)
    trainer.train()
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert {part_of(name) for name in changed} == {"text", "image", "fusion", "head"}
    assert all("lora" in name for name in changed if part_of(name) == "text")
    trainable = {name for name, value in model.named_parameters() if value.requires_grad}
    unused = trainable - changed
    assert changed
    assert not unused, unused
    trainer.save_model(str(tmp_path / "adapter"))
    loaded = peft.PeftModel.from_pretrained(make_model(), tmp_path / "adapter").eval()
    batch = trainer.data_collator(list(data.train))
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits)


def test_rates_and_features_see_through_the_adapter(
    adapted: Callable[[], tuple[PlaitPreTrainedModel, torch.nn.Module]], make_trainer: Callable[..., PlaitTrainer]
) -> None:
    _, model = adapted()
    trainer = make_trainer(model, learning_rates={"text": 1e-3, "head": 1e-2})
    rates = {group["part"]: group["lr"] for group in trainer.create_optimizer().param_groups}
    assert rates == {"text": 1e-3, "image": 0.1, "fusion": 0.1, "head": 1e-2}
    with pytest.raises(ValueError, match="the text tower is not frozen"):
        make_trainer(model, cache_features=["text"])
    _, frozen = adapted()
    batch = next(iter(make_trainer(frozen, frozen=["text"], cache_features=["text"]).get_train_dataloader()))
    assert "text" in batch["encoder_outputs"]


def adapt(model: PlaitPreTrainedModel, first: str) -> torch.nn.Module:
    """Adapters in one part, all that is fresh beside it trained and saved; both with weights that are not zero."""
    path = r"(.*\.)?" + ("decoder" if first == "decoder" else f"towers.{first}") + r"\..*self_attn\.q_proj"
    config = peft.LoraConfig(target_modules=path, modules_to_save=fresh_modules(model), init_lora_weights=False)
    adapted = peft.get_peft_model(model, config)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    return adapted


QUICK = ("captioner", "apart")
CASES = [
    pytest.param(case, id="-".join(case), marks=[] if case[1] in QUICK else pytest.mark.slow) for case in zoo.CASES
]


@pytest.mark.parametrize("known", ["one part", "all parts"])
@pytest.mark.parametrize("case", CASES)
def test_what_is_fresh_is_trained_and_comes_back_in_every_class(
    case: tuple[str, str], known: str, tmp_path: Path
) -> None:
    """With one pretrained part or only such, of which decoders have new cross-attention; bit for bit."""
    model, inputs = zoo.build(*case), zoo.inputs_of(case[1])
    first = next(iter(model.parts))
    model.origins = dict.fromkeys([first] if known == "one part" else model.parts, "pretrained")
    model.fresh_names = {name for name, _ in model.named_parameters() if ".cross_attn" in name}
    fresh = {row.part: row.fresh for row in model.composition().rows}
    if not any(fresh.values()) and case[0] in ("PlaitModel", "PlaitForCausalLM"):
        assert fresh_modules(model) == []
        return
    given = {**inputs, **zoo.labels_of(case[0], inputs)}
    given |= {"return_loss": True} if case[0] == "PlaitForRetrieval" else {}
    adapted = adapt(model, first)
    trained = {name: parameter for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    if case[0] != "PlaitModel":
        adapted.train()(**given).loss.backward()
        unused = [name for name, parameter in trained.items() if parameter.grad is None and ".pooler." not in name]
        assert not unused, unused
    adapted.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(zoo.build(*case), tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(zoo.main_tensor(again(**inputs)), zoo.main_tensor(adapted.eval()(**inputs)))


def test_a_tied_output_layer_is_fresh_only_with_its_embeddings() -> None:
    model = zoo.build("PlaitForMaskedLM", "text")
    model.origins = {"text": "pretrained"}
    assert fresh_modules(model) == ["mlm_head"]
    model.origins = {}
    assert {"lm_head", "mlm_head", "model.towers.text.embeddings"} <= set(fresh_modules(model))
