"""The callbacks of PlaitTrainer."""

from collections.abc import Mapping
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
from transformers.trainer_callback import ExportableState
from transformers.utils import logging

from ...configuration import SPECIAL_TOKENS
from ...modeling.backbone.parts import select_parts
from ...modeling.kernels.training import choose_products, drop_products
from ...processing import PlaitProcessor
from ..optimization.arguments import PlaitTrainingArguments
from ..tasks.collator import PlaitDataCollator

logger = logging.get_logger(__name__)


class LearningRateLogger(TrainerCallback):
    """Keeps the learning rates of the last optimizer step, by part, for the log."""

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
        """Reads the learning rates from the optimizer's groups; those of Muon's groups end with "_muon"."""
        groups = [] if optimizer is None else [group for group in optimizer.param_groups if "part" in group]
        names = [f"learning_rate_{group['part']}{'_muon' if group.get('muon') else ''}" for group in groups]
        self.rates = {name: float(group["lr"]) for name, group in zip(names, groups, strict=True)}


class DecoderTokensCallback(TrainerCallback):
    """Restores the special tokens of the decoder, because the Trainer overwrites them in the configs with those of the
    processor's tokenizer, which may be that of the text tower."""

    def __init__(self) -> None:
        self.stored_tokens: list[tuple[Any, dict[str, Any]]] = []

    def store_tokens(self, model: PreTrainedModel) -> None:
        """Stores the special tokens of the decoder's config and the generation config."""
        generating = [model.generation_config] if model.can_generate() else []
        configs = (model.config.get_text_config(), *generating)
        self.stored_tokens = [
            (config, {name: getattr(config, name, None) for name in SPECIAL_TOKENS}) for config in configs
        ]

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Writes the stored tokens back into the configs."""
        for config, tokens in self.stored_tokens:
            for name, value in tokens.items():
                setattr(config, name, value)


class WithoutTokenizer:
    """Stands in for a processor without a tokenizer during training, because the Trainer expects every processor to
    have one."""

    def __init__(self, processor: PlaitProcessor) -> None:
        self.model_input_names = processor.model_input_names
        self.save_pretrained = processor.save_pretrained


class CollatorEpochCallback(TrainerCallback):
    """Sets the epoch of the collator, on which its random choices depend; a resumed run continues the interrupted
    epoch."""

    def __init__(self, collator: PlaitDataCollator) -> None:
        self.collator = collator

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Sets the epoch that begins, from 0."""
        self.collator.set_epoch(int(state.epoch or 0))


class KernelAutotuning(TrainerCallback, ExportableState):
    """Chooses the fastest kernel for each linear layer of a model that trains on a CPU; a resumed training takes those
    of its checkpoint, whose numbers are the same to the last bit."""

    def __init__(self) -> None:
        self.chosen: dict[str, list[bool]] = {}

    def state(self) -> dict:
        """Returns the choices, for the state in a checkpoint."""
        return {"args": {}, "attributes": {"chosen": self.chosen}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Times the kernels and installs the faster ones."""
        saved: Any = state.stateful_callbacks
        self.chosen |= saved.get(type(self).__name__, self.state())["attributes"].get("chosen", {})
        gained = choose_products(kwargs["model"], self.chosen)
        logger.info(f"{gained} linear layers train with oneDNN's kernels; set probe_products=False to keep torch's")

    def on_train_end(self, *args: Any, model: torch.nn.Module, **kwargs: Any) -> None:
        """Removes the installed kernels."""
        drop_products(model)


def build_early_stopping(args: PlaitTrainingArguments) -> list[TrainerCallback]:
    """Builds a list with the early-stopping callback, empty without `early_stopping_patience`."""
    if args.early_stopping_patience is None:
        return []
    return [EarlyStoppingCallback(args.early_stopping_patience, args.early_stopping_threshold)]


class ScheduledUnfreezing(TrainerCallback):
    """Freezes parts until a share of the steps is done. The optimizer has their parameters from the start, and skips
    those without a gradient."""

    def __init__(self, shares: Mapping[str, float]) -> None:
        self.shares = dict(shares)
        self.waiting: dict[str, list[torch.nn.Parameter]] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Freezes the parts whose time has not come. Raises ValueError for a part that the model does not have."""
        found = select_parts(kwargs["model"], self.shares)
        self.waiting = {part: [each for each in own.values() if each.requires_grad] for part, own in found.items()}
        for parameters in self.waiting.values():
            for parameter in parameters:
                parameter.requires_grad_(False)
        self._unfreeze(state.global_step / max(state.max_steps, 1))

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Unfreezes the parts whose time has come."""
        if self.waiting:
            self._unfreeze(state.global_step / max(state.max_steps, 1))

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """Unfreezes the parts of a training that ended early, as the model was given."""
        self._unfreeze(1.0)

    def _unfreeze(self, done: float) -> None:
        for part in [part for part in self.waiting if done >= self.shares[part]]:
            for parameter in self.waiting.pop(part):
                parameter.requires_grad_(True)


def build_scheduled_callbacks(args: PlaitTrainingArguments) -> list[TrainerCallback]:
    """Builds the callbacks that end training early or change what is trained, as far as the arguments ask for them."""
    unfreeze = args.unfreeze if isinstance(args.unfreeze, dict) else {}
    return [*build_early_stopping(args), *([ScheduledUnfreezing(unfreeze)] if unfreeze else [])]
