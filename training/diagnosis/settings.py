"""Checks of settings that `plait train` accepts, and with which training silently goes wrong."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from transformers.trainer_utils import IntervalStrategy

from ...modeling.backbone.parts import group_parameters_by_part
from ...modeling.tasks.pretraining import PlaitForPreTraining
from ...modeling.tasks.retrieval import PlaitForRetrieval
from ..metrics.direction import GREATER_IS_BETTER, LOWER_IS_BETTER, is_greater_better
from .findings import Finding, count_of, name_some
from .subject import BuiltSubject, attach_model

SETTINGS_CHECK = "settings"
ADAM_LIKE = ("adam", "lamb", "lion", "ademamix")
HIGH_PRETRAINED, HIGH_FRESH, LOW_FRESH = 5e-4, 3e-2, 1e-6  # learning rates of Adam
FEW_NEGATIVES = 8  # rows of a contrastive batch
FEW_STEPS = 10


class Plan(NamedTuple):
    """How long the training is: rows of an optimizer step, steps of an epoch, and steps in all."""

    rows: int
    epoch_steps: int
    steps: int


def check_settings(subject: BuiltSubject, facts: dict[str, Any]) -> Iterator[Finding]:
    """Yields what is odd about learning rates, the length of training, evaluation and batches."""
    plan = plan_steps(subject)
    facts["plan"] = plan._asdict()
    found = [
        *check_rates(subject),
        *(check_training_length(subject, plan) if subject.recipe.data.stream is None else ()),
        *check_evaluations(subject, plan),
        *check_batches(subject),
        *check_regularization(subject, plan),
    ]
    if all(finding.level == "ok" for finding in found):
        epochs = f"{plan.steps / plan.epoch_steps:.3g} epochs"
        if subject.recipe.data.stream is not None:
            epochs = f"a stream, of which the first {len(subject.train):,} rows are examined"
        yield Finding(SETTINGS_CHECK, "ok", f"{plan.steps:,} steps of {plan.rows} rows, {epochs}")
    yield from found


def plan_steps(subject: BuiltSubject) -> Plan:
    """Computes the length of the training from its arguments, as the Trainer does."""
    args, count = subject.args, len(subject.rows.train or [])
    batch = args.train_batch_size * args.world_size
    batches = math.floor(count / batch) if args.dataloader_drop_last else math.ceil(count / batch)
    if args.tokens_per_batch is not None and subject.recipe.data.stream is None:
        batches = len(subject.trainer.get_train_dataloader())
    steps = max(1, math.ceil(max(1, batches) / args.gradient_accumulation_steps))
    whole = args.max_steps if args.max_steps > 0 else math.ceil(steps * args.num_train_epochs)
    return Plan(batch * args.gradient_accumulation_steps, steps, whole)


def is_adam(subject: BuiltSubject) -> bool:
    """Returns whether the optimizer takes steps of the size of its learning rate, so that usual rates are known."""
    return any(name in str(getattr(subject.args.optim, "value", subject.args.optim)) for name in ADAM_LIKE)


def check_rates(subject: BuiltSubject) -> Iterator[Finding]:
    """Yields learning rates beyond the usual, for pretrained and for new parts."""
    args = subject.args
    with attach_model(subject) as model:
        rows = {row.part: row for row in model.composition().rows}
        trained = [
            part
            for part, own in group_parameters_by_part(model).items()
            if any(parameter.requires_grad for parameter in own.values())
        ]
    rates = {part: args.part_rates.get(part, args.learning_rate) for part in trained}
    if rates and not any(rates.values()):
        yield Finding(
            SETTINGS_CHECK,
            "error",
            "the learning rate is 0: nothing is learned",
            "set training.learning_rate, such as 5e-5 (pretrained parts) or 1e-3 (new ones)",
        )
        return
    if not is_adam(subject) or subject.recipe.lora is not None:
        return
    pretrained = {part for part, row in rows.items() if row.fresh < row.parameters and row.origin != "fresh"}
    for part, rate in rates.items():
        if part in pretrained and rate > HIGH_PRETRAINED:
            yield Finding(
                SETTINGS_CHECK,
                "warning" if rate < HIGH_FRESH else "error",
                f"{part} is pretrained and has a learning rate of {rate:g}: it forgets what it knows",
                f"set training.learning_rates.{part} to 1e-5 .. 1e-4, or freeze it",
            )
        elif part not in pretrained and not LOW_FRESH <= rate <= HIGH_FRESH:
            side = "high" if rate > HIGH_FRESH else "low"
            yield Finding(
                SETTINGS_CHECK,
                "warning",
                f"{part} is new and has a learning rate of {rate:g}, which is very {side}",
                f"set training.learning_rates.{part} or training.learning_rate to about 1e-3",
            )


def check_training_length(subject: BuiltSubject, plan: Plan) -> Iterator[Finding]:
    """Yields contradictions between epochs, steps, warmup and the number of rows."""
    args = subject.args
    given = subject.recipe.training.get("num_train_epochs")
    if args.max_steps > 0 and given is not None:
        epochs = args.max_steps / plan.epoch_steps
        yield Finding(
            SETTINGS_CHECK,
            "warning",
            f"max_steps {args.max_steps} overrides num_train_epochs {given}: {epochs:.2g} epochs are trained",
            "leave one of the two out",
        )
    elif args.max_steps > 0 and plan.steps < plan.epoch_steps:
        yield Finding(
            SETTINGS_CHECK,
            "warning",
            f"max_steps {args.max_steps} ends before the first of {plan.epoch_steps:,} "
            "steps of an epoch is over: some rows are never seen",
            "raise max_steps, or set num_train_epochs in its place",
        )
    elif plan.steps < FEW_STEPS:
        yield Finding(
            SETTINGS_CHECK,
            "warning",
            f"the training has {count_of(plan.steps, 'step')} of {plan.rows} rows",
            "lower per_device_train_batch_size or gradient_accumulation_steps, or train more epochs",
        )
    warmup = args.get_warmup_steps(plan.steps)
    if warmup >= plan.steps:
        yield Finding(
            SETTINGS_CHECK,
            "error",
            f"warmup takes {warmup} steps, and the training has {plan.steps}: the learning "
            "rate never reaches its value",
            "lower training.warmup_steps (0.1 means a tenth), or train longer",
        )


def check_evaluations(subject: BuiltSubject, plan: Plan) -> Iterator[Finding]:
    """Yields evaluations that never happen, and a best model that is chosen the wrong way round."""
    args = subject.args
    strategies = {"eval_steps": args.eval_strategy, "save_steps": args.save_strategy}
    for name, strategy in strategies.items():
        every: Any = getattr(args, name)
        interval = math.ceil(every * plan.steps) if every and every < 1 else every
        if strategy == IntervalStrategy.STEPS and interval and interval > plan.steps:
            level = "error" if args.load_best_model_at_end else "warning" if name == "eval_steps" else "ok"
            if level != "ok":
                yield Finding(
                    SETTINGS_CHECK,
                    level,
                    f"{name} is {interval}, and the training has {plan.steps} steps: none is made during training",
                    f"lower training.{name}, or set the strategy to epoch",
                )
    yield from check_best_direction(subject)
    if args.early_stopping_patience is not None and args.eval_strategy == IntervalStrategy.EPOCH:
        evaluations = round(plan.steps / plan.epoch_steps)
        if args.early_stopping_patience >= evaluations:
            yield Finding(
                SETTINGS_CHECK,
                "ok",
                f"early_stopping_patience {args.early_stopping_patience} never stops a training "
                f"of {count_of(evaluations, 'evaluation')}",
            )


def check_best_direction(subject: BuiltSubject) -> Iterator[Finding]:
    """Yields an error for a best model that is the worst: `greater_is_better` against the metric's own direction."""
    args, name = subject.args, subject.args.metric_for_best_model
    if name is None or not args.load_best_model_at_end:
        return
    ending = name.split("_")[-1]
    known = name.removeprefix("eval_") in LOWER_IS_BETTER | GREATER_IS_BETTER or ending in LOWER_IS_BETTER
    if known and args.greater_is_better is not None and args.greater_is_better != is_greater_better(name):
        right = is_greater_better(name)
        yield Finding(
            SETTINGS_CHECK,
            "error",
            f"greater_is_better is {args.greater_is_better} for {name}: the worst checkpoint would be kept",
            f"leave training.greater_is_better out, or set it to {right}",
        )


