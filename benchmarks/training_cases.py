"""`plait train` beside transformers' Trainer, used as the example scripts use it; each side a process of its own."""

from pathlib import Path

import torch
import transformers as hf
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


def save_vit(folder: Path) -> str:
    """Saves a small ViT with random weights for images of 64 px, and its image processor."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 768}
    hf.ViTModel(hf.ViTConfig(image_size=64, patch_size=8, **sizes)).save_pretrained(folder)
    hf.ViTImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
    return str(folder)


def train_images(data: str, label: str, rows: list[int], rounds: int, work: Path) -> list[Row]:
    """Trains an image classifier for one epoch in batches of 32, without augmentation on either side."""
    model = save_vit(work / "vit")
    ours = build_training(
        "image_classification", data, f"image={model}", {"image": "image", "label": label}, rows,
        **{"metrics": "[accuracy]", "training.metric_for_best_model": "accuracy"},
        **{"training.learning_rates": "{image: 5e-5}", "training.per_device_train_batch_size": 32},
    )  # fmt: skip
    peer = [str(PEERS), "image", "--model", model, "--data", data, "--label", label, "--output", "{output}"]
    peers = {"Trainer as run_image_classification.py": Program([*peer, "--rows", *map(str, rows)], "accuracy")}
    return compare_programs(
        f"train image classification, {rows[0]:,} rows", Program(ours, "accuracy"), peers, rounds, BAR
    )
