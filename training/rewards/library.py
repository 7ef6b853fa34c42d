"""TRL's trainers in plait's runs: whole checkpoints, signals, learning rates by part, and plait's evaluation."""

from collections.abc import Sequence
from dataclasses import MISSING, fields
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from transformers import TrainingArguments

from ...configuration.messages import to_one_line
from ..optimization.arguments import PlaitTrainingArguments
from ..optimization.optimizer import build_optimizer
from ..recipes.errors import RecipeError
from ..trainer.recoverable import RecoverableTrainer
from ..trainer.trainer import PlaitTrainer

# arguments of PlaitTrainer that these trainers follow, or that only its evaluation reads
FOLLOWED = (
    "learning_rates",
    "layer_decay",
    "frozen",
    "early_stopping_patience",
    "early_stopping_threshold",
    "image_cache",
    "probe_products",
    "feature_cache_dir",
    "feature_cache_limit",
    "average_warmup",
    "ogm_noise",
    "remove_unused_columns",
)


def require_trl(purpose: str) -> Any:
    """Returns the library TRL. Raises RecipeError, with what needs it, if it is not installed."""
    if find_spec("trl") is None:
        raise RecipeError(f'{purpose} is trained by the library TRL: pip install "plait[rl]"')
    return import_module("trl")


def check_followed(args: PlaitTrainingArguments) -> None:
    """Raises RecipeError for an argument of PlaitTrainer that TRL's trainers would ignore."""
    own = {field.name: field for field in fields(PlaitTrainingArguments)}
    for name in own.keys() - {field.name for field in fields(TrainingArguments)} - {*FOLLOWED}:
        made: Any = own[name].default_factory
        if getattr(args, name) != (own[name].default if made is MISSING else made()):
            raise RecipeError(
                f"training.{name} is {getattr(args, name)}, which TRL's trainers do not know: leave it out"
            )
    if args.train_sampling_strategy != "random":
        raise RecipeError(
            f"training.train_sampling_strategy is {args.train_sampling_strategy!r}: leave it out with TRL"
        )
    if args.optim == "muon":
        raise RecipeError("training.optim is 'muon', which TRL's trainers do not know: choose another one")


def build_library_arguments(kind: str, args: PlaitTrainingArguments, **own: Any) -> Any:
    """Builds the arguments of TRL's trainer `kind` (DPO, GRPO, RLOO): those of the Trainer as given, and `own`.

    Raises RecipeError for what it does not know or refuses.
    """
    check_followed(args)
    common = {field.name: getattr(args, field.name) for field in fields(TrainingArguments) if field.init}
    try:
        made = getattr(require_trl(kind), f"{kind}Config")(**{**common, **own})
    except (TypeError, ValueError) as error:
        raise RecipeError(f"training: {to_one_line(error)}") from error
    # what the trainers of plait read besides
    for name in (
        "uses_fsdp",
        "shards_parameters",
        "eval_modality_patterns",
        "part_rates",
        "layer_decay",
        "learning_rates",
    ):
        setattr(made, name, getattr(args, name))
    return made


class LibraryTraining(RecoverableTrainer):
    """The first base of a trainer of TRL in a run of plait: see `build_library_trainer`.

    evaluator: a PlaitTrainer with the same model, which evaluates; saved_processor: the processor that is saved.
    """

    evaluator: PlaitTrainer
    saved_processor: Any

    @property
    def streamed_metrics(self) -> Any:
        """The metrics of the evaluation."""
        return self.evaluator.streamed_metrics

    @streamed_metrics.setter
    def streamed_metrics(self, metrics: Any) -> None:
        self.evaluator.streamed_metrics = metrics

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluates as PlaitTrainer does."""
        loader = self.evaluator.get_eval_dataloader(eval_dataset)
        output = self.evaluator.evaluation_loop(loader, "Evaluation", metric_key_prefix=metric_key_prefix)
        found: Any = output.metrics
        self.log(dict(found))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        return found

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Creates the optimizer with the groups of PlaitTrainer."""
        if self.optimizer is None:
            trained: Any = self.model if model is None else model
            chosen = self.get_optimizer_cls_and_kwargs(self.args, trained)
            self.optimizer = build_optimizer(trained, self.args, *chosen) or super().create_optimizer(model)
        return self.optimizer

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Writes a card as PlaitTrainer does, none beside a checkpoint."""
        if not self.is_staging:
            super().create_model_card(*args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        used, self.processing_class = self.processing_class, self.saved_processor
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.processing_class = used

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """Returns the data, which plait has prepared."""
        return dataset

    def _send_telemetry(self) -> None:
        """Sends nothing."""


def build_library_trainer(
    kind: str, evaluator: PlaitTrainer, processor: Any, bases: Sequence[type], **arguments: Any
) -> Any:
    """Builds TRL's trainer `kind`, with the methods of `bases` and LibraryTraining before its own.

    evaluator: see LibraryTraining; processor: the one that is saved; arguments: of TRL's trainer.

    Raises RecipeError for what it refuses.
    """
    library: Any = require_trl(kind)
    of_library = getattr(library, f"{kind}Trainer")
    made = type(f"Plait{kind}Trainer", (*bases, of_library), {"evaluator": evaluator, "saved_processor": processor})
    try:
        return made(**arguments)
    except ValueError as error:
        raise RecipeError(f"training: {to_one_line(error)}") from error
