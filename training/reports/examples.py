"""The examples of a report: rows that were answered right and wrong, with their inputs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..data.labels import MULTI, REGRESSION, SINGLE
from ..data.media import TARGET_IMAGE
from ..metrics.classification import find_known_rows
from ..metrics.retrieval import RetrievalItem
from .answers import TEXTS, Answers, select_evenly
from .inputs import cut_text, show_inputs

WRONG, RIGHT, GENERATED, QUERIES, ANSWERS_SHOWN = 12, 8, 16, 8, 5  # examples of each kind; answers of a query

Example = dict[str, Any]
Group = dict[str, Any]


def choose_examples(
    answers: Answers, rows: Any, labels: Sequence[str], inputs: Sequence[str], before: Sequence[str] = ()
) -> list[Group]:
    """Returns groups of examples, each with a heading and its examples.

    rows: the prepared rows; labels: the class names; inputs: the columns to show; before: the texts that the model
    generated for the rows before it was trained, if they are known.
    """
    if answers.kind == SINGLE:
        return choose_classes(answers, rows, labels, inputs)
    if answers.kind == MULTI:
        return choose_several(answers, rows, labels, inputs)
    if answers.kind == REGRESSION:
        return choose_values(answers, rows, inputs)
    if answers.kind == TEXTS:
        kept = [answers.texts[number] for number in select_evenly(len(answers.texts), GENERATED)]
        shown = [
            {
                **show_row(rows, text.row, inputs),
                **({"before": before[text.row] or "(nothing)"} if before else {}),
                "answer": text.text or "(nothing)",
                "truth": " | ".join(text.references),
            }
            for text in kept
        ]
        return [{"heading": "Generated beside the references, at even distances", "examples": shown}]
    return [
        {
            "heading": "Rows, at even distances",
            "examples": [show_row(rows, number, inputs) for number in select_evenly(len(rows), RIGHT)],
        }
    ]


def show_row(rows: Any, number: int, inputs: Sequence[str]) -> Example:
    """Returns the number and the inputs of a row."""
    row = rows[number]
    return {"row": number, "inputs": show_inputs(row, [name for name in inputs if name in row])}


def choose_classes(answers: Answers, rows: Any, labels: Sequence[str], inputs: Sequence[str]) -> list[Group]:
    """Returns wrong answers, the most confident first, and right ones at even distances."""
    truth, chosen, confidence = (answers.arrays[name] for name in ("truth", "chosen", "confidence"))
    known = find_known_rows(truth, SINGLE)
    wrong, right = np.flatnonzero((truth != chosen) & known), np.flatnonzero((truth == chosen) & known)
    wrong_first = wrong[np.argsort(-confidence[wrong], kind="stable")][:WRONG]
    right_kept = right[select_evenly(len(right), RIGHT)] if len(right) else right
    names = dict(enumerate(labels))

    def show(number: int) -> Example:
        given, real = int(chosen[number]), int(truth[number])
        shown = {"answer": names.get(given, str(given)), "truth": names.get(real, str(real))}
        return {**show_row(rows, number, inputs), **shown, "confidence": float(confidence[number])}

    return [
        {"heading": f"Wrong, the most confident first ({len(wrong):,} of {int(known.sum()):,} rows are wrong)"}
        | {"examples": [show(int(number)) | {"right": False} for number in wrong_first]},
        {"heading": f"Right, at even distances ({len(right):,} rows are right)"}
        | {"examples": [show(int(number)) | {"right": True} for number in right_kept]},
    ]


def choose_several(answers: Answers, rows: Any, labels: Sequence[str], inputs: Sequence[str]) -> list[Group]:
    """Returns rows with the most wrong labels, and rows of which all are right."""
    truth, chosen = answers.arrays["truth"], answers.arrays["chosen"]
    errors = ((truth != chosen) & (truth >= 0)).sum(axis=1)
    worst = np.argsort(-errors, kind="stable")[:WRONG]
    right = np.flatnonzero((errors == 0) & find_known_rows(truth, MULTI))

    def show(number: int) -> Example:
        named = [np.flatnonzero(array[number] == 1).tolist() for array in (chosen, truth)]
        given, real = (", ".join(labels[place] if len(labels) else str(place) for place in found) for found in named)
        return {**show_row(rows, number, inputs), "answer": given or "(none)", "truth": real or "(none)"}

    kept = right[select_evenly(len(right), RIGHT)] if len(right) else right
    return [
        {"heading": "The most wrong labels first"}
        | {"examples": [show(int(number)) | {"right": False} for number in worst if errors[number]]},
        {"heading": f"All labels right, at even distances ({len(right):,} rows)"}
        | {"examples": [show(int(number)) | {"right": True} for number in kept]},
    ]


def choose_values(answers: Answers, rows: Any, inputs: Sequence[str]) -> list[Group]:
    """Returns the largest errors, and rows at even distances."""
    truth = answers.arrays["truth"].reshape(answers.count, -1)
    predicted = np.asarray(answers.arrays["chosen"], dtype=float).reshape(answers.count, -1)
    errors = np.nan_to_num(np.abs(predicted - truth).sum(axis=1), nan=-1.0)

    def show(number: int) -> Example:
        given, real = (" ".join(f"{value:.4g}" for value in array[number]) for array in (predicted, truth))
        return {**show_row(rows, number, inputs), "answer": given, "truth": real}

    return [
        {"heading": "The largest errors first"}
        | {"examples": [show(int(number)) for number in np.argsort(-errors, kind="stable")[:WRONG]]},
        {"heading": "Rows at even distances"}
        | {"examples": [show(number) for number in select_evenly(answers.count, RIGHT)]},
    ]


def choose_queries(
    records: Sequence[Sequence[RetrievalItem]], pair: tuple[str, str], rows: Any, inputs: Sequence[str]
) -> list[Group]:
    """Returns queries of the first side at even distances, each with the ANSWERS_SHOWN nearest items of the other side.

    records: the items of each row, in the order of the rows.
    """
    first, second = pair
    owners: dict[str, int] = {}
    vectors: list[np.ndarray] = []
    relevant: dict[str, set[str]] = {}
    asked: dict[str, tuple[int, np.ndarray]] = {}
    for number, items in enumerate(records):
        for item in items:
            if item.side == second and item.key not in owners:
                owners[item.key] = number
                vectors.append(item.vector)
            if item.side == first:
                asked.setdefault(item.key, (number, item.vector))
                relevant.setdefault(item.key, set()).update(other.key for other in items if other.side == second)
    keys, candidates = list(owners), torch.from_numpy(np.stack(vectors))
    queries = [key for key in asked if relevant[key]]
    shown = []
    for place in select_evenly(len(queries), QUERIES):
        key = queries[place]
        number, vector = asked[key]
        nearest = (candidates @ torch.from_numpy(vector)).topk(min(ANSWERS_SHOWN, len(keys)))
        found = [
            {
                "inputs": show_side(rows, owners[keys[best]], second, inputs),
                "note": f"{score:.3f}{', right' if keys[best] in relevant[key] else ''}",
                "right": keys[best] in relevant[key],
            }
            for score, best in zip(nearest.values.tolist(), nearest.indices.tolist(), strict=True)
        ]
        own = [{"name": first, "text": cut_text(key)}] if first == "text" else show_side(rows, number, first, inputs)
        shown.append({"row": number, "inputs": own, "found": found, "right": any(item["right"] for item in found)})
    heading = f"{first.capitalize()}s and the {ANSWERS_SHOWN} nearest of {len(keys):,} {second}s, with their similarity"
    return [{"heading": heading, "examples": shown}]


def show_side(rows: Any, number: int, side: str, inputs: Sequence[str]) -> list[dict[str, str]]:
    """Returns the inputs of one side of a row."""
    names = [name for name in inputs if name.partition(".")[0] == side]
    return show_inputs(rows[number], [name for name in names if name in rows[number]])


def list_input_columns(columns: Sequence[str], targets: Sequence[str]) -> list[str]:
    """Returns the columns of prepared rows that a reader should see: neither targets nor what only the model reads."""
    hidden = {*targets, "group", "label", "input_ids", "attention_mask", "token_type_ids"}
    shown = [name for name in columns if name not in hidden or name == TARGET_IMAGE]
    return [name for name in shown if not name.startswith(("offset", "special_tokens", "overflow"))]
