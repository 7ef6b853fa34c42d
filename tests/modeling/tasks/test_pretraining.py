"""Every objective of pretraining beside a loss written by hand; what each trains; what it does not depend on."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plait import (
    PlaitConfig,
    PlaitForCausalLM,
    PlaitForClassification,
    PlaitForConditionalGeneration,
    PlaitForMaskedLM,
    PlaitForPreTraining,
    PlaitForQuestionAnswering,
    PlaitForRetrieval,
    PlaitModel,
)
from plait.configuration.objectives import OBJECTIVES
from plait.modeling.tasks.pretraining_encoding import encode_clean_and_masked

from ..zoo import DECODER, TOKENS, fused

ROWS, PATCHES = 4, 4


def config_of(strategy: str = "early", decoder: bool = True, **fields: object) -> PlaitConfig:
    parts = fused(strategy)
    if decoder:
        parts |= {"decoder_config": {**DECODER, "cross_attention": True}, **TOKENS}
    return PlaitConfig(**parts, initializer_range=0.2, **fields)


def build(*args: str, model_class: type = PlaitForPreTraining, **options: object) -> PlaitForPreTraining:
    torch.manual_seed(0)
    model = model_class(config_of(*args, **options))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> PlaitForPreTraining:
    """All five objectives; only to be read."""
    return build()


def read(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inputs without what is to be learnt."""
    return {name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values")}


def losses(model: PlaitForPreTraining, batch: dict[str, Tensor], **options: object) -> dict[str, Tensor]:
    return model(**batch, return_loss=True, **options).losses


def tower_means(model: PlaitForPreTraining, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Each row's text and picture in the common space, by loops."""
    text = model.model.encode("text", input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    image = model.model.encode("image", pixel_values=batch["pixel_values"])
    vectors = []
    for name, output in (("text", text), ("image", image)):
        rows = [tokens[mask.bool()].mean(0) for tokens, mask in zip(output.last_hidden_state, output.mask, strict=True)]
        vectors.append(torch.stack([F.normalize(model.projections[name](row), dim=0) for row in rows]))
    return vectors[0], vectors[1]


def test_contrastive_by_hand(model: PlaitForPreTraining, batch: dict[str, Tensor]) -> None:
    text, image = tower_means(model, batch)
    scale, total = model.similarity.logit_scale.exp(), torch.zeros(())
    for row in range(ROWS):
        to_image = [scale * text[row] @ other for other in image]
        to_text = [scale * image[row] @ other for other in text]
        for scores in (to_image, to_text):
            total = total - scores[row] + torch.stack(scores).logsumexp(0)
    torch.testing.assert_close(losses(model, batch)["contrastive"], total / (2 * ROWS))


def test_contrastive_is_that_of_retrieval(model: PlaitForPreTraining, batch: dict[str, Tensor], tmp_path: Path) -> None:
    """The same folder in the class that compares: its loss and its vectors."""
    model.save_pretrained(tmp_path)
    other = PlaitForRetrieval.from_pretrained(tmp_path)
    torch.testing.assert_close(other(**read(batch), return_loss=True).loss, losses(model, batch)["contrastive"])
    embeds = model(**read(batch)).embeds
    torch.testing.assert_close(other(**read(batch)).text_embeds, embeds["text"])


def test_matching_by_hand(model: PlaitForPreTraining, batch: dict[str, Tensor]) -> None:
    """Outside of training: each picture with the most similar text that is not its own, and the reverse."""
    text, image = tower_means(model, batch)
    similarity = (text @ image.T).detach().fill_diagonal_(-math.inf)
    pairs = [(row, row) for row in range(ROWS)]
    pairs += [(int(similarity[:, row].argmax()), row) for row in range(ROWS)]
    pairs += [(row, int(similarity[row].argmax())) for row in range(ROWS)]
    total = torch.zeros(())
    for number, (row, shown) in enumerate(pairs):
        one = {"input_ids": batch["input_ids"][[row]], "attention_mask": batch["attention_mask"][[row]]}
        logits = model(**one, pixel_values=batch["pixel_values"][[shown]], return_loss=False).matching_logits[0]
        total = total - logits.log_softmax(0)[1 if number < ROWS else 0]
    output = model(**batch)
    torch.testing.assert_close(output.losses["matching"], total / len(pairs))
    assert output.matching_labels.tolist() == [1] * ROWS + [0] * 2 * ROWS
    torch.testing.assert_close(F.cross_entropy(output.matching_logits, output.matching_labels), total / len(pairs))


def test_masked_lm_by_hand(model: PlaitForPreTraining, batch: dict[str, Tensor], tmp_path: Path) -> None:
    """The class of that name, loaded from the same folder, and the sum over single tokens."""
    model.save_pretrained(tmp_path)
    other = PlaitForMaskedLM.from_pretrained(tmp_path)
    inputs = {**read(batch), "input_ids": batch["input_ids_masked"]}
    logits = other(**inputs).logits
    known = (batch["mlm_labels"] != -100).nonzero().tolist()
    by_token = [-logits[row, place].log_softmax(0)[batch["mlm_labels"][row, place]] for row, place in known]
    found = losses(model, batch)["masked_lm"]
    torch.testing.assert_close(found, torch.stack(by_token).mean())
    without = losses(model, {**batch, "pixel_values": batch["pixel_values"].flip(0)})["masked_lm"]
    assert abs(found - without) > 1e-5  # the picture is looked at


@pytest.mark.parametrize("normalised", [True, False])
def test_masked_image_by_hand(batch: dict[str, Tensor], normalised: bool) -> None:
    model = build(norm_pix_loss=normalised)
    head, pictures, masked = model.image_head, batch["pixel_values"].clone(), batch["bool_masked_pos"]
    for row, place in masked.nonzero().tolist():
        top, left = place // 2 * 8, place % 2 * 8
        pictures[row, :, top : top + 8, left : left + 8] = head.mask_patch.detach()
    tokens = model.model.encode("image", pixel_values=pictures).last_hidden_state[:, 1:]  # without the class token
    errors = []
    for row, place in masked.nonzero().tolist():
        top, left = place // 2 * 8, place % 2 * 8
        patch = batch["pixel_values"][row, :, top : top + 8, left : left + 8].flatten()
        if normalised:
            patch = (patch - patch.mean()) / (patch.var() + 1e-6).sqrt()
        errors.append((head.prediction(tokens[row, place]) - patch).square().mean())
    torch.testing.assert_close(losses(model, batch)["masked_image"], torch.stack(errors).mean())


def test_captioning_by_hand(model: PlaitForPreTraining, batch: dict[str, Tensor], tmp_path: Path) -> None:
    """The class that generates, loaded from the same folder, given the pictures alone."""
    model.save_pretrained(tmp_path)
    writer = PlaitForConditionalGeneration.from_pretrained(tmp_path)
    logits = writer(pixel_values=batch["pixel_values"], labels=batch["labels"]).logits
    kept = batch["labels"] != -100
    by_token = [
        -logits[row, place].log_softmax(0)[batch["labels"][row, place]] for row, place in kept.nonzero().tolist()
    ]
    found = losses(model, batch)["captioning"]
    torch.testing.assert_close(found, torch.stack(by_token).mean())
    other_text = {
        **batch,
        "input_ids": batch["input_ids"].roll(1, 0),
        "attention_mask": batch["attention_mask"].roll(1, 0),
    }
    torch.testing.assert_close(losses(model, other_text)["captioning"], found)  # it does not read what it is to write


def test_the_loss_is_the_weighted_sum(batch: dict[str, Tensor]) -> None:
    weights = {"contrastive": 1.0, "matching": 0.5, "masked_lm": 2, "masked_image": 0.0, "captioning": 0.25}
    output = build(objectives=weights)(**batch)
    assert list(output.losses) == ["contrastive", "matching", "masked_lm", "captioning"]  # no weight, no work
    expected = sum(weights[name] * loss for name, loss in output.losses.items())
    torch.testing.assert_close(output.loss, expected)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_one_objective_alone_is_what_it_is_among_all(
    model: PlaitForPreTraining, batch: dict[str, Tensor], name: str
) -> None:
    alone = model(**batch, return_loss=True, objectives=[name])
    assert list(alone.losses) == [name]
    torch.testing.assert_close(alone.loss, losses(model, batch)[name])
    needed = {
        "masked_lm": ("input_ids_masked", "mlm_labels"),
        "masked_image": ("bool_masked_pos",),
        "captioning": ("labels",),
    }
    fewer = read(batch) | {key: batch[key] for key in needed.get(name, ())}
    torch.testing.assert_close(losses(model, fewer, objectives=[name])[name], alone.loss)


REACHED = {
    "contrastive": {"towers.text", "towers.image", "projections", "similarity"},
    "matching": {"towers.text", "towers.image", "connectors.text", "connectors.image", "fusion", "matching_head"},
    "masked_lm": {"towers.text", "towers.image", "connectors.text", "connectors.image", "fusion", "mlm_head"}
    | {"mlm_projection"},
    "masked_image": {"towers.image", "image_head"},
    "captioning": {"towers.image", "connectors.image", "fusion", "decoder"},
}


def part(name: str) -> str:
    path = name.removeprefix("model.").split(".")
    return ".".join(path[:2]) if path[0] in ("towers", "connectors") else path[0]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_reach_what_an_objective_reads_and_nothing_else(batch: dict[str, Tensor], name: str) -> None:
    model = build().train()
    model(**batch, return_loss=True, objectives=[name]).loss.backward()
    grown = {key for key, parameter in model.named_parameters() if parameter.grad is not None and parameter.grad.any()}
    assert {part(key) for key in grown} == REACHED[name]
    still = {"fusion.types.text", "similarity.logit_bias"} if name == "captioning" else set()
    missed = [
        key
        for key, parameter in model.named_parameters()
        if part(key) in REACHED[name] and parameter.grad is None and not any(other in key for other in still)
    ]
    assert not missed


def test_every_tower_and_the_fusion_run_once(batch: dict[str, Tensor]) -> None:
    model, calls = build().train(), []
    parts = {**model.model.towers, "fusion": model.model.fusion, "decoder": model.model.decoder}
    for name, module in parts.items():
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    model(**batch).loss.backward()
    assert sorted(calls) == ["decoder", "fusion", "image", "text"]


@pytest.mark.parametrize("strategy", ["early", "cross_attention", "late"])
def test_padding_is_invisible(batch: dict[str, Tensor], strategy: str) -> None:
    model = build(strategy, decoder=strategy == "early")
    more = {"input_ids": 39, "input_ids_masked": 38, "attention_mask": 0, "mlm_labels": -100, "labels": -100}
    longer = {name: F.pad(batch[name], (0, 3), value=value) for name, value in more.items()}
    for name, value in losses(model, batch).items():
        torch.testing.assert_close(losses(model, batch | longer)[name], value, atol=1e-5, rtol=1e-4, msg=name)


def test_the_order_of_the_rows_changes_nothing(model: PlaitForPreTraining, batch: dict[str, Tensor]) -> None:
    order = torch.tensor([2, 0, 3, 1])
    for name, value in losses(model, {name: value[order] for name, value in batch.items()}).items():
        torch.testing.assert_close(value, losses(model, batch)[name], atol=1e-5, rtol=1e-4, msg=name)


def test_pictures_that_rows_share_are_those_pictures(model: PlaitForPreTraining, batch: dict[str, Tensor]) -> None:
    """By number or spelled out; rows of one picture are no negatives of each other."""
    numbers = torch.tensor([[0], [1], [0], [2]])
    named = {**batch, "pixel_values": batch["pixel_values"][:3], "bool_masked_pos": batch["bool_masked_pos"][:3]}
    spelled = {**batch, "pixel_values": batch["pixel_values"][numbers[:, 0]]}
    spelled["bool_masked_pos"] = batch["bool_masked_pos"][numbers[:, 0]]
    one, other = model(**named, image_indices=numbers), model(**spelled)
    for name in ("contrastive", "matching", "masked_lm", "captioning"):
        torch.testing.assert_close(one.losses[name], other.losses[name], atol=1e-5, rtol=1e-4, msg=name)
    text, image = tower_means(model, spelled)
    logits = model.similarity(text, image).detach()
    logits[0, 2] = logits[2, 0] = -math.inf
    expected = (F.cross_entropy(logits, torch.arange(4)) + F.cross_entropy(logits.T, torch.arange(4))) / 2
    torch.testing.assert_close(one.losses["contrastive"], expected)


def test_rows_may_lack_text_or_picture(model: PlaitForPreTraining, batch: dict[str, Tensor]) -> None:
    """Each objective is computed of the rows that have what it reads."""
    mixed = {name: value.clone() for name, value in batch.items()}
    for name, value in (("input_ids", 0), ("attention_mask", 0), ("mlm_labels", -100), ("labels", -100)):
        mixed[name][0] = value
    mixed["image_present"] = torch.tensor([[True], [True], [True], [False]])
    mixed["pixel_values"][3] = math.nan
    found = losses(model, mixed)
    pairs = {name: value[1:3] for name, value in batch.items()}
    for name in ("contrastive", "matching", "captioning"):
        torch.testing.assert_close(found[name], losses(model, pairs)[name], atol=1e-5, rtol=1e-4, msg=name)
    shown = {name: value[:3] for name, value in batch.items()}
    torch.testing.assert_close(found["masked_image"], losses(model, shown)["masked_image"], atol=1e-5, rtol=1e-4)
    alone = {name: batch[name][3:] for name in ("input_ids", "attention_mask", "input_ids_masked", "mlm_labels")}
    counts = [(batch["mlm_labels"][rows] != -100).sum() for rows in (slice(1, 3), slice(3, 4))]
    parts = [losses(model, rows, objectives=["masked_lm"])["masked_lm"] for rows in (pairs, alone)]
    expected = (counts[0] * parts[0] + counts[1] * parts[1]) / sum(counts)
    torch.testing.assert_close(found["masked_lm"], expected, atol=1e-5, rtol=1e-4)


def test_a_batch_of_texts_alone_teaches_masked_language_alone(
    model: PlaitForPreTraining, batch: dict[str, Tensor]
) -> None:
    texts = {name: batch[name] for name in ("input_ids", "attention_mask", "input_ids_masked", "mlm_labels", "labels")}
    assert list(losses(model, texts)) == ["masked_lm"]


def test_hidden_patches_are_drawn_anew_in_training_alone(batch: dict[str, Tensor]) -> None:
    model = build(image_mask_ratio=0.5)
    del batch["bool_masked_pos"]
    assert losses(model, batch)["masked_image"] == losses(model, batch)["masked_image"]
    model.train()
    drawn = model.image_head.draw_mask(batch["pixel_values"].repeat(300, 1, 1, 1))
    assert (drawn.sum(dim=1) == 2).all()
    torch.testing.assert_close(drawn.float().mean(0), torch.full((PATCHES,), 0.5), atol=0.05, rtol=0)


def test_save_and_load_are_exact(batch: dict[str, Tensor], tmp_path: Path) -> None:
    model = build(objectives={"contrastive": 0.5, "masked_image": 1, "captioning": 0})
    model.save_pretrained(tmp_path)
    again, info = PlaitForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert again.config.objectives == {"contrastive": 0.5, "masked_image": 1, "captioning": 0}
    assert torch.equal(model(**batch).loss, again(**batch).loss)


HEADS = {
    PlaitModel: set(),
    PlaitForClassification: {"classifier.weight", "classifier.bias"},
    PlaitForMaskedLM: set(),
    PlaitForQuestionAnswering: {"qa_outputs.weight", "qa_outputs.bias"},
    PlaitForConditionalGeneration: set(),
    PlaitForRetrieval: set(),
}


@pytest.mark.parametrize("decoder", [True, False])
@pytest.mark.parametrize("model_class", HEADS)
def test_the_folder_loads_into_every_other_class(tmp_path: Path, model_class: type, decoder: bool) -> None:
    if model_class is PlaitForConditionalGeneration and not decoder:
        pytest.skip("writes nothing without a decoder")
    model = build(decoder=decoder)
    model.save_pretrained(tmp_path / "pretrained")
    loaded, info = model_class.from_pretrained(tmp_path / "pretrained", output_loading_info=True)
    assert set(info["missing_keys"]) == HEADS[model_class]
    weights, base = model.model.state_dict(), loaded.base_model.state_dict()
    assert all(torch.equal(weights[name], base[name]) for name in base)
    left_out = {name.split(".")[0] for name in weights.keys() - base.keys()}
    assert left_out == (
        {"decoder"} if decoder and loaded.decoder_kind is None and model_class is not PlaitModel else set()
    )
    loaded.save_pretrained(tmp_path / "again")
    again, info = model_class.from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_a_folder_with_a_decoder_becomes_a_classifier(batch: dict[str, Tensor], tmp_path: Path) -> None:
    build().save_pretrained(tmp_path)
    model = PlaitForClassification.from_pretrained(tmp_path, id2label={0: "a", 1: "b", 2: "c"})
    assert model.config.decoder_config is None and model(**read(batch)).logits.shape == (ROWS, 3)
    with pytest.raises(ValueError, match="PlaitForConditionalGeneration"):
        PlaitForCausalLM.from_pretrained(tmp_path)


def test_a_folder_without_heads_begins_pretraining(tmp_path: Path) -> None:
    """Everything that its parts allow, unless told otherwise."""
    build(model_class=PlaitModel).save_pretrained(tmp_path)
    assert list(PlaitForPreTraining.from_pretrained(tmp_path).config.objectives) == list(OBJECTIVES)
    chosen = PlaitForPreTraining.from_pretrained(tmp_path, objectives={"captioning": 2.0})
    assert chosen.config.objectives == {"captioning": 2.0} and chosen.similarity is None


def test_composed_with_a_decoder_the_picture_reaches_it(batch: dict[str, Tensor]) -> None:
    parts = config_of()
    towers = {"text": parts.text_config, "image": parts.vision_config, "decoder": parts.decoder_config}
    options = {"decoder_start_token_id": 1, "pad_token_id": 0, "verbose": False}
    model = PlaitForPreTraining.compose(**towers, **options)
    assert model.config.fusion_config.strategy == "early" and list(model.config.objectives) == list(OBJECTIVES)
    assert torch.isfinite(model(**batch).loss)


def test_half_precision(batch: dict[str, Tensor]) -> None:
    model = build().bfloat16()
    output = model(**batch)
    assert output.loss.dtype == torch.float32 and torch.isfinite(output.loss)
    for name, value in losses(build(), batch).items():
        torch.testing.assert_close(output.losses[name].float(), value, atol=0.2, rtol=0.1, msg=name)


@pytest.mark.parametrize(
    ("wanted", "encoded"),
    [
        ({"masked_lm"}, {"masked text", "image"}),
        ({"contrastive"}, {"text", "image", "masked text"}),
        ({"matching"}, {"text", "image", "masked text"}),
        (set(), {"masked text"}),
    ],
)
def test_only_what_an_objective_reads_is_encoded(
    model: PlaitForPreTraining, batch: dict[str, Tensor], wanted: set[str], encoded: set[str]
) -> None:
    """The masked text is encoded because it is given."""
    text = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    inputs = {"text": text, "image": {"pixel_values": batch["pixel_values"]}}
    rows = encode_clean_and_masked(model.model, inputs, {}, wanted, masked_ids=batch["input_ids"]).rows
    assert set(rows) == encoded


def test_a_batch_without_a_pair_has_embeddings_of_no_row(model: PlaitForPreTraining) -> None:
    with torch.no_grad():
        first, second = model.build_empty_embeds()
    assert len(first) == len(second) == 0 and first.shape == second.shape and first.shape[1] > 0
