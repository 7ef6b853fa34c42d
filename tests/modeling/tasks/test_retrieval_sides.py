"""Groups of equal content, inputs by side, labelled spans and start tokens, each on numbers."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from plait.modeling.losses.contrastive import fingerprint
from plait.modeling.tasks.conditional_generation import prepend_start_token
from plait.modeling.tasks.question_answering import PlaitForQuestionAnswering, find_labelled_spans, span_loss
from plait.modeling.tasks.retrieval_sides import compute_content_groups, split_by_side


def groups(modality: str, **inputs: Any) -> list[int]:
    return compute_content_groups(modality, inputs, SimpleNamespace()).tolist()  # type: ignore[arg-type]


def test_equal_texts_have_equal_groups_whatever_their_padding() -> None:
    """The first token's id may be 0, which is no padding."""
    ids = torch.tensor([[0, 3, 9], [0, 3, 7], [3, 0, 9], [0, 3, 0]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 0], [1, 1, 0], [1, 1, 1]])
    first, same, turned, longer = groups("text", input_ids=ids, attention_mask=mask)
    assert first == same and len({first, turned, longer}) == 3
    assert len(set(groups("text", input_ids=ids))) == 4
    square = mask[:, None, :].expand(4, 3, 3)
    assert groups("text", input_ids=ids, attention_mask=square) == groups("text", input_ids=ids)
    assert groups("text", input_ids=ids) == fingerprint(ids + 1).tolist()


def test_rows_of_the_same_shared_images_have_equal_groups() -> None:
    pixels = torch.randn(3, 1, 2, 2)
    pixels[2] = pixels[0]
    indices = torch.tensor([[0, -1], [1, -1], [2, -1], [0, 1], [-1, -1]])
    found = groups("image", pixel_values=pixels, image_indices=indices)
    assert found[0] == found[2] and len({*found}) == 4
    alone = groups("image", pixel_values=pixels)
    assert alone[0] == alone[2] != alone[1] and alone == fingerprint(pixels).tolist()


def test_inputs_go_to_the_side_that_reads_them() -> None:
    sides = {"text": "text", "document": "text"}
    ids, other = torch.ones(1, 2), torch.zeros(1, 3)
    found = split_by_side({"input_ids": ids, "document_input_ids": other}, sides)
    assert found["text"]["input_ids"] is ids and found["document"]["input_ids"] is other
    assert list(found) == ["text", "document"] and found["text"]["attention_mask"] is None
    with pytest.raises(ValueError, match=r"got pixel_values, which no side of this model reads \(text, document\)"):
        split_by_side({"input_ids": ids, "pixel_values": ids}, sides)
    with pytest.raises(ValueError, match="got document_input_ids, which no side"):
        split_by_side({"input_ids": ids, "document_input_ids": other}, {"text": "text"})
    split_by_side({"input_ids": ids, "document_input_ids": None, "pixel_values": None}, {"text": "text"})


def test_answers_inside_the_text_are_targets() -> None:
    start, end = torch.tensor([0, 2, -100, 1, 0]), torch.tensor([2, 3, 1, -1, 0])
    text = torch.zeros(5, 3, dtype=torch.long)
    assert find_labelled_spans(torch.stack((start, end), 1), 3).tolist() == [True, False, False, False, True]
    given: dict[str, Any] = {"start_positions": start, "end_positions": end}
    read = PlaitForQuestionAnswering.select_targets
    for inputs in ({"input_ids": text}, {"inputs_embeds": text[..., None]}, {"attention_mask": text}):
        assert read(None, {**given, **inputs}).tolist() == [0, -100, -100, -100, 0]  # type: ignore[arg-type]
    wider = {"input_ids": text, "attention_mask": torch.ones(5, 4)}
    assert read(None, {**given, **wider}).tolist() == [0, 0, -100, -100, 0]  # type: ignore[arg-type]
    assert read(None, given) is None  # type: ignore[arg-type]
    for name in given:
        assert read(None, {name: start, "input_ids": text}) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_loss_of_spans_is_written_out(smoothing: float) -> None:
    torch.manual_seed(0)
    real = torch.tensor([[True, True, True], [True, True, False], [True, True, True]])
    logits = torch.randn(3, 3, 2).masked_fill(~real[..., None], torch.finfo(torch.float).min)
    positions = torch.tensor([[0, 2], [1, 1], [-100, 1]])
    total = 0.0
    for row in range(2):
        for place in range(2):
            chances = logits[row, :, place].log_softmax(0)
            even = chances[real[row]].mean()
            total -= float((1 - smoothing) * chances[positions[row, place]] + smoothing * even) / 2
    assert float(span_loss(logits, real, positions, None, smoothing)) == pytest.approx(total / 2, rel=1e-5)
    for divisor in (5, torch.tensor(5)):
        assert float(span_loss(logits, real, positions, divisor, smoothing)) == pytest.approx(total / 5, rel=1e-5)
    assert float(span_loss(logits, real, torch.full((3, 2), -100), None, smoothing)) == 0


def test_the_start_token_is_put_before_rows_that_lack_it() -> None:
    tokens = torch.tensor([[0, 0, 5, 6], [7, 1, 2, 3], [0, 0, 0, 7], [0, 0, 0, 0]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]])
    found = prepend_start_token(tokens, mask, 7)
    assert found["decoder_input_ids"].tolist() == [[7, *row] for row in tokens.tolist()]
    assert found["decoder_attention_mask"].tolist() == [
        [1, 0, 0, 1, 1],
        [0, 1, 1, 1, 1],
        [0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0],
    ]
    unchanged = prepend_start_token(tokens[1:], mask[1:], 7)
    assert unchanged["decoder_input_ids"] is not None and torch.equal(unchanged["decoder_input_ids"], tokens[1:])
    each = prepend_start_token(torch.tensor([[5, 1], [5, 1]]), None, [5, 6])
    assert each["decoder_input_ids"].tolist() == [[5, 5, 1], [6, 5, 1]]
    assert each["decoder_attention_mask"].tolist() == [[0, 1, 1], [1, 1, 1]]
    with pytest.raises(ValueError, match="decoder_start_token_id is None"):
        prepend_start_token(tokens, mask, None)
