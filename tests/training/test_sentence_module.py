"""Towers in one space as a module of sentence-transformers: encoding, saving, its trainer and losses."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, Image
from PIL import Image as Pillow
from torch import Tensor, nn

from plait import PlaitForRetrieval, PlaitProcessor
from plait.configuration import PlaitRNNConfig, PlaitTextConfig, PlaitVisionConfig
from plait.training.data.tokenizer import train_tokenizer

library = pytest.importorskip("sentence_transformers")

from plait.training.sentence_module import PlaitSentenceModule  # noqa: E402

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "initializer_range": 0.2}
TEXTS = ["a red square", "it is all over green , and square", "blue"]


@pytest.fixture
def tower(processor: PlaitProcessor) -> PlaitTextConfig:
    known = {"vocab_size": len(processor.tokenizer), "pad_token_id": processor.tokenizer.pad_token_id}
    return PlaitTextConfig(**TINY, **known, max_position_embeddings=24)


@pytest.fixture(scope="module")
def processor() -> PlaitProcessor:
    tokenizer = train_tokenizer(TEXTS, 24, vocab_size=300, min_frequency=1)
    return PlaitProcessor.compose(text=tokenizer, image=PlaitVisionConfig(image_size=16, patch_size=8, **TINY))


@pytest.fixture
def model(tower: PlaitTextConfig) -> PlaitForRetrieval:
    return composed(text=tower, image=PlaitVisionConfig(image_size=16, patch_size=8, **TINY))


def composed(**towers: Any) -> PlaitForRetrieval:
    torch.manual_seed(0)
    model = PlaitForRetrieval.compose(**towers, retrieval_config={"projection_dim": 8}, verbose=False)
    for parameter in model.parameters():
        if parameter.numel() > 1:
            nn.init.normal_(parameter, std=0.2)
    return model


def embedder_of(model: PlaitForRetrieval, processor: PlaitProcessor, **options: Any) -> Any:
    return library.SentenceTransformer(modules=[PlaitSentenceModule(model, processor, **options)], device="cpu")


def vectors(embedder: Any, rows: list[Any], **options: Any) -> Tensor:
    return embedder.encode(rows, convert_to_tensor=True, show_progress_bar=False, **options)


def test_its_vectors_are_those_of_the_model(
    model: PlaitForRetrieval, processor: PlaitProcessor, pictures: dict[str, Path]
) -> None:
    """Of texts with and without a prompt, of pictures, paths and dicts; of unit length or as they are projected."""
    embedder = embedder_of(model, processor)
    shown = [Pillow.open(path) for path in pictures.values()]
    assert embedder.modalities == ["text", "image"] and embedder.get_embedding_dimension() == 8
    text, image = model.encode(TEXTS, processor), model.encode(shown, processor, "image")
    close = {"rtol": 0, "atol": 1e-6}
    torch.testing.assert_close(vectors(embedder, TEXTS, batch_size=2), text, **close)
    for rows in (shown, [str(path) for path in pictures.values()], [{"image": picture} for picture in shown]):
        torch.testing.assert_close(vectors(embedder, rows), image, **close)
    prompted = model.encode(TEXTS, processor, prompt="a square ")
    torch.testing.assert_close(vectors(embedder, TEXTS, prompt="a square "), prompted, **close)
    plain = model.encode(TEXTS, processor, normalize=False)
    torch.testing.assert_close(vectors(embedder_of(model, processor, normalize=False), TEXTS), plain, **close)
    torch.testing.assert_close(embedder.similarity(text, image), text @ image.T, **close)
    tokens = embedder.encode(TEXTS, output_value="token_embeddings")
    lengths = [len(processor.tokenizer(text)["input_ids"]) for text in TEXTS]
    assert [tuple(row.shape) for row in tokens] == [(length, 16) for length in lengths]


def test_one_folder_is_read_by_both_libraries(
    model: PlaitForRetrieval, processor: PlaitProcessor, pictures: dict[str, Path], tmp_path: Path
) -> None:
    embedder = embedder_of(model, processor, normalize=False)
    embedder.max_seq_length = 5
    embedder.save(str(tmp_path))
    again = library.SentenceTransformer(str(tmp_path), trust_remote_code=True, device="cpu")
    shown = [str(path) for path in pictures.values()]
    assert torch.equal(vectors(again, TEXTS), vectors(embedder, TEXTS)) and again.max_seq_length == 5
    assert torch.equal(vectors(again, shown), vectors(embedder, shown))
    ours, own = PlaitForRetrieval.from_pretrained(tmp_path), PlaitProcessor.from_pretrained(tmp_path)
    assert torch.equal(ours.encode(TEXTS, own, normalize=False), vectors(again, TEXTS))
    files = [path for path in tmp_path.iterdir() if path.name != "load_plait.py"]
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md"}


def test_a_folder_inside_another_is_loaded_by_its_name(
    model: PlaitForRetrieval, processor: PlaitProcessor, tmp_path: Path
) -> None:
    PlaitSentenceModule(model, processor).save(str(tmp_path / "inner"))
    module = PlaitSentenceModule.load(str(tmp_path), subfolder="inner", local_files_only=True)
    assert torch.equal(vectors(library.SentenceTransformer(modules=[module]), TEXTS), model.encode(TEXTS, processor))


def test_a_length_given_with_the_rows_cuts_them(model: PlaitForRetrieval, processor: PlaitProcessor) -> None:
    module = PlaitSentenceModule(model, processor)
    whole, cut = module.preprocess(TEXTS), module.preprocess(TEXTS, max_length=4)
    assert whole["input_ids"].shape[1] > 4 and cut["input_ids"].shape[1] == 4


def test_documents_have_a_tower_of_their_own(tower: PlaitTextConfig, processor: PlaitProcessor, tmp_path: Path) -> None:
    model = composed(text=tower, document=tower)
    embedder_of(model, processor).save(str(tmp_path))
    embedder = library.SentenceTransformer(str(tmp_path), trust_remote_code=True, device="cpu")
    for encode, side in ((embedder.encode_query, "text"), (embedder.encode_document, "document")):
        expected = model.encode(TEXTS, processor, side)
        torch.testing.assert_close(encode(TEXTS, convert_to_tensor=True), expected, rtol=0, atol=1e-6)


def test_sound_is_encoded_as_well(tower: PlaitTextConfig, processor: PlaitProcessor) -> None:
    """Bare clips with their rate, and named by their modality."""
    listener = PlaitRNNConfig(num_mel_bins=8, rnn_size=8)
    model = composed(text=tower, audio=listener)
    listening = PlaitProcessor(
        tokenizer=processor.tokenizer, feature_extractor=PlaitProcessor.compose(audio=listener).feature_extractor
    )
    clips = [{"array": torch.randn(8000 + 800 * n).numpy(), "sampling_rate": 16000} for n in range(3)]
    embedder, expected = embedder_of(model, listening), model.encode(clips, listening, "audio")
    for rows in (clips, [{"audio": clip} for clip in clips]):
        torch.testing.assert_close(vectors(embedder, rows), expected, rtol=0, atol=1e-6)
    assert embedder.modalities == ["text", "audio"]


def by_hand(model: PlaitForRetrieval, processor: PlaitProcessor, paths: list[Path], scale: float) -> Tensor:
    """In-batch negatives of cosines (Henderson et al. 2017), as the library's loss says it."""
    inputs = processor(text=TEXTS, images=[str(path) for path in paths], return_tensors="pt")
    outputs = model.train()(**inputs)
    return nn.functional.cross_entropy(scale * outputs.text_embeds @ outputs.image_embeds.T, torch.arange(3))


