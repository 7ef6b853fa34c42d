"""`plait train` beside transformers' Trainer, used as the example scripts use it; each side a process of its own."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from datasets import load_dataset
from paired import Row
from process_cases import PEERS, Program, build_training, compare_programs
from tokenizers import ByteLevelBPETokenizer

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


def save_gpt2(folder: Path, captions: Iterable[str]) -> str:
    """Saves a small GPT-2 with random weights, and a tokenizer trained on captions."""
    torch.manual_seed(0)
    pieces = ByteLevelBPETokenizer()
    pieces.train_from_iterator(captions, vocab_size=4000, special_tokens=["<|endoftext|>"], show_progress=False)
    merges = [tuple(pair) for pair in json.loads(pieces.to_str())["model"]["merges"]]
    tokenizer = hf.GPT2Tokenizer(vocab=pieces.get_vocab(), merges=merges)
    tokenizer.save_pretrained(folder)
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    sizes = {"n_embd": 192, "n_layer": 4, "n_head": 3, "n_positions": 128}
    hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=len(tokenizer), **sizes, **special)).save_pretrained(folder)
    return str(folder)


def train_captions(data: str, rows: list[int], rounds: int, work: Path) -> list[Row]:
    """Trains a captioner for one epoch in batches of 32 captions; first all of it, then before a frozen image tower."""
    photos: Any = load_dataset("parquet", data_files=f"{data}/train.parquet", split=f"train[:{rows[0]}]")
    image = save_vit(work / "vit")
    decoder = save_gpt2(work / "gpt2", (text for texts in photos["captions"] for text in texts))
    columns, length = {"image": "image", "target": "captions"}, 24
    peer = [str(PEERS.with_name("captioning_peer.py")), "--model", image, "--decoder", decoder]
    peer += ["--data", data, "--output", "{output}"]
    peer += ["--max_length", str(length), "--rows", *map(str, rows)]
    found = []
    for frozen in (False, True):
        settings = {
            "model.decoder": decoder,
            "model.freeze": "[image]" if frozen else "[]",
            "model.decoder_config": "{gated_cross_attention: false}",
            "metrics": "[bleu]",
            "training.metric_for_best_model": "bleu",
            "training.learning_rates": "{decoder: 5e-5}" if frozen else "{image: 5e-5, decoder: 5e-5}",
            "training.label_smoothing_factor": 0,
            "training.weight_decay": 0.01,
            "training.lr_scheduler_type": "linear",
            "training.per_device_eval_batch_size": 64,
            "generation": f"{{num_beams: 1, max_new_tokens: {length}}}",
            **({"training.cache_features": "[image]"} if frozen else {}),
        }
        ours = build_training("captioning", data, f"image={image}", columns, rows, **settings)
        name = f"train captioning, {rows[0]:,} photos" + (", image tower frozen" if frozen else "")
        other = Program([*peer, *(["--frozen"] if frozen else [])], "bleu")
        peers = {"VisionEncoderDecoder, Seq2SeqTrainer": other}
        found += compare_programs(name, Program(ours, "bleu"), peers, rounds, BAR)
    return found
