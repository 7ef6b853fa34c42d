"""The decode step computes what the modules compute, for every switch of the config and whatever stands on them."""

from collections.abc import Sequence
from itertools import product
from typing import Any, Literal, get_args, get_origin

import peft
import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache, LogitsProcessorList, PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.cache_utils import DynamicLayer
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from plait import PlaitForCausalLM
from plait.configuration import PlaitDecoderConfig
from plait.modeling.generation import mixin as generation
from plait.modeling.generation.cache import PreallocatedCacheLayer
from plait.modeling.generation.decode_step import DecodeStep, build_decode_step
from plait.modeling.towers.text import TextTower

from .. import zoo
from .test_generate import CASES, prompt_of, step_by_step

# two decoders that differ in most fields; each value below is tried in both
SIZES = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
POST_NORM = {"norm_position": "post", "input_norm": True, "output_norm": False}
BASES: dict[str, dict[str, Any]] = {
    "llama": {**zoo.DECODER, "qkv_bias": False, "mlp_bias": False},
    "bart": {**SIZES, **POST_NORM, "position_offset": 2, "cross_attention": True, "pad_token_id": 0},
}
BOTH = (False, True)
ROPE = {"rope_theta": 1e4, "factor": 2.0}
ROPE_EXTRAS: dict[str, dict[str, Any]] = {
    "llama3": {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8},
    "longrope": {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "original_max_position_embeddings": 8},
    "yarn": {"original_max_position_embeddings": 8},
    "dynamic": {"original_max_position_embeddings": 8},
    "proportional": {"partial_rotary_factor": 0.5},
}
ROPE_TYPES = ("default", *ROPE_INIT_FUNCTIONS)
VALUES: dict[str, Sequence[Any]] = {
    "hidden_size": (32, 64),
    "num_hidden_layers": (1, 3),
    "num_attention_heads": (1, 4),
    "num_key_value_heads": (1, 2),
    "head_dim": (4, 16),
    "intermediate_size": (24,),
    "hidden_act": tuple(sorted(set(ACT2FN) - {"xielu"})),  # which needs a package for CUDA
    "hidden_dropout_prob": (0.5,),
    "attention_dropout": (0.5,),
    "activation_dropout": (0.5,),
    "norm_type": ("layer_norm", "rms_norm"),
    "norm_eps": (0.1,),
    "norm_position": ("pre", "post"),
    "input_norm": BOTH,
    "output_norm": BOTH,
    "gated_mlp": BOTH,
    "qkv_bias": BOTH,
    "attention_out_bias": BOTH,
    "mlp_bias": BOTH,
    "qk_norm": BOTH,
    "layer_scale": (None, 0.5),
    "is_causal": BOTH,
    "attention_scale": (None, 1.0),
    "scale_by_layer": BOTH,
    "cross_attention": BOTH,
    "cross_attention_layers": (None, [1]),
    "gated_cross_attention": BOTH,
    "context_size": (32, 48),
    "rope_parameters": (None, *({"rope_type": kind, **ROPE, **ROPE_EXTRAS.get(kind, {})} for kind in ROPE_TYPES)),
    "layer_types": (["full_attention"] * 2, ["sliding_attention", "full_attention"], ["sliding_attention"] * 2),
    "sliding_window": (4,),  # layers of full attention do not have one
    "max_position_embeddings": (14,),
    "tie_last_hidden_state": BOTH,
    "packing": BOTH,
    "vocab_size": (23,),
    "embedding_size": (32, 16),
    "type_vocab_size": (0, 2),
    "position_type": ("learned", "counted", "none"),
    "position_offset": (0, 1, 3),
    "embedding_scale": (1.0, 2.0),
    "pad_token_id": (None, 0, 1),
}
# what goes with a value that does not stand alone
COMPANIONS: dict[str, dict[str, Any]] = {
    "layer_types": {"sliding_window": 4},
    "position_type": {"pad_token_id": 1, "position_offset": 2},
    "position_offset": {"position_type": "learned"},
}
CANNOT_MATTER = {
    "initializer_range": "new weights alone; the test draws its own",
    **dict.fromkeys(("mlm_act", "mlm_norm"), "the masked-LM head is no part of a decoder"),
    **dict.fromkeys(("bos_token_id", "eos_token_id"), "read by `generate`, outside the step"),
    **dict.fromkeys(("family", "source_config"), "where the weights came from"),
    **dict.fromkeys(("tie_word_embeddings", "use_cache"), "read at the root; the step gets a head and a cache"),
    **dict.fromkeys(
        ("pooling", "pooler_norm", "pooler_norm_eps", "pooler_size", "pooler_bias", "pooler_act"),
        "the pooler reads the decoder's tokens and adds nothing to the logits",
    ),
    **dict.fromkeys(("sentence_layers", "sentence_pooling"), "a sentence encoder's, which is no decoder"),
    **dict.fromkeys(
        ("adaptive_norm", "adaptive_gate", "condition_size", "relative_grid", "relative_decay"),
        "a tower or decoder with them is refused",
    ),
    "saved_if_set": "no field: names of those that a config.json holds only if they are set",
    "lm_transform": "belongs to the head: see test_a_head_with_a_transform",
    **dict.fromkeys(PreTrainedConfig.__dataclass_fields__, "transformers' own, read by no module of ours"),
}
OPTIONS = {"max_new_tokens": 6, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}


