"""What else transformers asks of a model class: configs, class attributes, attention interface, partial loading."""

import inspect
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, BertConfig, BertModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.output_capturing import OutputRecorder

from plait import PlaitConfig, PlaitForMaskedLM, PlaitModel
from plait.configuration import OWN_CONFIGS
from plait.modeling import PlaitPreTrainedModel

from ..zoo import CASES, CLASSES, build, config_of, inputs_of, labels_of, main_tensor, recorded

CONFIGS = [PlaitConfig, *OWN_CONFIGS.values()]
FUSED = ("early", "late", "cross_attention", "resampled")


@pytest.fixture(params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.fixture
def inputs(case: tuple[str, str]) -> dict[str, Tensor]:
    return inputs_of(case[1])


@torch.no_grad()
def run(model: nn.Module, inputs: dict[str, Tensor], **options: object) -> Tensor:
    return main_tensor(model(**inputs, **options))


def tensors_of(output: object) -> list[Tensor]:
    """Every tensor in a (nested) output."""
    if isinstance(output, Tensor):
        return [output]
    items = output.values() if isinstance(output, dict) else output if isinstance(output, tuple | list) else ()
    return [tensor for item in items for tensor in tensors_of(item)]


@pytest.mark.parametrize("config_class", CONFIGS)
def test_a_config_is_built_from_nothing_and_found_by_its_type(config_class: type[PlaitConfig], tmp_path: Path) -> None:
    config = config_class()
    config.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is config_class
    assert config_class.from_json_file(tmp_path / "config.json").to_dict() == config.to_dict()
    config.num_labels = 5
    assert len(config.id2label) == len(config.label2id) == 5


@pytest.mark.parametrize("shape", ["text", "decoder", "early"])
def test_the_library_finds_the_sizes_of_the_text(shape: str) -> None:
    text = config_of(shape).get_text_config()
    assert (text.vocab_size, text.hidden_size, text.num_attention_heads, text.num_hidden_layers) == (40, 32, 4, 2)
    assert config_of(shape).get_text_config(decoder=True) is not None


@pytest.mark.parametrize("shape", ["text", "image", "decoder", *FUSED])
def test_a_sub_config_loads_from_the_whole_folder(shape: str, tmp_path: Path) -> None:
    config = config_of(shape)
    config.save_pretrained(tmp_path)
    for field, config_class in config.sub_configs.items():
        part = getattr(config, field)
        if part is not None:
            read = config_class.from_pretrained(tmp_path).to_dict()
            assert read | {"transformers_version": None} == part.to_dict() | {"transformers_version": None}


def test_one_field_of_a_part_can_be_changed_at_loading(tmp_path: Path) -> None:
    config = config_of("early")
    config.save_pretrained(tmp_path)
    changed = PlaitConfig.from_pretrained(tmp_path, text_config={"vocab_size": 20})
    assert changed.text_config.to_dict() == config.text_config.to_dict() | {"vocab_size": 20}
    assert changed.vision_config.to_dict() == config.vision_config.to_dict()


def test_the_attention_of_a_config_reaches_its_parts() -> None:
    config = config_of("early")
    parts = (config.text_config, config.vision_config, config.fusion_config)
    config._attn_implementation = "eager"
    assert all(part._attn_implementation == "eager" for part in parts)
    config._attn_implementation = {"vision_config": "sdpa"}
    assert [part._attn_implementation for part in parts] == ["eager", "sdpa", "eager"]


def test_class_attributes_name_what_is_there(case: tuple[str, str], model: PlaitPreTrainedModel) -> None:
    first = list(inspect.signature(type(model).forward).parameters)[1]
    assert type(model).main_input_name == first
    assert model.base_model is getattr(model, model.base_model_prefix, model)
    assert isinstance(model.base_model, PlaitModel)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for target, source in (model._tied_weights_keys or {}).items():
        assert parameters[target] is parameters[source]
    for recorder in type(model)._can_record_outputs.values():
        assert isinstance(recorder, (str, type, OutputRecorder))
    assert any(isinstance(module, GradientCheckpointingLayer) for module in model.modules())


def test_every_tensor_is_a_parameter_or_a_buffer(model: PlaitPreTrainedModel) -> None:
    loose = [f"{name}.{key}" for name, module in model.named_modules() for key, value in vars(module).items()
             if isinstance(value, Tensor)]  # fmt: skip
    assert not loose


def test_missing_weights_are_initialised_as_in_a_new_model(case: tuple[str, str]) -> None:
    config = config_of(case[1])
    model_class = CLASSES[case[0]]
    new = model_class(config).state_dict()
    loaded, info = model_class.from_pretrained(None, config=config, state_dict={}, output_loading_info=True)
    assert set(info["missing_keys"]) >= {name for name, _ in loaded.named_parameters()} - {"lm_head.weight"}
    for name, tensor in loaded.state_dict().items():
        assert torch.isfinite(tensor).all(), name
        constant = new[name].numel() > 1 and new[name].std() == 0
        if constant:
            torch.testing.assert_close(tensor, new[name], msg=name)
        elif new[name].numel() >= 64:
            torch.testing.assert_close(tensor.std(), new[name].std(), rtol=0.5, atol=0, msg=name)


def test_a_model_can_be_pickled(model: PlaitPreTrainedModel, inputs: dict[str, Tensor]) -> None:
    assert torch.equal(run(pickle.loads(pickle.dumps(model)), inputs), run(model, inputs))


def test_mismatched_sizes_are_new_where_asked_for(case: tuple[str, str], tmp_path: Path) -> None:
    if case[0] != "PlaitForClassification":
        pytest.skip("has no labels")
    model = build(*case)
    model.save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="mismatch"):
        type(model).from_pretrained(tmp_path, num_labels=5)
    options = {"num_labels": 5, "ignore_mismatched_sizes": True, "output_loading_info": True}
    again, info = type(model).from_pretrained(tmp_path, **options)
    assert {name for name, *_ in info["mismatched_keys"]} == {"classifier.weight", "classifier.bias"}
    assert run(again, inputs_of(case[1])).shape == (3, 5)
    base, old = again.model.state_dict(), model.model.state_dict()
    assert all(torch.equal(base[name], old[name]) for name in old)


