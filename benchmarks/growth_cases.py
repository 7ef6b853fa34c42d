"""The cases of growth.py: what is done at each size, with tiny models and made data."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from growth import Case, Work
from torch.nn import functional as F
from transformers import set_seed

from plait import PlaitForClassification, PlaitForRetrieval, PlaitProcessor
from plait.configuration import PlaitTextConfig, PlaitVisionConfig
from plait.training.data.labels import SINGLE, LabelSpec
from plait.training.data.tokenizer import train_tokenizer
from plait.training.metrics.classification import METRICS, Metrics
from plait.training.metrics.per_row import compare_rows
from plait.training.metrics.retrieval import RetrievalItem, RetrievalMetrics
from plait.training.prediction.run import Predictor, predict_file
from plait.training.prediction.sources import open_data
from plait.training.reports.answers import Answers
from plait.training.reports.figures import draw_confusion
from plait.training.runs.loading import load_model_recipe
from plait.training.tasks.classification import format_class_answers

torch.set_num_threads(1)
WORDS = "a small red green blue square circle dog cat runs sleeps here there and then again".split()
WIDTH, VECTOR = 32, 64
TEXT = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64}
IMAGE = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
ROWS = 1000  # of cases that grow by something else


def make_sentence(number: int) -> str:
    """Returns one of many sentences, each different."""
    return " ".join(
        [*(WORDS[(number * (place + 3) + place) % len(WORDS)] for place in range(3 + number % 6)), str(number)]
    )


def make_processor() -> PlaitProcessor:
    """Builds a processor of texts and images of 16 pixels."""
    tokenizer = train_tokenizer([*WORDS, *map(str, range(1000))], 64, vocab_size=600, min_frequency=1)
    return PlaitProcessor.compose(text=tokenizer, image=PlaitVisionConfig(**IMAGE))


def configure_text(processor: PlaitProcessor, **changes: Any) -> PlaitTextConfig:
    """Returns the config of a text tower."""
    tokenizer = processor.tokenizer
    return PlaitTextConfig(**{**TEXT, **changes}, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)


def make_classifier(classes: int, processor: PlaitProcessor) -> PlaitForClassification:
    """Builds a classifier of texts."""
    set_seed(0)
    labels = [f"class {number}" for number in range(classes)]
    return PlaitForClassification.compose(text=configure_text(processor), labels=labels, verbose=False)


def save_classifier(folder: Path, classes: int = 3) -> Path:
    """Saves a classifier of texts with its processor."""
    processor = make_processor()
    make_classifier(classes, processor).save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    return folder / "model"


def predict_rows(size: int, folder: Path) -> Work:
    """Prepares `plait predict` from a file of JSON lines to another."""
    model, file = save_classifier(folder), folder / "rows.jsonl"
    with file.open("w") as stream:
        stream.writelines(json.dumps({"id": row, "text": make_sentence(row)}) + "\n" for row in range(size))

    def work() -> None:
        recipe = load_model_recipe(str(model), {"data.source": str(file), "task": "classification"})
        predict_file(Predictor(str(model), open_data(recipe), recipe, 64), folder / "answers.jsonl")

    return work


def make_items(size: int) -> list[RetrievalItem]:
    """Makes a text and an image for each row, whose vectors are near each other."""
    generator = torch.Generator().manual_seed(0)
    texts, noise = (torch.randn(size, VECTOR, generator=generator) for _ in range(2))
    sides = {"text": F.normalize(texts, dim=-1).numpy(), "image": F.normalize(texts + noise, dim=-1).numpy()}
    return [
        RetrievalItem(side, f"{side} {row}", f"row {row}", vectors[row])
        for row in range(size)
        for side, vectors in sides.items()
    ]


def measure_retrieval(size: int, folder: Path) -> Work:
    """Prepares recalls, ranks and MRR of as many texts as images, in both directions."""
    items = make_items(size)

    def work() -> None:
        metrics = RetrievalMetrics([], ("text", "image"))
        metrics.update([items])
        metrics.compute()

    return work


def measure_retrieval_loss(size: int, folder: Path) -> Work:
    """Prepares the same with the contrastive loss of the split as one batch."""
    items, processor = make_items(size), make_processor()
    towers: dict[str, Any] = {"text": configure_text(processor), "image": PlaitVisionConfig(**IMAGE)}
    model = PlaitForRetrieval.compose(**towers, verbose=False)

    def work() -> None:
        metrics = RetrievalMetrics([], ("text", "image"))
        metrics.model = model
        metrics.update([items])
        metrics.compute()

    return work


def prepare_retrieval_rows(size: int, folder: Path) -> Work:
    """Prepares the values of each row, for intervals."""
    metrics = RetrievalMetrics([], ("text", "image"))
    metrics.update([make_items(size)])
    return metrics.compute_per_row


def make_labels(classes: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Makes the labels of rows and their predictions, of which half are right."""
    generator = np.random.default_rng(0)
    truth, guess = (generator.integers(classes, size=rows) for _ in range(2))
    return truth, np.where(generator.random(rows) < 0.5, truth, guess)


