"""The masked-language-model head, and the checks that a config suits the classes that read every text token."""

from torch import Tensor, nn
from transformers.activations import ACT2FN

from ...configuration import PlaitConfig, PlaitTextConfig
from ..fusion.connectors import RESAMPLING_CONNECTORS
from ..fusion.registry import FUSIONS


def check_text_config(config: PlaitConfig, task: str = "masked language modelling") -> PlaitTextConfig:
    """Returns the text tower's config after checking that a model without a decoder can do this task with it.

    Raises ValueError for a config with a decoder, and as `check_text_tower` does.
    """
    if config.decoder_config is not None:
        raise ValueError(f"{task} has no decoder, but this config has one: load it with a class that generates")
    return check_text_tower(config, task)


def check_text_tower(config: PlaitConfig, task: str) -> PlaitTextConfig:
    """Returns the text tower's config after checking that the task can read every token of its text.

    Raises ValueError unless there is a native, bidirectional text tower and the fusion, if any, keeps its tokens.
    """
    text = config.text_config
    if not isinstance(text, PlaitTextConfig) or text.is_causal:
        raise ValueError(
            f"{task} needs a bidirectional text tower of a family that plait knows (BERT, ...): choose another tower"
        )
    fusion = config.fusion_config
    if fusion is not None:
        lost = {
            f"{fusion.strategy} fusion": not FUSIONS[fusion.strategy].keeps_tokens,
            f"the connector {fusion.connector}": fusion.connector in RESAMPLING_CONNECTORS,
            f"query={fusion.query!r}": fusion.query not in (None, "text"),
        }
        for what, happens in lost.items():
            if happens:
                raise ValueError(f"{task} reads the text's tokens, which {what} does not keep: choose another fusion")
    return text


class MaskedLMHead(nn.Module):
    """dense -> activation -> norm, before the projection to the vocabulary (BERT, Devlin et al. 2019)."""

    def __init__(self, config: PlaitTextConfig, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, config.embedding_size)
        self.act = ACT2FN[config.mlm_act]
        self.norm = nn.LayerNorm(config.embedding_size, eps=config.norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """Maps x: (batch, length, width) to (batch, length, embedding size)."""
        return self.norm(self.act(self.dense(x)))
