"""Attention, rotary positions and packing of the core, against formulas written out and against invariances."""

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache

from plait.configuration import PlaitTransformerConfig
from plait.modeling.core.attention import eager_attention
from plait.modeling.core.packing import PackedMask, attend_by_group, attend_padded, pack_rows
from plait.modeling.core.rotary import PlaitRotaryEmbedding, rotate
from plait.modeling.core.transformer import PlaitTransformer

ROPE = {"rope_type": "default", "rope_theta": 10000.0}
CORES = {
    "bert": {"norm_position": "post", "input_norm": True, "output_norm": False},
    "vit": {"layer_scale": 0.5},
    "llama": {
        "is_causal": True,
        "rope_parameters": ROPE,
        "num_key_value_heads": 2,
        "norm_type": "rms_norm",
        "gated_mlp": True,
        "hidden_act": "silu",
    },
    "qwen3": {"is_causal": True, "rope_parameters": ROPE, "qk_norm": True, "norm_type": "rms_norm", "head_dim": 16},
    "gpt2": {"is_causal": True},
}
MASKS = {
    "right": [[1] * 9, [1] * 4 + [0] * 5, [1] * 4 + [0] * 5, [1] * 7 + [0] * 2, [1] + [0] * 8],
    "left": [[1] * 9, [0] * 5 + [1] * 4, [0] * 5 + [1] * 4, [0] * 2 + [1] * 7, [0] * 8 + [1]],
    "holes": [[1, 0, 1, 1, 0, 1, 1, 0, 1], [1] * 9, [1] * 6 + [0] * 3, [1, 1] + [0] * 6 + [1], [1] * 9],
}


def transformer(implementation: str = "sdpa", **fields: object) -> PlaitTransformer:
    config = PlaitTransformerConfig(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, **fields)
    config._attn_implementation = implementation
    return drawn(PlaitTransformer(config))


def drawn(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)
    return module.eval()


def padded(model: PlaitTransformer, *args: object, **kwargs: object) -> Tensor:
    """The same with packing switched off."""
    model.config.packing = False
    try:
        return model(*args, **kwargs).last_hidden_state
    finally:
        model.config.packing = True


@pytest.fixture(params=CORES)
def core(request: pytest.FixtureRequest) -> dict[str, object]:
    return CORES[request.param]


def test_eager_attention_is_the_formula() -> None:
    query, key, value = (torch.randn(2, 3, 5, 8) for _ in range(3))
    out, weights = eager_attention(nn.Identity(), query, key, value, None)
    for row in range(2):
        for head in range(3):
            scores = query[row, head] @ key[row, head].T / 8**0.5
            expected = torch.exp(scores) / torch.exp(scores).sum(1, keepdim=True)
            torch.testing.assert_close(weights[row, head], expected)
            torch.testing.assert_close(out[row, :, head], expected @ value[row, head])


def test_rotary_scores_depend_on_distance_alone() -> None:
    config = PlaitTransformerConfig(hidden_size=32, num_attention_heads=4, rope_parameters=dict(ROPE))
    rotary, query, key = PlaitRotaryEmbedding(config), torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)

    def score(query_at: int, key_at: int) -> Tensor:
        turned = [rotate(x, *rotary(x, torch.tensor([[at]]))) for x, at in ((query, query_at), (key, key_at))]
        return (turned[0] * turned[1]).sum()

    torch.testing.assert_close(score(7, 3), score(104, 100), atol=1e-4, rtol=1e-4)
    assert (score(7, 3) - score(7, 5)).abs() > 1e-3


@pytest.mark.parametrize("padding", MASKS)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_packed_equals_padded(core: dict[str, object], implementation: str, padding: str) -> None:
    model, mask, x = transformer(implementation, **core), torch.tensor(MASKS[padding]), torch.randn(5, 9, 32)
    difference = (model(x, mask).last_hidden_state - padded(model, x, mask))[mask.bool()]
    assert difference.abs().max() < 1e-5