def check_batches(subject: BuiltSubject) -> Iterator[Finding]:
    """Yields contrastive batches with few negatives, and batches of one row."""
    args, count = subject.args, len(subject.rows.train or [])
    if not isinstance(subject.model, PlaitForRetrieval | PlaitForPreTraining):
        return
    if isinstance(subject.model, PlaitForPreTraining) and not is_contrastive(subject):
        return
    batch = min(args.train_batch_size, count)
    if batch == 1:
        yield Finding(
            SETTINGS_CHECK,
            "error",
            "a contrastive batch has 1 row, which has no other to tell apart: the loss is 0",
            "raise training.per_device_train_batch_size, to 64 or more",
        )
    elif batch < FEW_NEGATIVES:
        yield Finding(
            SETTINGS_CHECK,
            "warning",
            f"a contrastive batch has {batch} rows: {batch - 1} negatives a row teach little",
            "raise training.per_device_train_batch_size, to 64 or more (gradient_cache_rows keeps the memory)",
        )
    elif count % args.train_batch_size == 1 and not args.dataloader_drop_last:
        yield Finding(SETTINGS_CHECK, "ok", "the last batch of an epoch has 1 row, whose contrastive loss is 0")


def is_contrastive(subject: BuiltSubject) -> bool:
    """Returns whether pretraining has the contrastive objective."""
    objectives = subject.collator.settings.objectives
    return "contrastive" in objectives


def check_regularization(subject: BuiltSubject, plan: Plan) -> Iterator[Finding]:
    """Yields averages, decays and smoothing so strong that they undo the training."""
    args = subject.args
    decay = args.average_decay
    if decay is not None and not args.average_warmup and 1 / (1 - decay) > plan.steps:
        yield Finding(
            SETTINGS_CHECK,
            "warning",
            f"average_decay {decay} averages {1 / (1 - decay):,.0f} steps, and the training "
            f"has {plan.steps}: what is saved is mostly the initial weights",
            "lower training.average_decay, or leave average_warmup on",
        )
    if args.weight_decay > 0.5:
        yield Finding(
            SETTINGS_CHECK,
            "warning",
            f"weight_decay is {args.weight_decay:g}: weights are drawn to 0",
            "set training.weight_decay to 0.01 .. 0.1",
        )
    if args.label_smoothing_factor > 0.4:
        yield Finding(
            SETTINGS_CHECK,
            "warning",
            f"label_smoothing_factor is {args.label_smoothing_factor:g}: most of the target is noise",
            "set training.label_smoothing_factor to 0.1",
        )
    unused = [
        name
        for name in ("eval_modality_patterns", "early_stopping_patience")
        if subject.recipe.training.get(name) and args.eval_strategy == IntervalStrategy.NO
    ]
    if unused:
        yield Finding(
            SETTINGS_CHECK,
            "warning",
            f"{name_some(unused)} is set, but nothing is evaluated during training",
            "set training.eval_strategy: epoch, or leave it out",
        )
