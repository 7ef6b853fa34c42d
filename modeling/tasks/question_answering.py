"""Extractive question answering: the first and the last token of the answer in a text."""

from collections.abc import Mapping
from typing import Any, Unpack, cast

import torch
from torch import Tensor, nn
from transformers.utils.generic import can_return_tuple

from ...configuration import PlaitConfig
from ..backbone.model import PlaitModel
from ..backbone.pretrained import PlaitPreTrainedModel
from ..heads.masked_lm import check_text_config
from ..inputs import QuestionAnsweringInputs, expand_signature
from ..losses.labels import IGNORE_INDEX
from ..outputs import PlaitQuestionAnsweringOutput
from ..towers.text import TextTower


class PlaitForQuestionAnswering(PlaitPreTrainedModel):
    """A model of extractive question answering: scores every token of a text (question and passage) as the first and as
    the last of the answer (Devlin et al. 2019, section 4.2); padding gets the lowest number of its dtype. With several
    towers it reads the text tokens after the fusion, so that the other modalities help.

    Raises:
        ValueError: no native text tower, a causal one, or a fusion that does not keep the text's tokens.
    """

    checkpoint_heads = ("qa_outputs",)
    reads_pooled = False
    smooths_labels = True
    _keys_to_ignore_on_load_unexpected = [r"towers\.text\.pooler\."]

    def __init__(self, config: PlaitConfig) -> None:
        super().__init__(config)
        self.model = PlaitModel(config)
        check_text_config(config, "question answering")
        tower = cast("TextTower", self.model.towers["text"])
        tower.pooler = None  # no loss trains it, and distributed training waits for every weight
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()

    @can_return_tuple
    @expand_signature
    def forward(
        self,
        *,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **inputs: Unpack[QuestionAnsweringInputs],
    ) -> PlaitQuestionAnsweringOutput:
        """Scores the tokens of the text. Takes the inputs of `PlaitModel`.

        Args:
            start_positions, end_positions: (batch,), the answer's first and last token; a row where one of them is
                negative, or beyond the text, does not count in the loss.
            num_items_in_batch: divides the summed loss, in place of the number of rows that count.
            label_smoothing: of the loss, over the real tokens (0..1).
        """
        label_smoothing = inputs.pop("label_smoothing", 0.0)
        outputs = self.model(**inputs, use_cache=False)
        text = outputs if outputs.encoder_outputs is None else outputs.encoder_outputs["text"]
        real = text.mask.bool()
        scores = self.qa_outputs(outputs.last_hidden_state[:, : real.shape[1]])
        logits = scores.masked_fill(~real[..., None], torch.finfo(scores.dtype).min)
        loss = None
        if start_positions is not None and end_positions is not None:
            positions = torch.stack((start_positions, end_positions), dim=1).to(logits.device)
            loss = span_loss(logits, real, positions, num_items_in_batch, label_smoothing)
        recorded = (outputs.hidden_states, outputs.attentions, outputs.cross_attentions)
        return PlaitQuestionAnsweringOutput(loss, logits[..., 0], logits[..., 1], *recorded)

    def select_targets(self, inputs: Mapping[str, Any]) -> Tensor | None:
        """Returns zeros, (batch,), -100 for a row whose answer is not in its text."""
        start, end = inputs.get("start_positions"), inputs.get("end_positions")
        mask, text = inputs.get("attention_mask"), inputs.get("input_ids", inputs.get("inputs_embeds"))
        read = text if mask is None else mask
        if start is None or end is None or read is None:
            return None
        return torch.where(find_labelled_spans(torch.stack((start, end), dim=1), read.shape[1]), 0, IGNORE_INDEX)


def find_labelled_spans(positions: Tensor, length: int) -> Tensor:
    """Returns (rows,) bool, whether both ends of a row's answer are inside the text; positions: (rows, 2)."""
    return ((positions >= 0) & (positions < length)).all(dim=1)


def span_loss(
    logits: Tensor,
    real: Tensor,
    positions: Tensor,
    num_items_in_batch: Tensor | int | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Computes the mean cross-entropy of both ends over the rows that have them; zero, not NaN, if no row has.

    logits: (batch, length, 2), lowest where `real`, (batch, length), is False; positions: (batch, 2).
    """
    known = find_labelled_spans(positions, logits.shape[1])
    count = known.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
    likelihoods = logits.float().log_softmax(dim=1)
    right = likelihoods.gather(1, positions.masked_fill(~known[:, None], 0)[:, None])[:, 0]
    if label_smoothing:
        even = likelihoods.masked_fill(~real[..., None], 0).sum(dim=1) / real.sum(dim=1, keepdim=True).clamp(min=1)
        right = (1 - label_smoothing) * right + label_smoothing * even
    losses = right.mean(dim=1).masked_fill(~known, 0)
    return -losses.sum() / (count.to(logits.device) if isinstance(count, Tensor) else count)
