"""What every strategy promises, for two, three and four modalities."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from plait.configuration import MODALITIES
from plait.modeling.core.layers import SelfInitializing
from plait.modeling.fusion import FUSIONS, FusionOutput, Stream, build_fusion

pytestmark = [
    pytest.mark.parametrize("strategy", FUSIONS),
    pytest.mark.parametrize("count", [2, 3, 4]),
]
FULL = pytest.mark.parametrize("implementation", ["eager", "sdpa"])
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def rows_of(fused: FusionOutput) -> list[Tensor]:
    """Returns the real tokens of each row."""
    return [tokens[mask] for tokens, mask in zip(fused.tokens, fused.mask, strict=True)]


def total(fused: FusionOutput) -> Tensor:
    return sum((row.square().sum() for row in rows_of(fused)), torch.zeros(()))


def assert_same_rows(one: list[Tensor], other: list[Tensor]) -> None:
    for left, right in zip(one, other, strict=True):
        torch.testing.assert_close(left, right, **CLOSE)


def gradients(module: nn.Module) -> dict[str, Tensor | None]:
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def filled(stream: Stream, value: float) -> Stream:
    """The stream with another value wherever there is no token."""
    return Stream(stream.tokens.masked_fill(~stream.mask[..., None], value), stream.mask)


def test_shapes(build, make_streams, strategy, count) -> None:
    fused = build(strategy, count)(make_streams([[True] * count] * 2))
    assert fused.tokens.shape == (*fused.mask.shape, 32)
    assert fused.mask.dtype == torch.bool
    assert fused.mask.any(dim=1).all()


@FULL
def test_every_pattern_of_present_modalities_is_finite(
    build, make_streams, all_patterns, strategy, count, implementation
) -> None:
    fused = build(strategy, count, implementation)(make_streams(all_patterns(count)))
    assert all(row.isfinite().all() and len(row) for row in rows_of(fused))
    assert fused.tokens.isfinite().all()


def test_a_row_depends_on_each_present_modality_and_on_no_absent_one(
    build, make_streams, all_patterns, strategy, count
) -> None:
    fusion, patterns = build(strategy, count), all_patterns(count)
    streams = make_streams(patterns)
    before = rows_of(fusion(streams))
    for number, modality in enumerate(fusion.modalities):
        noise = torch.randn(streams[modality].tokens.shape, generator=torch.Generator().manual_seed(2))
        after = rows_of(fusion(streams | {modality: Stream(noise, streams[modality].mask)}))
        for pattern, old, new in zip(patterns, before, after, strict=True):
            assert ((old - new).abs().max() > 1e-3) == pattern[number], (modality, pattern)


@FULL
def test_what_stands_in_an_absent_place_is_never_read(
    build, make_streams, all_patterns, strategy, count, implementation
) -> None:
    fusion, results = build(strategy, count, implementation), []
    for content in (0.0, float("nan"), float("inf"), 1e30):
        streams = make_streams(all_patterns(count))
        fused = fusion({modality: filled(stream, content) for modality, stream in streams.items()})
        fusion.zero_grad()
        total(fused).backward()
        results.append((fused.tokens, gradients(fusion)))
    (tokens, grads), *others = results
    for other_tokens, other_grads in others:
        assert torch.equal(tokens, other_tokens)
        assert all(torch.equal(grads[name], other_grads[name]) for name in grads)


def test_nothing_flows_back_into_absent_places(build, make_streams, all_patterns, strategy, count) -> None:
    streams = make_streams(all_patterns(count), grad=True)
    total(build(strategy, count)(streams)).backward()
    for stream in streams.values():
        touched = stream.tokens.grad.abs().sum(-1) > 0
        assert torch.equal(touched, stream.mask)


def test_padding_is_invisible(build, make_streams, all_patterns, strategy, count) -> None:
    fusion, streams = build(strategy, count), make_streams(all_patterns(count))
    padded = {
        modality: Stream(nn.functional.pad(tokens, (0, 0, left, 2), value=9.0), nn.functional.pad(mask, (left, 2)))
        for left, (modality, (tokens, mask)) in enumerate(streams.items())
    }
    assert_same_rows(rows_of(fusion(streams)), rows_of(fusion(padded)))


def test_padding_is_invisible_to_rotary_positions(build, make_streams, all_patterns, strategy, count) -> None:
    rope = {"rope_type": "default", "rope_theta": 100.0}
    fusion, streams = build(strategy, count, rope_parameters=rope), make_streams(all_patterns(count))
    padded = {
        modality: Stream(nn.functional.pad(tokens, (0, 0, 0, 3)), nn.functional.pad(mask, (0, 3)))
        for modality, (tokens, mask) in streams.items()
    }
    assert_same_rows(rows_of(fusion(streams)), rows_of(fusion(padded)))


def test_packed_equals_padded(build, make_streams, all_patterns, strategy, count) -> None:
    streams = make_streams(all_patterns(count))
    packed, padded = (build(strategy, count, packing=packing)(streams) for packing in (True, False))
    assert_same_rows(rows_of(packed), rows_of(padded))


def test_eager_equals_sdpa(build, make_streams, all_patterns, strategy, count) -> None:
    streams = make_streams(all_patterns(count))
    assert_same_rows(*(rows_of(build(strategy, count, name)(streams)) for name in ("eager", "sdpa")))


def test_order_of_the_streams_is_irrelevant(build, make_streams, all_patterns, strategy, count) -> None:
    fusion, streams = build(strategy, count), make_streams(all_patterns(count))
    assert torch.equal(fusion(streams).tokens, fusion(dict(reversed(streams.items()))).tokens)


def test_order_of_the_modalities_is_irrelevant(build, make_streams, all_patterns, strategy, count) -> None:
    fusion, streams = build(strategy, count), make_streams(all_patterns(count))
    other = build_fusion(fusion.config, fusion.modalities[::-1])
    assert list(other.state_dict()) == list(fusion.state_dict())
    other.load_state_dict(fusion.state_dict())
    assert torch.equal(fusion(streams).tokens, other.eval()(streams).tokens)


def test_order_of_the_rows_is_irrelevant(build, make_streams, all_patterns, strategy, count) -> None:
    fusion, streams = build(strategy, count), make_streams(all_patterns(count))
    order = torch.randperm(2**count - 1, generator=torch.Generator().manual_seed(3))
    shuffled = {modality: Stream(tokens[order], mask[order]) for modality, (tokens, mask) in streams.items()}
    expected = rows_of(fusion(streams))
    assert_same_rows([expected[row] for row in order], rows_of(fusion(shuffled)))


def test_a_row_alone_equals_the_row_among_many(build, make_streams, all_patterns, strategy, count) -> None:
    fusion, streams = build(strategy, count), make_streams(all_patterns(count))
    for row, expected in enumerate(rows_of(fusion(streams))):
        alone = {m: Stream(tokens[row : row + 1], mask[row : row + 1]) for m, (tokens, mask) in streams.items()}
        assert_same_rows([expected], rows_of(fusion(alone)))


def test_a_modality_that_the_whole_batch_lacks_may_be_left_out(
    build, make_streams, all_patterns, strategy, count
) -> None:
    fusion = build(strategy, count)
    for pattern in all_patterns(count):
        streams = make_streams([pattern] * 2)
        given = {modality: stream for modality, stream in streams.items() if stream.mask.any()}
        assert_same_rows(rows_of(fusion(streams)), rows_of(fusion(given)))


def test_every_parameter_gets_a_gradient_whatever_is_present(
    build, make_streams, all_patterns, strategy, count
) -> None:
    """A parameter without one makes the other processes of a distributed run wait for ever."""
    fusion = build(strategy, count).train()
    for pattern in all_patterns(count):
        streams = {m: stream for m, stream in make_streams([pattern] * 2).items() if stream.mask.any()}
        fusion.zero_grad(set_to_none=True)
        total(fusion(streams)).backward()
        assert [name for name, grad in gradients(fusion).items() if grad is None] == []


def test_every_parameter_learns_from_a_batch_with_gaps(build, make_streams, all_patterns, strategy, count) -> None:
    fusion = build(strategy, count)
    total(fusion(make_streams(all_patterns(count)))).backward()
    idle = [name for name, grad in gradients(fusion).items() if grad is None or not grad.abs().sum() > 0]
    # the softmax over keys does not see a shift that all keys share
    assert [name for name in idle if not name.endswith("k_proj.bias")] == []


def test_every_modality_receives_gradient(build, make_streams, strategy, count) -> None:
    streams = make_streams([[True] * count] * 2, grad=True)
    total(build(strategy, count)(streams)).backward()
    assert all((stream.tokens.grad.abs().sum((1, 2)) > 0).all() for stream in streams.values())


def test_save_and_load_is_exact(build, make_streams, all_patterns, tmp_path, strategy, count) -> None:
    fusion, streams = build(strategy, count), make_streams(all_patterns(count))
    save_file(fusion.state_dict(), tmp_path / "fusion.safetensors")
    loaded = build_fusion(fusion.config, fusion.modalities).eval()
    loaded.load_state_dict(load_file(tmp_path / "fusion.safetensors"))
    assert torch.equal(fusion(streams).tokens, loaded(streams).tokens)


def test_every_parameter_knows_how_it_starts(config, start, strategy, count) -> None:
    """from_pretrained hands out uninitialised memory: what the initialiser does not reach stays so."""
    fusion = build_fusion(config(strategy), MODALITIES[:count])
    for parameter in fusion.parameters():
        nn.init.constant_(parameter, float("nan"))
    start(fusion)
    assert all(parameter.isfinite().all() for parameter in fusion.parameters())
    own = [module for module in fusion.modules() if list(module.parameters(recurse=False))]
    assert all(isinstance(module, (nn.Linear, nn.LayerNorm, SelfInitializing)) for module in own)


def test_a_row_without_any_modality_is_an_error_that_names_it(build, make_streams, strategy, count) -> None:
    streams = make_streams([[True] * count, [False] * count, [True] * count, [False] * count])
    with pytest.raises(ValueError, match=r"row 1, 3 of the batch has no modality"):
        build(strategy, count)(streams)


def test_modality_dropout_is_for_training_alone(build, make_streams, all_patterns, strategy, count) -> None:
    streams = make_streams(all_patterns(count))
    plain, dropping = build(strategy, count), build(strategy, count, modality_dropout=0.9)
    assert torch.equal(plain(streams).tokens, dropping(streams).tokens)
    torch.manual_seed(0)
    trained = rows_of(dropping.train()(streams))
    assert all(row.isfinite().all() and len(row) for row in trained)
    full, *_, alone = zip(rows_of(plain(streams)), trained, strict=True)
    assert full[0].shape != full[1].shape or not torch.allclose(*full)
    torch.testing.assert_close(*alone, **CLOSE)


def test_a_dropped_modality_is_an_absent_one(build, make_streams, strategy, count) -> None:
    """With a chance of 1, a row keeps one modality, and equals one that has that modality alone."""
    fusion = build(strategy, count, modality_dropout=1.0)
    everything = make_streams([[True] * count])
    alone = [rows_of(fusion({m: stream}))[0] for m, stream in everything.items()]
    torch.manual_seed(0)
    for _ in range(3):
        (row,) = rows_of(fusion.train()(everything))
        same = [other.shape == row.shape and torch.allclose(row, other, **CLOSE) for other in alone]
        assert sum(same) == 1
