"""What only some strategies do, and how one is chosen."""

import pytest
import torch

from plait.configuration import PlaitFusionConfig
from plait.modeling.fusion import FUSIONS, build_fusion
from plait.modeling.fusion.base import ModalityDropout, Stream

PAIR, TRIPLE = ("text", "image"), ("text", "image", "audio")


def test_an_unknown_strategy_is_an_error_with_the_nearest(config) -> None:
    with pytest.raises(ValueError, match="no fusion strategy 'crossattention'; did you mean 'cross_attention'"):
        build_fusion(config("crossattention"), PAIR)


def test_an_unknown_field_is_an_error_with_the_nearest() -> None:
    with pytest.raises(TypeError, match="did you mean 'modality_dropout'"):
        PlaitFusionConfig(modality_droput=0.1)


@pytest.mark.parametrize(
    ("field", "value"),
    [("modality_dropout", 1.5), ("modality_dropout", -0.1), ("num_queries", 0), ("resampler_layers", 0)],
)
def test_a_field_out_of_range_is_an_error_with_the_number(field, value) -> None:
    with pytest.raises(ValueError, match=f"{field} is .*{value}"):
        PlaitFusionConfig(**{field: value})


@pytest.mark.parametrize("strategy", FUSIONS)
def test_a_stream_that_the_fusion_was_not_built_for_is_an_error(build, make_streams, strategy) -> None:
    streams = make_streams([[True] * 3])
    with pytest.raises(ValueError, match="reads text, image, not audio"):
        build(strategy, 2)(streams)
    with pytest.raises(ValueError, match="not nothing"):
        build(strategy, 2)({})


@pytest.mark.parametrize("strategy", ["early", "late"])
def test_one_modality_alone_can_be_fused(config, draw, make_streams, strategy) -> None:
    fusion = build_fusion(config(strategy), ("text",))
    draw(fusion)
    assert fusion(make_streams([[True]])).tokens.isfinite().all()


def test_cross_attention_needs_another_modality(config) -> None:
    with pytest.raises(ValueError, match="two modalities or more, not text alone"):
        build_fusion(config("cross_attention"), ("text",))


def test_cross_attention_checks_its_query(config) -> None:
    with pytest.raises(ValueError, match="'video' is not among the modalities text, image"):
        build_fusion(config("cross_attention", query="video"), PAIR)
    changed = config("early")
    changed.strategy = "cross_attention"
    with pytest.raises(ValueError, match="cross_attention=True"):
        build_fusion(changed, PAIR)


@pytest.mark.parametrize(
    ("query", "modalities", "expected"),
    [(None, TRIPLE, "text"), (None, ("video", "image"), "image"), ("audio", TRIPLE, "audio")],
)
def test_who_asks_in_cross_attention(config, query, modalities, expected) -> None:
    assert build_fusion(config("cross_attention", query=query), modalities).query == expected


@pytest.mark.parametrize("query", PAIR)
def test_fused_tokens_are_those_of_the_query(build, make_streams, query) -> None:
    streams = make_streams([[True, True]] * 2)
    fused = build("cross_attention", 2, query=query)(streams)
    assert torch.equal(fused.mask, streams[query].mask)


def test_text_stands_first_in_early_fusion(build, make_streams, all_patterns) -> None:
    streams = make_streams(all_patterns(3))
    fused = build("early")(streams)
    assert torch.equal(fused.mask, torch.cat([stream.mask for stream in streams.values()], dim=1))


@pytest.mark.parametrize("strategy", ["early", "cross_attention"])
def test_types_tell_modalities_apart(build, make_streams, strategy) -> None:
    """The same tokens as image and as audio are not the same."""
    fusion, streams = build(strategy), make_streams([[True] * 3])
    picture = streams["image"]
    as_image, as_audio = (fusion({"text": streams["text"], modality: picture}) for modality in ("image", "audio"))
    assert not torch.allclose(as_image.tokens, as_audio.tokens, atol=1e-3)


def test_gates_start_as_the_identity(config, start, make_streams, all_patterns) -> None:
    """A modality alone passes as its own mean; several as their plain mean."""
    fusion, patterns = build_fusion(config("late"), TRIPLE), all_patterns(3)
    start(fusion)
    streams = make_streams(patterns)
    fused = fusion(streams).tokens[:, 0]
    for row, pattern in enumerate(patterns):
        present = [m for m, there in zip(TRIPLE, pattern, strict=True) if there]
        means = [fusion.norms[m](streams[m].tokens[row][streams[m].mask[row]]).mean(0) for m in present]
        torch.testing.assert_close(fused[row], torch.stack(means).mean(0))


