"""Towers in one space: any towers and sides, rows that lack one, equal content, vectors of many rows, zero-shot."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from plait import PlaitConfig, PlaitForRetrieval, PlaitModel, PlaitProcessor
from plait.configuration import PlaitCNNConfig, PlaitRetrievalConfig, PlaitTextConfig, PlaitVisionConfig
from plait.modeling.tasks.retrieval_encoding import encode_label_texts

SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
TEXT = PlaitTextConfig(vocab_size=60, pad_token_id=0, max_position_embeddings=16, **SIZES)
IMAGE = PlaitVisionConfig(image_size=16, patch_size=8, **{**SIZES, "hidden_size": 24})
SPACE = {"projection_dim": 20}


def composed(**parts: Any) -> PlaitForRetrieval:
    torch.manual_seed(0)
    space = {**SPACE, **parts.pop("retrieval_config", {})}
    model = PlaitForRetrieval.compose(**parts, retrieval_config=space, initializer_range=0.2, verbose=False)
    for parameter in model.parameters():
        if parameter.numel() > 1:
            nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture
def model() -> PlaitForRetrieval:
    return composed(text=TEXT, image=IMAGE)


def words(rows: int = 5, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 9, (rows, 1), generator=generator)
    mask = (torch.arange(9) < lengths).long()
    return {"input_ids": torch.randint(1, 60, (rows, 9), generator=generator) * mask, "attention_mask": mask}


def pictures(rows: int = 5, seed: int = 0) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(rows, 3, 16, 16, generator=torch.Generator().manual_seed(seed))}


def test_the_loss_is_info_nce_of_the_cosines(model: PlaitForRetrieval) -> None:
    inputs = words() | pictures()
    outputs = model(**inputs)
    text = F.normalize(model.get_text_features(**words()).pooler_output, dim=-1)
    image = F.normalize(model.get_image_features(**pictures()).pooler_output, dim=-1)
    assert torch.equal(outputs.text_embeds, text) and torch.equal(outputs.image_embeds, image)
    logits = text @ image.T / 0.07
    torch.testing.assert_close(outputs.logits_per_text, logits)
    assert torch.equal(outputs.logits_per_image, outputs.logits_per_text.T)
    own = torch.arange(5)
    expected = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    torch.testing.assert_close(model(**inputs, return_loss=True).loss, expected)
    assert outputs.loss is None and model.train()(**inputs).loss is not None


def test_equal_captions_and_pictures_are_no_negatives(model: PlaitForRetrieval) -> None:
    """Read from the inputs, however these are padded, or given as numbers."""
    text, image = words(), pictures()
    for name in text:
        text[name][3] = text[name][1]
    image["pixel_values"][2] = image["pixel_values"][0]
    found = model(**text, **image, return_loss=True).loss
    numbers = torch.tensor([[0, 0], [1, 1], [2, 0], [1, 3], [4, 4]])
    assert torch.equal(found, model(**text, **image, groups=numbers, return_loss=True).loss)
    unlike = torch.arange(5)[:, None].expand(-1, 2)
    assert found < model(**text, **image, groups=unlike, return_loss=True).loss
    longer = {name: F.pad(value, (0, 3)) for name, value in text.items()}
    torch.testing.assert_close(model(**longer, **image, return_loss=True).loss, found)
    shared = {
        "pixel_values": image["pixel_values"][[0, 1, 3, 4]],
        "image_indices": torch.tensor([[0], [1], [0], [2], [3]]),
    }
    torch.testing.assert_close(model(**text, **shared, return_loss=True).loss, found)


def test_a_row_that_lacks_a_side_has_no_part(model: PlaitForRetrieval) -> None:
    text, image = words(), pictures()
    text["attention_mask"][1] = 0
    shown = torch.tensor([[True], [True], [True], [False], [True]])
    found = model(**text, **image, image_present=shown, return_loss=True).loss
    kept = [0, 2, 4]
    rows = {name: value[kept] for name, value in (text | image).items()}
    torch.testing.assert_close(found, model(**rows, return_loss=True).loss)


@pytest.mark.parametrize("missing", ["text", "image"])
def test_a_batch_without_a_side_teaches_nothing_and_leaves_no_gradient_out(
    model: PlaitForRetrieval, missing: str
) -> None:
    """No distributed run waits for a gradient: that of every projection is there, of zeros."""
    outputs = model.train()(**(pictures() if missing == "text" else words()))
    outputs.loss.backward()
    assert outputs.loss == 0
    assert all(not part.weight.grad.any() for part in model.projections.values())


def test_every_parameter_is_trained(model: PlaitForRetrieval) -> None:
    model.train()(**words(), **pictures()).loss.backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


def test_towers_of_any_family_come_together(tmp_path: Path) -> None:
    """Convolutional, causal and wrapped ones, with the sigmoid loss, saved and reloaded."""
    gpt2 = {"vocab_size": 60, "n_positions": 16, "n_embd": 32, "n_layer": 1, "n_head": 4, "pad_token_id": 0}
    hf.GPT2Model(hf.GPT2Config(**gpt2)).save_pretrained(tmp_path / "gpt2")
    small = {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1], "image_size": 16}
    wrapped = hf.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=16)
    sigmoid = {"loss": "sigmoid", "logit_scale_init_value": 2.3, "logit_bias_init_value": -10.0}
    for image in (PlaitCNNConfig(**small), wrapped):
        model = composed(text=tmp_path / "gpt2", image=image, retrieval_config=sigmoid)
        assert model.config.text_config.pooling == "last"
        model.save_pretrained(tmp_path / "saved")
        again = PlaitForRetrieval.from_pretrained(tmp_path / "saved")
        inputs = words() | pictures()
        with torch.no_grad():
            assert torch.equal(again(**inputs).logits, model.eval()(**inputs).logits)
            assert torch.equal(again(**inputs, return_loss=True).loss, model(**inputs, return_loss=True).loss)


@pytest.mark.parametrize("own_tower", [False, True])
def test_queries_and_documents_share_a_tower_or_have_two(own_tower: bool, tmp_path: Path) -> None:
    model = composed(text=TEXT, document=TEXT if own_tower else "shared")
    assert list(model.model.towers) == (["text", "document"] if own_tower else ["text"])
    documents = {f"document_{name}": value for name, value in words(seed=1).items()}
    outputs = model(**words(), **documents)
    assert outputs.logits.shape == (5, 5) and outputs.document_embeds.shape == (5, 20)
    as_query = model.get_text_features(**words(seed=1)).pooler_output
    as_document = model.get_document_features(**words(seed=1)).pooler_output
    assert torch.equal(as_query, as_document) is not own_tower
    model.train()(**words(), **documents).loss.backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]
    model.eval().save_pretrained(tmp_path)
    again = PlaitForRetrieval.from_pretrained(tmp_path)
    assert torch.equal(again(**words(), **documents).logits, model(**words(), **documents).logits)
    if own_tower:
        model.freeze("document")
        assert all(
            "towers.text" in name or "towers" not in name for name, p in model.named_parameters() if p.requires_grad
        )
    PlaitModel.from_pretrained(tmp_path)


def test_pictures_can_be_searched_by_pictures_and_three_sides_compared() -> None:
    model = composed(text=TEXT, image=IMAGE, document=IMAGE, document_modality="image")
    inputs = {**words(), **pictures(), "document_pixel_values": pictures(seed=1)["pixel_values"]}
    outputs = model(**inputs, return_loss=True)
    sides = [outputs.text_embeds, outputs.image_embeds, outputs.document_embeds]
    own, losses = torch.arange(5), []
    for i, j in ((0, 1), (0, 2), (1, 2)):
        logits = sides[i] @ sides[j].T / 0.07
        losses.append((F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2)
    torch.testing.assert_close(outputs.loss, torch.stack(losses).mean())


def test_locked_towers_are_not_trained() -> None:
    model = composed(text=TEXT, image=IMAGE, freeze=["image"])
    model.train()(**words(), **pictures()).loss.backward()
    assert all(parameter.grad is None for parameter in model.model.towers["image"].parameters())
    assert model.projections["image"].weight.grad.any()


def test_towers_are_pooled_as_asked_or_as_they_were_trained() -> None:
    assert composed(text=TEXT, image=IMAGE).config.text_config.pooling == "mean"
    assert composed(text=TEXT, image=IMAGE, pooling={"image": "first"}).config.vision_config.pooling == "first"
    pooled = PlaitVisionConfig(image_size=16, patch_size=8, pooling="attention", **SIZES)
    assert composed(text=TEXT, image=pooled).config.vision_config.pooling == "attention"
    with pytest.raises(ValueError, match="pooling"):
        composed(text=TEXT, image=IMAGE, pooling="average")


def test_bad_input_is_said_to_be_bad(model: PlaitForRetrieval) -> None:
    with pytest.raises(ValueError, match="'text': 5, 'image': 4"):
        model(**words(), **pictures(4), return_loss=True)
    with pytest.raises(ValueError, match=r"groups has shape \(5,\)"):
        model(**words(), **pictures(), groups=torch.arange(5), return_loss=True)
    with pytest.raises(ValueError, match="document_input_ids, which no side"):
        model(**words(), document_input_ids=words()["input_ids"])
    with pytest.raises(ValueError, match="no audio side, only text, image"):
        model.get_audio_features(input_features=torch.zeros(1, 80, 10))
    broken = pictures()
    broken["pixel_values"][3, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="1 of 5 rows are not finite .first: row 3"):
        model(**words(), **broken, return_loss=True)
    single = composed(text=TEXT)
    with pytest.raises(ValueError, match="compares two sides"):
        single(**words(), return_loss=True)
    with pytest.raises(ValueError, match="without a projection all towers must be as wide"):
        composed(text=TEXT, image=IMAGE, retrieval_config={"projection_dim": None})
    with pytest.raises(ValueError, match="document_config is set, but retrieval_config.document is None"):
        PlaitConfig(text_config=TEXT, document_config=TEXT, retrieval_config={})


class Words:
    """A processor that has seen no word before: letters are tokens."""

    def __call__(
        self, text: list[str] | None = None, images: list[Any] | None = None, **options: Any
    ) -> dict[str, Tensor]:
        assert options.pop("return_tensors") == "pt"
        if text is None:
            return {"pixel_values": torch.stack([torch.as_tensor(image) for image in images])}
        ids = [torch.tensor([ord(letter) % 59 + 1 for letter in row[:16]]) for row in text]
        padded = nn.utils.rnn.pad_sequence(ids, batch_first=True)
        return {"input_ids": padded, "attention_mask": (padded > 0).long()}


def test_many_rows_are_encoded_in_their_order(model: PlaitForRetrieval) -> None:
    texts = ["a dog", "two very large dogs", "cat", "x", "a dog and a cat", "no"]
    model.train()
    found = model.encode(texts, Words(), batch_size=2)
    assert model.training and not found.requires_grad
    model.eval()
    for row, text in enumerate(texts):
        alone = model.encode([text], Words(), normalize=False)
        torch.testing.assert_close(found[row], F.normalize(alone[0], dim=-1), rtol=0, atol=1e-6)
    torch.testing.assert_close(model.encode(["dog"], Words(), prompt="a "), found[:1])
    images = list(pictures()["pixel_values"])
    assert model.encode(images, Words(), batch_size=2).shape == (5, 20)
    with pytest.raises(ValueError, match="no rows"):
        model.encode([], Words())
    with pytest.raises(ValueError, match="no audio side"):
        model.encode(texts, Words(), "audio")


def test_labels_are_scored_by_the_mean_of_their_templates(model: PlaitForRetrieval) -> None:
    images, labels, templates = list(pictures()["pixel_values"]), ["dog", "cat", "fox"], ["a {}", "one big {}"]
    found = model.zero_shot(images, labels, Words(), templates=templates)
    classes = torch.stack(
        [F.normalize(model.encode([t.format(x) for t in templates], Words()).mean(0), dim=-1) for x in labels]
    )
    logits = model.encode(images, Words()) @ classes.T / 0.07
    torch.testing.assert_close(found, logits.softmax(-1), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="labels must be one or more texts that differ"):
        model.zero_shot(images, ["dog", "dog"], Words())
    with pytest.raises(ValueError, match="template has {}"):
        encode_label_texts(model, labels, Words(), templates=["a photo"])


@pytest.fixture
def clip_folder(tmp_path: Path) -> Path:
    """A CLIP checkpoint with its processor, as one is published."""
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {
        word: number for number, word in enumerate("<pad> <start> <end> <unk> this is a photo of . dog cat".split())
    }
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.normalizer = tokenizers.normalizers.Lowercase()
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        "<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 2)]
    )
    tokens = {"pad_token": "<pad>", "bos_token": "<start>", "eos_token": "<end>", "unk_token": "<unk>"}
    hf.PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=16, **tokens).save_pretrained(
        tmp_path / "clip"
    )
    sizes = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    hf.CLIPImageProcessor(**sizes).save_pretrained(tmp_path / "clip")
    text = {"vocab_size": 12, "max_position_embeddings": 16, **SIZES, "intermediate_size": 64, "eos_token_id": 2}
    image = {"image_size": 16, "patch_size": 8, **SIZES, "intermediate_size": 64}
    torch.manual_seed(0)
    clip = hf.CLIPModel(hf.CLIPConfig(text_config={**text, "bos_token_id": 1}, vision_config=image, projection_dim=16))
    for parameter in clip.parameters():
        nn.init.normal_(parameter, std=0.2)
    clip.save_pretrained(tmp_path / "clip")
    return tmp_path / "clip"


def test_the_zero_shot_pipeline_answers_as_with_transformers_own_class(clip_folder: Path, tmp_path: Path) -> None:
    """The text's end has the id 2: pooled at the largest id, as old CLIP configs mean it."""
    PlaitForRetrieval.from_pretrained(clip_folder).save_pretrained(tmp_path / "plait")
    PlaitProcessor.from_pretrained(clip_folder).save_pretrained(tmp_path / "plait")
    picture = Image.effect_noise((20, 16), 80).convert("RGB")
    answers = []
    for folder in (clip_folder, tmp_path / "plait"):
        classify = hf.pipeline("zero-shot-image-classification", model=str(folder))
        answers.append(classify(picture, candidate_labels=["dog", "cat"], hypothesis_template="a photo of a {}"))
    assert type(classify.model) is PlaitForRetrieval
    assert [answer["label"] for answer in answers[0]] == [answer["label"] for answer in answers[1]]
    scores = [[answer["score"] for answer in answer_list] for answer_list in answers]
    assert scores[1] == pytest.approx(scores[0], abs=1e-5)
    model, processor = (part.from_pretrained(tmp_path / "plait") for part in (PlaitForRetrieval, PlaitProcessor))
    found = model.zero_shot([picture], ["dog", "cat"], processor, templates=["a photo of a {}"])
    assert sorted(found[0].tolist(), reverse=True) == pytest.approx(scores[0], abs=1e-5)


def test_a_space_of_one_dimension_is_allowed_and_of_none_is_not() -> None:
    assert PlaitRetrievalConfig(projection_dim=1).projection_dim == 1
    for wrong in (0, -3):
        with pytest.raises(ValueError, match=f"projection_dim is {wrong}: expected a width of at least 1"):
            PlaitRetrievalConfig(projection_dim=wrong)
