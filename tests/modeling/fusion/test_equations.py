"""Each strategy's equation, computed another way."""

from functools import partial
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.utils.checkpoint import checkpoint

from plait.modeling.core.transformer import LayerPlans
from plait.modeling.fusion import Fusion, Stream, build_fusion
from plait.modeling.fusion.strategies.tensor import MAX_TENSOR_FEATURES

PAIR, TRIPLE = ("text", "image"), ("text", "image", "audio")


def vectors_of(fusion: Fusion, streams: dict[str, Stream], row: int) -> dict[str, Tensor]:
    """The mean of the normed tokens of each modality that the row has."""
    found = {}
    for modality, (tokens, mask) in streams.items():
        if mask[row].any():
            found[modality] = fusion.norms[modality](tokens[row][mask[row]]).mean(0)
    return found


def check(fusion: Fusion, streams: dict[str, Stream], expected, **tolerance: float) -> None:
    """Every row's fused vector is what `expected` makes of the vectors of the modalities that it has."""
    fused = fusion(streams).tokens
    assert fused.shape[1] == 1
    for row in range(len(fused)):
        torch.testing.assert_close(fused[row, 0], expected(vectors_of(fusion, streams, row)), **tolerance)


@pytest.fixture
def streams(make_streams, all_patterns) -> dict[str, Stream]:
    return make_streams(all_patterns(3))


def test_late_mean(build, streams) -> None:
    check(build("late_mean"), streams, lambda x: torch.stack(list(x.values())).mean(0))


def test_late_weighted(build, streams) -> None:
    fusion = build("late_weighted")

    def expected(x: dict[str, Tensor]) -> Tensor:
        weights = {m: fusion.weights[m].weight.exp() for m in x}
        return sum(weights[m] * x[m] for m in x) / sum(weights.values())

    check(fusion, streams, expected)


def test_late_concatenated(build, streams) -> None:
    fusion = build("late_concatenated")
    blocks = dict(zip(TRIPLE, fusion.proj.weight.split(32, dim=1), strict=True))

    def expected(x: dict[str, Tensor]) -> Tensor:
        return fusion.proj.bias + sum(blocks[m] @ x.get(m, fusion.missing[m].tokens[0, 0]) for m in TRIPLE)

    check(fusion, streams, expected)


def test_tensor(build, streams) -> None:
    """Term by term: the weight of each product times the product, for every choice of one number a modality."""
    fusion = build("tensor", tensor_size=2)

    def expected(x: dict[str, Tensor]) -> Tensor:
        features = [fusion.maps[m](x[m]).tolist() + [1.0] if m in x else [0.0, 0.0, 1.0] for m in TRIPLE]
        products = [a * b * c for a, b, c in product(*features)]
        hidden = fusion.up_proj.bias + sum(
            p * column for p, column in zip(products, fusion.up_proj.weight.T, strict=True)
        )
        return fusion.output_norm(fusion.down_proj(nn.functional.gelu(hidden)))

    check(fusion, streams, expected, atol=1e-5, rtol=1e-4)


def test_tensor_refuses_more_products_than_fit(config) -> None:
    with pytest.raises(ValueError, match=r"3 modalities with tensor_size 200 makes 8,120,601 .*low_rank_tensor"):
        build_fusion(config("tensor", tensor_size=200), TRIPLE)
    assert MAX_TENSOR_FEATURES >= 101**3
    build_fusion(config("tensor", tensor_size=100, hidden_size=2, num_attention_heads=1), TRIPLE)


def test_low_rank_tensor_is_the_whole_tensor_with_weights_of_that_rank(build, make_streams) -> None:
    """The tensor of weights is put together from its factors, and multiplied with the tensor of the features."""
    fusion, streams = build("low_rank_tensor", 2, tensor_rank=3), make_streams([[True, True], [True, False]])
    factors = []
    for modality in PAIR:
        part = fusion.factors[modality]
        factors.append(torch.cat((part.weight, part.bias[:, None]), dim=1).view(3, 32, 33))
    weights = torch.einsum("rha,rhb->hab", *factors)

    def expected(x: dict[str, Tensor]) -> Tensor:
        text, image = (torch.cat((x.get(m, torch.zeros(32)), torch.ones(1))) for m in PAIR)
        return fusion.output_norm(torch.einsum("hab,a,b->h", weights, text, image) + fusion.output.bias)

    check(fusion, streams, expected, atol=1e-5, rtol=1e-4)


def test_an_absent_modality_starts_as_the_identity_of_the_product(config, start, make_streams) -> None:
    fusion, streams = build_fusion(config("low_rank_tensor"), TRIPLE), make_streams([[True, False, False]])
    start(fusion)
    (x,) = vectors_of(fusion, streams, 0).values()
    expected = fusion.output_norm(fusion.factors["text"](x[None]).sum(dim=1))
    torch.testing.assert_close(fusion(streams).tokens[:, 0], expected)


