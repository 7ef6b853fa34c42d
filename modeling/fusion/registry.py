"""The table of fusion strategies: each is one class, one file and one row of `FUSIONS`."""

from ...configuration import PlaitFusionConfig
from ...configuration.messages import suggest
from .base import Fusion, FusionOutput, Stream
from .strategies.bottleneck import BottleneckFusion
from .strategies.co_attention import CoAttentionFusion
from .strategies.concatenate import ConcatenationFusion
from .strategies.cross_attention import CrossAttentionFusion
from .strategies.early import EarlyFusion
from .strategies.gated_cross_attention import GatedCrossAttentionFusion
from .strategies.gated_multimodal_unit import GatedMultimodalUnitFusion
from .strategies.late import LateFusion
from .strategies.late_concatenated import LateConcatenatedFusion
from .strategies.late_mean import LateMeanFusion
from .strategies.late_weighted import LateWeightedFusion
from .strategies.low_rank_tensor import LowRankTensorFusion
from .strategies.mixture_of_experts import MixtureOfExpertsFusion
from .strategies.product_of_experts import ProductOfExpertsFusion
from .strategies.tensor import TensorFusion

FUSIONS: dict[str, type[Fusion]] = {
    "early": EarlyFusion,
    "late": LateFusion,
    "concatenate": ConcatenationFusion,
    "cross_attention": CrossAttentionFusion,
    "gated_cross_attention": GatedCrossAttentionFusion,
    "co_attention": CoAttentionFusion,
    "bottleneck": BottleneckFusion,
    "late_mean": LateMeanFusion,
    "late_weighted": LateWeightedFusion,
    "late_concatenated": LateConcatenatedFusion,
    "tensor": TensorFusion,
    "low_rank_tensor": LowRankTensorFusion,
    "product_of_experts": ProductOfExpertsFusion,
    "gated_multimodal_unit": GatedMultimodalUnitFusion,
    "mixture_of_experts": MixtureOfExpertsFusion,
}
"""The fusion strategies by name."""


def build_fusion(config: PlaitFusionConfig, modalities: tuple[str, ...]) -> Fusion:
    """Builds the fusion that `config.strategy` names, for these modalities (in any order).

    Raises:
        ValueError: an unknown strategy; the message has the nearest name or the list.
    """
    if config.strategy not in FUSIONS:
        raise ValueError(f"there is no fusion strategy {config.strategy!r}{suggest(config.strategy, FUSIONS)}")
    return FUSIONS[config.strategy](config, modalities)


__all__ = ["FUSIONS", "Fusion", "FusionOutput", "Stream", "build_fusion"]
