"""The peers of `end_to_end.py` as programs, written as transformers' example scripts and pipelines are used:
`python benchmarks/end_to_end_peers.py text|image|predict|serve ...`. Those that train print their test metric last."""

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from datasets import DatasetDict, load_dataset


def load_splits(options: argparse.Namespace) -> DatasetDict:
    """Loads train, validation and test of a folder of parquet files, cut to the rows asked for."""
    names = ("train", "validation", "test")
    data = load_dataset("parquet", data_files={name: f"{options.data}/{name}.parquet" for name in names})
    for name, rows in zip(names, options.rows, strict=True):
        data[name] = data[name].select(range(min(rows, len(data[name]))))
    return data


def build_arguments(
    options: argparse.Namespace, kind: type[hf.TrainingArguments] = hf.TrainingArguments, **changes: Any
) -> Any:
    """Builds what the example scripts are called with."""
    usual: dict[str, Any] = {
        "output_dir": options.output,
        "per_device_train_batch_size": 32,
        "per_device_eval_batch_size": 64,
        "num_train_epochs": options.epochs,
        "learning_rate": 5e-5,
        "weight_decay": 0.01,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": 1,
        "load_best_model_at_end": True,
        "use_cpu": True,
        "report_to": "none",
        "seed": 0,
    }
    return kind(**{**usual, **changes})


def weighted_f1(prediction: hf.EvalPrediction) -> dict[str, float]:
    from sklearn.metrics import accuracy_score, f1_score

    found = np.argmax(prediction.predictions, axis=1)
    truth = prediction.label_ids
    return {"f1": float(f1_score(truth, found, average="weighted")), "accuracy": float(accuracy_score(truth, found))}


def finish(trainer: hf.Trainer, data: Any, metric: str) -> None:
    """Trains, saves and measures on the test rows."""
    trainer.train()
    trainer.save_model()
    found = trainer.evaluate(data, metric_key_prefix="test")
    print(json.dumps({"steps": trainer.state.global_step, "metric": found[f"test_{metric}"]}))


def train_text(options: argparse.Namespace) -> None:
    """As run_classification.py: padded to 128 tokens; with --best padded to the batch, in groups of like lengths."""
    data = load_splits(options)
    names = sorted(data["train"].unique(options.label))
    numbers = {name: number for number, name in enumerate(names)}
    tokenizer = hf.AutoTokenizer.from_pretrained(options.model)
    model = hf.AutoModelForSequenceClassification.from_pretrained(options.model, num_labels=len(names))
    padding = False if options.best else "max_length"

    def prepare(rows: dict[str, list[Any]]) -> dict[str, Any]:
        found = tokenizer(rows[options.text], padding=padding, max_length=128, truncation=True)
        return {**found, "label": [numbers[name] for name in rows[options.label]]}

    data = data.map(prepare, batched=True, remove_columns=data["train"].column_names)
    changes = {"train_sampling_strategy": "group_by_length"} if options.best else {}
    trainer = hf.Trainer(
        model,
        build_arguments(options, metric_for_best_model="f1", **changes),
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        data_collator=None if options.best else hf.default_data_collator,
        processing_class=tokenizer,
        compute_metrics=weighted_f1,
    )
    finish(trainer, data["test"], "f1")


def train_image(options: argparse.Namespace) -> None:
    """As run_image_classification.py, images prepared batch by batch."""
    data = load_splits(options)
    names = sorted(data["train"].unique(options.label))
    numbers = {name: number for number, name in enumerate(names)}
    processor = hf.AutoImageProcessor.from_pretrained(options.model)
    model = hf.AutoModelForImageClassification.from_pretrained(
        options.model, num_labels=len(names), ignore_mismatched_sizes=True
    )

    def prepare(rows: dict[str, list[Any]]) -> dict[str, Any]:
        pixels = processor([image.convert("RGB") for image in rows["image"]], return_tensors="pt").pixel_values
        return {"pixel_values": list(pixels), "labels": [numbers[name] for name in rows[options.label]]}

    data = data.with_transform(prepare)
    trainer = hf.Trainer(
        model,
        build_arguments(options, metric_for_best_model="accuracy", remove_unused_columns=False),
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        processing_class=processor,
        compute_metrics=weighted_f1,
    )
    finish(trainer, data["test"], "accuracy")


def predict(options: argparse.Namespace) -> None:
    """A pipeline over all rows of a table in batches; the table with label and score is written."""
    with Path(options.data).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    pipe = hf.pipeline("text-classification", options.model, device="cpu")
    found = pipe((row[options.text] for row in rows), batch_size=32, truncation=True, max_length=128)
    with Path(options.output).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0], "predicted_label", "score"])
        writer.writeheader()
        for row, answer in zip(rows, found, strict=True):
            writer.writerow({**row, "predicted_label": answer["label"], "score": answer["score"]})


def serve(options: argparse.Namespace) -> None:
    """A pipeline behind FastAPI, one request a call, as most such servers are written."""
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel

    class Question(BaseModel):
        text: str

    app, pipe = FastAPI(), hf.pipeline("text-classification", options.model, device="cpu", top_k=None)

    @app.post("/predict")
    def answer(question: Question) -> Any:
        return pipe(question.text, truncation=True, max_length=128)

    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning")


PROGRAMS = {"text": train_text, "image": train_image, "predict": predict, "serve": serve}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program", choices=PROGRAMS)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data")
    parser.add_argument("--output")
    parser.add_argument("--text", default="text")
    parser.add_argument("--label", default="label")
    parser.add_argument("--rows", type=int, nargs=3, default=[10**9] * 3)
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--best", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    PROGRAMS[options.program](options)


if __name__ == "__main__":
    main()
