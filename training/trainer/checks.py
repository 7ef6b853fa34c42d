"""Checks of the training arguments against model, metrics and device, before training begins."""

from typing import Any

from torch import nn
from torch.utils.data import IterableDataset

from ...modeling.adaptation.quantizer import blocks_gradients
from ...modeling.composition.parameter_names import part_of
from ...modeling.tasks.retrieval import PlaitForRetrieval
from ..metrics.base import EvaluationMetrics
from ..optimization.arguments import PlaitTrainingArguments
from ..streams.rows import RowStream


def check_best_metric(args: PlaitTrainingArguments, metrics: Any) -> None:
    """Raises ValueError if the best model is to be chosen by a metric that is not computed."""
    name = args.metric_for_best_model
    if name is None or not isinstance(metrics, EvaluationMetrics) or args.eval_strategy == "no":
        return
    known = ["loss", *metrics.names]
    if name.removeprefix("eval_") not in known:
        raise ValueError(f"metric_for_best_model is {name!r}, which is not computed: choose from {', '.join(known)}")


def check_gradient_cache(args: PlaitTrainingArguments, model: nn.Module) -> None:
    """Raises ValueError if the gradient cache is used without a contrastive loss, or with sharded parameters."""
    if args.gradient_cache_rows is None:
        return
    if not isinstance(model, PlaitForRetrieval):
        raise ValueError(
            f"gradient_cache_rows needs a contrastive loss, and {type(model).__name__} has another: use "
            "PlaitForRetrieval, or leave gradient_cache_rows out"
        )
    if args.shards_parameters:
        raise ValueError(
            f"gradient_cache_rows is {args.gradient_cache_rows}, which needs unsharded parameters in every process: "
            "leave fsdp and deepspeed out"
        )


def check_shared_images(args: PlaitTrainingArguments, data: Any) -> None:
    """Raises ValueError if rows that share an image are to be brought together in a stream, which has its own order."""
    if args.share_images and isinstance(data, IterableDataset):
        raise ValueError(
            f"share_images puts rows that share an image into one batch, but a {type(data).__name__} is a stream, "
            "whose rows cannot be reordered: load it as a Dataset, or leave share_images out (an image that several "
            "rows of a batch share is encoded once in any case)"
        )


DOWNSTREAM = ("fusion", "decoder", "denoiser")  # parts that read other parts
STREAM_REMEDIES = {
    "tokens_per_batch": "set per_device_train_batch_size, or give the rows as a RowStream",
    "class_weights": "give the weights by class",
    "train_sampling_strategy": "a stream has its own order",
    "eval_modality_patterns": "evaluate data without the columns of the other modalities",
}


def check_streams(args: PlaitTrainingArguments, train: Any, evaluated: Any) -> None:
    """Raises ValueError for an argument that needs to know all rows beforehand, if the data are a stream, which is read
    once and in its own order."""
    check_shared_images(args, train)
    needs = {
        "tokens_per_batch": (args.tokens_per_batch is not None and not isinstance(train, RowStream), train),
        "class_weights": (args.class_weights == "balanced", train),
        "train_sampling_strategy": (args.train_sampling_strategy in ("group_by_length", "batch_rebalance"), train),
        "eval_modality_patterns": (args.eval_modality_patterns, evaluated),
    }
    for name, (chosen, data) in needs.items():
        if chosen and isinstance(data, IterableDataset):
            raise ValueError(
                f"{name}={getattr(args, name)!r} needs all rows beforehand, but a {type(data).__name__} is a stream: "
                f"load it as a Dataset, or leave {name} out ({STREAM_REMEDIES[name]})"
            )


def check_devices(args: PlaitTrainingArguments) -> None:
    """Raises ValueError if one process would split batches over several GPUs, or if fp16 is set on a CPU."""
    if args.fp16 and args.device.type == "cpu":  # accelerate ignores it without a message
        raise ValueError("fp16 is mixed precision of a GPU, but the device is a CPU: set bf16, or fp16 to false")
    if args.n_gpu > 1:
        raise ValueError(
            f"{args.n_gpu} GPUs in one process would split the images that rows of a batch share: start one process "
            "for each GPU (torchrun --nproc_per_node, accelerate launch), or choose one GPU with CUDA_VISIBLE_DEVICES"
        )


def check_quantized_gradients(model: nn.Module) -> None:
    """Raises ValueError if something is trained of which the gradient would have to pass through layers whose quantized
    weights let none through: such a part's own norms and adapters, or what a decoder, fusion or denoiser reads."""
    blocked = {
        part_of(name): type(weight).__name__ for name, weight in model.named_parameters() if blocks_gradients(weight)
    }
    trained = {part_of(name) for name, parameter in model.named_parameters() if parameter.requires_grad}
    for part, kind in blocked.items():
        if part in trained or (trained and part in DOWNSTREAM):
            raise ValueError(
                f"no gradient passes through the quantized weights of {part!r} ({kind}): choose int8 (weights alone), "
                f"or freeze {part!r} and what it reads"
            )
