"""Saves the folders that `test_saved_folders.py` and `test_saved_runs.py` load: tiny models of every class with what
they answer, and the runs of tiny recipes.

It is run with the version of plait whose folders are to be loaded by all later ones, in the folder `tests`:

    OMP_NUM_THREADS=1 python -m compatibility.save_folders

Folders that are there stay as they are, so that those of an older version are kept: `--overwrite` replaces them.
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from sentence_transformers import SentenceTransformer
from torch import Tensor

import plait
from plait.training import save_word_tower
from plait.training.sentence_module import PlaitSentenceModule

from .answers import ask, embed, process, read_rows, write_rows, write_tensors
from .tiny_models import build, draw, fill_with_numbers, list_tiny_models, make_labels, make_texts
from .tiny_processors import TEXTS, list_processors, make_images, make_sentence_processor, make_word_vectors
from .tiny_runs import save_run, tiny_runs

FOLDERS = Path(__file__).parent / "folders"
RUNS = Path(__file__).parent / "runs"
STACK: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
WORDS: dict[str, Any] = {**STACK, "vocab_size": 16, "max_position_embeddings": 12}
LAYERS: dict[str, Any] = {"encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_layers": 1}
LAYERS |= {"decoder_attention_heads": 2, "decoder_ffn_dim": 16, "vocab_size": 16, "d_model": 8}
TOKENS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GPT2: dict[str, Any] = {"vocab_size": 16, "n_positions": 24, "n_embd": 8, "n_layer": 1, "n_head": 2}
BEGUN: dict[str, Any] = {**TOKENS, "decoder_start_token_id": 1, "suppress_tokens": None, "begin_suppress_tokens": None}
SPOKEN: dict[str, Any] = {"num_mel_bins": 4, "max_source_positions": 6, "max_target_positions": 12, **BEGUN}
CLIP_TEXT = {**WORDS, **TOKENS, "eos_token_id": 14}
IMAGE = {**STACK, "image_size": 8, "patch_size": 4}

Checkpoint = tuple[Callable[[], Any], str, Callable[[], dict[str, Tensor]]]


def make_text_inputs() -> dict[str, Tensor]:
    """Returns texts and their labels."""
    texts = make_texts()
    return {**texts, "labels": make_labels(texts["input_ids"])}


CHECKPOINTS: dict[str, Checkpoint] = {  # what was loaded from another format keeps where it came from in its config
    "checkpoint_bert": (lambda: hf.BertForMaskedLM(hf.BertConfig(**WORDS)), "PlaitForMaskedLM", make_text_inputs),
    "checkpoint_gpt2": (
        lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2, **TOKENS)),
        "PlaitForCausalLM",
        lambda: make_texts("left"),
    ),
    "checkpoint_whisper": (
        lambda: hf.WhisperForConditionalGeneration(hf.WhisperConfig(**LAYERS, **SPOKEN)),
        "PlaitForConditionalGeneration",
        lambda: {"input_features": draw(2, 4, 12), "decoder_input_ids": make_texts(seed=2)["input_ids"]},
    ),
    "checkpoint_clip": (
        lambda: hf.CLIPModel(hf.CLIPConfig(text_config=CLIP_TEXT, vision_config=IMAGE, projection_dim=6)),
        "PlaitForRetrieval",
        lambda: {**make_texts(), "pixel_values": draw(2, 3, 8, 8)},
    ),
}


def save_model(model: Any, folder: Path, calls: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Saves a model, and beside it what each class that loads the folder answers to its inputs."""
    model.save_pretrained(folder)
    for class_name, inputs in calls.items():
        expected = folder / "expected" / class_name
        reader = model if class_name == type(model).__name__ else getattr(plait, class_name).from_pretrained(folder)
        write_tensors(inputs, expected / "inputs.safetensors")
        write_tensors(ask(reader, inputs), expected / "outputs.safetensors")


def save_processor(processor: Any, folder: Path, rows: dict[str, Any]) -> None:
    """Saves a processor, and beside it what it makes of rows."""
    processor.save_pretrained(folder)
    expected = folder / "expected" / "PlaitProcessor"
    write_rows(rows, expected)
    write_tensors(process(processor, read_rows(expected)), expected / "outputs.safetensors")


def save_tiny_model(name: str, folder: Path) -> None:
    """Saves a model that is made from a config, with its processor where it has one."""
    tiny = list_tiny_models()[name]
    save_model(build(tiny), folder, {tiny.class_name: tiny.inputs, **tiny.readers})
    if name in (processors := list_processors()):
        processor, rows = processors[name]
        save_processor(processor, folder, rows)


def save_checkpoint(name: str, folder: Path) -> None:
    """Saves a model that was loaded from a checkpoint of transformers."""
    make_model, class_name, make_inputs = CHECKPOINTS[name]
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as source:
        fill_with_numbers(make_model()).save_pretrained(source)
        model = getattr(plait, class_name).from_pretrained(source)
    save_model(model, folder, {class_name: make_inputs()})


def save_word_vectors(folder: Path) -> None:
    """Saves a tower of word vectors with its tokenizer."""
    words, vectors = make_word_vectors()
    torch.manual_seed(0)
    model = save_word_tower(vectors, folder, words, max_length=8)
    fill_with_numbers(model)
    save_model(model, folder, {"PlaitModel": make_texts(highest=6)})
    expected = folder / "expected" / "PlaitProcessor"
    write_rows({"text": ["The red cat, sat.", "red"]}, expected)
    processor = plait.PlaitProcessor.from_pretrained(folder)
    write_tensors(process(processor, read_rows(expected)), expected / "outputs.safetensors")


def save_embedder(folder: Path) -> None:
    """Saves an embedder of sentence-transformers."""
    tiny = list_tiny_models()["retrieval_text_image"]
    module = PlaitSentenceModule(build(tiny), make_sentence_processor(), normalize=False)
    embedder = SentenceTransformer(modules=[module], device="cpu")
    embedder.save(str(folder), create_model_card=False)
    expected = folder / "expected" / "SentenceTransformer"
    write_rows({"text": TEXTS, "images": make_images()}, expected)
    write_tensors(embed(embedder, read_rows(expected)), expected / "outputs.safetensors")


def main() -> None:
    """Saves every folder that is missing; with --overwrite all of them."""
    parser = argparse.ArgumentParser(description="Save the folders that the compatibility tests load.")
    parser.add_argument("--overwrite", action="store_true", help="replace the folders that are there")
    overwrite = parser.parse_args().overwrite
    torch.set_num_threads(1)
    saves: dict[Path, Callable[[Path], Any]] = {
        FOLDERS / name: (lambda folder: save_tiny_model(folder.name, folder)) for name in list_tiny_models()
    }
    saves |= {FOLDERS / name: (lambda folder: save_checkpoint(folder.name, folder)) for name in CHECKPOINTS}
    saves |= {FOLDERS / "word_vectors": save_word_vectors, FOLDERS / "sentence_transformer": save_embedder}
    saves |= {RUNS / name: save_run for name in tiny_runs()}
    for folder, save in saves.items():
        if overwrite or not folder.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            save(folder)
            print(folder.relative_to(Path(__file__).parent))


if __name__ == "__main__":
    main()
