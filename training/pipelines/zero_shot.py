"""Classification by labels in words, without training: of texts, images and audio clips."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...modeling.tasks.retrieval_encoding import encode_label_texts, encode_rows, list_strings
from ..data.media import Row
from .calls import build_call_rows, has_list
from .class_scores import ClassificationPipeline


class ZeroShotPipeline(ClassificationPipeline):
    """A retrieval model that compares inputs with labels in words; of texts also a classifier of pairs with a class
    "entailment" (Yin et al. 2019, https://arxiv.org/abs/1909.00161).

    Options of a call: `candidate_labels` (a list, or a text with commas between the labels), `hypothesis_template` (a
    text with {} in place of a label, or several, whose vectors are averaged), `multi_label` (of texts: every label for
    itself; needs a classifier of pairs or the sigmoid loss), `batch_size`.
    """

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Returns for a text {"sequence", "labels", "scores"}, for an image or a clip a list of {"label", "score"}, the
        likeliest first; for a list of inputs a list of these.

        Raises:
            TypeError: no `candidate_labels`, or an option that does not exist.
            ValueError: no label, equal labels, a template without {}, or `multi_label` without what it needs.
        """
        options = {**self.options, **options}
        first, *rest = inputs or (None,)
        if rest:
            options["candidate_labels"] = rest[0]
        given = self.collect_arguments(() if first is None else (first,), options)
        labels = split_labels(options.pop("candidate_labels", None))
        rows, listed = build_call_rows(self.spec, given), has_list(self.spec, given)
        scores = self.score_labels(rows, labels, options) if rows else torch.zeros(0, len(labels))
        answers = [self.format_scores(row, labels, values) for row, values in zip(rows, scores, strict=True)]
        return answers if listed else answers[0]

    def score_labels(self, rows: Sequence[Row], labels: list[str], options: dict[str, Any]) -> Tensor:
        """Returns the scores of the labels for each row, (rows, labels)."""
        template = options.pop("hypothesis_template", self.spec.template)
        each, size = bool(options.pop("multi_label", False)), options.pop("batch_size", 8)
        if options:
            raise TypeError(
                f"unknown option {', '.join(options)}: the options are candidate_labels, hypothesis_template, "
                "multi_label, batch_size"
            )
        compute: Callable[..., Tensor] = (
            self.score_entailment if self.task.name == "classification" else self.compare_labels
        )
        return compute(rows, labels, template, each, size)

    def compare_labels(
        self, rows: Sequence[Row], labels: list[str], template: Any, each: bool, batch_size: int
    ) -> Tensor:
        """Compares the vectors of rows and labels: a softmax over the labels, or for a model of the sigmoid loss a
        sigmoid for each."""
        model: Any = self.model
        sigmoid = model.loss.kind == "sigmoid"
        if each and not sigmoid:
            raise ValueError(
                "multi_label needs a model that was trained with the sigmoid loss, or a classifier with a class "
                "'entailment': leave it out"
            )
        modality = str(self.spec.modality)
        classes = encode_label_texts(model, labels, self.processor, templates=template, batch_size=batch_size)
        items = [row[modality] for row in rows]
        vectors = encode_rows(model, items, self.processor, modality, batch_size=batch_size, show_progress=False)
        with torch.no_grad():
            logits = model.similarity(vectors.to(model.device), classes.to(model.device)).float().cpu()
        return logits.sigmoid() if sigmoid else logits.softmax(-1)

    def score_entailment(
        self, rows: Sequence[Row], labels: list[str], template: Any, each: bool, batch_size: int
    ) -> Tensor:
        """Computes whether each text entails the sentence about each label: a softmax over the labels, or over
        entailment and contradiction for a label alone."""
        (pattern,) = check_templates(list_strings(template, "template"), most=1)
        pairs = [{"text": row["text"], "text_pair": pattern.format(label)} for row in rows for label in labels]
        logits = torch.cat(list(self.compute_logits(pairs, batch_size, {}))).view(len(rows), len(labels), -1)
        entails = find_entailment(self.model.config.id2label)
        if entails is None:
            raise ValueError(
                f"the classes of the model are {', '.join(self.model.config.id2label.values())}, without 'entailment': "
                "use a retrieval model, or a classifier of natural language inference"
            )
        contradicts = logits.shape[-1] - 1 if entails == 0 else 0
        if each or len(labels) == 1:
            return logits[..., [contradicts, entails]].softmax(-1)[..., 1]
        return logits[..., entails].softmax(-1)

    def format_scores(self, row: Row, labels: list[str], scores: Tensor) -> Any:
        """Returns the labels of a row, the likeliest first, in the form of transformers' pipeline of this name."""
        order = scores.argsort(descending=True, stable=True).tolist()
        ranked = [(labels[number], float(scores[number])) for number in order]
        if self.spec.key == "labels":
            return {
                "sequence": row["text"],
                "labels": [label for label, _ in ranked],
                "scores": [score for _, score in ranked],
            }
        return [{"label": label, "score": score} for label, score in ranked]


def split_labels(given: Any) -> list[str]:
    """Returns the labels of a call: of one text those between its commas.

    Raises TypeError without labels, or for one that is not a string; ValueError for none, or equal ones.
    """
    if given is None:
        raise TypeError("missing candidate_labels: pass a list of labels in words")
    labels = [label.strip() for label in given.split(",")] if isinstance(given, str) else list_strings(given, "label")
    labels = [label for label in labels if label]
    if not labels or len(set(labels)) < len(labels):
        raise ValueError(f"candidate_labels must be one or more labels that differ, got {labels}")
    return labels


def check_templates(templates: list[str], most: int) -> list[str]:
    """Returns the templates. Raises ValueError for none or too many, or one without {}."""
    if not 1 <= len(templates) <= most or any("{}" not in template for template in templates):
        raise ValueError(f"hypothesis_template is {templates}: pass {most} with {{}} in place of the label")
    return templates


def find_entailment(id2label: Mapping[Any, str]) -> int | None:
    """Returns the number of the class "entailment"; None without one."""
    return next((int(number) for number, name in id2label.items() if str(name).lower().startswith("entail")), None)
