"""Late fusion by the mean."""

from torch import Tensor

from ..pooled import PooledFusion, weighted_sum


class LateMeanFusion(PooledFusion):
    """The mean of the vectors that a row has (the sum rule of Kittler et al. 1998, "On Combining Classifiers", IEEE
    TPAMI 20(3), section 2.2, on vectors in the place of class scores):

        fused = (sum over present m of x_m) / (number of present m)
    """

    def combine(self, vectors: dict[str, Tensor], present: Tensor) -> Tensor:
        weights = present.to(next(iter(vectors.values())).dtype)
        return weighted_sum(weights / weights.sum(dim=1, keepdim=True), vectors)