def test_product_of_experts_is_the_mean_of_the_product_of_the_densities(build, streams) -> None:
    """Prior and experts multiplied on a grid."""
    fusion, grid = build("product_of_experts").double(), torch.linspace(-12, 12, 4001, dtype=torch.float64)
    streams = {m: Stream(stream.tokens.double(), stream.mask) for m, stream in streams.items()}

    def expected(x: dict[str, Tensor]) -> Tensor:
        density = Normal(0.0, 1.0).log_prob(grid)[:, None].expand(-1, 32)
        for m, vector in x.items():
            precision = nn.functional.softplus(fusion.precisions[m](vector))
            density = density + Normal(fusion.means[m](vector), precision.rsqrt()).log_prob(grid[:, None])
        weights = density.softmax(dim=0)
        return (weights * grid[:, None]).sum(0)

    check(fusion, streams, expected, atol=1e-6, rtol=1e-6)


def test_gated_multimodal_unit(build, streams) -> None:
    fusion = build("gated_multimodal_unit")

    def expected(x: dict[str, Tensor]) -> Tensor:
        seen = torch.cat([x.get(m, torch.zeros(32)) for m in TRIPLE])
        return sum(torch.sigmoid(fusion.gates[m](seen)) * torch.tanh(fusion.features[m](x[m])) for m in x)

    check(fusion, streams, expected)


