"""Classes, or a regression target, from any set of modalities."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers.utils.generic import can_return_tuple

from ..configuration import PlaitConfig
from .heads import vector_of, vector_width
from .losses import classification_loss, problem_type_of
from .outputs import LayerChoice, PlaitClassifierOutput
from .plait import PlaitModel
from .pretrained import PlaitPreTrainedModel


class PlaitForClassification(PlaitPreTrainedModel):
    """A linear classifier (or regressor, with one label) on the pooled output.

    `config.id2label` names the classes; `config.problem_type` is "single_label_classification",
    "multi_label_classification" or "regression", read from labels and their number where it is None.
    """

    published_heads = ("classifier", "distillation_classifier")

    def __init__(self, config: PlaitConfig) -> None:
        super().__init__(config)
        self.model = PlaitModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        labels, distilled = len(config.id2label), config.distillation_head
        self.classifier = nn.Linear(vector_width(config), labels, bias=config.classifier_bias)
        self.distillation_classifier = nn.Linear(config.hidden_size, labels) if distilled else None
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_present: Tensor | None = None,
        image_indices: Tensor | None = None,
        input_features: Tensor | None = None,
        audio_present: Tensor | None = None,
        encoder_outputs: Mapping[str, Any] | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: LayerChoice | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> PlaitClassifierOutput:
        """Inputs as in `PlaitModel`; labels: (batch,) class ids, or (batch[, num_labels]) numbers.

        `num_items_in_batch` divides the summed loss in the place of the number of labels (gradient accumulation).
        """
        outputs = self.model(
            *(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds),
            *(pixel_values, image_present, image_indices, input_features, audio_present),
            encoder_outputs=encoder_outputs,
            use_cache=False,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        logits = self.classifier(self.dropout(vector_of(outputs)))
        if self.distillation_classifier is not None:
            logits = (logits + self.distillation_classifier(outputs.last_hidden_state[:, 1])) / 2
        loss = None
        if labels is not None:
            loss = classification_loss(logits, labels, problem_type_of(self.config, labels), num_items_in_batch)
        return PlaitClassifierOutput(loss, logits, outputs.hidden_states, outputs.attentions)
