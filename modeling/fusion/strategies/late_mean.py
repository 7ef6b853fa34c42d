"""Late fusion by the mean of the modalities' vectors."""

from torch import Tensor

from ..pooled import PooledFusion, weighted_sum


class LateMeanFusion(PooledFusion):
    """Late fusion by the mean of the vectors of a row's present modalities (the sum rule of Kittler et al. 1998, "On
    Combining Classifiers", IEEE TPAMI 20(3), section 2.2, on vectors instead of class scores):

        fused = (sum over present m of x_m) / (number of present m)
    """

    def combine(self, vectors: dict[str, Tensor], present: Tensor) -> Tensor:
        """Averages the vectors of the present modalities."""
        weights = present.to(next(iter(vectors.values())).dtype)
        return weighted_sum(weights / weights.sum(dim=1, keepdim=True), vectors)
