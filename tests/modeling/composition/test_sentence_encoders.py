"""Sentence encoders are read as they were made: vectors equal those of sentence-transformers, whatever the modules."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

from plait import (
    PlaitForClassification,
    PlaitForMaskedLM,
    PlaitForRetrieval,
    PlaitModel,
    PlaitProcessor,
)
from plait.configuration import PlaitVisionConfig
from plait.modeling.checkpoints import export
from plait.training.data.tokenizer import train_tokenizer

library = pytest.importorskip("sentence_transformers")

from sentence_transformers.sentence_transformer import modules as parts  # noqa: E402

from plait.training.sentence_module import PlaitSentenceModule  # noqa: E402

TEXTS = ["a red square", "A Red Square", "it is all over green , and square and red and it is all over", "blue", "it"]
SIZES: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
TOWERS = {
    "bert": lambda size: hf.BertModel(hf.BertConfig(vocab_size=size, max_position_embeddings=24, **SIZES)),
    "mpnet": lambda size: hf.MPNetModel(
        hf.MPNetConfig(vocab_size=size, max_position_embeddings=26, **SIZES)
    ),  # wrapped
    "llama": lambda size: hf.LlamaForCausalLM(hf.LlamaConfig(vocab_size=size, max_position_embeddings=24, **SIZES)),
}
POOLINGS = {
    "mean": "mean",
    "cls": "cls",
    "max": "max",
    "sqrt": "mean_sqrt_len_tokens",
    "weighted": "weightedmean",
    "last": "lasttoken",
    "several": ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"),
}
LAYERS = {
    "none": lambda width: [],
    "unit": lambda width: [parts.Normalize()],
    "dense": lambda width: [parts.Dense(width, 12)],
    "chain": lambda width: [
        parts.LayerNorm(width),
        parts.Dense(width, 20, bias=False, activation_function=nn.ReLU()),
        parts.Dropout(0.3),
        parts.Dense(20, 6, activation_function=nn.Identity()),
        parts.Normalize(),
    ],
}
CASES = [
    *(("bert", "several", layers) for layers in ("none", "chain")),
    ("mpnet", "several", "chain"),
    ("llama", "last", "unit"),
]
SLOW_CASES = [
    *(("bert", pooling, "none") for pooling in POOLINGS),
    *(("bert", "several", layers) for layers in ("unit", "dense")),
    ("mpnet", "several", "none"),
    ("llama", "last", "chain"),
]
MARKED = [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW_CASES)]
CLOSE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(TEXTS, 24, vocab_size=300, min_frequency=1, lowercase=False)


def save_encoder(folder: Path, tokenizer: Any, tower: str, pooling: str, layers: str, **settings: Any) -> Any:
    """Saves a sentence encoder of drawn weights by sentence-transformers, and returns it as that library reads it."""
    torch.manual_seed(0)
    model = TOWERS[tower](len(tokenizer))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    (folder / "tower").mkdir(parents=True)
    model.save_pretrained(folder / "tower")
    tokenizer.save_pretrained(folder / "tower")
    first = parts.Transformer(str(folder / "tower"), **{"max_seq_length": 9, **settings.pop("first", {})})
    modes = POOLINGS[pooling]
    pooler = parts.Pooling(16, modes)
    whole = library.SentenceTransformer(
        modules=[first, pooler, *LAYERS[layers](pooler.get_embedding_dimension())], device="cpu", **settings
    )
    whole.save(str(folder / "encoder"))
    return library.SentenceTransformer(str(folder / "encoder"), device="cpu")


def theirs(encoder: Any, texts: list[str] = TEXTS, **options: Any) -> Tensor:
    return encoder.encode(texts, convert_to_tensor=True, show_progress_bar=False, **options)


@pytest.mark.parametrize(("tower", "pooling", "layers"), MARKED)
def test_vectors_are_those_of_sentence_transformers(
    tokenizer: Any, tmp_path: Path, tower: str, pooling: str, layers: str
) -> None:
    """In every class that pools, loaded or composed, and again when it is saved and reloaded."""
    expected = theirs(save_encoder(tmp_path, tokenizer, tower, pooling, layers))
    folder = tmp_path / "encoder"
    processor = PlaitProcessor.from_pretrained(folder)
    loaded = PlaitForRetrieval.from_pretrained(folder)
    for model in (loaded, PlaitForRetrieval.compose(text=folder, verbose=False)):
        torch.testing.assert_close(model.encode(TEXTS, processor, normalize=False), expected, **CLOSE)
        assert not model.projections
    loaded.save_pretrained(tmp_path / "again")
    processor.save_pretrained(tmp_path / "again")
    again = PlaitForRetrieval.from_pretrained(tmp_path / "again")
    found = again.encode(TEXTS, PlaitProcessor.from_pretrained(tmp_path / "again"), normalize=False)
    torch.testing.assert_close(found, expected, **CLOSE)
    batch = processor(text=TEXTS, return_tensors="pt")
    with torch.no_grad():
        for base in (
            PlaitModel.from_pretrained(folder),
            hf.AutoModel.from_pretrained(tmp_path / "again"),
            PlaitForClassification.from_pretrained(folder, num_labels=3).model,
            PlaitForClassification.compose(text=folder, labels=3, verbose=False).model,
        ):
            torch.testing.assert_close(base(**batch).pooler_output, expected, **CLOSE)


@pytest.mark.parametrize(("layers", "scale"), [("chain", 6**0.5), ("dense", 1)])
def test_a_classifier_reads_the_vector(tokenizer: Any, tmp_path: Path, layers: str, scale: float) -> None:
    """Its logits are those of its linear layer on the vectors of sentence-transformers, saved and reloaded as well;
    those of unit length are scaled to components of about 1."""
    expected = theirs(save_encoder(tmp_path, tokenizer, "bert", "several", layers)) * scale
    model = PlaitForClassification.from_pretrained(tmp_path / "encoder", num_labels=3)
    model.save_pretrained(tmp_path / "again")
    batch = PlaitProcessor.from_pretrained(tmp_path / "encoder")(text=TEXTS, return_tensors="pt")
    with torch.no_grad():
        logits = PlaitForClassification.from_pretrained(tmp_path / "again")(**batch).logits
        torch.testing.assert_close(logits, model.classifier(expected), **CLOSE)


def test_the_module_of_sentence_transformers_gives_the_same(tokenizer: Any, tmp_path: Path) -> None:
    """Read by plait, and saved as one folder that both libraries read."""
    expected = theirs(save_encoder(tmp_path, tokenizer, "bert", "several", "chain"))
    module = PlaitSentenceModule.load(str(tmp_path / "encoder"), init_defaults={"normalize": False})
    embedder = library.SentenceTransformer(modules=[module], device="cpu")
    assert embedder.get_embedding_dimension() == 6 and embedder.max_seq_length == 9
    torch.testing.assert_close(theirs(embedder), expected, **CLOSE)
    embedder.save(str(tmp_path / "saved"))
    again = library.SentenceTransformer(str(tmp_path / "saved"), trust_remote_code=True, device="cpu")
    torch.testing.assert_close(theirs(again), expected, **CLOSE)
    model = PlaitForRetrieval.from_pretrained(tmp_path / "saved")
    found = model.encode(TEXTS, PlaitProcessor.from_pretrained(tmp_path / "saved"), normalize=False)
    torch.testing.assert_close(found, expected, **CLOSE)


def test_with_other_towers_its_vector_is_projected(tokenizer: Any, tmp_path: Path) -> None:
    """In a joint space the sentence's vector is what is projected; a given pooling replaces it."""
    expected = theirs(save_encoder(tmp_path, tokenizer, "bert", "cls", "dense"))
    image = PlaitVisionConfig(image_size=16, patch_size=8, **SIZES)
    model = PlaitForRetrieval.compose(text=tmp_path / "encoder", image=image, verbose=False)
    processor = PlaitProcessor.compose(text=tmp_path / "encoder", image=image)
    with torch.no_grad():
        projected = model.projections["text"](expected)
    torch.testing.assert_close(model.encode(TEXTS, processor, normalize=False), projected, **CLOSE)
    given = PlaitForRetrieval.compose(text=tmp_path / "encoder", image=image, pooling="last", verbose=False)
    tower: Any = given.config.text_config
    assert tower.sentence_pooling is None and tower.pooling == "last"
    fused = PlaitForClassification.compose(text=tmp_path / "encoder", image=image, labels=2, verbose=False)
    masked = PlaitForMaskedLM.from_pretrained(tmp_path / "encoder")
    for other in (fused, masked):
        assert not any("pooler" in name or "sentence" in name for name, _ in other.named_parameters())