def measure_classes(size: int, folder: Path) -> Work:
    """Prepares every metric of one class a row that needs no probabilities."""
    metrics = Metrics([name for name, metric in METRICS[SINGLE].items() if not metric.scores], SINGLE)
    truth, chosen = make_labels(size, ROWS * 10)
    return lambda: metrics.score(truth, chosen)


def measure_class_rows(size: int, folder: Path) -> Work:
    """Prepares the intervals of a metric over rows (2,000 resamples)."""
    metrics = Metrics(["f1_macro"], SINGLE)
    truth, chosen = make_labels(size, ROWS)
    return lambda: compare_rows(metrics.score_constant_rows(truth, chosen), {})


def train_step(size: int, folder: Path) -> Work:
    """Prepares the forward and backward pass of 32 texts."""
    processor = make_processor()
    model = make_classifier(size, processor).train()
    inputs = processor(text=[make_sentence(row) for row in range(32)], return_tensors="pt")
    labels = torch.arange(32) % size

    def work() -> None:
        model.zero_grad(set_to_none=True)
        model(**inputs, labels=labels).loss.backward()

    return work


def save_and_load(size: int, folder: Path) -> Work:
    """Prepares a model's way to a folder and back."""
    model = make_classifier(size, make_processor())

    def work() -> None:
        model.save_pretrained(folder)
        PlaitForClassification.from_pretrained(folder)

    return work


def answer_classes(size: int, folder: Path, top_k: int | None = None) -> Work:
    """Prepares the answers of `plait predict` for 32 rows."""
    logits = torch.randn(32, size, generator=torch.Generator().manual_seed(0))
    labels = LabelSpec(tuple(f"class {number}" for number in range(size)), SINGLE)
    return lambda: list(format_class_answers(logits, labels, top_k=top_k))


def draw_classes(size: int, folder: Path) -> Work:
    """Prepares the confusion matrix of a report."""
    truth, chosen = make_labels(size, ROWS * 10)
    answers = Answers(SINGLE, len(truth), arrays={"truth": truth, "chosen": chosen})
    return lambda: draw_confusion(answers, [f"class {number}" for number in range(size)])


THOUSANDS = (1_000, 3_000, 10_000, 30_000, 100_000)
MANY_CLASSES = (10, 100, 1_000, 10_000, 100_000)

CASES: dict[str, Case] = {
    "predict": Case(
        "rows", "`plait predict`, JSON lines", THOUSANDS[:4], predict_rows, (1.0, 0.0), (100_000, 1_000_000)
    ),
    "retrieval": Case("rows", "retrieval metrics, n x n", THOUSANDS[:4], measure_retrieval, (2.0, 1.0), (100_000,)),
    "retrieval-loss": Case(
        "rows", "retrieval metrics and the loss", THOUSANDS[:3], measure_retrieval_loss, (2.0, 1.0), THOUSANDS[3:]
    ),
    "retrieval-rows": Case(
        "rows", "retrieval metrics of each row", THOUSANDS[:3], prepare_retrieval_rows, (2.0, 1.0), THOUSANDS[3:]
    ),
    "step": Case("classes", "forward + backward, 32 rows", MANY_CLASSES, train_step),
    "save": Case("classes", "save and load", MANY_CLASSES, save_and_load),
    "metrics": Case("classes", "metrics of 10,000 rows", MANY_CLASSES, measure_classes),
    "metrics-rows": Case("classes", "the interval of F1 over 1,000 rows", MANY_CLASSES, measure_class_rows),
    "answers": Case("classes", "answers for 32 rows", MANY_CLASSES, answer_classes),
    "top-k": Case("classes", "answers, `top_k` 5", MANY_CLASSES, lambda size, folder: answer_classes(size, folder, 5)),
    "confusion": Case("classes", "confusion matrix of a report", MANY_CLASSES, draw_classes),
}
