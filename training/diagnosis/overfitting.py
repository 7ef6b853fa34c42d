"""Trains a copy of the model on a single batch: a model that cannot learn even that has a fault."""

import copy
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.trainer_utils import unwrap_peft_model

from ...modeling.backbone.parts import group_parameters_by_part
from ..data.labels import MULTI, REGRESSION, SINGLE
from ..data.samplers import shuffle_indices
from .findings import Finding, count_of, name_some
from .machine import read_device_memory
from .memory import build_rows_batch
from .parts import list_fresh_parts
from .subject import BuiltSubject, attach_model

OVERFITTING_CHECK = "one batch"
OVERFIT_ROWS = 8
OVERFIT_STEPS, OVERFIT_SECONDS = 120, 15.0  # of this thread, not of a busy machine
FRESH_RATE, PRETRAINED_RATE = 2e-3, 1e-4  # of Adam, or the recipe's own if it is higher
LEARNED, LEARNED_SHARE = 0.05, 0.1  # a loss below the first, or below this share of the loss before, is learned
MOVED = 0.9  # share of the loss before, above which the model has hardly learned


class Overfit(NamedTuple):
    """first, last: the loss before and after; steps; right: share of the labels that are right at the end (None: the
    task has no single labels); is_finite: whether the loss stayed a number; is_over: whether all steps were made."""

    first: float
    last: float
    steps: int
    right: float | None
    is_finite: bool
    is_over: bool = True

    @property
    def is_learned(self) -> bool:
        """Returns whether the batch is known by heart."""
        return self.right == 1.0 or self.last < LEARNED or self.last < LEARNED_SHARE * self.first


def check_one_batch(subject: BuiltSubject, facts: dict[str, Any]) -> Iterator[Finding]:
    """Yields whether a copy of the model learns a batch of `OVERFIT_ROWS` rows; why not, if that is known."""
    contradicting = facts.get("contradicting") or []
    with attach_model(subject) as whole:
        model: Any = subject.trained if not subject.name else whole
        if not learns_anything(subject, model):
            message = "nothing to try: every part is frozen or has a learning rate of 0"
            yield Finding(OVERFITTING_CHECK, "error", message, "train a part: see the lines about parts and settings")
            return
        needed = 4 * sum(parameter.nbytes for parameter in model.parameters())
        device = read_device_memory(subject.args.device)
        if needed > device.free:
            yield Finding(
                OVERFITTING_CHECK,
                "ok",
                f"not tried: a copy of the model and its optimizer do not fit into {device.free / 2**30:.1f} GB",
            )
            return
        numbers = choose_rows(subject)[: choose_row_count(subject, facts)]
        result = overfit(subject, model, numbers)
    facts["one_batch"] = {**result._asdict(), "rows": numbers}
    yield judge_overfit(result, numbers, contradicting)


def learns_anything(subject: BuiltSubject, model: nn.Module) -> bool:
    """Returns whether a part is trained at a rate above 0."""
    rates = subject.args.part_rates
    parts = group_parameters_by_part(model).items()
    return any(
        rates.get(part, subject.args.learning_rate) and any(parameter.requires_grad for parameter in own.values())
        for part, own in parts
    )


def choose_row_count(subject: BuiltSubject, facts: dict[str, Any]) -> int:
    """Returns the number of rows: fewer if a row takes long, by the time that measuring the memory took for one."""
    seconds = facts.get("memory", {}).get("seconds_per_row", 0.0)
    return max(2, min(OVERFIT_ROWS, int(OVERFIT_SECONDS / 30 / seconds) if seconds else OVERFIT_ROWS))


def choose_rows(subject: BuiltSubject) -> list[int]:
    """Returns the numbers of up to OVERFIT_ROWS training rows: random ones, of as many classes as there are."""
    train: Any = subject.rows.train
    order = subject.drop_unreadable(shuffle_indices(len(train), subject.recipe.seed))
    size = min(OVERFIT_ROWS, len(train))
    labels = subject.data.labels
    if labels is None or labels.problem_type != SINGLE or len(train) != len(subject.train):
        return order[:size]
    values = train["label"][:]
    known = [n for n in order if values[n] >= 0]
    first = {values[n]: n for n in reversed(known)}  # the first row of each class in the random order
    chosen = list(first.values())[:size]
    return (chosen + [n for n in known if n not in set(chosen)])[:size]


