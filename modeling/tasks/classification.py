"""Classification and regression from any set of modalities."""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from transformers.utils.generic import can_return_tuple

from ...configuration import PlaitConfig
from ...configuration.sentence import has_unit_length
from ..backbone.model import PlaitModel
from ..backbone.pretrained import PlaitPreTrainedModel
from ..core.pooling import compute_vector_width, pool_output
from ..core.sentence import VectorScale
from ..heads.target_scale import build_target_scale
from ..inputs import EncoderInputs, expand_signature
from ..losses.cross_entropy import classification_loss, find_problem_type
from ..losses.labels import IGNORE_INDEX, find_known_labels
from ..outputs import PlaitClassifierOutput, PlaitModelOutput, TowerOutput, UnimodalOutput


class PlaitForClassification(PlaitPreTrainedModel):
    """A linear classifier (or regressor) on the pooled output.

    `config.id2label` names the classes; `config.problem_type` is "single_label_classification",
    "multi_label_classification" or "regression"; if None, it follows from the number of classes and the labels' dtype.
    A regressor with `config.target_mean` and `config.target_std` (see `set_target_scale`) learns standardized targets:
    its logits and labels are in the targets' unit, its loss is that of (logits - labels) / target_std.
    """

    checkpoint_heads = ("classifier", "distillation_classifier")

    def __init__(self, config: PlaitConfig) -> None:
        super().__init__(config)
        self.model = PlaitModel(config)
        unit = config.single is not None and has_unit_length(config.single)
        self.rescale = VectorScale() if unit else nn.Identity()
        self.dropout = nn.Dropout(config.classifier_dropout)
        labels, distilled = len(config.id2label), config.distillation_head
        self.classifier = nn.Linear(compute_vector_width(config), labels, bias=config.classifier_bias)
        self.distillation_classifier = nn.Linear(config.hidden_size, labels) if distilled else None
        self.target_scale = build_target_scale(config)
        self.post_init()

    @can_return_tuple
    @expand_signature
    def forward(
        self,
        *,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        each_alone: bool = False,
        **inputs: Unpack[EncoderInputs],
    ) -> PlaitClassifierOutput:
        """Classifies each row. Takes the inputs of `PlaitModel`.

        Args:
            labels: (batch,) class ids; (batch, num_labels) of 0 and 1 for several classes; (batch[, num_labels])
                numbers for regression. -100 (of classes) and NaN are unknown and left out of the loss.
            num_items_in_batch: divides the summed loss, in place of the number of labels (gradient accumulation).
            each_alone: also compute logits from each modality without the others; no tower runs twice.

        Raises:
            ValueError: `each_alone` in a model without a fusion.
        """
        outputs = self.model(**inputs, use_cache=False)
        logits = self.compute_logits(outputs)
        if self.distillation_classifier is not None:
            logits = (logits + self.target_scale(self.distillation_classifier(outputs.last_hidden_state[:, 1]))) / 2
        loss = None
        if labels is not None:
            problem_type, std = find_problem_type(self.config, labels), self.config.target_std
            loss = classification_loss(logits, labels, problem_type, num_items_in_batch, target_std=std)
        alone = self.compute_unimodal_logits(outputs.encoder_outputs) if each_alone else None
        recorded = (outputs.hidden_states, outputs.attentions, outputs.cross_attentions)
        return PlaitClassifierOutput(loss, logits, alone, *recorded)

    def select_targets(self, inputs: Mapping[str, Any]) -> Tensor | None:
        """Returns zeros in the shape of the labels, -100 where one is unknown."""
        labels = inputs.get("labels")
        if labels is None:
            return None
        known = find_known_labels(labels, find_problem_type(self.config, labels))
        return torch.where(known, 0, IGNORE_INDEX)

    def compute_logits(self, outputs: PlaitModelOutput) -> Tensor:
        """Returns logits (batch, num_labels) of the pooled output."""
        return self.target_scale(self.classifier(self.dropout(self.rescale(pool_output(outputs)))))

    def set_target_scale(self, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        """Sets mean and standard deviation of a regressor's targets, one number or one for each output: from now on
        its head computes standardized values. They are saved with the config.

        Raises ValueError for a standard deviation that is not above 0.
        """
        config: Any = self.config
        config.target_mean, config.target_std = mean, std
        config.check_target_scale()
        self.target_scale = build_target_scale(self.config)

    def compute_unimodal_logits(self, encoded: dict[str, TowerOutput] | None) -> dict[str, UnimodalOutput]:
        """Returns the logits of one modality at a time, computed by the fusion from the tower outputs of one call.

        Raises ValueError for a model without a fusion.
        """
        if self.model.fusion is None or encoded is None:
            raise ValueError("each_alone needs a fusion of several modalities, and this model has none: leave it out")
        found = {}
        for modality, output in encoded.items():
            rows = output.mask.bool().any(dim=1).nonzero()[:, 0]
            if len(rows):
                own = TowerOutput(last_hidden_state=output.last_hidden_state[rows], mask=output.mask[rows])
                found[modality] = UnimodalOutput(
                    rows, self.compute_logits(self.model.fuse(self.model.fusion, {modality: own}, {}))
                )
        return found