def test_mixture_of_experts(build, streams) -> None:
    fusion = build("mixture_of_experts")

    def expected(x: dict[str, Tensor]) -> Tensor:
        seen = torch.cat([x.get(m, torch.zeros(32)) for m in TRIPLE])
        scores = dict(zip(TRIPLE, fusion.gate(seen).exp(), strict=True))
        experts = {m: fusion.experts[m](x[m]) for m in x}
        return sum(scores[m] * experts[m] for m in x) / sum(scores[m] for m in x)

    check(fusion, streams, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("query", PAIR)
def test_gated_cross_attention_starts_as_the_identity(config, start, make_streams, all_patterns, query) -> None:
    """The tokens of the modality that asks come out as they went in, whatever else is there."""
    fusion, streams = build_fusion(config("gated_cross_attention", query=query), TRIPLE), make_streams(all_patterns(3))
    start(fusion)
    tokens, mask = streams[query]
    asking, fused = mask.any(dim=1), fusion(streams).tokens
    assert torch.equal(fused[mask], tokens[mask])
    assert torch.equal(fused[~asking, 0], fusion.missing_query(int((~asking).sum()))[:, 0])
    assert torch.equal(fusion.train()(streams).tokens, fused)


def test_a_closed_gate_opens_in_the_first_step(config, start, make_streams) -> None:
    """At the identity the gates themselves get a gradient, so that the second step reaches the others."""
    fusion, streams = build_fusion(config("gated_cross_attention"), PAIR), make_streams([[True, True]] * 2)
    start(fusion)
    fusion(streams).tokens.pow(3).sum().backward()
    assert all(layer.cross_attn_gate.gate.grad.abs() > 0 for layer in fusion.layers)
    assert all(layer.mlp_gate.gate.grad.abs() > 0 for layer in fusion.layers)


def seen_by_text(fusion: Fusion, streams: dict[str, Stream], modality: str) -> Tensor:
    """How the text's fused tokens change when the modality's tokens do, the largest difference of each row."""
    tokens, mask = streams[modality]
    changed = fusion(streams | {modality: Stream(-tokens, mask)}).tokens
    length = streams["text"].tokens.shape[1]
    return (fusion(streams).tokens - changed)[:, :length].abs().amax(dim=(1, 2))


def test_bottleneck_reaches_the_others_through_the_shared_tokens_alone(build, make_streams) -> None:
    """In the first layer the shared tokens hold nothing yet; in the second they do, and cut off they bring nothing."""
    streams = make_streams([[True, True, True]])
    assert not seen_by_text(build("bottleneck", num_hidden_layers=1), streams, "image").any()
    fusion = build("bottleneck", num_hidden_layers=2)
    assert (seen_by_text(fusion, streams, "image") > 1e-3).all()
    fusion.run_layer = lambda layers, x, shared, *rest: (
        type(fusion).run_layer(fusion, layers, x, shared, *rest)[0],
        torch.zeros(len(x), *shared.shape),
    )
    assert not seen_by_text(fusion, streams, "image").any()


def test_bottleneck_shares_the_mean_over_the_modalities_that_a_row_has(build, make_streams) -> None:
    fusion, streams = build("bottleneck", num_hidden_layers=2), make_streams([[True, True, True], [True, True, False]])
    given, made = [], []

    def recorded(layers: nn.Module, x: dict[str, Tensor], shared: Tensor, *rest: object) -> tuple:
        result = type(fusion).run_layer(fusion, layers, x, shared, *rest)
        given.append(shared)
        made.append(result[1])
        return result

    fusion.run_layer = recorded
    fusion(streams)
    torch.testing.assert_close(given[1][0], made[0][:, 0].mean(0))
    torch.testing.assert_close(given[1][1], made[0][:2, 1].mean(0))


def test_bottleneck_of_one_modality_is_its_own_stack(build, make_streams) -> None:
    """With text alone: a plain stack over the text and the shared tokens."""
    fusion, streams = build("bottleneck"), make_streams([[True, False, False]] * 2)
    text, mask = streams["text"]
    shared = fusion.bottlenecks(2)
    x = torch.cat((text + fusion.types["text"](1), shared), dim=1)
    plan = fusion.planner.self_attention(x, nn.functional.pad(mask, (0, shared.shape[1]), value=True))
    for layers in fusion.layers:
        x, *_ = layers["text"](x, LayerPlans(plan))
    expected = fusion.output_norm(x[:, : text.shape[1]])
    torch.testing.assert_close(fusion(streams).tokens[:, : text.shape[1]][mask], expected[mask], atol=1e-5, rtol=1e-5)


def test_co_attention_reads_the_others_as_they_were_before_the_layer(build, make_streams) -> None:
    """One layer by hand, and both streams at once: neither sees what the other becomes in the same layer."""
    fusion, streams = build("co_attention", 2, num_hidden_layers=1), make_streams([[True, True]] * 2)
    x = {m: streams[m].tokens + fusion.types[m](1) for m in PAIR}
    expected = []
    for own, other in (PAIR, PAIR[::-1]):
        layer = fusion.layers[0][own]
        inside = fusion.planner.self_attention(x[own], streams[own].mask)
        across = fusion.planner.cross_attention(x[own], x[other], streams[other].mask)
        y = x[own] + layer.self_attn(layer.self_attn_norm(x[own]), inside)[0]
        y = y + layer.cross_attn(layer.cross_attn_norm(y), across, None, x[other])[0]
        expected.append(fusion.output_norm(y + layer.mlp(layer.mlp_norm(y))))
    fused = fusion(streams)
    torch.testing.assert_close(fused.tokens[fused.mask], torch.cat(expected, dim=1)[fused.mask], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("strategy", ["co_attention", "bottleneck"])
def test_attentions_are_over_all_streams(build, make_streams, all_patterns, strategy) -> None:
    fusion, streams = build(strategy), make_streams(all_patterns(3))
    plain, fused = fusion(streams), fusion(streams, output_hidden_states=True, output_attentions=True)
    torch.testing.assert_close(fused.tokens[fused.mask], plain.tokens[plain.mask], atol=1e-5, rtol=1e-5)
    assert plain.hidden_states is None and plain.attentions is None
    assert len(fused.hidden_states) == 3 and torch.equal(fused.hidden_states[-1], fused.tokens)
    assert len(fused.attentions) == 2
    total = fused.tokens.shape[1]
    for weights in fused.attentions:
        assert weights.shape == (7, 2, total, total + 4 * (strategy == "bottleneck"))
        own = weights.transpose(1, 2)[fused.mask]
        torch.testing.assert_close(own.sum(-1), torch.ones_like(own.sum(-1)))
        assert not weights[:, :, :5, 5:total].any()  # text to image and audio


def test_cross_attentions_of_co_attention_leave_out_the_own_stream(build, make_streams) -> None:
    fused = build("co_attention")(make_streams([[True] * 3] * 2), output_attentions=True)
    weights = fused.cross_attentions[0]
    assert weights.shape[-2:] == (16, 16)
    assert not weights[:, :, :5, :5].any() and not weights[:, :, 5:12, 5:12].any() and not weights[:, :, 12:, 12:].any()
    own = weights.transpose(1, 2)[fused.mask].sum(-1)
    torch.testing.assert_close(own, torch.ones_like(own))


def test_gradient_checkpointing_changes_nothing(build, make_streams, all_patterns) -> None:
    """Layers called one stream at a time are recomputed as well."""
    for strategy in ("co_attention", "bottleneck", "gated_cross_attention"):
        results = []
        for checkpointing in (False, True):
            fusion = build(strategy).train()
            for module in fusion.modules():
                if hasattr(module, "gradient_checkpointing"):
                    module.gradient_checkpointing = checkpointing
                    module._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
            fused = fusion(make_streams(all_patterns(3)))
            fused.tokens[fused.mask].square().sum().backward()
            results.append([fused.tokens, *(parameter.grad for parameter in fusion.parameters())])
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other)