@pytest.mark.parametrize("cached", [False, True])
def test_its_trainer_takes_the_step_of_the_loss_written_by_hand(
    model: PlaitForRetrieval, processor: PlaitProcessor, pictures: dict[str, Path], tmp_path: Path, cached: bool
) -> None:
    from sentence_transformers.sentence_transformer import losses

    paths = list(pictures.values())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = by_hand(model, processor, paths, 20.0)
    expected.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    rows = Dataset.from_dict({"anchor": TEXTS, "positive": [str(path) for path in paths]})
    embedder = embedder_of(model, processor)
    loss = losses.CachedMultipleNegativesRankingLoss(embedder, mini_batch_size=2) if cached else (
        losses.MultipleNegativesRankingLoss(embedder)
    )  # fmt: skip
    plain = {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0, "lr_scheduler_type": "constant"}
    plain |= {"use_cpu": True, "disable_tqdm": True, "report_to": "none", "max_steps": 1, "save_strategy": "steps"}
    arguments = library.SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=3, logging_steps=1, save_steps=1, **plain
    )
    trainer = library.SentenceTransformerTrainer(
        embedder, arguments, train_dataset=rows.cast_column("positive", Image()), loss=loss
    )
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected.item(), rel=1e-4)
    assert "model.towers.image.embeddings.patch_embedding.weight" in gradients
    for name, value in model.state_dict().items():
        change = -0.1 * gradients[name] if name in gradients else torch.zeros_like(value)
        torch.testing.assert_close(value - before[name], change, rtol=1e-3, atol=1e-6, msg=name)
    saved = PlaitForRetrieval.from_pretrained(tmp_path / "checkpoint-1")
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in saved.state_dict().items())


def test_bad_input_is_said_to_be_bad(
    model: PlaitForRetrieval, processor: PlaitProcessor, pictures: dict[str, Path], tmp_path: Path
) -> None:
    module = PlaitSentenceModule(model, processor)
    with pytest.raises(ValueError, match="one of text, image at a time, not message"):
        module.preprocess(["a red square", Pillow.open(pictures["red"])])
    with pytest.raises(ValueError, match="one of text, image at a time, not audio"):
        module.preprocess([torch.zeros(100)])
    with pytest.raises(TypeError, match="row 0: .* is not a string"):
        module.preprocess([("a red square", "a blue square")], prompt="query: ")
    with pytest.raises(TypeError, match="no option colour"):
        module.preprocess(TEXTS, colour="red")
    with pytest.raises(ValueError, match="safetensors alone"):
        module.save(str(tmp_path), safe_serialization=False)
    with pytest.raises(ValueError, match="backend 'onnx'"):
        PlaitSentenceModule.load(str(tmp_path), backend="onnx")