def test_packed_gradients_equal_padded(core: dict[str, object]) -> None:
    model, mask, x = transformer(**core), torch.tensor(MASKS["right"]), torch.randn(5, 9, 32)
    gradients = []
    for packing in (True, False):
        model.config.packing = packing
        model.zero_grad()
        (model(x, mask).last_hidden_state * mask[..., None]).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for packed_gradient, padded_gradient in zip(*gradients, strict=True):
        torch.testing.assert_close(packed_gradient, padded_gradient, atol=1e-3, rtol=1e-4)


def test_packing_touches_no_padded_position(core: dict[str, object]) -> None:
    model, mask, seen = transformer(**core), torch.tensor(MASKS["right"]), []
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.LayerNorm):
            module.register_forward_hook(lambda _, args, __: seen.append(args[0].shape[:-1].numel()))
    model(torch.randn(5, 9, 32), mask)
    heads = {1, *(model.config.num_attention_heads, model.config.num_key_value_heads)}
    assert {count // int(mask.sum()) for count in seen} <= heads and all(count % int(mask.sum()) == 0 for count in seen)


def test_padding_is_invisible(core: dict[str, object]) -> None:
    model, x = transformer(**core), torch.randn(2, 5, 32)
    garbage = torch.cat((x, torch.full((2, 4, 32), 1e4)), dim=1)
    mask = torch.tensor([[1] * 5 + [0] * 4] * 2)
    for run in (lambda: model(garbage, mask).last_hidden_state, lambda: padded(model, garbage, mask)):
        torch.testing.assert_close(run()[:, :5], model(x).last_hidden_state, atol=1e-5, rtol=1e-4)


def test_one_row_equals_the_row_in_a_batch(core: dict[str, object]) -> None:
    model, mask, x = transformer(**core), torch.tensor(MASKS["right"]), torch.randn(5, 9, 32)
    together = model(x, mask).last_hidden_state
    for row, length in enumerate(mask.sum(1)):
        alone = model(x[row : row + 1, :length]).last_hidden_state
        torch.testing.assert_close(together[row, :length], alone[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name, core in CORES.items() if core.get("is_causal")])
def test_cached_equals_uncached(name: str) -> None:
    model, x, cache = transformer(**CORES[name]), torch.randn(2, 9, 32), DynamicCache()
    whole = model(x).last_hidden_state
    steps = [model(x[:, :4], past_key_values=cache)] + [
        model(x[:, i : i + 1], past_key_values=cache) for i in range(4, 9)
    ]
    parts = torch.cat([step.last_hidden_state for step in steps], dim=1)
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_returned_attentions_are_real(core: dict[str, object], implementation: str) -> None:
    model, mask, x = transformer(implementation, **core), torch.tensor(MASKS["right"]), torch.randn(5, 9, 32)
    result = model(x, mask, output_attentions=True, output_hidden_states=True)
    assert len(result.attentions) == 3 and len(result.hidden_states) == 4
    for weights in result.attentions:
        assert weights.shape == (5, 4, 9, 9)
        real = weights.transpose(1, 2)[mask.bool()]
        torch.testing.assert_close(real.sum(-1), torch.ones_like(real.sum(-1)))
        assert weights[1, :, :4, 4:].abs().max() < 1e-6
    torch.testing.assert_close(
        result.last_hidden_state[mask.bool()], padded(model, x, mask)[mask.bool()], atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_cross_attention_packed_equals_padded(implementation: str) -> None:
    model, mask = transformer(implementation, cross_attention=True), torch.tensor(MASKS["right"])
    x, context = torch.randn(5, 9, 32), torch.randn(5, 6, 32)
    context_mask = torch.arange(6)[None] < torch.tensor([6, 2, 3, 1, 6])[:, None]
    given = {"context": context, "context_mask": context_mask}
    difference = (model(x, mask, **given).last_hidden_state - padded(model, x, mask, **given))[mask.bool()]
    assert difference.abs().max() < 1e-5


@pytest.mark.parametrize("packing", [False, True])
def test_cross_attention_without_a_context_is_an_error(packing: bool) -> None:
    """Packed and padded alike: the layers are not skipped."""
    model = transformer("sdpa", cross_attention=True, packing=packing)
    for mask in (torch.tensor(MASKS["right"]), None):
        with pytest.raises(ValueError, match="cross-attention needs a context"):
            model(torch.randn(5, 9, 32), mask)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_packed_attention_over_the_grid_equals_that_by_groups(implementation: str, causal: bool) -> None:
    module = nn.Module().eval()
    module.is_causal, module.num_key_value_groups = causal, 2
    mask, context_mask = torch.tensor(MASKS["holes"]), torch.tensor(MASKS["right"])[:, :6]
    context_mask[2] = 0  # a row without keys
    rows, context_rows = pack_rows(mask, None if causal else context_mask)
    keys = context_rows or rows
    query = torch.randn(1, 4, len(rows.indices), 8)
    key, value = (torch.randn(1, 2, len(keys.indices), 8) for _ in range(2))
    arguments = (module, query, key, value, PackedMask(rows, keys, implementation), {"scaling": 0.3, "dropout": 0.0})
    torch.testing.assert_close(attend_padded(*arguments), attend_by_group(*arguments), atol=1e-5, rtol=1e-5)


def test_cross_attention_reads_the_context_once() -> None:
    model, x, context = transformer(cross_attention=True, is_causal=True), torch.randn(2, 5, 32), torch.randn(2, 6, 32)
    whole = model(x, context=context).last_hidden_state
    cache, calls = EncoderDecoderCache(DynamicCache(), DynamicCache()), []
    model.layers[0].cross_attn.k_proj.register_forward_hook(lambda *_: calls.append(1))
    steps = [model(x[:, i : i + 1], past_key_values=cache, context=context).last_hidden_state for i in range(5)]
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, atol=1e-5, rtol=1e-4)
    assert len(calls) == 1


def test_sliding_window_forgets_what_is_far() -> None:
    fields = {"is_causal": True, "sliding_window": 3, "layer_types": ["sliding_attention"] * 3}
    model, x = transformer(**fields), torch.randn(1, 12, 32)
    changed = x.clone()
    changed[0, 0] += 1
    moved = (model(x).last_hidden_state - model(changed).last_hidden_state).abs().amax(-1)[0]
    assert moved[6] > 0 and moved[7:].max() < 1e-6  # three layers of a window of three reach back 2 tokens each
    mask = torch.tensor([[1] * 12, [1] * 7 + [0] * 5])
    pair = torch.randn(2, 12, 32)
    torch.testing.assert_close(
        model(pair, mask).last_hidden_state[1, :7], model(pair[1:, :7]).last_hidden_state[0], atol=1e-5, rtol=1e-4
    )


def test_gradient_checkpointing_changes_nothing(core: dict[str, object]) -> None:
    model, x = transformer(**core).train(), torch.randn(2, 9, 32, requires_grad=True)
    again = copy.deepcopy(model)
    for layer in again.layers:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = lambda function, *args: torch.utils.checkpoint.checkpoint(
            function, *args, use_reentrant=False
        )
    model(x).last_hidden_state.sum().backward()
    again(x).last_hidden_state.sum().backward()
    for plain, checkpointed in zip(model.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(plain.grad, checkpointed.grad)


def test_packing_finds_real_tokens_in_order() -> None:
    mask = torch.tensor([[0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 0, 1]])
    rows, _ = pack_rows(mask)
    assert rows.lengths == [0, 1, 2, 2]
    assert rows.indices.tolist() == [3, 1, 2, 9, 11]
    x = torch.randn(4, 3, 2)
    assert torch.equal(rows.unpack(rows.pack(x)), x * mask[..., None])
