"""Runs each tower once on clean and masked inputs, concatenated along the batch, and selects rows of the outputs for
the fusion."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...configuration.objectives import CAPTIONING, CONTRASTIVE, MASKED_IMAGE, MASKED_LM, MATCHING
from ..backbone.model import PlaitModel
from ..core.pooling import mean_token
from ..core.rows import check_present_rows
from ..heads.masked_image import MaskedImageHead
from ..outputs import TowerOutput
from ..towers.items import gather_items, scatter_items

# objectives that read clean text, and clean inputs of other modalities
CLEAN_TEXT_OBJECTIVES = frozenset((CONTRASTIVE, MATCHING))
CLEAN_MEDIA_OBJECTIVES = frozenset((CONTRASTIVE, MATCHING, MASKED_LM, CAPTIONING))
MASKED_TEXT = "masked text"  # a key next to the modalities in `EncodedBatch.rows`
ABSENT_ROW = -1

InputsByModality = Mapping[str, Mapping[str, Any]]


class MaskedImages(NamedTuple):
    """The images of masked image modelling. images: (images, channels, height, width), not masked; masked: (images,
    patches) bool, True for masked patches; tokens: (images, tokens, width), the output for them masked."""

    images: Tensor
    masked: Tensor
    tokens: Tensor


class EncodedBatch(NamedTuple):
    """The tower outputs of one batch. rows: by modality (and "masked text"), one row for each row of the batch; hidden:
    the images of masked image modelling."""

    rows: dict[str, TowerOutput]
    hidden: MaskedImages | None = None


class FusedRows(NamedTuple):
    """The output of the fusion for one objective. tokens: (rows, length, width), mask: (rows, length), pooled: (rows,
    width)."""

    tokens: Tensor
    mask: Tensor
    pooled: Tensor


def encode_clean_and_masked(
    model: PlaitModel,
    inputs: InputsByModality,
    given: Mapping[str, Any],
    wanted: Iterable[str],
    masked_ids: Tensor | None = None,
    image_head: MaskedImageHead | None = None,
    masked_places: Tensor | None = None,
) -> EncodedBatch:
    """Runs each tower once on all inputs that the `wanted` objectives need.

    Args:
        inputs: arguments of `PlaitModel.forward` by modality.
        given: outputs of towers that do not run again.
        masked_ids: (batch, length), the text with masked tokens.
        image_head: the head of masked image modelling, which masks patches.
        masked_places: `bool_masked_pos` of `PlaitForPreTraining.forward`; None: sampled.

    Raises:
        ValueError: a row with no modality at all.
    """
    wanted = set(wanted)
    rows = {name: TowerOutput(**output) for name, output in given.items()}
    rows |= encode_text_variants(
        model, inputs["text"], "text" not in rows and bool(wanted & CLEAN_TEXT_OBJECTIVES), masked_ids
    )
    hidden = None
    read = {name for name in model.towers if name != "text" and name not in rows and wanted & CLEAN_MEDIA_OBJECTIVES}
    if image_head is not None and MASKED_IMAGE in wanted:
        image, hidden = encode_masked_images(model, inputs["image"], "image" in read, image_head, masked_places)
        rows |= image
        read.discard("image")
    rows |= model.encode_all({name: dict(inputs[name]) for name in read}, None, {}, optional=True)
    check_input_rows(model, inputs, rows)
    return EncodedBatch(rows, hidden)


def check_input_rows(model: PlaitModel, inputs: InputsByModality, rows: Mapping[str, TowerOutput]) -> None:
    """Raises ValueError for a row without any modality, in `rows` (encoded) or in the inputs that no objective
    encodes."""
    present = [output.mask.bool().any(dim=1) for output in rows.values()]
    for modality in model.towers:
        own = {name: value for name, value in inputs[modality].items() if value is not None}
        if not own or modality in rows or (modality == "text" and MASKED_TEXT in rows):
            continue
        items = gather_items(modality, own, **model.collect_item_options(modality, modality))
        if items is None or items.slots is None:  # every row has it
            return
        present.append((items.slots >= 0).any(dim=1))
    if present:
        check_present_rows(torch.stack(present).any(dim=0), model.towers)


def encode_text_variants(
    model: PlaitModel, text: Mapping[str, Any], clean: bool, masked_ids: Tensor | None
) -> dict[str, TowerOutput]:
    """Encodes the clean text (if `clean`) and the masked text (if given) in one call, by "text" and "masked text".

    Raises ValueError for embeddings in place of token ids.
    """
    variants = [text] if clean else []
    if masked_ids is not None:
        variants.append({**text, "input_ids": masked_ids, "inputs_embeds": None})
    if len(variants) == 2 and text.get("inputs_embeds") is not None:
        raise ValueError("masked_lm reads token ids: pass input_ids, not inputs_embeds")
    if not variants:
        return {}
    batch = next((len(value) for value in variants[-1].values() if value is not None), 0)
    doubled = {name: concatenate_variants([variant[name] for variant in variants], batch) for name in text}
    output = model.encode_all({"text": doubled}, None, {}, optional=True).get("text")
    if output is None:
        return {}
    names = ["text"] * clean + [MASKED_TEXT] * (masked_ids is not None)
    return dict(zip(names, split_output(output, len(names)), strict=True))


def encode_masked_images(
    model: PlaitModel, image: Mapping[str, Any], clean: bool, head: MaskedImageHead, masked_places: Tensor | None
) -> tuple[dict[str, TowerOutput], MaskedImages | None]:
    """Encodes the clean images (if `clean`), as rows of the batch, and the masked images, each distinct image once."""
    present = gather_items("image", image)
    if present is None or not present.count:
        return {}, None
    pixel_values = present.inputs["pixel_values"]
    masked = head.draw_mask(pixel_values) if masked_places is None else present.select(masked_places.flatten(0, -2))
    variants = [pixel_values] * clean + [head(None, pixel_values, masked)]
    output = model.towers["image"](pixel_values=torch.cat(variants))
    *whole, hidden = split_output(output, len(variants))
    rows = {"image": scatter_items(whole[0], present.slots)} if whole else {}
    return rows, MaskedImages(pixel_values, masked, hidden.last_hidden_state)


def concatenate_variants(values: Sequence[Tensor | None], batch: int) -> Tensor | None:
    """Concatenates the variants of one input along the batch; an input not given by row stays unchanged."""
    if values[0] is None or len(values[0]) != batch:
        return values[0]
    return torch.cat([value for value in values if value is not None])


def split_output(output: TowerOutput, count: int) -> list[TowerOutput]:
    """Splits a tower's output into `count` equal parts along the batch."""
    pooled = output.pooler_output
    pieces = zip(
        output.last_hidden_state.chunk(count),
        output.mask.chunk(count),
        [None] * count if pooled is None else pooled.chunk(count),
        strict=True,
    )
    return [TowerOutput(last_hidden_state=x, mask=mask, pooler_output=vector) for x, mask, vector in pieces]


