"""What every connector promises."""

import pytest
import torch
from torch import nn

from plait.modeling.core.layers import SelfInitializing
from plait.modeling.fusion import Stream
from plait.modeling.fusion.connectors import CONNECTORS, RESAMPLING_CONNECTORS, build_connector

pytestmark = [
    pytest.mark.parametrize("name", CONNECTORS),
    pytest.mark.parametrize("implementation", ["eager", "sdpa"]),
]
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture
def connector(config, draw, name, implementation) -> nn.Module:
    connector = build_connector(config(implementation=implementation, connector=name, num_queries=3), 24)
    draw(connector)
    return connector.eval()


@pytest.fixture
def stream(make_streams) -> Stream:
    """Rows of 5, 4, no and 4 tokens, 24 wide."""
    return make_streams([[True], [True], [False], [True]], width=24)["text"]


def test_shapes(connector, stream, name) -> None:
    tokens, mask = connector(stream)
    assert tokens.shape == (4, 3 if name in RESAMPLING_CONNECTORS else 5, 32)
    assert mask.shape == tokens.shape[:2]
    assert mask.dtype == torch.bool


def test_the_mask_is_kept(connector, stream, name) -> None:
    mask = connector(stream).mask
    assert torch.equal(
        mask, stream.mask if name not in RESAMPLING_CONNECTORS else stream.present[:, None].expand(-1, 3)
    )


def test_a_row_without_tokens_stays_without_and_finite(connector, stream) -> None:
    tokens, mask = connector(stream)
    assert not mask[2].any()
    assert tokens.isfinite().all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_what_stands_in_the_place_of_a_token_is_never_read(connector, stream, value) -> None:
    results = []
    for content in (0.0, value):
        connector.zero_grad()
        tokens, mask = connector(Stream(stream.tokens.masked_fill(~stream.mask[..., None], content), stream.mask))
        tokens[mask].square().sum().backward()
        results.append([tokens, *(parameter.grad for parameter in connector.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_padding_is_invisible(connector, stream) -> None:
    padded = Stream(nn.functional.pad(stream.tokens, (0, 0, 1, 2), value=9.0), nn.functional.pad(stream.mask, (1, 2)))
    one, other = connector(stream), connector(padded)
    torch.testing.assert_close(one.tokens[one.mask], other.tokens[other.mask], **CLOSE)


def test_order_of_the_rows_is_irrelevant(connector, stream) -> None:
    order = torch.tensor([3, 0, 2, 1])
    one, other = connector(stream), connector(Stream(stream.tokens[order], stream.mask[order]))
    torch.testing.assert_close(one.tokens[order], other.tokens, **CLOSE)


def test_a_row_alone_equals_the_row_among_many(connector, stream) -> None:
    together = connector(stream).tokens
    for row in (0, 1, 3):
        alone = connector(Stream(stream.tokens[row : row + 1], stream.mask[row : row + 1])).tokens
        torch.testing.assert_close(alone, together[row : row + 1], **CLOSE)


def test_every_token_matters_and_gets_gradient(connector, make_streams) -> None:
    tokens, mask = make_streams([[True], [True]], width=24, grad=True)["text"]
    connected = connector(Stream(tokens, mask))
    connected.tokens[connected.mask].square().sum().backward()
    assert torch.equal(tokens.grad.abs().sum(-1) > 0, mask)


@pytest.mark.parametrize("length", [0, 4])
def test_every_parameter_gets_a_gradient_even_without_a_token(connector, length) -> None:
    tokens, mask = torch.randn(2, length, 24), torch.zeros(2, length, dtype=torch.bool)
    connector(Stream(tokens, mask)).clean().tokens.sum().backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in connector.parameters())


def test_every_parameter_learns(connector, stream) -> None:
    tokens, mask = connector(stream)
    tokens[mask].square().sum().backward()
    idle = [name for name, parameter in connector.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert [name for name in idle if not name.endswith("k_proj.bias")] == []


def test_every_parameter_knows_how_it_starts(connector, start) -> None:
    for parameter in connector.parameters():
        nn.init.constant_(parameter, float("nan"))
    start(connector)
    assert all(parameter.isfinite().all() for parameter in connector.parameters())
    own = [module for module in connector.modules() if list(module.parameters(recurse=False))]
    assert all(isinstance(module, (nn.Linear, nn.LayerNorm, SelfInitializing)) for module in own)


def test_a_stream_as_wide_as_the_fusion_is_projected_too(config, draw, make_streams, name, implementation) -> None:
    connector = build_connector(config(implementation=implementation, connector=name), 32)
    draw(connector)
    stream = make_streams([[True]])["text"]
    tokens = connector(stream).tokens
    assert tokens.shape != stream.tokens.shape or not torch.allclose(tokens, stream.tokens)
