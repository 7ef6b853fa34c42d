"""One item gives one vector and a list gives a matrix, whatever the modality and however the item is given."""

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from plait import PlaitForRetrieval, PlaitProcessor
from plait.configuration import PlaitRNNConfig, PlaitTextConfig, PlaitVideoConfig, PlaitVisionConfig
from plait.modeling.tasks.retrieval_encoding import encode_label_texts
from plait.modeling.tasks.single_items import is_single_item
from plait.processing.mel import PlaitMelFeatureExtractor

WORDS = "<end> a cat dog red photo of".split()
SIZES: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
RATE = 400
ARGUMENTS = {"text": "text", "image": "images", "audio": "audio", "video": "videos"}


@pytest.fixture(scope="module")
def model() -> PlaitForRetrieval:
    torch.manual_seed(0)
    image = PlaitVisionConfig(image_size=8, patch_size=4, pooling="mean", **SIZES)
    towers: dict[str, Any] = {
        "text": PlaitTextConfig(vocab_size=len(WORDS), pad_token_id=0, max_position_embeddings=16, **SIZES),
        "image": image,
        "audio": PlaitRNNConfig(num_mel_bins=8, rnn_size=8, num_hidden_layers=1),
        "video": PlaitVideoConfig(image_config=image, num_frames=4, num_hidden_layers=1),
    }
    space = {"projection_dim": 12}
    return PlaitForRetrieval.compose(**towers, retrieval_config=space, initializer_range=0.2, verbose=False).eval()


@pytest.fixture(scope="module")
def processor() -> PlaitProcessor:
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<end>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    text = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<end>", eos_token="<end>", model_max_length=16
    )
    pixels = ViTImageProcessorPil(size={"height": 8, "width": 8})
    audio = PlaitMelFeatureExtractor(feature_size=8, sampling_rate=RATE)
    return PlaitProcessor(pixels, text, feature_extractor=audio, frame_processor=pixels)


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (10, 12, 3), dtype=np.uint8))


def samples(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, RATE + 40 * seed).astype(np.float32)


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    picture(seed).save(buffer, "PNG")
    return buffer.getvalue()


def path(folder: Path, seed: int) -> Path:
    file = folder / f"{seed}.png"
    file.write_bytes(png(seed))
    return file


def frames(seed: int) -> np.ndarray:
    return np.stack([np.asarray(picture(3 * seed + number)) for number in range(3)])


Make = Callable[[Path, int], Any]
ITEMS: dict[str, dict[str, Make]] = {
    "text": {"str": lambda _, seed: " ".join(["a", "cat", "red", "dog"][: 1 + seed])},
    "image": {
        "Pillow": lambda _, seed: picture(seed),
        "array": lambda _, seed: np.asarray(picture(seed)),
        "grey array": lambda _, seed: np.asarray(picture(seed).convert("L")),
        "tensor": lambda _, seed: torch.from_numpy(np.asarray(picture(seed)).copy()).permute(2, 0, 1),
        "path": path,
        "path string": lambda folder, seed: str(path(folder, seed)),
        "bytes": lambda _, seed: png(seed),
        "dict of bytes": lambda _, seed: {"bytes": png(seed), "path": None},
        "dict of path": lambda folder, seed: {"bytes": None, "path": str(path(folder, seed))},
    },
    "audio": {
        "array": lambda _, seed: samples(seed),
        "tensor": lambda _, seed: torch.from_numpy(samples(seed)),
        "dict": lambda _, seed: {"array": samples(seed), "sampling_rate": RATE},
    },
    "video": {
        "array": lambda _, seed: frames(seed),
        "tensor": lambda _, seed: torch.from_numpy(frames(seed)),
        "list of arrays": lambda _, seed: list(frames(seed)),
        "list of Pillow images": lambda _, seed: [Image.fromarray(frame) for frame in frames(seed)],
    },
}
KINDS = [(modality, kind) for modality, kinds in ITEMS.items() for kind in kinds]


@pytest.mark.parametrize(("modality", "kind"), KINDS)
def test_one_item_is_one_vector_and_a_list_is_a_matrix(
    model: PlaitForRetrieval, processor: PlaitProcessor, tmp_path: Path, modality: str, kind: str
) -> None:
    options: dict[str, Any] = {"sampling_rate": RATE} if modality == "audio" else {}
    items = [ITEMS[modality][kind](tmp_path, seed) for seed in range(3)]
    found = model.encode(items, processor, modality, batch_size=2, **options)
    assert found.shape == (3, 12)
    for item, vector in zip(items, found, strict=True):
        assert is_single_item(item, modality) and not is_single_item([item], modality)
        alone = model.encode(item, processor, modality, **options)
        assert alone.shape == (12,)
        torch.testing.assert_close(alone, vector)
        as_rows = processor(**{ARGUMENTS[modality]: item}, **options)  # the processor takes the same for one row
        assert {len(value) for value in as_rows.values()} == {1}
    torch.testing.assert_close(model.encode(tuple(items), processor, modality, **options), found)