def overfit(subject: BuiltSubject, model: nn.Module, numbers: Sequence[int]) -> Overfit:
    """Trains a copy of the model on one batch. Every step draws the same random numbers, so that dropout, noise and
    masks are the same too."""
    batch = build_rows_batch(subject, list(numbers))
    copied: Any = copy.deepcopy(model).train()
    optimizer = torch.optim.AdamW(build_rate_groups(subject, copied), weight_decay=0.0)
    start, first, result = time.thread_time(), None, Overfit(0.0, 0.0, 0, None, True)
    for step in range(OVERFIT_STEPS):
        torch.manual_seed(subject.args.seed)
        with subject.trainer.compute_loss_context_manager():
            outputs = copied(**batch)
        loss = outputs.loss
        first = loss.item() if first is None else first
        is_finite = bool(torch.isfinite(loss))
        result = Overfit(first, loss.item(), step, measure_right(subject, outputs, batch), is_finite)
        if result.is_learned or not is_finite or not loss.requires_grad:
            break
        if time.thread_time() - start > OVERFIT_SECONDS:
            return result._replace(is_over=False)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(copied.parameters(), 1.0)
        optimizer.step()
    return result


def build_rate_groups(subject: BuiltSubject, model: nn.Module) -> list[dict[str, Any]]:
    """Returns groups for the optimizer: the rates that learn quickly, or those of the recipe if they are higher. Parts
    with a rate of 0 stay as they are."""
    args, fresh = subject.args, list_fresh_parts(unwrap_peft_model(model))
    groups = []
    for part, parameters in group_parameters_by_part(model).items():
        rate = args.part_rates.get(part, args.learning_rate)
        trained = [parameter for parameter in parameters.values() if parameter.requires_grad and rate]
        quick = FRESH_RATE if part in fresh or subject.recipe.lora is not None else PRETRAINED_RATE
        groups.append({"params": trained, "lr": max(rate, quick)})
    return [group for group in groups if group["params"]] or [{"params": list(model.parameters()), "lr": 0.0}]


def measure_right(subject: BuiltSubject, outputs: Any, batch: dict[str, Any]) -> float | None:
    """Returns the share of right labels of a classifier, or of right tokens of a model that generates; None for
    others."""
    labels, logits = batch.get("labels"), getattr(outputs, "logits", None)
    spec = subject.data.labels
    if spec is None or labels is None or logits is None or spec.problem_type == REGRESSION:
        return None
    if spec.problem_type == MULTI:
        known = labels >= 0
        return float(((logits > 0) == (labels > 0.5))[known].float().mean())
    known = labels >= 0
    return float((logits.argmax(-1) == labels)[known].float().mean())


def judge_overfit(result: Overfit, numbers: Sequence[int], contradicting: Sequence[Sequence[int]]) -> Finding:
    """Returns the line about the training on one batch, with the cause if it is known."""
    rows = count_of(numbers, "row")
    line = f"{rows}: loss {result.first:.4g} -> {result.last:.4g} in {count_of(result.steps, 'step')}"
    line += "" if result.right is None else f", {result.right:.0%} right"
    if not result.is_finite:
        return Finding(
            OVERFITTING_CHECK,
            "error",
            f"{line}: the loss is no longer a number",
            "lower the learning rate; look for targets or inputs that are far out",
        )
    if result.is_learned:
        return Finding(OVERFITTING_CHECK, "ok", f"a copy of the model learns {line}")
    clash = [group for group in contradicting if len(set(group) & set(numbers)) > 1]
    if clash:
        return Finding(
            OVERFITTING_CHECK,
            "error",
            f"a copy of the model cannot learn {line}: rows {name_some(clash[0])} have equal inputs and other labels",
            "correct the labels, or map the column that tells the rows apart",
        )
    if not result.is_over and result.last < MOVED * result.first:
        return Finding(OVERFITTING_CHECK, "ok", f"a copy of the model is learning {line}, where the time was up")
    level = "error" if result.last > MOVED * result.first else "warning"
    return Finding(
        OVERFITTING_CHECK,
        level,
        f"a copy of the model does not learn {line}",
        "is what the label depends on among the inputs, and are the parts that read it trained? Look at the rows that "
        "--output shows",
    )
