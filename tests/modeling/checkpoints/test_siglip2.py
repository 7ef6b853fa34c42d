"""SigLIP 2 of fixed resolution as it is published: a folder with Gemma's tokenizer, whose padding the model reads."""

from pathlib import Path

import pytest
import torch
import transformers as hf
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from torch.nn import functional as F

from plait import PlaitForRetrieval, PlaitProcessor
from plait.training.tasks.collator import PlaitDataCollator

WORDS = "<pad> <eos> <bos> <unk> this is a photo of . dog cat".split()
SIZES = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TEXTS = ["a photo of a Dog .", "cat", "this is a photo"]
POSITIONS = 12


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Lowercased words with an end, padded on the right, no attention mask; the image tower wider than the text's."""
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer, backend.normalizer = pre_tokenizers.Whitespace(), normalizers.Lowercase()
    backend.post_processor = processors.TemplateProcessing("$A <eos>", special_tokens=[("<eos>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    names |= {"model_max_length": POSITIONS, "model_input_names": ["input_ids"]}
    tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    hf.SiglipProcessor(hf.SiglipImageProcessor(size={"height": 16, "width": 16}), tokenizer).save_pretrained(tmp_path)
    text = {**SIZES, "hidden_size": 32, "vocab_size": len(WORDS), "max_position_embeddings": POSITIONS}
    text |= {"projection_size": 48, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    image = {**SIZES, "hidden_size": 48, "image_size": 16, "patch_size": 8}
    torch.manual_seed(0)
    model = hf.SiglipModel(hf.SiglipConfig(text_config=text, vision_config=image))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def pictures() -> list[Image.Image]:
    return [Image.effect_noise((20 + number, 16), 80).convert("RGB") for number in range(3)]


def test_vectors_are_those_of_transformers(folder: Path, pictures: list[Image.Image]) -> None:
    """Through each side's own processor, and from plait's own folder too."""
    peer, processor = hf.AutoModel.from_pretrained(folder), hf.AutoProcessor.from_pretrained(folder)
    inputs = processor(text=TEXTS, images=pictures, padding="max_length", truncation=True, return_tensors="pt")
    assert "attention_mask" not in inputs
    with torch.no_grad():
        expected = peer(**inputs)
    PlaitForRetrieval.from_pretrained(folder).save_pretrained(folder / "own")
    PlaitProcessor.from_pretrained(folder).save_pretrained(folder / "own")
    for place in (folder, folder / "own"):
        model, ours = PlaitForRetrieval.from_pretrained(place), PlaitProcessor.from_pretrained(place)
        text, image = model.encode(TEXTS, ours), model.encode(pictures, ours, "image")
        torch.testing.assert_close(text, expected.text_embeds, rtol=0, atol=1e-5)
        torch.testing.assert_close(image, expected.image_embeds, rtol=0, atol=1e-5)
        with torch.no_grad():
            logits = model(**ours(text=TEXTS, images=pictures, return_tensors="pt")).logits_per_text
        torch.testing.assert_close(logits, expected.logits_per_text, rtol=0, atol=1e-5)
    labels = processor(
        text=["a photo of dog", "a photo of cat"], padding="max_length", truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        chances = peer(**labels, pixel_values=inputs["pixel_values"]).logits_per_image.sigmoid()
    found = model.zero_shot(pictures, ["dog", "cat"], ours, templates=["a photo of {}"])
    torch.testing.assert_close(found, chances, rtol=0, atol=1e-5)


def test_it_is_trained_on_what_it_is_asked_with(folder: Path) -> None:
    """A batch of the collator has the padding that `encode` gives."""
    model, processor = PlaitForRetrieval.from_pretrained(folder), PlaitProcessor.from_pretrained(folder)
    rows = [{"text": text, "document": text} for text in TEXTS]
    batch = PlaitDataCollator(processor, task="retrieval")(rows)
    assert batch["input_ids"].shape == (3, POSITIONS) and batch["attention_mask"].all()
    with torch.no_grad():
        features = model.get_text_features(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    torch.testing.assert_close(F.normalize(features.pooler_output, dim=-1), model.encode(TEXTS, processor))


def test_texts_that_end_before_the_last_position_are_warned_about(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = PlaitForRetrieval.from_pretrained(folder)
    with torch.no_grad():
        model.get_text_features(input_ids=torch.ones(1, POSITIONS, dtype=torch.long))
        assert "trained on texts" not in caplog.text
        model.get_text_features(input_ids=torch.ones(1, 5, dtype=torch.long))
    assert "texts of 5 tokens" in caplog.text and f"max_length={POSITIONS}" in caplog.text
