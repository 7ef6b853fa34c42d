"""Whether a higher or a lower value of a metric or loss is better: the one place that knows it of every name."""

from ...configuration.objectives import OBJECTIVES
from .classification import METRICS
from .image_autoencoding import PSNR
from .image_generation import IMAGE_ERROR
from .pretraining import MATCHING_ACCURACY
from .retrieval import RANK_METRICS
from .text import TEXT_METRICS

# of the `evaluate` library and of compute_metrics functions: error rates, distances
ERRORS = ("cer", "wer", "mer", "ter", "eer", "mape", "smape", "mase", "nll", "brier_score", "charcut", "fid", "rank")
LOWER_IS_BETTER = frozenset(
    (
        "loss",
        "error",
        "error_rate",
        "perplexity",
        "median_rank",
        IMAGE_ERROR,
        *ERRORS,
        *OBJECTIVES,  # each is the name of its loss
        *(name for metrics in METRICS.values() for name, metric in metrics.items() if metric.lower_is_better),
    )
)
GREATER_IS_BETTER = frozenset(
    (
        MATCHING_ACCURACY,
        PSNR,
        *(name for metrics in METRICS.values() for name, metric in metrics.items() if not metric.lower_is_better),
        *(name for name in (*TEXT_METRICS, *RANK_METRICS) if name not in LOWER_IS_BETTER),
    )
)


def is_greater_better(name: str) -> bool:
    """Returns whether higher values of a metric are better.

    A name may begin with a split, a task, a direction or modalities ("eval_captions_perplexity", "image_to_text_r@1"):
    its longest known ending decides. An unknown metric is better when it is higher, as for the Trainer.
    """
    parts = name.replace("/", "_").split("_")
    endings = ("_".join(parts[start:]) for start in range(len(parts)))
    known = next((end for end in endings if end in LOWER_IS_BETTER or end in GREATER_IS_BETTER), None)
    return known not in LOWER_IS_BETTER
