"""Hard negatives of a batch: further texts that are right for no row, against losses written out by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plait import PlaitForRetrieval
from plait.configuration import PlaitTextConfig, PlaitVisionConfig

SIZES: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT = PlaitTextConfig(vocab_size=40, pad_token_id=0, max_position_embeddings=12, **SIZES)
IMAGE = PlaitVisionConfig(image_size=8, patch_size=4, **SIZES)
ROWS = 4


def composed(loss: str = "info_nce", **parts: Any) -> PlaitForRetrieval:
    torch.manual_seed(0)
    space = {"projection_dim": 8, "loss": loss, "logit_bias_init_value": -1.0, "logit_scale_init_value": 1.0}
    given = {"text": TEXT, "retrieval_config": space, "initializer_range": 0.2, **parts}
    model = PlaitForRetrieval.compose(**given, verbose=False).double()
    for parameter in model.parameters():
        if parameter.numel() > 1:
            nn.init.normal_(parameter, std=0.2)
    return model


def words(*shape: int, seed: int = 0) -> dict[str, Tensor]:
    """Texts of two to six tokens."""
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.arange(6) < torch.randint(2, 7, (*shape, 1), generator=generator)).long()
    return {"input_ids": torch.randint(1, 40, (*shape, 6), generator=generator) * mask, "attention_mask": mask}


def pictures() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {"pixel_values": torch.randn(ROWS, 3, 8, 8, generator=generator, dtype=torch.float64)}


def negatives() -> dict[str, Tensor]:
    """Two a row, one in the second row, none in the last; the first row's second is the third row's own text."""
    found = words(ROWS, 2, seed=9)
    for name, own in words(ROWS).items():
        found[name][0, 1] = own[2]
    found["attention_mask"][1, 1], found["attention_mask"][3] = 0, 0
    return {f"negative_{name}": value for name, value in found.items()}


KEPT = [0, 1, 2, 4, 5]  # of the eight, row by row, those that are there; the second is the third row's text


def by_hand(kind: str, first: Tensor, second: Tensor, further: Tensor, alike: tuple[int, int], scale: float) -> Tensor:
    """Row i of `first` against all of `second` and `further`, without `alike`, and (InfoNCE) the way back."""
    own, logits = torch.arange(ROWS), scale * first @ torch.cat((second, further)).T - 1.0
    logits[alike] = -torch.inf
    if kind == "sigmoid":
        signs = 2 * F.one_hot(own, logits.shape[1]) - 1
        return -F.logsigmoid(signs * logits).sum() / ROWS
    back = scale * second @ first.T - 1.0
    return (F.cross_entropy(logits, own) + F.cross_entropy(back, own)) / 2


@pytest.mark.parametrize("kind", ["info_nce", "sigmoid"])
@pytest.mark.parametrize("side", ["image", "document"])
def test_the_loss_is_that_written_by_hand(kind: str, side: str) -> None:
    """Captions that pictures are likely to be taken for; documents that queries are. Gradients too."""
    parts = {"image": IMAGE} if side == "image" else {"document": "shared"}
    model = composed(kind, **parts).train()
    own = words(ROWS) if side == "image" else words(ROWS, seed=5)
    texts = own if side == "image" else {f"document_{name}": value for name, value in words(ROWS).items()}
    asked = pictures() if side == "image" else own
    found = model(**asked, **texts, **negatives()).loss
    found.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()

    flat = {name.removeprefix("negative_"): value.flatten(0, 1)[KEPT] for name, value in negatives().items()}
    asking = model.get_image_features(**pictures()) if side == "image" else model.get_text_features(**own)
    asking, texts, further = (
        F.normalize(output.pooler_output, dim=-1)
        for output in (asking, model.get_text_features(**words(ROWS)), model.get_text_features(**flat))
    )
    expected = by_hand(kind, asking, texts, further, (2, ROWS + 1), model.similarity.logit_scale.exp())
    assert abs(found - expected) < 1e-10
    expected.backward()
    trained = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    assert len(trained) > 10
    for name in trained:
        if name != "similarity.logit_bias":  # by hand it is a number
            expected_gradient = model.get_parameter(name).grad
            torch.testing.assert_close(gradients[name], expected_gradient, rtol=0, atol=1e-10, msg=name)


def test_their_numbers_may_be_given() -> None:
    """Those of the side of texts: a hard negative with a row's number is not that row's."""
    model = composed(image=IMAGE)
    inputs = {**words(ROWS), **pictures(), **negatives(), "return_loss": True}
    numbers = torch.tensor([[0, 10], [1, 11], [2, 12], [3, 13]])
    named = torch.tensor([[4, 2], [5, -1], [6, 7], [-1, -1]])
    assert torch.equal(model(**inputs).loss, model(**inputs, groups=numbers, negative_groups=named).loss)
    unlike = named.where(named != 2, 8)
    assert model(**inputs, groups=numbers, negative_groups=unlike).loss > model(**inputs).loss


def test_without_a_loss_they_are_not_read() -> None:
    model = composed(image=IMAGE)
    inputs = {**words(ROWS), **pictures()}
    assert torch.equal(model(**inputs, **negatives()).logits, model(**inputs).logits)


def test_a_batch_in_which_no_row_has_one_is_one_without() -> None:
    model = composed(image=IMAGE).train()
    none = {name: torch.zeros_like(value) for name, value in negatives().items()}
    inputs = {**words(ROWS), **pictures()}
    torch.testing.assert_close(model(**inputs, **none).loss, model(**inputs).loss)


def test_bad_input_is_said_to_be_bad() -> None:
    model, inputs = composed(image=IMAGE), {**words(ROWS), **pictures(), "return_loss": True}
    flat = words(ROWS)["input_ids"]
    with pytest.raises(ValueError, match=r"negative_input_ids has shape \(4, 6\): hard negatives are"):
        model(**inputs, negative_input_ids=flat)
    with pytest.raises(ValueError, match="hard negatives are negative_input_ids"):
        model(**inputs, negative_attention_mask=flat[:, None])
    with pytest.raises(ValueError, match="'negative': 3"):
        model(**inputs, negative_input_ids=flat[:3, None])
    with pytest.raises(ValueError, match="pass both, or none"):
        model(**inputs, **negatives(), groups=torch.zeros(ROWS, 2, dtype=torch.long))
    numbered = {"groups": torch.arange(ROWS)[:, None].expand(-1, 2), "negative_groups": torch.zeros(ROWS, 3)}
    with pytest.raises(ValueError, match=r"negative_groups has shape \(4, 3\), expected .* \(4, 2\)"):
        model(**inputs, **negatives(), **numbered)
    shown = composed(text=None, image=IMAGE, document=IMAGE, document_modality="image")
    images = {**pictures(), "document_pixel_values": pictures()["pixel_values"], "return_loss": True}
    with pytest.raises(ValueError, match="hard negatives are texts, and this model's sides are"):
        shown(**images, **negatives())
