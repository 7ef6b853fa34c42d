"""The trainer of a model of several tasks."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils.data import Sampler

from ..tasks.collator import PlaitDataCollator
from ..trainer.trainer import PlaitTrainer
from .model import MultiTaskModel
from .sampler import TaskBatchSampler


class TaskCollator:
    """Builds a batch of one task's rows, as the keyword arguments of a `MultiTaskModel`."""

    def __init__(self, collators: Mapping[str, PlaitDataCollator]) -> None:
        self.collators = dict(collators)

    def __call__(self, rows: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        task = rows[0][0]
        # tensors first: the Trainer takes the number of rows from the first value
        return {**self.collators[task].build_training_batch([row for _, row in rows]), "task": task}

    def set_epoch(self, number: int) -> None:
        """Sets the epoch that the random choices of all collators depend on."""
        for collator in self.collators.values():
            collator.set_epoch(number)


class MultiTaskTrainer(PlaitTrainer):
    """A PlaitTrainer whose batches are of one task each (`TaskBatchSampler`), and which evaluates the tasks one by one.

    evaluators: by task, a PlaitTrainer that evaluates its model; temperature: of `compute_task_shares`. Each metric is
    named after its task ("answers_accuracy"); `loss` is the weighted sum of the tasks' losses.
    """

    model: MultiTaskModel

    def __init__(self, *args: Any, evaluators: Mapping[str, PlaitTrainer], temperature: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.evaluators, self.temperature = dict(evaluators), temperature

    def name_rows(self, rows: list[int]) -> str:
        """Returns a text that names rows of all tasks by their numbers among their task's."""
        data: Any = self.train_dataset
        return super().name_rows([row - data.starts[data.names[row]] for row in rows])

    def _build_batch_sampler(self) -> Sampler[list[int]]:
        data: Any = self.train_dataset
        rows = self.args.per_device_train_batch_size
        processes = (self.args.world_size, self.args.process_index)
        return TaskBatchSampler(data, rows, self.temperature, self._seed, self._get_epoch, *processes)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluates every task on its own rows of `eval_dataset` (a `TaskRows`) and returns all metrics."""
        data: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        scores, losses = {}, []
        self.model.eval()  # each evaluator switches only its head to evaluation
        with self._use_average():
            for task, rows in data.parts.items():
                found = self.evaluators[task].evaluate(rows, metric_key_prefix=metric_key_prefix)
                named = {name.removeprefix(f"{metric_key_prefix}_"): value for name, value in found.items()}
                losses.append(self.model.weights[task] * named["loss"])
                scores |= {f"{metric_key_prefix}_{task}_{name}": named[name] for name in named if name != "epoch"}
        scores[f"{metric_key_prefix}_loss"] = sum(losses)
        self.log(scores)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, scores)
        return scores