def logits_of(model: Any, prompt: dict[str, Tensor], **options: Any) -> Tensor:
    model.generation_config.eos_token_id = None
    return torch.stack(model.generate(**prompt, **OPTIONS, **options).logits)


def modules_alone(model: Any, prompt: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch, **options: Any) -> Tensor:
    with monkeypatch.context() as patch:
        patch.setattr(generation, "build_decode_step", lambda *parts: None)
        return logits_of(model, prompt, **options)


def count_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Returns a list that grows by one for every decode step."""
    steps: list[int] = []
    step = DecodeStep.__call__
    monkeypatch.setattr(DecodeStep, "__call__", lambda *inputs: steps.append(1) or step(*inputs))
    return steps


@pytest.mark.parametrize("case", CASES, ids="-".join)
@pytest.mark.parametrize("beams", [1, 3])
def test_every_class_and_shape(case: tuple[str, str], beams: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompt, steps = zoo.build(*case), prompt_of(case[1]), count_steps(monkeypatch)
    logits = logits_of(model, prompt, num_beams=beams)
    assert len(steps) == 5 and model.decode_step is None
    torch.testing.assert_close(logits, modules_alone(model, prompt, monkeypatch, num_beams=beams), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_a_head_with_a_transform(case: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = {**zoo.CONFIGS[case[1]]["decoder_config"], "lm_transform": True}
    model, prompt, steps = zoo.build(*case, decoder_config=decoder), prompt_of(case[1]), count_steps(monkeypatch)
    logits = logits_of(model, prompt)
    assert len(steps) == 5
    torch.testing.assert_close(logits, modules_alone(model, prompt, monkeypatch), atol=1e-5, rtol=1e-5)
    model.lm_transform = torch.nn.Linear(32, 32)
    assert (logits_of(model, prompt) - logits).abs().max() > 1e-3


def test_every_field_is_tried_or_cannot_matter() -> None:
    fields = set(PlaitDecoderConfig.__dataclass_fields__)
    assert fields == VALUES.keys() | CANNOT_MATTER.keys() and not VALUES.keys() & CANNOT_MATTER.keys()
    for field, values in VALUES.items():
        hint = PlaitDecoderConfig.__dataclass_fields__[field].type
        choices = BOTH if hint is bool else get_args(hint) if get_origin(hint) is Literal else ()
        assert not choices or set(choices) == set(values), field


def build_decoder(base: str, field: str, value: Any) -> tuple[TextTower, nn.Linear]:
    """A decoder and its head with random weights, norms and biases too, and this one field changed."""
    torch.manual_seed(0)
    config = PlaitDecoderConfig(**{**BASES[base], **COMPANIONS.get(field, {}), field: value})
    config._attn_implementation = "sdpa"
    decoder, head = TextTower(config), nn.Linear(config.hidden_size, config.vocab_size)
    for parameter in (*decoder.parameters(), *head.parameters()):
        nn.init.normal_(parameter, std=0.2)
    return decoder.eval(), head.eval()


def build_cache(layer: type[DynamicLayer], layers: int, context: bool) -> DynamicCache | EncoderDecoderCache:
    own = DynamicCache()
    own.layers = [layer() for _ in range(layers)]
    return EncoderDecoderCache(own, DynamicCache()) if context else own


def run_steps(decoder: TextTower, head: nn.Module, step: DecodeStep | None, padded: bool, placed: bool) -> Tensor:
    """Logits of five new tokens, each after a prompt of seven; by the modules where there is no step."""
    config, draw = decoder.config, torch.Generator().manual_seed(1)
    ids = torch.randint(2, config.vocab_size, (3, 12), generator=draw)
    padding = torch.arange(12) < torch.tensor([0, 3, 2])[:, None] * padded
    mask = (~padding).long() if padded else None
    ids = ids.masked_fill(padding, config.pad_token_id or 0)
    first = config.position_offset if config.position_type == "counted" else 0
    places = ((~padding).long().cumsum(1) - 1).clamp(min=0) + first if placed else None
    reads: dict[str, Any] = {}
    if config.cross_attention:
        reads["context"] = torch.randn(3, 4, config.context_size, generator=draw)
        reads["context_mask"] = torch.arange(4) < torch.tensor([4, 2, 3])[:, None] if padded else None
    layer = DynamicLayer if step is None else PreallocatedCacheLayer
    cache, logits = build_cache(layer, config.num_hidden_layers, config.cross_attention), []
    for start, end in ((0, 7), *((number, number + 1) for number in range(7, 12))):
        seen = None if mask is None else mask[:, :end]
        positions = None if places is None else places[:, start:end]
        if step is not None and start:
            logits.append(step(ids[:, start:end], cache, seen, positions, reads.get("context_mask")))
        else:
            given = {"position_ids": positions, "past_key_values": cache, **reads}
            logits.append(head(decoder(ids[:, start:end], seen, **given).last_hidden_state))
    return torch.cat(logits[1:], dim=1)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(("field", "value"), [(field, value) for field in VALUES for value in VALUES[field]], ids=str)
@torch.no_grad()
def test_every_value_of_every_field(field: str, value: Any, base: str) -> None:
    decoder, head = build_decoder(base, field, value)
    step = build_decode_step(decoder, head)
    assert (step is None) == (set(decoder.config.layer_types) != {"full_attention"})
    if step is None:  # see test_without_a_step_the_modules_generate
        return
    for padded, placed in product((False, True), repeat=2):
        actual, expected = (run_steps(decoder, head, by, padded, placed) for by in (step, None))
        torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kinds", VALUES["layer_types"][1:], ids=str)
def test_without_a_step_the_modules_generate(kinds: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    window = {**zoo.DECODER, "layer_types": kinds, "sliding_window": 4}
    monkeypatch.setitem(zoo.CONFIGS, "window", {"decoder_config": window})
    model, prompt, steps = zoo.build("PlaitForCausalLM", "window"), prompt_of("decoder"), count_steps(monkeypatch)
    assert torch.equal(model.generate(**prompt, max_new_tokens=6, do_sample=False), step_by_step(model, prompt, 6))
    assert not steps


@pytest.mark.parametrize("path", ["self_attn.q_proj", "mlp.act", "mlp_norm", "mlp", "self_attn", ""])
def test_hooks_are_called(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompt = zoo.build("PlaitForCausalLM", "decoder"), prompt_of("decoder")
    calls: list[int] = []
    layer = model.model.decoder.transformer.layers[1]
    layer.get_submodule(path).register_forward_hook(lambda *arguments: calls.append(1))
    assert len(logits_of(model, prompt)) == len(calls) == 6


@pytest.mark.parametrize("path", ["transformer.rotary", "transformer.dropout", "transformer.layers.1.self_attn.q_norm"])
def test_a_hook_is_called_where_there_is_no_weight(path: str) -> None:
    model, calls = zoo.build("PlaitForCausalLM", "decoder"), []
    model.model.decoder.get_submodule(path).register_forward_hook(lambda *arguments: calls.append(1))
    assert len(logits_of(model, prompt_of("decoder"))) == len(calls) == 6


@pytest.mark.parametrize("path", ["lm_head", "model.decoder.transformer.layers.1"])
def test_a_hook_that_comes_during_generation_is_called(path: str) -> None:
    model, calls = zoo.build("PlaitForCausalLM", "decoder"), []
    part = model.get_submodule(path)

    def register(input_ids: Tensor, scores: Tensor) -> Tensor:
        if input_ids.shape[1] == 9:  # two tokens have been generated
            part.register_forward_hook(lambda *arguments: calls.append(1))
        return scores

    logits_of(model, prompt_of("decoder"), logits_processor=LogitsProcessorList([register]))
    assert len(calls) == 3


def test_a_hook_may_change_what_a_leaf_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompt = zoo.build("PlaitForCausalLM", "decoder"), prompt_of("decoder")
    before = logits_of(model, prompt)
    model.lm_head.register_forward_hook(lambda module, inputs, output: output + 1)
    torch.testing.assert_close(logits_of(model, prompt), before + 1)


@pytest.mark.parametrize("base", BASES)
@torch.no_grad()
def test_a_hook_sees_what_it_sees_in_the_modules(base: str) -> None:
    decoder, head = build_decoder(base, "qk_norm", True)
    leaves = {name: part for name, part in decoder.named_modules() if not list(part.children())}
    seen: list[tuple[str, Any]] = []

    def watch(name: str) -> Any:
        return lambda module, inputs, output: seen.append((name, output.shape if isinstance(output, Tensor) else None))

    def list_seen(step: DecodeStep | None) -> list[tuple[str, Any]]:
        run_steps(decoder, head, step, padded=True, placed=True)
        found = [entry for entry in seen if entry[1] is None or 1 in entry[1]]
        seen.clear()
        return sorted(found, key=str)

    for name, leaf in leaves.items():
        leaf.register_forward_hook(watch(name))
    step, expected = build_decode_step(decoder, head), list_seen(None)
    assert step is not None and list_seen(step) == expected and len(expected) > 4 * len(leaves)


def test_adapters_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompt = zoo.build("PlaitForCausalLM", "decoder"), prompt_of("decoder")
    before, steps = logits_of(model, prompt), count_steps(monkeypatch)
    model.add_adapter(peft.LoraConfig(target_modules=["q_proj", "down_proj"], init_lora_weights=False))
    adapted = logits_of(model.eval(), prompt)
    assert len(steps) == OPTIONS["max_new_tokens"] - 1  # each leaf with an adapter is called as it is
    assert (adapted - before).abs().max() > 1e-3
    torch.testing.assert_close(adapted, modules_alone(model, prompt, monkeypatch), atol=1e-5, rtol=1e-5)


def test_changed_weights_are_seen_by_the_next_generation() -> None:
    model, prompt = zoo.build("PlaitForCausalLM", "decoder"), prompt_of("decoder")
    before = logits_of(model, prompt)
    layer = model.model.decoder.transformer.layers[0]
    layer.mlp.up_proj.weight = nn.Parameter(layer.mlp.up_proj.weight * 2)
    assert not torch.equal(logits_of(model, prompt), before)


def test_what_has_no_decode_step() -> None:
    model = zoo.build("PlaitForCausalLM", "decoder")
    decoder = model.model.decoder
    assert build_decode_step(decoder, model.lm_head) is not None
    assert build_decode_step(decoder.train(), model.lm_head) is None
    decoder.eval().transformer.layer_types = ["full_attention", "sliding_attention"]
    assert build_decode_step(decoder, model.lm_head) is None


def test_eager_attention_stays_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    model: PlaitForCausalLM = zoo.build("PlaitForCausalLM", "decoder")
    steps = count_steps(monkeypatch)
    model.set_attn_implementation("eager")
    logits_of(model, prompt_of("decoder"))
    assert not steps
