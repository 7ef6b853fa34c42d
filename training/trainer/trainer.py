"""The Trainer for models of several parts."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, SequentialSampler
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_optimizer import is_optimizer_factory
from transformers.trainer_utils import EvalLoopOutput, TrainOutput, unwrap_peft_model

from ...modeling.losses.cross_entropy import IGNORE_INDEX
from ...modeling.tasks.question_answering import find_labelled_spans
from ...processing import PlaitProcessor
from ..data.feature_cache import cache_features
from ..data.inputs import find_image_groups
from ..data.samplers import LengthSampler, SharedImageSampler, TokenBatchSampler
from ..metrics.base import EvaluationMetrics, StreamedMetrics
from ..metrics.classification import Metrics
from ..optimization.arguments import PlaitTrainingArguments
from ..optimization.gradient_cache import average_gradients, cached_backward
from ..optimization.gradient_modulation import GradientModulation, GradientShares
from ..optimization.loss import build_loss
from ..optimization.weight_averaging import WeightAveraging
from ..parameters import freeze, parameter_groups
from ..tasks.collator import PlaitDataCollator
from .callbacks import (
    CollatorEpochCallback,
    DecoderTokensCallback,
    KernelAutotuning,
    LearningRateLogger,
    WithoutTokenizer,
    build_early_stopping,
)
from .checks import check_best_metric, check_devices, check_gradient_cache
from .loss_log import build_loss_log
from .modality_patterns import evaluate_patterns
from .streamed_evaluation import evaluate_streamed

if TYPE_CHECKING:
    from datasets import Dataset


class PlaitTrainer(Trainer):
    """transformers' Trainer with a learning rate and freezing by part, weighted classes, label smoothing that knows our
    losses, batches that share pictures or hold rows of like length, cached outputs of frozen towers, and an evaluation
    that keeps no logits it does not need, or generates.

    Takes every argument of the Trainer. `compute_metrics` decides how a model is evaluated: with a function or a
    `Metrics` the Trainer collects the logits (of `Metrics`, what its `reduce` leaves of them) and computes from all of
    them; `StreamedMetrics` such as `GenerationMetrics` measure each batch with the model, and no logits are kept. What
    `args` adds is in PlaitTrainingArguments.

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
        compute_metrics: Callable[..., dict[str, float]] | EvaluationMetrics | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        **kwargs: Any,
    ) -> None:
        freeze(model, args.frozen)
        if isinstance(compute_metrics, Metrics):
            kwargs.setdefault("preprocess_logits_for_metrics", compute_metrics.reduce)
        self.streamed_metrics = compute_metrics if isinstance(compute_metrics, StreamedMetrics) else None
        function: Any = None if self.streamed_metrics is not None else compute_metrics
        self.smooths_labels = getattr(unwrap_peft_model(model), "smooths_labels", False)
        kwargs["compute_loss_func"] = build_loss(model, args, train_dataset, kwargs.get("compute_loss_func"))
        self.loss_log = build_loss_log(model)
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
        if self.smooths_labels:
            self.label_smoother = None  # it takes the labels out of the inputs
        check_best_metric(args, compute_metrics)
        check_devices(args)
        check_gradient_cache(args, unwrap_peft_model(model))
        if args.cache_features:
            self._cache_features()

    def _build_callbacks(
        self, model: nn.Module, args: PlaitTrainingArguments, data_collator: Callable[..., Any] | None
    ) -> list[TrainerCallback]:
        """What is added to the user's callbacks; the trainer itself asks most of them later."""
        self.rate_logger, self.decoder_tokens = LearningRateLogger(), DecoderTokensCallback()
        self.weight_averaging = None if args.average_decay is None else WeightAveraging(model, args.average_decay)
        self.gradient_shares = GradientShares() if args.log_gradient_share else None
        self.gradient_modulation = None
        if args.ogm_alpha is not None:
            self.gradient_modulation = GradientModulation(model, args.ogm_alpha, args.ogm_noise, args.seed)
        starts = CollatorEpochCallback(data_collator) if isinstance(data_collator, PlaitDataCollator) else None
        products = KernelAutotuning() if args.probes_products else None
        own = (self.weight_averaging, self.gradient_shares, self.gradient_modulation, starts, products)
        return [
            self.rate_logger,
            self.decoder_tokens,
            *build_early_stopping(args),
            *(part for part in own if part is not None),
        ]

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """As the Trainer's; a decoder with a tokenizer of its own keeps its special tokens."""
        processor = self.processing_class
        if isinstance(processor, PlaitProcessor) and processor.decoder_tokenizer is not None:
            self.decoder_tokens.store_tokens(self.model)
        if isinstance(processor, PlaitProcessor) and processor.tokenizer is None:
            self.processing_class = WithoutTokenizer(processor)
        try:
            return super().train(*args, **kwargs)
        finally:
            self.processing_class = processor

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
        """Adds the learning rate of each part, and the single losses of a model of several, to what is logged while
        training."""
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
        """As the Trainer's; a model that smooths its labels itself is told to."""
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
        """As the Trainer's; with `gradient_cache_rows` a contrastive batch goes through the towers in chunks."""
        if self.args.gradient_cache_rows is None:
            return super().training_step(model, inputs, num_items_in_batch)
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
        return loss / steps

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """As the Trainer's; with `eval_modality_patterns` also on every set of present modalities."""
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
        """As the Trainer's, which collects the logits; StreamedMetrics measure each batch (see `evaluate_streamed`)."""
        with self._use_average():
            if self.streamed_metrics is None:
                options = (prediction_loss_only, ignore_keys, metric_key_prefix)
                return super().evaluation_loop(dataloader, description, *options)
            keeps = description == "Prediction"
            return evaluate_streamed(self, self.streamed_metrics, dataloader, metric_key_prefix, keeps)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As the Trainer's; with `average_decay` the model that is saved is the average."""
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
        """The averaged weights in the model, where there are any."""
        return nullcontext() if self.weight_averaging is None else self.weight_averaging.use_average()

    def get_train_dataloader(self) -> DataLoader:
        """As the Trainer's; with `tokens_per_batch` the batches are those of a TokenBatchSampler."""
        sampler = self._build_batch_sampler()
        if sampler is None:
            return super().get_train_dataloader()
        config, even = self.accelerator.dataloader_config, self.accelerator.dataloader_config.even_batches
        config.even_batches = False  # the sampler itself gives every process as many
        try:
            loader = self.accelerator.prepare(self._build_batch_loader(sampler))
        finally:
            config.even_batches = even
        if self.args.world_size > 1:
            # the sampler gives this process its own batches already
            loader.batch_sampler.num_processes, loader.batch_sampler.process_index = 1, 0
        return loader

    def _build_batch_sampler(self) -> Sampler[list[int]] | None:
        """What chooses the rows of whole batches, for this process; None where the Trainer's own way does."""
        if self.args.tokens_per_batch is None:
            return None
        lengths, processes = self._count_tokens(self.train_dataset), (self.args.world_size, self.args.process_index)
        return TokenBatchSampler(lengths, self.args.tokens_per_batch, self._seed, self._get_epoch, *processes)

    def _build_batch_loader(self, sampler: Sampler[list[int]]) -> DataLoader:
        data: Any = self.train_dataset
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
        """As the Trainer's, which knows labels alone; of question answering it is the rows that have an answer."""
        if batch_samples and "start_positions" in batch_samples[0]:
            batch_samples = [{"labels": build_row_labels(batch)} for batch in batch_samples]
        return super()._get_num_items_in_batch(batch_samples, device)

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        training, collator = bool(kwargs.get("is_training")), self.data_collator
        self.data_collator, dropped = self._select_collate_fn(training), self.args.dataloader_drop_last
        self.args.dataloader_drop_last = dropped and training  # every row is measured
        try:
            return super()._get_dataloader(*args, **kwargs)
        finally:
            self.data_collator, self.args.dataloader_drop_last = collator, dropped

    def _select_collate_fn(self, training: bool) -> Any:
        """What makes a batch of rows: ours knows those of training, and those that StreamedMetrics read, from others.

        Raises ValueError where StreamedMetrics get batches of another collator.
        """
        collator = self.data_collator
        if isinstance(collator, PlaitDataCollator):
            measured = collator if self.streamed_metrics is None else collator.build_evaluation_batch
            return collator.build_training_batch if training else measured
        if self.streamed_metrics is not None and not training:
            raise ValueError(f"{type(self.streamed_metrics).__name__} needs a PlaitDataCollator as data_collator")
        return collator

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        data: Any = self.train_dataset if train_dataset is None else train_dataset
        if self.args.share_images:
            return SharedImageSampler(find_image_groups(data), self._seed, self._get_epoch)
        if self.args.train_sampling_strategy == "group_by_length":
            rows = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
            return LengthSampler(self._count_tokens(data), rows, self._seed, self._get_epoch)
        return super()._get_train_sampler(train_dataset)

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
        """The column that args names, or what the collator counts."""
        if self.args.length_column_name in data.column_names:
            return data[self.args.length_column_name][:]
        # one of the collator's methods stands in its place while a loader is made
        collator = getattr(self.data_collator, "__self__", self.data_collator)
        if not isinstance(collator, PlaitDataCollator):
            raise ValueError(
                f"batches by length need a column {self.args.length_column_name!r} in the data (length_column_name), "
                "or a PlaitDataCollator that counts tokens"
            )
        return collator.task.count_tokens(collator, data)

    def _cache_features(self) -> None:
        if not isinstance(self.data_collator, PlaitDataCollator):
            raise ValueError("cache_features needs a PlaitDataCollator, which puts the cached outputs into batches")
        task = self.data_collator.task
        for modality in self.args.cache_features:
            if not task.is_cacheable(modality, self.data_collator.settings):
                raise ValueError(f"cache_features: the {modality} that a model for {task.name} reads cannot be kept")
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


def build_row_labels(batch: dict[str, Tensor]) -> Tensor:
    """(batch,), -100 where the answer is not in the text."""
    positions = torch.stack((batch["start_positions"], batch["end_positions"]), dim=1)
    known = find_labelled_spans(positions, batch["attention_mask"].shape[1])
    return torch.where(known, 0, IGNORE_INDEX)
