"""The models."""

from .classification import PlaitForClassification
from .masked_lm import PlaitForMaskedLM
from .outputs import PlaitClassifierOutput, PlaitMaskedLMOutput, PlaitModelOutput, TowerOutput
from .plait import PlaitModel
from .pretrained import PlaitPreTrainedModel, part_of

__all__ = [
    "PlaitClassifierOutput",
    "PlaitForClassification",
    "PlaitForMaskedLM",
    "PlaitMaskedLMOutput",
    "PlaitModel",
    "PlaitModelOutput",
    "PlaitPreTrainedModel",
    "TowerOutput",
    "part_of",
]
