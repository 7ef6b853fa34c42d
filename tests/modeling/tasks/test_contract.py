"""What transformers asks of a model class, proved over all our classes and shapes."""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForZeroShotImageClassification,
)

from plait import PlaitConfig
from plait.modeling import PlaitPreTrainedModel

from ..zoo import CASES, CLASSES, build, config_of, inputs_of, labels_of, main_tensor, recorded


@pytest.fixture(params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.fixture
def inputs(case: tuple[str, str]) -> dict[str, Tensor]:
    return inputs_of(case[1])


def state_equal(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@torch.no_grad()
def run(model: nn.Module, inputs: dict[str, Tensor], **options: object) -> Tensor:
    return main_tensor(model(**inputs, **options))


def real(tensor: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    """A row's valid positions; a tensor without positions as it is."""
    mask = inputs.get("attention_mask")
    if mask is None or tensor.ndim < 3 or tensor.shape[1] < mask.shape[1]:
        return tensor
    rest = mask.new_ones(len(mask), tensor.shape[1] - mask.shape[1])
    return tensor * torch.cat((mask, rest), dim=1)[..., None]


def test_config_round_trip(case: tuple[str, str], tmp_path: Path) -> None:
    config = config_of(case[1])
    config.save_pretrained(tmp_path / "sub")
    again = PlaitConfig.from_pretrained(tmp_path, subfolder="sub", num_labels=5)
    assert again.num_labels == 5
    assert PlaitConfig.from_pretrained(tmp_path / "sub").to_dict() == config.to_dict()
    assert json.loads(config.to_json_string())["model_type"] == "plait"
    assert copy.deepcopy(config).to_dict() == config.to_dict()


def test_towers_hold_the_parents_sub_config(model: PlaitPreTrainedModel) -> None:
    for name, tower in model.parts.items():
        parent = model.config.decoder_config if name == "decoder" else model.config.encoders[name]
        assert tower.config is parent


def test_every_weight_is_initialised(case: tuple[str, str]) -> None:
    model = CLASSES[case[0]](config_of(case[1]))
    with torch.device("meta"):
        empty = CLASSES[case[0]](config_of(case[1]))
    assert model.state_dict().keys() == empty.state_dict().keys()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter).all(), name
        starts_even = parameter.ndim <= 1 or ".gates." in name  # norms at one, biases and gates at zero
        assert starts_even or 0.02 < parameter.std() < 1, f"{name} std {parameter.std()}"


def test_save_load_is_exact(
    case: tuple[str, str], model: PlaitPreTrainedModel, inputs: dict[str, Tensor], tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir() if path.name != "load_plait.py"} <= {".json", ".safetensors"}
    again, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert state_equal(model, again) and torch.equal(run(model, inputs), run(again, inputs))


def test_sharded_save_load_is_exact(model: PlaitPreTrainedModel, inputs: dict[str, Tensor], tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert torch.equal(run(type(model).from_pretrained(tmp_path), inputs), run(model, inputs))


def test_base_model_loads_every_folder(case: tuple[str, str], model: PlaitPreTrainedModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    base, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    weights, saved = base.state_dict(), model.base_model.state_dict()
    assert type(base).__name__ == "PlaitModel" and all(torch.equal(weights[name], saved[name]) for name in saved)
    new = weights.keys() - saved.keys()
    assert new == set(info["missing_keys"]) and all(".pooler." in name for name in new)  # a masked LM has no pooler


def test_new_heads_are_reported(case: tuple[str, str], tmp_path: Path) -> None:
    if case[0] == "PlaitModel":
        pytest.skip("has no head")
    build("PlaitModel", case[1]).save_pretrained(tmp_path)
    model, info = CLASSES[case[0]].from_pretrained(tmp_path, num_labels=7, output_loading_info=True)
    heads = {name for name, _ in model.named_parameters() if not name.startswith("model.")}
    tied = {"lm_head.weight"}
    assert heads - tied <= set(info["missing_keys"]) <= heads and not info["unexpected_keys"]


def test_a_mismatched_size_is_an_error(case: tuple[str, str], model: PlaitPreTrainedModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    part = next(name for name in ("text_config", "vision_config", "decoder_config") if config[name])
    config[part]["intermediate_size"] = 44
    path.write_text(json.dumps(config))
    with pytest.raises(RuntimeError, match="intermediate|mlp|mismatch"):
        type(model).from_pretrained(tmp_path)


def test_tuple_equals_dict(model: PlaitPreTrainedModel, inputs: dict[str, Tensor]) -> None:
    with torch.no_grad():
        as_dict, as_tuple = model(**inputs), model(**inputs, return_dict=False)
    assert isinstance(as_tuple, tuple)
    assert torch.equal(as_tuple[0], as_dict[0]) and len(as_tuple) == len(as_dict.to_tuple())


def test_rows_do_not_depend_on_their_neighbours(model: PlaitPreTrainedModel, inputs: dict[str, Tensor]) -> None:
    together = real(run(model, inputs), inputs)
    for row in range(3):
        one = {name: value[row : row + 1] for name, value in inputs.items()}
        torch.testing.assert_close(real(run(model, one), one)[0], together[row], atol=1e-5, rtol=1e-4)
    order = torch.tensor([2, 0, 1])
    shuffled = {name: value[order] for name, value in inputs.items()}
    torch.testing.assert_close(real(run(model, shuffled), shuffled), together[order], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("junk", [0, 39])
def test_padding_is_invisible(model: PlaitPreTrainedModel, inputs: dict[str, Tensor], junk: int) -> None:
    if "input_ids" not in inputs:
        pytest.skip("pictures have no padding")
    longer = dict(inputs)
    batch, length = inputs["input_ids"].shape
    longer["input_ids"] = torch.cat((inputs["input_ids"], torch.full((batch, 3), junk)), dim=1)
    longer["attention_mask"] = torch.cat((inputs["attention_mask"], torch.zeros(batch, 3, dtype=torch.long)), dim=1)
    before, after = run(model, inputs), run(model, longer)
    if before.ndim == 3 and before.shape[1] >= length:
        after = torch.cat((after[:, :length], after[:, length + 3 :]), dim=1)
        before, after = real(before, inputs), real(after, inputs)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-4)


def test_packing_and_attention_implementations_agree(model: PlaitPreTrainedModel, inputs: dict[str, Tensor]) -> None:
    expected = real(run(model, inputs), inputs)
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        for config in (*model.config.encoders.values(), model.config.decoder_config, model.config.fusion_config):
            if config is not None:
                assert config._attn_implementation == implementation
                config.packing = not config.packing
        torch.testing.assert_close(real(run(model, inputs), inputs), expected, atol=1e-5, rtol=1e-4)


def test_an_unknown_attention_is_an_error(model: PlaitPreTrainedModel) -> None:
    with pytest.raises(ValueError, match="nonsense"):
        model.set_attn_implementation("nonsense")


def test_attention_can_be_set_for_one_part(case: tuple[str, str]) -> None:
    model = build(case[0], "early") if case[1] == "early" else None
    if model is None:
        pytest.skip("one strand has one part")
    model.set_attn_implementation({"text_config": "eager", "": "sdpa"})
    assert model.config.text_config._attn_implementation == "eager"
    assert model.config.vision_config._attn_implementation == "sdpa"


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attentions_and_hidden_states(
    case: tuple[str, str], model: PlaitPreTrainedModel, inputs: dict[str, Tensor], implementation: str
) -> None:
    if case[1] == "late":
        pytest.skip("late fusion has no joint transformer")
    model.set_attn_implementation(implementation)
    outputs = model(**inputs, output_attentions=True, output_hidden_states=True)
    attentions, states = recorded(outputs)
    assert len(attentions) == 2 and len(states) == 3
    for weights in attentions:
        assert weights.ndim == 4 and weights.shape[1] == 4
        assert weights.sum(-1).max() < 1 + 1e-4 and weights.amax() > 0
    torch.testing.assert_close(
        real(main_tensor(outputs), inputs), real(run(model, inputs), inputs), atol=1e-5, rtol=1e-4
    )
    if implementation == "eager":
        model.config.output_attentions = True
        assert len(recorded(model(**inputs))[0]) == 2
    model.config.output_hidden_states = True
    assert len(recorded(model(**inputs))[1]) == 3


def test_gradients_reach_states_and_attentions(
    case: tuple[str, str], model: PlaitPreTrainedModel, inputs: dict[str, Tensor]
) -> None:
    if case[1] == "late":
        pytest.skip("late fusion has no joint transformer")
    outputs = model(**inputs, output_attentions=True, output_hidden_states=True)
    attentions, states = recorded(outputs)
    kept = (states[0], attentions[0])
    for tensor in kept:
        tensor.retain_grad()
    main_tensor(outputs).square().sum().backward()
    assert all(tensor.grad is not None and tensor.grad.abs().sum() > 0 for tensor in kept)


def test_every_parameter_gets_a_gradient(
    case: tuple[str, str], model: PlaitPreTrainedModel, inputs: dict[str, Tensor]
) -> None:
    outputs = model.train()(**inputs, **labels_of(case[0], inputs))
    loss = outputs.loss if case[0] != "PlaitModel" else outputs.last_hidden_state.square().sum()
    if case[0] == "PlaitModel" and outputs.pooler_output is not None:
        loss = loss + outputs.pooler_output.square().sum()
    loss.backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


def test_gradient_checkpointing_changes_nothing(
    case: tuple[str, str], model: PlaitPreTrainedModel, inputs: dict[str, Tensor]
) -> None:
    def gradients() -> dict[str, Tensor]:
        model.zero_grad()
        main_tensor(model(**inputs)).square().sum().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    model.train()
    plain = gradients()
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing
    checkpointed = gradients()
    model.gradient_checkpointing_disable()
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, msg=name)


def test_loss_whenever_labels_are_given(
    case: tuple[str, str], model: PlaitPreTrainedModel, inputs: dict[str, Tensor]
) -> None:
    if case[0] == "PlaitModel":
        pytest.skip("has no loss")
    if case[0] in ("PlaitForPreTraining", "PlaitForRetrieval"):
        pytest.skip("has another loss: see test_pretraining.py and test_retrieval.py")
    labels = labels_of(case[0], inputs)
    loss = model(**inputs, **labels).loss
    logits, targets = run(model, inputs), torch.stack([*labels.values()], dim=-1)  # both ends of a span
    if case[0] != "PlaitForQuestionAnswering":
        targets = targets[..., 0]
    else:
        logits = logits.transpose(1, 2)
    if case[0] == "PlaitForCausalLM":
        logits, targets = logits[:, :-1], targets[:, 1:]
    expected = nn.functional.cross_entropy(logits.flatten(0, -2), targets.flatten())
    torch.testing.assert_close(loss, expected)
    assert "loss" not in model(**inputs)
    count = int((targets != -100).sum()) // len(labels)
    torch.testing.assert_close(model(**inputs, **labels, num_items_in_batch=2 * count).loss, expected / 2)
    ignored = {name: torch.full_like(values, -100) for name, values in labels.items()}
    assert model(**inputs, **ignored).loss == 0
    if targets.ndim > 1:  # in training, language models compute it in chunks
        torch.testing.assert_close(model.train()(**inputs, **labels).loss, expected)
        assert model(**inputs, **ignored).loss == 0


def test_embeddings_can_be_read_set_and_resized(
    case: tuple[str, str], model: PlaitPreTrainedModel, inputs: dict[str, Tensor], tmp_path: Path
) -> None:
    embeddings = model.get_input_embeddings()
    assert isinstance(embeddings, nn.Module)
    if "input_ids" not in inputs:
        return
    before = run(model, inputs)
    model.resize_token_embeddings(50)
    assert model.config.get_text_config().vocab_size == 50 and model.get_input_embeddings().num_embeddings == 50
    after = run(model, inputs)
    torch.testing.assert_close(after[..., : before.shape[-1]], before)
    if case[0] in ("PlaitForMaskedLM", "PlaitForCausalLM"):
        assert after.shape[-1] == 50 and model.lm_head.weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    assert torch.equal(run(type(model).from_pretrained(tmp_path), inputs), after)
    model.set_input_embeddings(nn.Embedding(50, 32))
    assert not torch.equal(run(model, inputs), after)


def test_inputs_embeds_stand_for_ids(
    case: tuple[str, str], model: PlaitPreTrainedModel, inputs: dict[str, Tensor]
) -> None:
    if "input_ids" not in inputs or case[1] == "inline":
        pytest.skip("no text, or text whose image tokens tell where images stand")
    embedded = {name: value for name, value in inputs.items() if name != "input_ids"}
    reader = model.parts.get("text") or model.parts["decoder"]
    embedded["inputs_embeds"] = reader.get_input_embeddings()(inputs["input_ids"])
    torch.testing.assert_close(
        real(run(model, embedded), inputs), real(run(model, inputs), inputs), atol=1e-6, rtol=1e-5
    )


def test_forward_is_deterministic_and_leaves_inputs_alone(
    model: PlaitPreTrainedModel, inputs: dict[str, Tensor]
) -> None:
    before = {name: value.clone() for name, value in inputs.items()}
    assert torch.equal(run(model, inputs), run(model, inputs))
    assert all(torch.equal(before[name], inputs[name]) for name in inputs)


def test_half_precision(
    case: tuple[str, str], model: PlaitPreTrainedModel, inputs: dict[str, Tensor], tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    half = type(model).from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    out = real(run(half, inputs), inputs)
    assert out.dtype == torch.bfloat16 and torch.isfinite(out).all()


def test_main_input_name_is_the_first_modality(case: tuple[str, str], model: PlaitPreTrainedModel) -> None:
    assert model.main_input_name == ("pixel_values" if case[1] in ("image", "captioner") else "input_ids")


def test_an_unknown_argument_is_an_error(model: PlaitPreTrainedModel, inputs: dict[str, Tensor]) -> None:
    with pytest.raises(TypeError, match="pixel_value"):
        model(**inputs, pixel_valuess=torch.zeros(1))


def test_no_split_modules_exist(model: PlaitPreTrainedModel) -> None:
    names = {type(module).__name__ for module in model.modules()}
    assert set(model._no_split_modules) & names


def test_compiles_to_one_graph(case: tuple[str, str], model: PlaitPreTrainedModel, inputs: dict[str, Tensor]) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(
        real(run(compiled, inputs), inputs), real(run(model, inputs), inputs), atol=1e-5, rtol=1e-4
    )


def test_auto_classes_load_the_folder(case: tuple[str, str], model: PlaitPreTrainedModel, tmp_path: Path) -> None:
    auto = {
        "PlaitForClassification": AutoModelForSequenceClassification,
        "PlaitForMaskedLM": AutoModelForMaskedLM,
        "PlaitForPreTraining": AutoModelForPreTraining,
        "PlaitForQuestionAnswering": AutoModelForQuestionAnswering,
        "PlaitForCausalLM": AutoModelForCausalLM,
        "PlaitForConditionalGeneration": AutoModelForSeq2SeqLM,
        "PlaitForRetrieval": AutoModelForZeroShotImageClassification,
    }
    model.save_pretrained(tmp_path)
    loaded = auto.get(case[0], AutoModel).from_pretrained(tmp_path)
    assert type(loaded) is type(model) and state_equal(loaded, model)
