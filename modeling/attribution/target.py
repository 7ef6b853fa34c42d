"""The score that an explanation explains: one number for each row."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..losses.cross_entropy import IGNORE_INDEX
from ..tasks.classification import PlaitForClassification
from ..tasks.question_answering import PlaitForQuestionAnswering
from ..tasks.retrieval import PlaitForRetrieval

TargetKind = Literal["class", "value", "tokens", "span", "pair"]
MULTIPLE = "multi_label_classification"


class Target(NamedTuple):
    """What is explained in each row.

    values, by kind: "class": (rows,) class ids; "value": (rows,) numbers of a regressor's outputs; "tokens": (rows,
    length) token ids at the positions that predict them, -100 elsewhere; "span": (rows, 2) first and last token of an
    answer; "pair": (rows, 0).
    """

    kind: TargetKind
    values: Tensor

    def select(self, rows: Tensor | slice) -> "Target":
        """Returns the targets of these rows, which may repeat."""
        return self._replace(values=self.values[rows])


def score(model: Any, inputs: Mapping[str, Any], target: Target) -> Tensor:
    """Computes the score of each row: (rows,), differentiable.

    The unit is nats: the log-probability of a class (of several classes, that the class is one of them), of all tokens
    of a text together, or of an answer's first and last token. A regressor's value is in the target's unit; a pair's
    score is the scaled similarity of the first two sides that a retrieval model is given.

    inputs: the arguments of `forward`, without labels. Raises ValueError for a model that this kind does not fit.
    """
    found = SCORES[target.kind](model, inputs, target)
    if found.shape != target.values.shape[:1]:
        raise ValueError(
            f"the target has {len(target.values)} rows, and the inputs {found.shape[0]}: pass one for each"
        )
    return found


def score_classes(model: PlaitForClassification, inputs: Mapping[str, Any], target: Target) -> Tensor:
    """Computes the log-probability of each row's class."""
    logits = model(**inputs).logits.float()
    multiple = model.config.problem_type == MULTIPLE
    likelihoods = torch.nn.functional.logsigmoid(logits) if multiple else logits.log_softmax(dim=-1)
    return likelihoods.gather(1, target.values[:, None])[:, 0]


def score_values(model: PlaitForClassification, inputs: Mapping[str, Any], target: Target) -> Tensor:
    """Returns the regressor's output of each row, in the target's unit."""
    return model(**inputs).logits.float().gather(1, target.values[:, None])[:, 0]


def score_tokens(model: Any, inputs: Mapping[str, Any], target: Target) -> Tensor:
    """Computes the log-probability of each row's tokens together; only positions from the first target on are read."""
    known = target.values != IGNORE_INDEX
    first = int(known.any(dim=0).int().argmax())
    options: dict[str, Any] = {}
    if model.can_generate():
        options = {"use_cache": False, "logits_to_keep": known.shape[1] - first}
    logits = model(**inputs, **options).logits.float()[:, first - known.shape[1] :]
    likelihoods = logits.log_softmax(dim=-1).gather(2, target.values[:, first:].clamp(min=0)[..., None])[..., 0]
    return likelihoods.masked_fill(~known[:, first:], 0).sum(dim=1)


def score_spans(model: PlaitForQuestionAnswering, inputs: Mapping[str, Any], target: Target) -> Tensor:
    """Computes the log-probability that each row's answer begins and ends where it does."""
    outputs = model(**inputs)
    ends = torch.stack((outputs.start_logits, outputs.end_logits), dim=1).float().log_softmax(dim=-1)
    return ends.gather(2, target.values[..., None])[..., 0].sum(dim=1)


def score_pairs(model: PlaitForRetrieval, inputs: Mapping[str, Any], target: Target) -> Tensor:
    """Computes the scaled similarity of each row's two sides."""
    logits = model(**inputs, return_loss=False).logits
    if logits is None:
        raise ValueError("a pair has two sides, and the inputs hold one: pass both, such as a text and an image")
    return logits.float().diagonal()


SCORES = {
    "class": score_classes,
    "value": score_values,
    "tokens": score_tokens,
    "span": score_spans,
    "pair": score_pairs,
}
