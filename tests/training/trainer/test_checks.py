"""Arguments that contradict the model, the metrics or the data, and those that do not."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import IterableDataset

from plait import PlaitForClassification, PlaitForRetrieval, PlaitTrainingArguments
from plait.training.data.labels import SINGLE
from plait.training.metrics.classification import Metrics
from plait.training.trainer.checks import (
    check_best_metric,
    check_devices,
    check_gradient_cache,
    check_shared_images,
    check_streams,
)

Arguments = Callable[..., PlaitTrainingArguments]


class Stream(IterableDataset):
    """Rows that are read once."""

    def __iter__(self) -> Iterator[dict[str, str]]:
        yield {"text": "a"}


def bare(model_class: type) -> Any:
    """A model of this class without any module."""
    model = model_class.__new__(model_class)
    torch.nn.Module.__init__(model)
    return model


def test_the_gradient_cache_is_for_a_contrastive_loss_and_whole_parameters(make_arguments: Arguments) -> None:
    plain, cached = make_arguments(), make_arguments(gradient_cache_rows=4)
    retrieval, other = bare(PlaitForRetrieval), bare(PlaitForClassification)
    for args, model in ((plain, retrieval), (plain, other), (cached, retrieval)):
        check_gradient_cache(args, model)
    with pytest.raises(ValueError, match="needs a contrastive loss, and PlaitForClassification has another"):
        check_gradient_cache(cached, other)
    for name in ("fsdp", "deepspeed"):
        sharded = make_arguments(gradient_cache_rows=4)
        setattr(sharded, name, "full_shard")
        with pytest.raises(ValueError, match="gradient_cache_rows is 4, which needs unsharded parameters"):
            check_gradient_cache(sharded, retrieval)


@pytest.mark.parametrize("name", ["accuracy", "eval_accuracy", "loss", "eval_loss", None])
def test_the_best_model_is_chosen_by_what_is_computed(make_arguments: Arguments, name: str | None) -> None:
    args = make_arguments(eval_strategy="epoch", metric_for_best_model=name)
    check_best_metric(args, Metrics(["accuracy"], SINGLE))


def test_a_metric_that_is_not_computed_cannot_choose(make_arguments: Arguments) -> None:
    options: dict[str, Any] = {"metric_for_best_model": "eval_f1_macro"}
    args, metrics = make_arguments(eval_strategy="epoch", **options), Metrics(["accuracy"], SINGLE)
    with pytest.raises(ValueError, match="is 'eval_f1_macro', which is not computed: choose from loss, accuracy"):
        check_best_metric(args, metrics)
    check_best_metric(args, lambda prediction: {})  # what a function returns is not known
    check_best_metric(make_arguments(eval_strategy="no", **options), metrics)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("share_images", True),
        ("tokens_per_batch", 64),
        ("class_weights", "balanced"),
        ("train_sampling_strategy", "group_by_length"),
        ("train_sampling_strategy", "batch_rebalance"),
    ],
)
def test_what_needs_all_rows_needs_no_stream(make_arguments: Arguments, name: str, value: Any) -> None:
    args = make_arguments()
    setattr(args, name, value)
    check_streams(args, [{"text": "a"}], Stream())
    check_streams(make_arguments(), Stream(), Stream())
    with pytest.raises(ValueError, match=f"{name}.*a Stream is a stream"):
        check_streams(args, Stream(), [{"text": "a"}])


def test_patterns_need_all_evaluated_rows(make_arguments: Arguments) -> None:
    args = make_arguments()
    args.eval_modality_patterns = True
    check_streams(args, Stream(), [{"text": "a"}])
    with pytest.raises(ValueError, match="eval_modality_patterns=True needs all rows beforehand, but a Stream"):
        check_streams(args, [{"text": "a"}], Stream())


def test_given_weights_and_unshared_images_take_a_stream(make_arguments: Arguments) -> None:
    args = make_arguments()
    args.class_weights, args.train_sampling_strategy = [1.0, 2.0], "random"
    check_streams(args, Stream(), Stream())
    check_shared_images(args, Stream())


def test_one_device_for_each_process(make_arguments: Arguments) -> None:
    args = make_arguments()
    check_devices(args)
    args._n_gpu = 2
    with pytest.raises(ValueError, match="2 GPUs in one process"):
        check_devices(args)
    args._n_gpu = 1
    check_devices(args)
    args.fp16 = True
    with pytest.raises(ValueError, match="fp16 is mixed precision of a GPU, but the device is a CPU"):
        check_devices(args)
