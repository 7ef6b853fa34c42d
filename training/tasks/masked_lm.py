"""The task of masked language modeling: predict masked tokens (BERT's pretraining)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor
from transformers import DataCollatorForLanguageModeling

from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...modeling.tasks.masked_lm import PlaitForMaskedLM
from ...processing import PlaitProcessor
from ..data.inputs import require_tokenizer
from ..data.labels import MASKED_LM_PROBLEM, LabelSpec
from ..data.media import Row
from ..data.row_encoder import RowEncoder
from ..metrics.classification import Metrics
from ..recipes.schema import Recipe
from .base import IMAGE_ROLES, TEXT_ROLES, Settings, Task, move_to_device


@strict
@dataclass
class MaskedLMSettings(Settings):
    """`mlm_probability`: the share, 0..1, of the tokens that are selected for prediction."""

    mlm_probability: float = 0.15


class MaskedLM(Task):
    """Masked language modeling on the column `text`, with images or without.

    The random masks of a batch depend only on the collator's seed and the batch's tokens, in every worker and process:
    evaluations are comparable, and a resumed run continues exactly."""

    name: ClassVar[str] = "masked_lm"
    model_class: ClassVar[type[PlaitPreTrainedModel]] = PlaitForMaskedLM
    auto_class: ClassVar[str] = "AutoModelForMaskedLM"
    has_row_scores: ClassVar[bool] = True
    roles: ClassVar[tuple[str, ...]] = (*TEXT_ROLES, *IMAGE_ROLES)
    needed: ClassVar[tuple[tuple[str, ...], ...]] = (("text",),)
    settings: ClassVar[type[Settings]] = MaskedLMSettings
    can_cache_text: ClassVar[bool] = False

    def build_batch(self, collator: RowEncoder, rows: Sequence[Row]) -> dict[str, Any]:
        """Builds a batch with masked `input_ids` and `labels` (batch, length), -100 for tokens not to be predicted."""
        batch = collator.encode_inputs(rows)
        masking = DataCollatorForLanguageModeling(
            require_tokenizer(collator.processor), mlm_probability=collator.settings.mlm_probability
        )
        return {**mask_tokens(masking, batch["input_ids"], collator.seed), **drop_input_ids(batch)}

    def build_metrics(
        self, names: Sequence[str], labels: LabelSpec | None, processor: PlaitProcessor, recipe: Recipe
    ) -> Metrics:
        """Builds the metrics of masked language modeling."""
        return Metrics(names, MASKED_LM_PROBLEM)

    def predict_rows(
        self, model: PlaitPreTrainedModel, collator: RowEncoder, rows: Sequence[Row]
    ) -> Iterator[dict[str, Any]]:
        """Yields for each row `masks`: the five likeliest tokens, with probabilities, of every mask."""
        batch = collator.encode_inputs(rows)
        with torch.no_grad():
            logits = model(**move_to_device(batch, model)).logits.float().cpu()
        yield from predict_masks(logits, batch["input_ids"], collator.processor)

    def find_hub_task(self, modalities: tuple[str, ...]) -> str:
        """Returns "fill-mask"."""
        return "fill-mask"


def drop_input_ids(batch: dict[str, Any]) -> dict[str, Any]:
    """Returns a batch without `input_ids`."""
    return {name: value for name, value in batch.items() if name != "input_ids"}


def mask_tokens(masking: DataCollatorForLanguageModeling, tokens: Tensor, seed: int) -> dict[str, Tensor]:
    """Masks tokens (batch, length), and returns the masked `input_ids` and their `labels`; the masks depend only on the
    seed and the tokens."""
    digest = sha256(f"{seed}".encode() + tokens.numpy().tobytes()).digest()
    masking.generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    input_ids, labels = masking.torch_mask_tokens(tokens)
    return {"labels": labels, "input_ids": input_ids}


def predict_masks(logits: Tensor, tokens: Tensor, processor: PlaitProcessor) -> Iterator[dict[str, Any]]:
    """Yields for each row `masks`: the five likeliest tokens, with probabilities, of every mask.

    logits: (batch, length, vocabulary); tokens: (batch, length).
    """
    tokenizer = require_tokenizer(processor)
    for scores, row in zip(logits.softmax(-1), tokens.tolist(), strict=True):
        masks = [place for place, token in enumerate(row) if token == tokenizer.mask_token_id]
        top = [scores[place].topk(5) for place in masks]
        yield {
            "masks": [
                {tokenizer.decode([token]): round(score, 6) for score, token in zip(*pair, strict=True)}
                for pair in ((found.values.tolist(), found.indices.tolist()) for found in top)
            ]
        }