def test_outputs_hold_numbers_alone(model: PlaitPreTrainedModel, inputs: dict[str, Tensor]) -> None:
    """The library compares, gathers and averages every tensor that a model returns: none is boolean."""
    output = model(**inputs, output_hidden_states=True)
    assert all(tensor.dtype != torch.bool for tensor in tensors_of(output))
    if "mask" in output:
        assert output.mask.shape == output.last_hidden_state.shape[:2] and set(output.mask.unique().tolist()) <= {0, 1}


@pytest.mark.parametrize("asked", [[0], [-1], [0, 2], [1, -1]])
def test_chosen_hidden_states(
    case: tuple[str, str], model: PlaitPreTrainedModel, inputs: dict[str, Tensor], asked: list[int]
) -> None:
    if case[1] == "late":
        pytest.skip("late fusion has no joint transformer")
    whole = recorded(model(**inputs, output_hidden_states=True))[1]
    some = recorded(model(**inputs, output_hidden_states=asked))[1]
    kept = {number % len(whole) for number in asked}
    assert len(some) == len(whole) and {number for number, state in enumerate(some) if state is not None} == kept
    assert all(torch.equal(some[number], whole[number]) for number in kept)


def test_a_registered_attention_is_used(
    case: tuple[str, str], model: PlaitPreTrainedModel, inputs: dict[str, Tensor]
) -> None:
    seen = []

    def watched(module: nn.Module, *arguments: object, **options: object) -> tuple[Tensor, Tensor | None]:
        seen.append(module)
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, *arguments, **options)

    ALL_ATTENTION_FUNCTIONS.register("watched", watched)
    ALL_MASK_ATTENTION_FUNCTIONS.register("watched", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    expected = run(model, inputs)
    model.set_attn_implementation("watched")
    outcome = run(model, inputs)
    attentions = [module for module in model.modules() if type(module).__name__.endswith("Attention")]
    assert attentions and {id(module) for module in seen} == {id(module) for module in attentions}
    assert all(module.config._attn_implementation == "watched" for module in seen)
    if outcome.ndim == 2:  # else padded positions differ, which nobody reads
        torch.testing.assert_close(outcome, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("padded", [slice(0, 2), slice(5, 7)], ids=["left", "right"])
def test_eager_equals_sdpa_on_either_side_of_the_padding(
    case: tuple[str, str], model: PlaitPreTrainedModel, inputs: dict[str, Tensor], padded: slice
) -> None:
    if "attention_mask" not in inputs or case[1] == "inline":
        pytest.skip("pictures have no padding, nor have image tokens")
    inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
    inputs["attention_mask"][-1, padded] = 0
    model.set_attn_implementation("eager")
    eager = run(model, inputs)
    model.set_attn_implementation("sdpa")
    real = torch.ones(eager.shape[:2], dtype=torch.bool)
    if eager.ndim == 3 and eager.shape[1] >= 7:
        real[-1, padded] = False
    torch.testing.assert_close(run(model, inputs)[real], eager[real], atol=1e-5, rtol=1e-4)


MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "input_ids": lambda ids: ids[:, [0, 3, 2, 1, 4, 5, 6]],  # the first and the last, which poolers read, stay
    "pixel_values": lambda pixels: pixels.roll(8, dims=-1),
}


@pytest.mark.parametrize("shape", ["text", "decoder", "image", *FUSED])
def test_the_order_of_the_tokens_matters(shape: str) -> None:
    model = build("PlaitForClassification", shape).double()  # rounding is 1e-15: no other cause for a difference
    inputs = {name: value[:1] for name, value in inputs_of(shape).items()}
    for name, move in MOVES.items():
        if name in inputs:
            moved = inputs | {name: move(inputs[name])}
            assert (run(model, moved) - run(model, inputs)).abs().max() > 1e-6, name


def test_an_untied_projection_is_its_own(tmp_path: Path) -> None:
    model = build("PlaitForMaskedLM", "text", tie_word_embeddings=False)
    inputs = inputs_of("text")
    assert model.lm_head.weight is not model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    again, info = PlaitForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and torch.equal(run(again, inputs), run(model, inputs))
    before = run(model, inputs)
    model.resize_token_embeddings(50)
    assert (
        model.lm_head.out_features == model.lm_head.bias.shape[0] == model.get_input_embeddings().num_embeddings == 50
    )
    torch.testing.assert_close(run(model, inputs)[..., :40], before)


def test_a_masked_language_model_has_nothing_untrained(tmp_path: Path) -> None:
    """A published BERT holds a pooler, which this head does not read: it would stop distributed training."""
    sizes = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    BertModel(BertConfig(**sizes, intermediate_size=37)).save_pretrained(tmp_path)
    loaded, info = PlaitForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    composed = PlaitForMaskedLM.compose(text=tmp_path, verbose=False)
    inputs = inputs_of("text")
    assert not info["unexpected_keys"]
    assert loaded.config.text_config.pooling == composed.config.text_config.pooling == "none"
    for model in (loaded, composed, build("PlaitForMaskedLM", "text")):
        model.train()(**inputs, **labels_of("PlaitForMaskedLM", inputs)).loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
