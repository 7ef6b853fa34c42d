"""Checks of what a training is asked for, before it begins."""

from typing import Any

from torch import nn

from ...modeling.tasks.retrieval import PlaitForRetrieval
from ..metrics.base import EvaluationMetrics
from ..optimization.arguments import PlaitTrainingArguments


def check_best_metric(args: PlaitTrainingArguments, metrics: Any) -> None:
    """Raises ValueError where the best model is chosen by a metric that is not measured."""
    name = args.metric_for_best_model
    if name is None or not isinstance(metrics, EvaluationMetrics) or args.eval_strategy == "no":
        return
    known = ["loss", *metrics.names]
    if name.removeprefix("eval_") not in known:
        raise ValueError(f"metric_for_best_model is {name!r}, and measured are {', '.join(known)}")


def check_gradient_cache(args: PlaitTrainingArguments, model: nn.Module) -> None:
    """Raises ValueError where the gradient cache has no contrastive loss to work on, or parameters are not whole."""
    if args.gradient_cache_rows is None:
        return
    if not isinstance(model, PlaitForRetrieval):
        raise ValueError(f"gradient_cache_rows is for a contrastive loss, and {type(model).__name__} has another")
    if args.fsdp or args.deepspeed:
        raise ValueError("gradient_cache_rows needs whole parameters in every process: leave fsdp and deepspeed out")


def check_devices(args: PlaitTrainingArguments) -> None:
    """Raises ValueError where one process would share a batch among several GPUs, or a CPU compute in float16."""
    if args.fp16 and args.device.type == "cpu":  # accelerate would leave it out in silence
        raise ValueError("fp16 is mixed precision of a GPU, and the device is a CPU: take bf16, or fp16 false")
    if args.n_gpu > 1:
        raise ValueError(
            f"{args.n_gpu} GPUs in one process would split pictures that rows share: start one process a GPU "
            "(torchrun --nproc_per_node, accelerate launch), or choose one with CUDA_VISIBLE_DEVICES"
        )