def fuse_rows(
    model: PlaitModel, rows: dict[str, TowerOutput], plan: Mapping[str, dict[str, Tensor]]
) -> dict[str, FusedRows]:
    """Fuses the rows of all objectives in one call; in a model of one component, returns the tower's tokens.

    plan: by objective, then by modality (or "masked text" in place of text), the indices of the rows that are fused
    together, (rows,) each; a modality without an entry is absent.
    """
    sizes = [len(next(iter(numbers.values()))) for numbers in plan.values()]
    outputs = {}
    for modality in model.towers:
        bank, numbers = build_row_bank(rows, modality, plan)
        if bank is not None:
            outputs[modality] = scatter_items(bank, numbers[:, None])
    if model.fusion is None:
        (output,) = outputs.values()
        tokens, mask, pooled = output.last_hidden_state, output.mask, mean_token(output.last_hidden_state, output.mask)
    else:
        fused: Any = model.fuse(model.fusion, outputs, {})
        tokens, mask, pooled = fused.last_hidden_state, fused.mask, fused.pooler_output
    pieces = (values.split(sizes) for values in (tokens, mask, pooled))
    return dict(zip(plan, map(FusedRows, *pieces), strict=True))


def build_row_bank(
    rows: dict[str, TowerOutput], modality: str, plan: Mapping[str, dict[str, Tensor]]
) -> tuple[TowerOutput | None, Tensor]:
    """Returns all rows of a modality (masked text after clean text), and the indices of those in the plan, in its
    order; `ABSENT_ROW` if an objective does not use the modality."""
    names = [name for name in (modality, *([MASKED_TEXT] if modality == "text" else [])) if name in rows]
    bank = concatenate_outputs([rows[name] for name in names])
    starts, start = {}, 0
    for name in names:
        starts[name] = start
        start += len(rows[name].mask)
    selected = []
    for numbers in plan.values():
        found = next((numbers[name] + starts[name] for name in names if name in numbers), None)
        like = next(iter(numbers.values()))
        selected.append(torch.full_like(like, ABSENT_ROW) if found is None else found)
    return bank, torch.cat(selected)


def concatenate_outputs(outputs: Sequence[TowerOutput]) -> TowerOutput | None:
    """Concatenates outputs of one tower along the batch; None without outputs."""
    if not outputs:
        return None
    tokens = torch.cat([output.last_hidden_state for output in outputs])
    return TowerOutput(last_hidden_state=tokens, mask=torch.cat([output.mask for output in outputs]))