@pytest.mark.parametrize(("modality", "name"), [("image", "image"), ("video", "video")])
def test_a_stacked_array_is_a_list(
    model: PlaitForRetrieval, processor: PlaitProcessor, modality: str, name: str
) -> None:
    items = [np.asarray(picture(seed)) if name == "image" else frames(seed) for seed in range(3)]
    expected = model.encode(items, processor, modality)
    torch.testing.assert_close(model.encode(np.stack(items), processor, modality), expected)


def test_other_collections_keep_their_order(model: PlaitForRetrieval, processor: PlaitProcessor) -> None:
    pandas = pytest.importorskip("pandas")
    texts = ["a cat", "a dog", "red"]
    expected = model.encode(texts, processor)
    shuffled = pandas.Series(texts, index=[2, 0, 1])  # its own index is no order
    for given in (shuffled, np.array(texts), np.array(texts, dtype=object)):
        torch.testing.assert_close(model.encode(given, processor), expected)


def test_several_channels_or_several_clips_must_be_said(model: PlaitForRetrieval, processor: PlaitProcessor) -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 500\).*pass \[clip\] or list\(clips\)"):
        model.encode(np.zeros((2, 500), np.float32), processor, "audio", sampling_rate=RATE)


def test_rows_that_cannot_be_encoded_are_named(model: PlaitForRetrieval, processor: PlaitProcessor) -> None:
    with pytest.raises(TypeError, match=r"row 2 is of type Image, but the side 'text' reads texts"):
        model.encode(["a", "cat", picture(0)], processor)
    with pytest.raises(ValueError, match="row 0 is None"):
        model.encode([None, "a cat"], processor)  # its first text says which side is meant
    with pytest.raises(ValueError, match="row 1 is ''"):
        model.encode(["a cat", ""], processor, batch_size=1)
    with pytest.raises(ValueError, match="row 0 is ''"):
        model.encode("", processor)
    for modality in ("image", "audio", "video"):
        item = next(iter(ITEMS[modality].values()))(Path(), 0)
        options = {"sampling_rate": RATE} if modality == "audio" else {}
        with pytest.raises(ValueError, match="row 1 is None"):
            model.encode([item, None], processor, modality, batch_size=1, **options)
        with pytest.raises(ValueError, match=r"row 2 is \[None\]"):
            model.encode([item, item, [None]], processor, modality, **options)
        with pytest.raises(ValueError, match="there are no rows"):
            model.encode([], processor, modality)


def test_zero_shot_takes_one_image_one_label_and_one_template(
    model: PlaitForRetrieval, processor: PlaitProcessor
) -> None:
    images, labels = [picture(0), picture(1)], ["cat", "dog", "red cat"]
    found = model.zero_shot(images, labels, processor, templates="photo of a {}")
    assert found.shape == (2, 3)
    torch.testing.assert_close(model.zero_shot(images, labels, processor, templates=["photo of a {}"]), found)
    one = model.zero_shot(images[1], labels, processor, templates="photo of a {}")
    assert one.shape == (3,)
    torch.testing.assert_close(one, found[1])
    assert model.zero_shot(images, "dog", processor).tolist() == [[1.0], [1.0]]
    vectors = encode_label_texts(model, labels, processor)
    torch.testing.assert_close(encode_label_texts(model, "dog", processor), vectors[1])
    for wrong in ({"labels": ["cat", None]}, {"labels": ["cat"], "templates": ["a {}", None]}):
        with pytest.raises(TypeError, match=r"(label|template) 1 is None"):
            model.zero_shot(images, processor=processor, **wrong)


def test_the_similarity_of_single_vectors_is_that_of_rows(model: PlaitForRetrieval, processor: PlaitProcessor) -> None:
    texts, images = model.encode(["a", "cat"], processor), model.encode([picture(0)], processor, "image")
    with torch.no_grad():
        full = model.similarity(texts, images)
        torch.testing.assert_close(model.similarity(texts[1], images), full[1])
        torch.testing.assert_close(model.similarity(texts, images[0]), full[:, 0])
        torch.testing.assert_close(model.similarity(texts[1], images[0]), full[1, 0])


def test_threads_that_encode_with_other_lengths_do_not_meet(
    model: PlaitForRetrieval, processor: PlaitProcessor
) -> None:
    """One model and one processor, prompts and lengths of each call."""
    texts = ["a cat", "red", "a dog a cat red photo of a cat"]
    settings: list[dict[str, Any]] = [{}, {"max_length": 2}, {"prompt": "photo of "}, {"padding": "max_length"}]
    expected = [model.encode(texts, processor, batch_size=2, **given) for given in settings]
    with ThreadPoolExecutor(len(settings)) as pool:
        jobs = [pool.submit(model.encode, texts, processor, batch_size=2, **given) for given in settings * 10]
        for number, job in enumerate(jobs):
            torch.testing.assert_close(job.result(), expected[number % len(settings)], rtol=0, atol=0)