def test_the_gate_can_choose_one_modality(config, start, make_streams) -> None:
    fusion = build_fusion(config("late"), PAIR)
    start(fusion)
    streams = make_streams([[True, True]])
    alone = fusion({"image": streams["image"]}).tokens
    with torch.no_grad():
        fusion.gates["image"].bias.fill_(50.0)
    torch.testing.assert_close(fusion(streams).tokens, alone)


@pytest.mark.parametrize("strategy", ["early", "cross_attention"])
def test_hidden_states_and_attentions_are_those_of_the_joint_transformer(
    build, make_streams, all_patterns, strategy
) -> None:
    fusion, streams = build(strategy), make_streams(all_patterns(3))
    plain, fused = fusion(streams), fusion(streams, output_hidden_states=True, output_attentions=True)
    assert plain.hidden_states is None
    assert plain.attentions is None
    assert len(fused.hidden_states) == 3
    assert len(fused.attentions) == 2
    torch.testing.assert_close(fused.hidden_states[-1][fused.mask], plain.tokens[plain.mask], atol=1e-5, rtol=1e-5)
    kept = fused.mask[:, None, None, :].expand_as(fused.attentions[0])
    assert not fused.attentions[0][~kept].any()
    torch.testing.assert_close(fused.attentions[0].sum(-1), torch.ones_like(fused.attentions[0].sum(-1)))


def test_cross_attentions_look_at_the_present_context(build, make_streams) -> None:
    streams = make_streams([[True, True, False]])
    fused = build("cross_attention")(streams, output_attentions=True)
    image, audio = fused.cross_attentions[0].split([7, 4], dim=-1)
    torch.testing.assert_close(image.sum(-1), torch.ones_like(image.sum(-1)))
    assert not audio.any()


@pytest.mark.parametrize("strategy", FUSIONS)
def test_compiled_without_a_break_equals_eager(build, make_streams, all_patterns, strategy) -> None:
    torch._dynamo.reset()
    fusion, streams = build(strategy, 2, num_hidden_layers=1), make_streams(all_patterns(2))
    compiled = torch.compile(fusion, backend="eager", fullgraph=True)
    one, other = fusion(streams), compiled(streams)
    torch.testing.assert_close(one.tokens[one.mask], other.tokens[other.mask], atol=1e-5, rtol=1e-5)


class TestModalityDropout:
    def test_never_adds_and_never_empties(self) -> None:
        torch.manual_seed(0)
        present = torch.rand(500, 4) < 0.6
        for p in (0.3, 1.0):
            kept = ModalityDropout(p)(present)
            assert not (kept & ~present).any()
            assert torch.equal(kept.any(1), present.any(1))

    def test_drops_with_its_chance(self) -> None:
        torch.manual_seed(0)
        kept = ModalityDropout(0.3)(torch.ones(4000, 4, dtype=torch.bool))
        assert abs(kept.float().mean().item() - (0.7 + 0.3**4 / 4)) < 0.01

    def test_the_last_one_is_any_of_them(self) -> None:
        torch.manual_seed(0)
        kept = ModalityDropout(1.0)(torch.ones(3000, 3, dtype=torch.bool))
        assert (kept.sum(1) == 1).all()
        assert (kept.float().mean(0) - 1 / 3).abs().max() < 0.04

    def test_follows_the_seed(self) -> None:
        present, dropout = torch.ones(50, 3, dtype=torch.bool), ModalityDropout(0.5)
        torch.manual_seed(7)
        one, other = dropout(present), dropout(present)
        torch.manual_seed(7)
        assert torch.equal(one, dropout(present))
        assert not torch.equal(one, other)

    def test_a_switch_that_is_off_draws_nothing(self) -> None:
        state = torch.get_rng_state()
        ModalityDropout(0.0)(torch.ones(3, 2, dtype=torch.bool))
        assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("strategy", FUSIONS)
def test_half_precision_stays_half_precision(build, make_streams, all_patterns, strategy) -> None:
    streams = make_streams(all_patterns(2))
    expected = build(strategy, 2)(streams).tokens
    half = {m: Stream(stream.tokens.bfloat16(), stream.mask) for m, stream in streams.items()}
    fused = build(strategy, 2).bfloat16()(half)
    assert fused.tokens.dtype == torch.bfloat16
    difference = (fused.tokens.float() - expected)[fused.mask].abs().max()
    assert difference < 0.05 * expected.abs().max()
