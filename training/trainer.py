"""The Trainer for models of several parts."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_optimizer import is_optimizer_factory
from transformers.trainer_utils import unwrap_peft_model

from ..modeling.classification import PlaitForClassification
from ..modeling.losses import classification_loss, masked_lm_loss, problem_type_of
from ..modeling.masked_lm import PlaitForMaskedLM
from .arguments import PlaitTrainingArguments
from .collator import PlaitDataCollator
from .features import cache_features
from .inputs import picture_groups
from .metrics import MULTI, REGRESSION, Metrics
from .parameters import freeze, parameter_groups
from .sampler import PictureSampler

if TYPE_CHECKING:
    from datasets import Dataset


class PlaitTrainer(Trainer):
    """transformers' Trainer with a learning rate and freezing by part, label smoothing that knows our losses, batches
    that share pictures, cached outputs of frozen towers, and an evaluation that keeps no logits it does not need.

    Takes every argument of the Trainer; `compute_metrics` may be a `Metrics`, which also says what to keep of the
    logits. What `args` adds is in PlaitTrainingArguments.

    Raises:
        ValueError: a contradiction between model, arguments and data; the message names both sides.
    """

    args: PlaitTrainingArguments
    model: PreTrainedModel

    def __init__(
        self,
        model: nn.Module,
        args: PlaitTrainingArguments,
        data_collator: Callable[..., Any] | None = None,
        train_dataset: "Dataset | None" = None,
        eval_dataset: "Dataset | None" = None,
        compute_metrics: Callable[..., dict[str, float]] | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        **kwargs: Any,
    ) -> None:
        freeze(model, args.frozen)
        if isinstance(compute_metrics, Metrics):
            kwargs.setdefault("preprocess_logits_for_metrics", compute_metrics.reduce)
        if args.label_smoothing_factor and kwargs.get("compute_loss_func") is None:
            kwargs["compute_loss_func"] = smoothed_loss(model, args.label_smoothing_factor)
        self.rates = PartRates()
        super().__init__(
            model,
            args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            compute_metrics=compute_metrics,
            callbacks=[*callbacks, self.rates, *stopping(args)],
            **kwargs,
        )
        if args.n_gpu > 1:
            raise ValueError(
                f"{args.n_gpu} GPUs in one process would split pictures that rows share: start one process a GPU "
                "(torchrun --nproc_per_node, accelerate launch), or choose one with CUDA_VISIBLE_DEVICES"
            )
        if args.cache_features:
            self._cache_features()

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimizer that the arguments name, over `parameter_groups`."""
        if self.optimizer is not None:
            return self.optimizer
        trained = self.model if model is None else model
        chosen, kwargs = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(self.args, trained)
        if is_optimizer_factory(chosen) or {"params", "model", "optimizer_dict"} & set(kwargs):
            if self.args.learning_rates:
                raise ValueError(f"learning_rates cannot be used with {chosen.__name__}, which makes its own groups")
            return super().create_optimizer(model)
        groups = parameter_groups(trained, self.args.part_rates, self.args.weight_decay, self.args.learning_rate)
        self.optimizer = chosen(groups, **kwargs)
        return self.optimizer

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the learning rate of each part to what is logged while training."""
        if "learning_rate" in logs:
            logs = {**logs, **self.rates.current}
        super().log(logs, start_time)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        if not self.args.share_images:
            return super()._get_train_sampler(train_dataset)
        data: Any = self.train_dataset if train_dataset is None else train_dataset
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return PictureSampler(picture_groups(data), seed, epoch=lambda: int(self.state.epoch or 0))

    def _cache_features(self) -> None:
        if not isinstance(self.data_collator, PlaitDataCollator):
            raise ValueError("cache_features needs a PlaitDataCollator, which puts the cached outputs into batches")
        if self.data_collator.task == "masked_lm" and "text" in self.args.cache_features:
            raise ValueError("cache_features: the text of masked language modelling changes with every mask")
        datasets: list[Any] = [data for data in (self.train_dataset, self.eval_dataset) if data is not None]
        with self.args.main_process_first(local=False, desc="tower features"):
            for modality in self.args.cache_features:
                self.data_collator.features[modality] = cache_features(
                    self.model,
                    self.data_collator.processor,
                    datasets,
                    modality,
                    folder=self.args.feature_cache_dir,
                    limit=self.args.feature_cache_limit,
                    batch_size=self.args.per_device_eval_batch_size,
                    max_length=self.data_collator.max_length,
                )


class PartRates(TrainerCallback):
    """The learning rates with which the last step was made, by part."""

    def __init__(self) -> None:
        self.current: dict[str, float] = {}

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: torch.optim.Optimizer | None = None,
        **kwargs: Any,
    ) -> None:
        groups = [] if optimizer is None else optimizer.param_groups
        self.current = {f"learning_rate_{group['part']}": float(group["lr"]) for group in groups if "part" in group}


def stopping(args: PlaitTrainingArguments) -> list[TrainerCallback]:
    """The early-stopping callback, if the arguments ask for one."""
    if args.early_stopping_patience is None:
        return []
    return [EarlyStoppingCallback(args.early_stopping_patience, args.early_stopping_threshold)]


def smoothed_loss(model: nn.Module, epsilon: float) -> Callable[..., Tensor]:
    """The model's own loss with label smoothing, as a Trainer's `compute_loss_func`.

    Raises:
        ValueError: a model or a problem that does not choose one of several classes.
    """
    inner = unwrap_peft_model(model)
    problem = inner.config.problem_type
    if not isinstance(inner, (PlaitForClassification, PlaitForMaskedLM)) or problem in (REGRESSION, MULTI):
        raise ValueError(f"label_smoothing_factor is {epsilon}, but {type(inner).__name__} does not choose one class")

    def loss(outputs: dict[str, Tensor], labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        if isinstance(inner, PlaitForMaskedLM):
            return masked_lm_loss(outputs["logits"], labels, num_items_in_batch, epsilon)
        problem_type = problem_type_of(inner.config, labels)
        return classification_loss(outputs["logits"], labels, problem_type, num_items_in_batch, epsilon)

    return loss
