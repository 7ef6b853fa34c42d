"""What composing needs of a model class. It imports no model class, so that every model class can have `compose`."""

from typing import Any, TypeVar

from torch import Tensor
from transformers import PreTrainedModel

from ...configuration import PlaitConfig


class ComposableModel(PreTrainedModel):
    """The interface of a model to composing and loading: how its class uses towers, and where its weights came from."""

    config: PlaitConfig
    checkpoint_heads: tuple[str, ...] = ()  # the modules of this class that a checkpoint's heads are loaded into
    has_towers = True  # whether the class has towers
    reads_pooled = True  # whether the class uses the towers' pooled vectors
    reads_apart = False  # whether the class accepts several towers without a fusion
    context_fusion = "concatenate"  # the default fusion of the towers that a decoder cross-attends to
    decoder_kind: str | None = None  # how towers reach the decoder: "context" or "inline"; None: no decoder
    origins: dict[str, str]  # where each part's weights came from
    fresh_names: set[str]  # parameters that are newly initialized since the part's checkpoint does not hold them

    @classmethod
    def build_start_weights(cls, config: PlaitConfig) -> dict[str, Tensor]:
        """Returns weights that no checkpoint of a component has, since they start at a value of the config."""
        return {}

    @property
    def parts(self) -> dict[str, Any]:
        """The towers by modality and, if the model has one, the decoder (as "decoder")."""
        raise NotImplementedError

    def freeze(self, *names: str) -> None:
        """Freezes the named parts."""
        raise NotImplementedError

    def composition(self) -> Any:
        """Returns the numbers of pretrained, newly initialized, frozen and trainable parameters by part."""
        raise NotImplementedError


Model = TypeVar("Model", bound=ComposableModel)
