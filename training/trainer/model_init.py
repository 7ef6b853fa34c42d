"""Trainers whose model is built anew for each training (`model_init`), as in a hyperparameter search."""

from typing import Any

from torch import nn
from transformers import Trainer, TrainerCallback, set_seed

from ..optimization.arguments import PlaitTrainingArguments
from ..optimization.gradient_modulation import GradientModulation
from ..optimization.loss import build_loss
from ..optimization.target_scale import fit_target_scale
from ..optimization.weight_averaging import WeightAveraging
from ..parameters import freeze
from .callbacks import DecoderTokensCallback
from .loss_log import build_loss_log


def choose_model(trainer: Any, model: nn.Module | None, model_init: Any, args: PlaitTrainingArguments) -> nn.Module:
    """Returns the model that a trainer begins with: `model`, or that which `model_init` builds from the seed.

    Raises ValueError unless exactly one of the two is given.
    """
    if (model is None) == (model_init is None):
        raise ValueError("PlaitTrainer needs either a model or a model_init that builds one: pass exactly one of them")
    if model is None:
        set_seed(args.seed)
        trainer.model_init = model_init
        model = Trainer.call_model_init(trainer)
    return model


def build_model_callbacks(
    model: nn.Module, args: PlaitTrainingArguments
) -> tuple[WeightAveraging | None, GradientModulation | None]:
    """Builds the callbacks that belong to one model, as far as the arguments ask for them."""
    averaging = None
    if args.average_decay is not None:
        averaging = WeightAveraging(model, args.average_decay, args.average_warmup)
    if args.ogm_alpha is None:
        return averaging, None
    return averaging, GradientModulation(model, args.ogm_alpha, args.ogm_noise, args.seed)


def adopt_model(trainer: Any, model: nn.Module) -> None:
    """Does for a new model what the trainer did for its first one: freezes parts, builds its loss, its logs and the
    callbacks that belong to it, and stores its special tokens."""
    freeze(model, trainer.args.frozen)
    fit_target_scale(model, trainer.train_dataset)
    trainer.compute_loss_func = build_loss(model, trainer.args, trainer.train_dataset, trainer.given_loss)
    trainer.loss_log = build_loss_log(model)
    before: tuple[TrainerCallback | None, ...] = (trainer.weight_averaging, trainer.gradient_modulation)
    trainer.weight_averaging, trainer.gradient_modulation = build_model_callbacks(model, trainer.args)
    for old, new in zip(before, (trainer.weight_averaging, trainer.gradient_modulation), strict=True):
        if old is not None:
            trainer.remove_callback(old)
        if new is not None:
            trainer.add_callback(new)
    tokens: DecoderTokensCallback = trainer.decoder_tokens
    if tokens.stored_tokens:
        tokens.store_tokens(model)  # pyright: ignore[reportArgumentType]
