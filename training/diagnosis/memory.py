"""Estimates the memory of training: weights, gradients, optimizer, and activations measured on a few rows."""

import time
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import nn

from ..data.media import NumberedRows
from ..data.samplers import TokenBatchSampler
from ..optimization.arguments import MUON
from .findings import Finding
from .live_bytes import LiveBytes
from .machine import read_device_memory
from .subject import BuiltSubject, attach_model

MEMORY_CHECK = "memory"
MEASURED_ROWS = 16  # of the batch whose activations are measured
# bytes of optimizer state for each byte of float32 weights that is trained
OPTIMIZER_STATES = {"8bit": 0.5, "sgd": 0.0, "rmsprop": 1.0, "adagrad": 1.0, "lion": 1.0, "adafactor": 0.1, "adam": 2.0}
ROOM = 0.9  # share of the free memory that a training may fill


class MemoryEstimate(NamedTuple):
    """Bytes. program: of the process without the training; activations: of a whole batch; rows: of the batch;
    seconds_per_row: that measuring them took this thread."""

    program: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    caches: int
    rows: int
    seconds_per_row: float

    @property
    def total(self) -> int:
        """All together, as at the largest moment of a step."""
        return self.program + self.weights + self.gradients + self.optimizer + self.activations + self.caches


def check_memory(subject: BuiltSubject, facts: dict[str, Any]) -> Iterator[Finding]:
    """Yields the estimate beside what the device has: an error if it is more than the device has at all."""
    estimate, device = estimate_memory(subject), read_device_memory(subject.args.device)
    facts["memory"] = {**estimate._asdict(), "total": estimate.total, "device": device._asdict()}
    line = f"about {format_bytes(estimate.total)} in training"
    shown = ("program", "weights", "gradients", "optimizer", "activations", "caches")
    sizes = [f"{name} {format_bytes(getattr(estimate, name))}" for name in shown if getattr(estimate, name)]
    line += f" ({', '.join(sizes)} of {estimate.rows} rows); {device.name} has {format_bytes(device.total)}"
    line += f", {format_bytes(device.free)} of it free"
    remedy = "lower per_device_train_batch_size (and raise gradient_accumulation_steps), or set gradient_checkpointing"
    if estimate.total > device.total:
        yield Finding(MEMORY_CHECK, "error", line, remedy)
    elif estimate.total - device.used > ROOM * device.free:  # what the process does not hold yet
        yield Finding(MEMORY_CHECK, "warning", line, f"free memory, or {remedy}")
    else:
        yield Finding(MEMORY_CHECK, "ok", line)


def estimate_memory(subject: BuiltSubject) -> MemoryEstimate:
    """Estimates the largest memory of a training step; activations are those of `MEASURED_ROWS` rows, scaled to the
    rows of a batch (with rows in the order of the trainer's own sampler)."""
    args, model = subject.args, subject.trained
    weights = sum(parameter.nbytes for parameter in model.parameters())
    trained = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    device = read_device_memory(args.device)
    program = max(0, device.used - weights)
    averages = trained if args.average_decay is not None else 0
    rows = choose_batch(subject)
    measured = rows[: max(1, min(MEASURED_ROWS, len(rows)))]
    start = time.thread_time()
    few = measure_activations(subject, measured)
    seconds = (time.thread_time() - start) / max(1, len(measured))
    whole = few * len(rows) // max(1, len(measured))
    return MemoryEstimate(
        program,
        weights,
        trained,
        int(trained * find_state_share(args.optim)) + averages,
        whole,
        int(args.image_cache * 2**30),
        len(rows),
        seconds,
    )


def choose_batch(subject: BuiltSubject) -> list[int]:
    """Returns the numbers of the rows of a training batch, as the trainer's sampler chooses them."""
    rows = len(subject.rows.train or [])
    if subject.args.tokens_per_batch is not None:
        lengths = subject.trainer._count_tokens(subject.rows.train)
        batches = TokenBatchSampler(lengths, subject.args.tokens_per_batch, subject.args.seed, lambda: 0)
        return subject.drop_unreadable(max(islice(iter(batches), 20), key=len))
    is_ordered = subject.name or subject.recipe.data.stream is not None  # by no sampler of the trainer
    sampler: Any = range(rows) if is_ordered else subject.trainer._get_train_sampler()
    return list(islice(subject.drop_unreadable(sampler), subject.args.train_batch_size))


def measure_activations(subject: BuiltSubject, numbers: list[int]) -> int:
    """Measures the bytes that live at once in a forward and a backward pass of some rows, without the gradients of the
    weights."""
    batch = build_rows_batch(subject, numbers)
    with attach_model(subject) as whole:
        model: nn.Module = subject.trained if not subject.name else whole
        was_training = model.training
        model.train()
        handles = [p.register_post_accumulate_grad_hook(drop_gradient) for p in model.parameters() if p.requires_grad]
        try:
            return measure_pass(subject, model, batch)
        finally:
            for handle in handles:
                handle.remove()
            model.zero_grad(set_to_none=True)
            model.train(was_training)


def measure_pass(subject: BuiltSubject, model: nn.Module, batch: dict[str, Any]) -> int:
    """Measures one pass: on a GPU by its allocator, else by the storages that live."""
    is_cuda, checkpoints = subject.args.device.type == "cuda", subject.args.gradient_checkpointing
    inner: Any = model
    if checkpoints:
        inner.gradient_checkpointing_enable(subject.args.gradient_checkpointing_kwargs)
    if is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    counter = LiveBytes([*model.parameters(), *model.buffers()])
    with subject.trainer.compute_loss_context_manager(), counter:
        loss = model(**batch).loss
        if loss.requires_grad:
            loss.backward()
    if checkpoints:
        inner.gradient_checkpointing_disable()
    return torch.cuda.max_memory_allocated() - before if is_cuda else counter.peak


def build_rows_batch(subject: BuiltSubject, numbers: list[int]) -> dict[str, Any]:
    """Builds a training batch of rows of the training split, on the device of the training."""
    train: Any = subject.rows.train
    rows = NumberedRows([train[number] for number in numbers], numbers)
    batch = subject.collator.build_training_batch(rows)
    return subject.trainer._prepare_inputs(batch)


def drop_gradient(parameter: torch.Tensor) -> None:
    """Frees the gradient of a weight as soon as it is made."""
    parameter.grad = None


def find_state_share(optim: Any) -> float:
    """Returns the bytes of the optimizer's state for each byte of trained weights; as of Adam if it is not known."""
    name = str(getattr(optim, "value", optim))
    if name == MUON:
        return 1.2  # one momentum for matrices, two for the rest
    return next((share for key, share in OPTIMIZER_STATES.items() if key in name), 2.0)


def format_bytes(count: float) -> str:
    """Returns a number of bytes in MB or GB."""
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.0f} MB"
