"""PlaitTrainer: the Trainer of transformers for models with several parts."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, Sampler, SequentialSampler
from transformers import PreTrainedModel, TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import EvalLoopOutput, TrainOutput, unwrap_peft_model

from ...processing import PlaitProcessor
from ..data.inputs import find_image_groups
from ..data.media import number_rows
from ..data.samplers import BucketSampler, LengthSampler, SharedImageSampler, TokenBatchSampler
from ..metrics.base import EvaluationMetrics, StreamedMetrics
from ..metrics.classification import Metrics
from ..optimization.arguments import MUON, PlaitTrainingArguments
from ..optimization.gradient_cache import average_gradients, cached_backward
from ..optimization.gradient_modulation import GradientShares
from ..optimization.loss import build_loss
from ..optimization.muon import build_muon
from ..optimization.optimizer import build_optimizer
from ..optimization.target_scale import fit_target_scale
from ..parameters import freeze
from ..tasks.collator import PlaitDataCollator
from .callbacks import (
    CollatorEpochCallback,
    DecoderTokensCallback,
    KernelAutotuning,
    LearningRateLogger,
    WithoutTokenizer,
    build_scheduled_callbacks,
)
from .checks import check_best_metric, check_devices, check_gradient_cache, check_streams
from .evaluation_loss import EvaluationLoss, count_targets, hide_fill_rows, measure_loss, select_targets
from .image_generation import build_standardization, find_data_buckets
from .loss_log import build_loss_log
from .modality_patterns import evaluate_patterns
from .model_init import adopt_model, build_model_callbacks, choose_model
from .recoverable import RecoverableTrainer
from .streamed_evaluation import evaluate_streamed
from .tower_features import TowerFeatures

if TYPE_CHECKING:
    from datasets import Dataset


class PlaitTrainer(RecoverableTrainer):
    """The Trainer of transformers with learning rates and freezing by part, class weights, label smoothing for plait's
    losses, batches of rows with shared images or of similar length, cached outputs of frozen towers, and an evaluation
    that generates or keeps only the logits it needs.

    Takes every argument of the Trainer, also `model_init` in place of a model; `args` are PlaitTrainingArguments.
    `compute_metrics` decides how a model is evaluated: with a function or `Metrics` the Trainer collects the logits
    (with `Metrics` reduced by its `reduce`) and computes the metrics from all of them; `StreamedMetrics` such as
    `GenerationMetrics` measure each batch with the model, and no logits are kept.

    Raises:
        ValueError: a contradiction between model, arguments and data; the message names both sides.
    """

    args: PlaitTrainingArguments
    model: PreTrainedModel

    def __init__(
        self,
        model: nn.Module | None = None,
        args: PlaitTrainingArguments | None = None,
        data_collator: Callable[..., Any] | None = None,
        train_dataset: "Dataset | None" = None,
        eval_dataset: "Dataset | None" = None,
        compute_metrics: Callable[..., dict[str, float]] | EvaluationMetrics | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        **kwargs: Any,
    ) -> None:
        args = PlaitTrainingArguments("tmp_trainer") if args is None else args
        model_init = kwargs.pop("model_init", None)
        model = choose_model(self, model, model_init, args)
        freeze(model, args.frozen)
        check_streams(args, train_dataset, eval_dataset)
        if isinstance(compute_metrics, Metrics):
            kwargs.setdefault("preprocess_logits_for_metrics", compute_metrics.reduce)
        self.streamed_metrics = compute_metrics if isinstance(compute_metrics, StreamedMetrics) else None
        function: Any = None if self.streamed_metrics is not None else compute_metrics
        self.smooths_labels = getattr(unwrap_peft_model(model), "smooths_labels", False)
        fit_target_scale(model, train_dataset)
        self.given_loss = kwargs.get("compute_loss_func")
        kwargs["compute_loss_func"] = build_loss(model, args, train_dataset, self.given_loss)
        self.loss_log = build_loss_log(model)
        self.evaluation_loss: EvaluationLoss | None = None  # only set during an evaluation
        super().__init__(
            model,
            args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            compute_metrics=function,
            callbacks=[*callbacks, *self._build_callbacks(model, args, data_collator)],
            **kwargs,
        )
        self.model_init = model_init
        if self.smooths_labels:
            self.label_smoother = None  # the Trainer's removes the labels from the inputs
        check_best_metric(args, compute_metrics)
        check_devices(args)
        check_gradient_cache(args, unwrap_peft_model(model))
        self.tower_features = TowerFeatures(args, self.model, data_collator, list_datasets(train_dataset, eval_dataset))

    def _build_callbacks(
        self, model: nn.Module, args: PlaitTrainingArguments, data_collator: Callable[..., Any] | None
    ) -> list[TrainerCallback]:
        """Builds the callbacks that are added to the user's; those that the trainer uses itself become attributes."""
        self.rate_logger, self.decoder_tokens = LearningRateLogger(), DecoderTokensCallback()
        self.weight_averaging, self.gradient_modulation = build_model_callbacks(model, args)
        self.gradient_shares = GradientShares() if args.log_gradient_share else None
        starts = CollatorEpochCallback(data_collator) if isinstance(data_collator, PlaitDataCollator) else None
        products = KernelAutotuning() if args.probes_products else None
        scale = build_standardization(model, data_collator)
        own = (self.weight_averaging, self.gradient_shares, self.gradient_modulation, starts, products, scale)
        return [
            self.rate_logger,
            self.decoder_tokens,
            *build_scheduled_callbacks(args),
            *(part for part in own if part is not None),
        ]

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """Builds a new model by `model_init`, as the Trainer does, with all that belongs to it."""
        model = super().call_model_init(trial)
        adopt_model(self, model)
        return model

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """Trains as the Trainer does, but keeps the special tokens of a decoder that has its own tokenizer."""
        processor = self.processing_class
        if isinstance(processor, PlaitProcessor) and hasattr(processor, "decoder_tokenizer"):
            self.decoder_tokens.store_tokens(self.model)
        if isinstance(processor, PlaitProcessor) and not hasattr(processor, "tokenizer"):
            self.processing_class = WithoutTokenizer(processor)
        try:
            return super().train(*args, **kwargs)
        finally:
            self.processing_class = processor

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Creates the optimizer that the arguments name, with the groups of `parameter_groups`.

        Raises ValueError for learning rates by part with an optimizer that builds its own groups.
        """
        if self.optimizer is not None:
            return self.optimizer
        trained = self.model if model is None else model
        if self.optimizer_cls_and_kwargs is None and self.args.optim == MUON:
            self.optimizer = build_muon(trained, self.args)
        else:
            chosen = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(self.args, trained)
            self.optimizer = build_optimizer(trained, self.args, *chosen) or super().create_optimizer(model)
        return self.optimizer

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs as the Trainer does; during training also the learning rate of each part, the single losses of a model
        with several, and the gradient shares."""
        if "learning_rate" in logs:
            losses = self.loss_log.take(self.accelerator.gather) if self.loss_log is not None else {}
            shares = self.gradient_shares.take() if self.gradient_shares is not None else {}
            logs = {**logs, **losses, **self.rate_logger.rates, **shares}
        super().log(logs, start_time)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Computes the loss as the Trainer does; passes `label_smoothing` to a model that smooths its labels itself and
        `each_alone` for the losses of single modalities, and updates the log of losses and the gradient modulation."""
        if self.args.label_smoothing_factor and self.smooths_labels:
            inputs = {**inputs, "label_smoothing": self.args.label_smoothing_factor}
        if self.args.single_modality_weight and model.training:
            inputs = {**inputs, "each_alone": True}
        watched = nullcontext() if self.gradient_modulation is None else self.gradient_modulation.watch_towers()
        labels = inputs.get("labels")
        with watched:
            loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if self.loss_log is not None and model.training:
            self.loss_log.update(outputs)
        if self.gradient_modulation is not None and model.training and labels is not None:
            self.gradient_modulation.update_scores(labels)
        return (loss, outputs) if return_outputs else loss

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Runs a training step as the Trainer does; with `gradient_cache_rows` in chunks (see `cached_backward`)."""
        if self.args.gradient_cache_rows is None:
            loss = super().training_step(model, inputs, num_items_in_batch)
            return self.guard.check_loss(loss, inputs)
        model.train()
        trained: Any = unwrap_peft_model(self.accelerator.unwrap_model(model))
        steps = self.current_gradient_accumulation_steps
        loss = cached_backward(
            trained,
            self._prepare_inputs(inputs),
            self.args.gradient_cache_rows,
            backward=lambda loss: self.accelerator.backward(loss / steps),
            autocast=lambda: self.accelerator.autocast(),
        )
        average_gradients(trained)
        return self.guard.check_loss(loss / steps, inputs)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluates as the Trainer does; with `eval_modality_patterns` also on every subset of the modalities."""
        results = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        data = self.eval_dataset if eval_dataset is None else eval_dataset
        if self.args.eval_modality_patterns and not isinstance(data, dict):
            results |= evaluate_patterns(self, data, ignore_keys, metric_key_prefix)
        return results

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Evaluates as the Trainer does, but with `evaluate_streamed` for StreamedMetrics, and with `average_decay` on
        the averaged weights."""
        with self._use_average():
            if self.streamed_metrics is None:
                options = (prediction_loss_only, ignore_keys, metric_key_prefix)
                return measure_loss(self, super().evaluation_loop, dataloader, description, *options)
            keeps = description == "Prediction"
            return evaluate_streamed(self, self.streamed_metrics, dataloader, metric_key_prefix, keeps)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, Any, Any]:
        """Predicts a batch as the Trainer does, and adds its loss to that of the evaluation."""
        inputs, real = hide_fill_rows(self, inputs)
        loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        if loss is not None and self.evaluation_loss is not None:
            self.evaluation_loss.update(loss, count_targets(self, inputs, real, loss.device))
        return loss, logits, labels

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the model as the Trainer does; with `average_decay` the averaged weights, and during training also the
        model's own weights (see `WeightAveraging`)."""
        with self._use_average():
            super().save_model(output_dir, _internal_call)
        if self.weight_averaging is not None and self.weight_averaging.average is not None and self.args.should_save:
            self.weight_averaging.save_trained_weights(Path(output_dir or str(self.args.output_dir)))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.weight_averaging is not None:
            folder = Path(resume_from_checkpoint)
            self.weight_averaging.resume_average(
                folder, TrainerState.load_from_json(str(folder / TRAINER_STATE_NAME)).global_step
            )

    def _use_average(self) -> AbstractContextManager[None]:
        """Opens a context in which the model has the averaged weights, with `average_decay`."""
        return nullcontext() if self.weight_averaging is None else self.weight_averaging.use_average()

    def get_train_dataloader(self) -> DataLoader:
        """Returns the Trainer's loader; with `tokens_per_batch` one with the batches of a TokenBatchSampler."""
        sampler = self._build_batch_sampler()
        if sampler is None:
            return super().get_train_dataloader()
        config, even = self.accelerator.dataloader_config, self.accelerator.dataloader_config.even_batches
        config.even_batches = False  # the sampler gives every process the same number of batches
        try:
            loader = self.accelerator.prepare(self._build_batch_loader(sampler))
        finally:
            config.even_batches = even
        if self.args.world_size > 1:
            # the sampler yields only the batches of this process: accelerate must not split them once more
            loader.batch_sampler.num_processes, loader.batch_sampler.process_index = 1, 0
        return loader

    def _build_batch_sampler(self) -> Sampler[list[int]] | None:
        """Builds the sampler of this process's batches for `tokens_per_batch`; None without it, or for a stream."""
        if self.args.tokens_per_batch is None or isinstance(self.train_dataset, IterableDataset):
            return None
        lengths, processes = self._count_tokens(self.train_dataset), (self.args.world_size, self.args.process_index)
        return TokenBatchSampler(lengths, self.args.tokens_per_batch, self._seed, self._get_epoch, *processes)

    def _build_batch_loader(self, sampler: Sampler[list[int]]) -> DataLoader:
        data: Any = number_rows(self.train_dataset, self.args.remove_unused_columns)
        return DataLoader(
            data,
            batch_sampler=sampler,
            collate_fn=self._select_collate_fn(training=True),
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
        )

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor | int | None:
        """Counts the targets over which the model takes the mean; none in an evaluation, which weights each batch's own
        mean by them (see `EvaluationLoss`)."""
        if self.evaluation_loss is not None:
            return None
        targets = [select_targets(self, batch) for batch in batch_samples]
        if all(target is not None for target in targets):
            batch_samples = [{"labels": target, "shift_labels": target} for target in targets]
        return super()._get_num_items_in_batch(batch_samples, device)

    def _get_dataloader(self, dataset: Any, *args: Any, **kwargs: Any) -> DataLoader:
        training, collator = bool(kwargs.get("is_training")), self.data_collator
        self.data_collator, dropped = self._select_collate_fn(training), self.args.dataloader_drop_last
        self.args.dataloader_drop_last = dropped and training  # evaluation drops no row
        try:
            return super()._get_dataloader(number_rows(dataset, self.args.remove_unused_columns), *args, **kwargs)
        finally:
            self.data_collator, self.args.dataloader_drop_last = collator, dropped

    def _select_collate_fn(self, training: bool) -> Any:
        """Selects the function that builds a batch: of a PlaitDataCollator the method for training batches, or for the
        batches of StreamedMetrics.

        Raises ValueError for StreamedMetrics with another collator.
        """
        collator = self.data_collator
        if isinstance(collator, PlaitDataCollator):
            self.tower_features.install(self.model)
            measured = collator if self.streamed_metrics is None else collator.build_evaluation_batch
            return collator.build_training_batch if training else measured
        if self.streamed_metrics is not None and not training:
            raise ValueError(
                f"{type(self.streamed_metrics).__name__} needs the evaluation batches of a PlaitDataCollator: give one "
                "as data_collator"
            )
        return collator

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        data: Any = self.train_dataset if train_dataset is None else train_dataset
        buckets = find_data_buckets(self.args, data, self.data_collator)
        if buckets is not None:
            return BucketSampler(buckets, self.args.train_batch_size, self._seed, self._get_epoch)
        if self.args.share_images:
            return SharedImageSampler(find_image_groups(data), self._seed, self._get_epoch)
        if (
            self.args.train_sampling_strategy == "batch_rebalance"
            and self.args.length_column_name not in data.column_names
        ):
            return super()._get_train_sampler(data.add_column(self.args.length_column_name, self._count_tokens(data)))
        if self.args.train_sampling_strategy == "group_by_length":
            rows = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
            return LengthSampler(self._count_tokens(data), rows, self._seed, self._get_epoch)
        return super()._get_train_sampler(train_dataset)

    def _add_lengths(self, data: Any) -> Any:
        """Returns the data with the column of token counts by which the Trainer balances processes."""
        column = self.args.length_column_name
        return data if column in data.column_names else data.add_column(column, self._count_tokens(data))

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler | None:
        if self.args.train_sampling_strategy == "group_by_length" and self.args.world_size == 1:
            return SequentialSampler(eval_dataset)
        return super()._get_eval_sampler(eval_dataset)

    @property
    def _seed(self) -> int:
        return self.args.seed if self.args.data_seed is None else self.args.data_seed

    def _get_epoch(self) -> int:
        return int(self.state.epoch or 0)

    def _count_tokens(self, data: Any) -> list[int]:
        """Returns the number of tokens of each row: the column `length_column_name`, or counted by the collator's task.

        Raises ValueError without such a column and without a PlaitDataCollator.
        """
        if self.args.length_column_name in data.column_names:
            return data[self.args.length_column_name][:]
        # while a loader is built, data_collator is a method of the collator
        collator = getattr(self.data_collator, "__self__", self.data_collator)
        if not isinstance(collator, PlaitDataCollator):
            raise ValueError(
                f"batches by length need a column {self.args.length_column_name!r} in the data (length_column_name), "
                "or a PlaitDataCollator that counts tokens"
            )
        return collator.task.count_tokens(collator, data)


def list_datasets(*datasets: Any) -> list[Any]:
    """Returns the data sets that are given, and those of a dict of data sets."""
    given = [data for data in datasets if data is not None]
    return [part for data in given for part in (data.values() if isinstance(data, dict) else [data])]
