"""From the parts of a row to features and baselines, and from amounts of elements back to attributions of the row."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...modeling.attribution.baselines import build_media_baseline
from ...modeling.attribution.features import (
    Features,
    build_grid_groups,
    build_time_groups,
    build_windows,
    number_features,
)
from ...modeling.attribution.methods import MethodSettings
from ...modeling.attribution.scored_row import ScoredRow
from ...processing import PlaitProcessor
from ..data.inputs import require_tokenizer
from .encoding import EncodedRows, Part, find_time_axis

DEFAULT_BASELINES = {"text": "mask", "image": "noise", "audio": "noise", "video": "noise"}


def build_features(encoded: EncodedRows, parts: Sequence[Part], settings: MethodSettings) -> Features:
    """Builds the features of one row: its words, cells of images and frames, and segments of clips."""
    groups: dict[str, Tensor] = {}
    for part in parts:
        value = encoded.inputs[part.input][0]
        if part.modality == "text":
            words = encoded.words[part.name][0].tokens
            words = F.pad(words, (0, len(value) - len(words)), value=-1)
            before = groups.get(part.input, torch.full_like(words, -1)[:, None])
            offset = int(before.max()) + 1
            groups[part.input] = torch.where(words[:, None] >= 0, words[:, None] + offset, before)
        elif part.modality == "audio":
            axis = find_time_axis(part, value)
            present = find_present_elements(encoded, part, value.shape[axis])
            group = build_time_groups(present, settings.segments)
            groups[part.input] = group if value.ndim == 2 else group.unsqueeze(3 - axis)
        else:
            video = part.modality == "video"
            present = find_present_elements(encoded, part, value.shape[1] if video else None)
            cells = max(settings.cells // 2, 1) if video else settings.cells
            shape = (*present.shape, *value.shape[-2:])
            groups[part.input] = build_grid_groups(shape, present, cells)
    found = number_features(groups)
    device = next(iter(encoded.inputs.values())).device
    return found._replace(
        groups={name: group.to(device) for name, group in found.groups.items()},
        windows=build_windows(found, settings.window),
    )


def find_present_elements(encoded: EncodedRows, part: Part, length: int | None) -> Tensor:
    """Returns which items of the one row are present, (items,), or with a length which frames or samples of them,
    (items, length)."""
    present = part.present[0].cpu()
    if length is None:
        return present
    every = present[:, None].expand(len(present), length)
    if part.name in encoded.clips:
        counts = torch.tensor([times.count for times in encoded.clips[part.name][0]])
        every = every.clone()
        every[present] &= torch.arange(length) < counts[:, None]
    mask = encoded.inputs.get(f"{part.input}_mask")
    return every if mask is None else every & mask[0].bool().cpu()


def build_baselines(
    row: ScoredRow,
    processor: PlaitProcessor,
    encoded: EncodedRows,
    features: Features,
    parts: Sequence[Part],
    names: Mapping[str, str],
    others: Sequence[EncodedRows],
    count: int,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Builds the baselines of one row's inputs, (baselines, ...) each; elements without a feature keep their values.

    names: the baseline of each modality; others: other rows, encoded, for the baseline "rows".
    """
    found: dict[str, Tensor] = {}
    for name, value in zip(row.names, row.values, strict=True):
        part = next(part for part in parts if part.input == name)
        kind = names[part.modality]
        given = [other.inputs[name] for other in others if name in other.inputs]
        if part.modality == "text":
            ids = build_token_baseline(kind, encoded.inputs[name], given, processor, count, generator)
            baseline = torch.zeros_like(value) if ids is None else row.embed(name, ids)
        else:
            baseline = build_media_baseline(kind, value, given, count, generator)
        found[name] = torch.where(features.groups[name] < 0, value, baseline)
    return found


def build_token_baseline(
    kind: str,
    ids: Tensor,
    others: Sequence[Tensor],
    processor: PlaitProcessor,
    count: int,
    generator: torch.Generator,
) -> Tensor | None:
    """Returns the tokens that stand in place of a text's, (baselines, length); None for embeddings of zeros.

    "mask" (or, without such a token, "unk" or "pad"), "unk", "pad"; "rows": random tokens of other rows.
    """
    tokenizer: Any = require_tokenizer(processor)
    if kind == "zero":
        return None
    if kind == "rows":
        if not others:
            raise ValueError('baseline "rows" takes other rows in place of a row: pass two rows or more')
        pool = torch.cat([other.flatten() for other in others])
        pool = pool[~torch.isin(pool, pool.new_tensor(tokenizer.all_special_ids))]
        pool = pool if len(pool) else torch.cat([other.flatten() for other in others])
        places = torch.randint(len(pool), (count, ids.shape[1]), generator=generator)
        return pool[places.to(pool.device)]
    known = {"mask": tokenizer.mask_token_id, "unk": tokenizer.unk_token_id, "pad": tokenizer.pad_token_id}
    order = [kind, "unk", "pad"] if kind == "mask" else [kind]
    token = next((known[name] for name in order if known[name] is not None), None)
    if token is None:
        raise ValueError(f'baseline {kind!r}: the tokenizer has no such token, choose "pad" or "zero"')
    return torch.full_like(ids, token)