def test_length_case_and_prompts_are_honoured(tokenizer: Any, tmp_path: Path) -> None:
    """Texts are lowered and cut, and the default prompt goes before each, as the folder says; a call names another."""
    prompts = {"query": "blue it ", "other": "red "}
    settings = {"prompts": prompts, "default_prompt_name": "query", "first": {"do_lower_case": True}}
    encoder = save_encoder(tmp_path, tokenizer, "bert", "mean", "none", **settings)
    folder = tmp_path / "encoder"
    model, processor = PlaitForRetrieval.from_pretrained(folder), PlaitProcessor.from_pretrained(folder)
    processor.save_pretrained(tmp_path / "saved")
    composed = PlaitProcessor.compose(text=folder)
    for reader in (processor, composed, PlaitProcessor.from_pretrained(tmp_path / "saved")):
        assert reader.tokenizer.model_max_length == 9 and reader.prompts == {**prompts, "default": "blue it "}
        torch.testing.assert_close(model.encode(TEXTS, reader, normalize=False), theirs(encoder), **CLOSE)
        for prompt in ("red ", ""):
            found = model.encode(TEXTS, reader, normalize=False, prompt=prompt)
            torch.testing.assert_close(found, theirs(encoder, prompt=prompt), **CLOSE)
    assert torch.equal(theirs(encoder)[0], theirs(encoder)[1])


