"""A frozen tower with a head: what the default settings learn from its vectors."""

import csv
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import nn

from plait.training.data.tokenizer import train_tokenizer
from plait.training.recipes.schema import Recipe, parse_recipe
from plait.training.runs.assembly import build_arguments
from plait.training.runs.recipe import build_recipe
from plait.training.runs.train import train

WORDS = "red green blue square round dog cat house tree river stone cloud runs sits sleeps over under in".split()


def write_rows(file: Path, texts: list[str], labels: list[str]) -> None:
    with file.open("w", newline="") as out:
        csv.writer(out).writerows([("text", "label"), *zip(texts, labels, strict=True)])


def test_the_head_learns_what_logistic_regression_does(tmp_path: Path) -> None:
    """On the unit vectors of a sentence encoder, by a recipe that says no more than `freeze: [text]`."""
    library = pytest.importorskip("sentence_transformers")
    linear = pytest.importorskip("sklearn.linear_model")
    from sentence_transformers.sentence_transformer import modules as parts

    drawn = random.Random(0)
    texts = [" ".join(drawn.choices(WORDS, k=drawn.randint(3, 9))) for _ in range(900)]
    tokenizer = train_tokenizer(texts, 24, vocab_size=300, min_frequency=1)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    tower = hf.BertModel(hf.BertConfig(vocab_size=len(tokenizer), max_position_embeddings=24, **sizes))
    for parameter in (parameter for parameter in tower.parameters() if parameter.ndim > 1):
        nn.init.normal_(parameter, std=0.3)
    tower.save_pretrained(tmp_path / "tower")
    tokenizer.save_pretrained(tmp_path / "tower")
    modules = [parts.Transformer(str(tmp_path / "tower")), parts.Pooling(32), parts.Normalize()]
    encoder = library.SentenceTransformer(modules=modules, device="cpu")
    encoder.save(str(tmp_path / "encoder"))
    vectors = encoder.encode(texts, show_progress_bar=False)
    scores = (vectors - vectors.mean(0)) @ torch.randn(32).numpy()
    labels = ["yes" if score > 0 else "no" for score in scores]
    reference = linear.LogisticRegression(max_iter=1000).fit(vectors[:600], labels[:600])
    data = tmp_path / "data"
    data.mkdir()
    write_rows(data / "train.csv", texts[:600], labels[:600])
    write_rows(data / "test.csv", texts[600:], labels[600:])
    recipe: dict[str, Any] = {
        "model": {"text": str(tmp_path / "encoder"), "freeze": ["text"]},
        "data": {"source": str(data), "columns": {"text": "text", "label": "label"}},
        "training": {"cache_features": ["text"], "feature_cache_dir": str(tmp_path / "features"), "use_cpu": True},
        "metrics": ["accuracy"],
        "output_dir": str(tmp_path / "run"),
    }
    found = train(build_recipe(recipe), "")["test"]["model"]["accuracy"]
    expected = reference.score(vectors[600:], labels[600:])
    assert expected > 0.8 and found > expected - 0.05


def rate_of(tmp_path: Path, **content: Any) -> float:
    recipe: Recipe = parse_recipe(content)
    return build_arguments(recipe, tmp_path).learning_rate


def test_the_default_learning_rate_depends_on_what_is_trained(tmp_path: Path) -> None:
    """1e-3 if no pretrained weights are trained, else transformers' 5e-5; a given one always counts."""
    both = {"text": "a/text", "image": "an/image"}
    fresh = {"text": "a/text", "image": {"config": {"hidden_size": 8}}}
    assert rate_of(tmp_path, model={**both, "freeze": ["text", "image"]}) == 1e-3
    assert rate_of(tmp_path, model={**fresh, "freeze": ["text"]}) == 1e-3
    assert rate_of(tmp_path, model=both, training={"frozen": ["text"], "learning_rates": {"image": 0}}) == 1e-3
    assert rate_of(tmp_path, model={**both, "freeze": ["text"]}) == 5e-5
    assert rate_of(tmp_path, model=both) == 5e-5
    assert rate_of(tmp_path, model={"text": {"config": {"hidden_size": 8}}}) == 5e-5
    assert rate_of(tmp_path, model={"from_pretrained": "a/model", "freeze": ["text"]}) == 5e-5
    given = {"learning_rate": 2e-4}
    assert rate_of(tmp_path, model={**both, "freeze": ["text", "image"]}, training=given) == 2e-4
