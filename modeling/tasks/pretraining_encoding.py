"""What pretraining makes of a batch: every tower run once, on the inputs as they are and, beside them in the same call,
with parts hidden; and rows for the fusion picked from that."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...configuration.objectives import CAPTIONING, CONTRASTIVE, MASKED_IMAGE, MASKED_LM, MATCHING
from ..backbone.model import PlaitModel
from ..core.pooling import mean_token
from ..heads.masked_image import MaskedImageHead
from ..outputs import TowerOutput
from ..towers.items import gather_items, scatter_items

# who reads the inputs as they are
CLEAN_TEXT_OBJECTIVES = frozenset((CONTRASTIVE, MATCHING))
CLEAN_MEDIA_OBJECTIVES = frozenset((CONTRASTIVE, MATCHING, MASKED_LM, CAPTIONING))
MASKED_TEXT = "masked text"  # beside the modalities in a bank of rows
ABSENT_ROW = -1

InputsByModality = Mapping[str, Mapping[str, Any]]


class MaskedImages(NamedTuple):
    """pictures: (pictures, channels, height, width) as they were; masked: (pictures, places) bool; tokens: (pictures,
    tokens, width) that the tower made of them with those places hidden."""

    images: Tensor
    masked: Tensor
    tokens: Tensor


class EncodedBatch(NamedTuple):
    """rows: by modality (and "masked text") what the towers made of the batch, a row each; hidden: the pictures of
    masked image modelling."""

    rows: dict[str, TowerOutput]
    hidden: MaskedImages | None = None


class FusedRows(NamedTuple):
    """tokens: (rows, length, width), mask: (rows, length), pooled: (rows, width)."""

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
    """Run each tower once on all that the `wanted` objectives read of it.

    inputs: arguments of `PlaitModel.forward` by modality; given: outputs of towers that need not run. masked_ids:
    (batch, length) the text with hidden tokens; masked_places: as `bool_masked_pos` of `PlaitForPreTraining`.
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
    return EncodedBatch(rows, hidden)


def encode_text_variants(
    model: PlaitModel, text: Mapping[str, Any], clean: bool, masked_ids: Tensor | None
) -> dict[str, TowerOutput]:
    """The text as it is, and with hidden tokens, as far as asked for."""
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
    """The pictures as they are (where asked for), a row each, and with hidden patches, each distinct picture once."""
    present = gather_items("image", image)
    if present is None or not present.count:
        return {}, None
    pictures = present.inputs["pixel_values"]
    masked = head.draw_mask(pictures) if masked_places is None else present.select(masked_places.flatten(0, -2))
    variants = [pictures] * clean + [head.hide_patches(pictures, masked)]
    output = model.towers["image"](pixel_values=torch.cat(variants))
    *whole, hidden = split_output(output, len(variants))
    rows = {"image": scatter_items(whole[0], present.slots)} if whole else {}
    return rows, MaskedImages(pictures, masked, hidden.last_hidden_state)


def concatenate_variants(values: Sequence[Tensor | None], batch: int) -> Tensor | None:
    """The variants of one input as one batch; what goes with every row alike stays as it is."""
    if values[0] is None or len(values[0]) != batch:
        return values[0]
    return torch.cat([value for value in values if value is not None])


def split_output(output: TowerOutput, count: int) -> list[TowerOutput]:
    """A tower's output cut into so many equal parts."""
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
    """One call of the fusion for all objectives; of one strand, the tower's tokens.

    plan: by objective, and by modality (or "masked text" in the place of text), the numbers of the rows that are read
    together, (rows,) each; a modality that is not named is absent.
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
    """All rows of a modality one after the other (the masked text behind the text), and which of them the plan asks
    for."""
    names = [name for name in (modality, *([MASKED_TEXT] if modality == "text" else [])) if name in rows]
    bank = concatenate_outputs([rows[name] for name in names])
    starts, start = {}, 0
    for name in names:
        starts[name] = start
        start += len(rows[name].mask)
    asked = []
    for numbers in plan.values():
        found = next((numbers[name] + starts[name] for name in names if name in numbers), None)
        like = next(iter(numbers.values()))
        asked.append(torch.full_like(like, ABSENT_ROW) if found is None else found)
    return bank, torch.cat(asked)


def concatenate_outputs(outputs: Sequence[TowerOutput]) -> TowerOutput | None:
    """Outputs of one tower below each other."""
    if not outputs:
        return None
    tokens = torch.cat([output.last_hidden_state for output in outputs])
    return TowerOutput(last_hidden_state=tokens, mask=torch.cat([output.mask for output in outputs]))
