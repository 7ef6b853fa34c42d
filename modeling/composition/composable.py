"""What composing asks of a model class. It imports none of them, so that all of them can have `compose`."""

from typing import Any, TypeVar

from transformers import PreTrainedModel

from ...configuration import PlaitConfig


class ComposableModel(PreTrainedModel):
    """A plait model as composing and loading see it: how its class reads towers, and where its weights came from."""

    config: PlaitConfig
    checkpoint_heads: tuple[str, ...] = ()
    reads_pooled = True
    reads_apart = False  # whether towers without a fusion can be read
    context_fusion = "concatenate"  # of what a decoder reads, where compose is not told
    decoder_kind: str | None = None  # how towers reach a decoder in this class: "context", "inline"; None: no decoder
    origins: dict[str, str]  # by part, where its weights came from
    fresh_names: set[str]  # of parameters that the part's checkpoint does not hold

    @property
    def parts(self) -> dict[str, Any]:
        """The towers by modality and, where there is one, the decoder (as "decoder")."""
        raise NotImplementedError

    def freeze(self, *names: str) -> None:
        """Stop training the named parts."""
        raise NotImplementedError

    def composition(self) -> Any:
        """The summary of what is pretrained, fresh, frozen and trainable, by part."""
        raise NotImplementedError


Model = TypeVar("Model", bound=ComposableModel)
