"""`plait train` beside transformers' Trainer, used as the example scripts use it; each side a process of its own."""

from paired import Row
from process_cases import PEERS, Program, build_training, compare_programs

BAR = 1.25  # wall time at most 0.8 of the peer's


def train_text(model: str, data: str, text: str, label: str, rows: list[int], rounds: int) -> list[Row]:
    """Fine-tunes a text classifier for one epoch in batches of 32."""
    ours = build_training(
        "text_classification", data, f"text={model}", {"text": text, "label": label}, rows,
        **{"metrics": "[f1_weighted]", "training.metric_for_best_model": "f1_weighted"},
        **{"training.learning_rates": "{text: 5e-5}"},
    )  # fmt: skip
    common = [str(PEERS), "text", "--model", model, "--data", data, "--text", text, "--label", label]
    common += ["--output", "{output}", "--rows", *map(str, rows)]
    peers = {
        "Trainer as run_classification.py, padded to 128": Program(common, "f1"),
        "Trainer at its best: padded to the batch, grouped by length": Program([*common, "--best"], "f1"),
    }
    return compare_programs(
        f"train text classification, {rows[0]:,} rows", Program(ours, "f1_weighted"), peers, rounds, BAR
    )
