"""What PlaitTrainer does beside the steps."""

from typing import Any

import torch
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.utils import logging

from ...configuration import SPECIAL_TOKENS
from ...modeling.kernels.training import choose_products, drop_products
from ...processing import PlaitProcessor
from ..optimization.arguments import PlaitTrainingArguments
from ..tasks.collator import PlaitDataCollator

logger = logging.get_logger(__name__)


class LearningRateLogger(TrainerCallback):
    """The learning rates with which the last step was made, by part."""

    def __init__(self) -> None:
        self.rates: dict[str, float] = {}

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: torch.optim.Optimizer | None = None,
        **kwargs: Any,
    ) -> None:
        groups = [] if optimizer is None else optimizer.param_groups
        self.rates = {f"learning_rate_{group['part']}": float(group["lr"]) for group in groups if "part" in group}


class DecoderTokensCallback(TrainerCallback):
    """The decoder keeps its special tokens: the Trainer writes those of the processor's tokenizer into its configs, and
    that may be another one, of the texts that are read."""

    def __init__(self) -> None:
        self.stored_tokens: list[tuple[Any, dict[str, Any]]] = []

    def store_tokens(self, model: PreTrainedModel) -> None:
        """The tokens as they are now."""
        generating = [model.generation_config] if model.can_generate() else []
        configs = (model.config.get_text_config(), *generating)
        self.stored_tokens = [
            (config, {name: getattr(config, name, None) for name in SPECIAL_TOKENS}) for config in configs
        ]

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for config, tokens in self.stored_tokens:
            for name, value in tokens.items():
                setattr(config, name, value)


class WithoutTokenizer:
    """A processor without a tokenizer, while a model trains: the Trainer asks every processor for special tokens."""

    def __init__(self, processor: PlaitProcessor) -> None:
        self.model_input_names = processor.model_input_names
        self.save_pretrained = processor.save_pretrained


class CollatorEpochCallback(TrainerCallback):
    """Tells the collator which epoch it draws for; a resumed run goes on in the one that was cut off."""

    def __init__(self, collator: PlaitDataCollator) -> None:
        self.collator = collator

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.collator.set_epoch(int(state.epoch or 0))


class KernelAutotuning(TrainerCallback):
    """While a model trains on a CPU its linear layers use the kernels that are fastest there."""

    def on_train_begin(self, *args: Any, model: torch.nn.Module, **kwargs: Any) -> None:
        gained = choose_products(model)
        logger.info(f"{gained} linear layers train with oneDNN's products; probe_products=False leaves torch's own")

    def on_train_end(self, *args: Any, model: torch.nn.Module, **kwargs: Any) -> None:
        drop_products(model)


def build_early_stopping(args: PlaitTrainingArguments) -> list[TrainerCallback]:
    """The early-stopping callback, if the arguments ask for one."""
    if args.early_stopping_patience is None:
        return []
    return [EarlyStoppingCallback(args.early_stopping_patience, args.early_stopping_threshold)]