def test_a_plain_folder_keeps_its_own_pooling(tokenizer: Any, tmp_path: Path) -> None:
    """The tower of the same files without modules.json has BERT's pooler, and a fresh projection in retrieval."""
    save_encoder(tmp_path, tokenizer, "bert", "mean", "none")
    shutil.copytree(tmp_path / "encoder", tmp_path / "plain")
    (tmp_path / "plain" / "modules.json").unlink()
    batch = PlaitProcessor.from_pretrained(tmp_path / "plain")(text=TEXTS, return_tensors="pt")
    with torch.no_grad():
        pooled = hf.BertModel.from_pretrained(tmp_path / "plain")(**batch).pooler_output
        torch.testing.assert_close(
            PlaitModel.from_pretrained(tmp_path / "plain")(**batch).pooler_output, pooled, **CLOSE
        )
    assert PlaitForRetrieval.from_pretrained(tmp_path / "plain").config.retrieval_config.projection_dim == 512


@pytest.mark.parametrize("layers", ["unit", "chain"])
def test_export_gives_the_folder_back(tokenizer: Any, tmp_path: Path, layers: str) -> None:
    """sentence-transformers reads an exported tower with all its modules, and the tower's own file is bit-equal."""
    expected = theirs(save_encoder(tmp_path, tokenizer, "bert", "several", layers, first={"max_seq_length": 24}))
    export(PlaitModel.from_pretrained(tmp_path / "encoder"), tmp_path / "exported")
    tokenizer.save_pretrained(tmp_path / "exported")
    assert torch.equal(theirs(library.SentenceTransformer(str(tmp_path / "exported"), device="cpu")), expected)


def change_file(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**content, **changes}))


def name_module(folder: Path, number: int, kind: str) -> None:
    listed = json.loads((folder / "modules.json").read_text())
    listed[number]["type"] = kind
    (folder / "modules.json").write_text(json.dumps(listed))


BROKEN = {
    "a WordWeights": lambda folder: name_module(folder, 2, "sentence_transformers.models.WordWeights"),
    "StaticEmbedding, Pooling": lambda folder: name_module(folder, 0, "sentence_transformers.models.StaticEmbedding"),
    "the class custom.Router": lambda folder: name_module(folder, 1, "custom.Router"),
    "pooling is median": lambda folder: change_file(folder / "1_Pooling" / "config.json", pooling_mode="median"),
    "include_prompt": lambda folder: change_file(folder / "1_Pooling" / "config.json", include_prompt=False),
    "a residual connection": lambda folder: change_file(folder / "2_Dense" / "config.json", use_residual=True),
    "the activation Cube": lambda folder: change_file(folder / "2_Dense" / "config.json", activation_function="x.Cube"),
    "token_embeddings": lambda folder: change_file(
        folder / "2_Dense" / "config.json", module_input_name="token_embeddings"
    ),
    "transformer_task 'fill-mask'": lambda folder: change_file(
        folder / "sentence_bert_config.json", transformer_task="fill-mask"
    ),
    "config_args": lambda folder: change_file(folder / "sentence_bert_config.json", config_args={"is_causal": False}),
    "model.safetensors": lambda folder: (folder / "2_Dense" / "model.safetensors").unlink(),
}


def test_what_plait_does_not_have_is_an_error(tokenizer: Any, tmp_path: Path) -> None:
    """A module or setting that would change the vectors is named, and the way to the tower alone is said."""
    save_encoder(tmp_path, tokenizer, "bert", "mean", "dense")
    for number, (message, damage) in enumerate(BROKEN.items()):
        folder = tmp_path / f"damaged {number}"
        shutil.copytree(tmp_path / "encoder", folder)
        damage(folder)
        with pytest.raises((ValueError, OSError), match=message):
            PlaitForRetrieval.from_pretrained(folder)
        with pytest.raises((ValueError, OSError), match=message):
            PlaitForClassification.compose(text=folder, labels=2, verbose=False)
    static = tmp_path / "static"
    library.SentenceTransformer(modules=[parts.StaticEmbedding(tokenizer, embedding_dim=4)], device="cpu").save(
        str(static)
    )
    with pytest.raises(OSError, match="a sentence encoder of StaticEmbedding"):
        PlaitForRetrieval.from_pretrained(static)
    tower = hf.AutoModel.from_pretrained(folder)
    alone: Any = PlaitForRetrieval.compose(text=tower, verbose=False).config.text_config
    assert alone.sentence_pooling is None
