"""Classification of texts, images, audio clips and videos, with the answers of transformers' pipelines."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..data.labels import MULTI, REGRESSION, read_config_labels
from ..data.media import Row
from ..recipes.schema import Recipe
from ..tasks.base import move_to_device
from ..tasks.collator import PlaitDataCollator
from .calls import build_call_rows, has_list
from .inference import InferencePipeline

SCORE_FUNCTIONS = {
    "sigmoid": torch.sigmoid,
    "softmax": lambda logits: logits.softmax(-1),
    "none": lambda logits: logits,
}
MEDIA_TOP_K = 5  # classes of an image, a clip or a video, if a call does not say how many


class ClassificationPipeline(InferencePipeline):
    """A classifier that is called with inputs of one modality.

    Options of a call: `top_k` (the number of classes, the likeliest first; None: all), `function_to_apply` ("softmax",
    "sigmoid" or "none"; default: by the model's problem type), `max_length`, `batch_size`. A text without `top_k` gets
    its likeliest class alone.
    """

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Returns a list of {"label", "score"}: of a single text its class, or the `top_k` classes; of a list of texts
        one class each; of an image, a clip or a video its classes. Lists of inputs with several classes each give a
        list of lists.

        Raises:
            TypeError, ValueError: an input that cannot be read, or an option that does not exist.
        """
        given = self.collect_arguments(inputs, options)
        options = {**self.options, **options}
        rows, listed = build_call_rows(self.spec, given), has_list(self.spec, given)
        alone = self.spec.modality == "text" and "top_k" not in options
        top_k = options.pop("top_k", 1 if alone else MEDIA_TOP_K)
        ranked = self.rank_rows(rows, top_k, options)
        if alone:
            return [classes[0] for classes in ranked]
        return ranked if listed else ranked[0]

    def rank_rows(self, rows: Sequence[Row], top_k: int | None, options: dict[str, Any]) -> list[list[dict[str, Any]]]:
        """Returns the classes of each row, the likeliest first."""
        if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
            raise ValueError(f"top_k is {top_k}: pass a whole number, 1 or more, or None for all classes")
        names = name_outputs(self.model)
        found = []
        for scores in self.score_rows(rows, options):
            order = scores.argsort(descending=True, stable=True).tolist()[:top_k]
            found.append([{"label": names[number], "score": float(scores[number])} for number in order])
        return found

    def score_rows(self, rows: Sequence[Row], options: dict[str, Any]) -> Iterator[Tensor]:
        """Yields the scores of each row, (labels,)."""
        size, name = options.pop("batch_size", 8), options.pop("function_to_apply", None)
        kind = read_config_labels(self.model.config).problem_type
        name = name or ("none" if kind == REGRESSION else "sigmoid" if kind == MULTI else "softmax")
        if name not in SCORE_FUNCTIONS:
            raise ValueError(f"function_to_apply is {name!r}: choose from {', '.join(SCORE_FUNCTIONS)}")
        for logits in self.compute_logits(rows, size, options):
            yield from SCORE_FUNCTIONS[name](logits)

    def compute_logits(self, rows: Sequence[Row], batch_size: int, options: dict[str, Any]) -> Iterator[Tensor]:
        """Yields the logits of each batch, (rows, labels), on the CPU."""
        run = self.run if self.run is not None and self.run.task == self.task.name else Recipe(task=self.task.name)
        length = options.pop("max_length", run.max_length)
        if options:
            raise TypeError(
                f"unknown option {', '.join(options)}: the options are top_k, function_to_apply, max_length, batch_size"
            )
        collator = PlaitDataCollator(self.processor, task=self.task, max_length=length)
        model: Any = self.model
        for start in range(0, len(rows), batch_size):
            inputs = move_to_device(collator.encode_inputs(rows[start : start + batch_size]), self.model)
            with torch.no_grad():
                yield model(**inputs).logits.float().cpu()


def name_outputs(model: Any) -> list[str]:
    """Returns the names of a classifier's outputs, of numbers too."""
    names = {int(number): name for number, name in (model.config.id2label or {}).items()}
    return [names[number] for number in sorted(names)] or ["LABEL_0"]
