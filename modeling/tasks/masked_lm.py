"""Masked language modelling, on text alone or fused with other modalities."""

from typing import Unpack, cast

from torch import Tensor, nn
from transformers.utils.generic import can_return_tuple

from ...configuration import PlaitConfig
from ..backbone.model import PlaitModel
from ..backbone.pretrained import PlaitPreTrainedModel
from ..heads.masked_lm import MaskedLMHead, check_text_config
from ..inputs import EncoderInputs, expand_signature
from ..losses.cross_entropy import masked_lm_loss
from ..outputs import PlaitMaskedLMOutput
from ..towers.text import TextTower


class PlaitForMaskedLM(PlaitPreTrainedModel):
    """A masked language model (Devlin et al. 2019): predicts masked tokens of the text, by a projection whose weight is
    tied to the text tower's token embedding. With several towers it reads the text tokens after the fusion, so that the
    other modalities help.

    Raises:
        ValueError: no native text tower, a causal one, or a fusion that does not keep the text's tokens.
    """

    checkpoint_heads = ("mlm_head", "lm_head")
    pretraining_names = {r"^lm_head\.": "captioning.", r"^mlm_projection\.": "lm_head."}
    reads_pooled = False
    _keys_to_ignore_on_load_unexpected = [r"towers\.text\.pooler\."]
    _tied_weights_keys = {"lm_head.weight": "model.towers.text.embeddings.token_embedding.weight"}

    def __init__(self, config: PlaitConfig) -> None:
        super().__init__(config)
        self.model = PlaitModel(config)
        text = check_text_config(config)
        tower = cast("TextTower", self.model.towers["text"])
        tower.pooler = None  # no loss trains it, and distributed training waits for every weight
        self.mlm_head = MaskedLMHead(text, config.hidden_size)
        self.lm_head = nn.Linear(text.embedding_size, text.vocab_size)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        """Returns the projection to the vocabulary."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replaces the projection to the vocabulary."""
        self.lm_head = new_embeddings

    @can_return_tuple
    @expand_signature
    def forward(
        self,
        *,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **inputs: Unpack[EncoderInputs],
    ) -> PlaitMaskedLMOutput:
        """Predicts every token of the text. Takes the inputs of `PlaitModel`.

        Args:
            labels: (batch, length) token ids, -100 where nothing is to be predicted.
            num_items_in_batch: divides the summed loss, in place of the number of labels (gradient accumulation).
        """
        outputs = self.model(**inputs, use_cache=False)
        text = outputs if outputs.encoder_outputs is None else outputs.encoder_outputs["text"]
        tokens = outputs.last_hidden_state[:, : text.last_hidden_state.shape[1]]
        logits = self.lm_head(self.mlm_head(tokens))
        loss = None if labels is None else masked_lm_loss(logits, labels, num_items_in_batch)
        recorded = (outputs.hidden_states, outputs.attentions, outputs.cross_attentions)
        return PlaitMaskedLMOutput(loss, logits, *recorded)
