"""The recipe's key `lora`: adapters that train, are saved, load again in every command, or are merged."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from plait import PlaitForClassification
from plait.configuration import PlaitTextConfig, PlaitVisionConfig
from plait.modeling.adaptation.lora import is_target
from plait.modeling.adaptation.quantization import is_quantized_weight
from plait.modeling.composition.parameter_names import part_of
from plait.training import load_run
from plait.training.cli import main
from plait.training.commands import run_recipe
from plait.training.compare.comparison import compare
from plait.training.data.tokenizer import train_tokenizer
from plait.training.recipes.errors import RecipeError
from plait.training.recipes.schema import ModelRecipe, Recipe
from plait.training.runs.adapters import load_weights, locate_sources
from plait.training.runs.evaluate import evaluate
from plait.training.runs.loading import load_model_recipe
from plait.training.runs.predict import predict
from plait.training.runs.recipe import build_recipe, load_recipe
from plait.training.tasks.registry import find_task

pytest.importorskip("peft")
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "initializer_range": 0.2}
QUICK: dict[str, Any] = {
    "training.use_cpu": True,
    "training.disable_tqdm": True,
    "training.probe_products": False,
    "training.max_steps": 4,
    "training.per_device_train_batch_size": 4,
    "training.eval_strategy": "steps",
    "training.eval_steps": 2,
    "training.save_strategy": "steps",
    "training.save_steps": 2,
    "training.learning_rate": 0.01,
    "training.early_stopping_patience": None,
    "data.validation_fraction": 0.4,
}


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A pretrained text tower and a pretrained image tower, as folders."""
    folder = tmp_path_factory.mktemp("towers")
    tokenizer = train_tokenizer(
        ["a red square", "a green square", "a blue square"], 24, vocab_size=300, min_frequency=1
    )
    text = PlaitTextConfig(**SIZES, max_position_embeddings=24, vocab_size=len(tokenizer), pad_token_id=0)
    image = PlaitVisionConfig(**SIZES, image_size=16, patch_size=8)
    torch.manual_seed(0)
    for name, config in (("text", text), ("image", image)):
        tower = PlaitForClassification.compose(**{name: config}, labels=2, verbose=False)
        tower.save_pretrained(folder / name)
    tokenizer.save_pretrained(folder / "text")
    return {name: str(folder / name) for name in ("text", "image")}


def build_adapted_recipe(
    folder: Path, towers: dict[str, str], pictures: dict[str, Path], labels: list[Any], **changes: Any
) -> Recipe:
    rows = [
        {"text": f"a {colour} square", "image": str(path), "label": label}
        for (colour, path), label in zip(pictures.items(), labels, strict=True)
    ]
    folder.mkdir(exist_ok=True)
    Dataset.from_list(rows * 6).to_parquet(folder / "rows.parquet")
    own = {"data.source": str(folder / "rows.parquet"), "output_dir": str(folder / "run")}
    sources = {f"model.{name}": tower for name, tower in towers.items()}
    return load_recipe("image_text", {**QUICK, **sources, **own, "lora": {"r": 2}, **changes})


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory, towers: dict[str, str], pictures: dict[str, Path]
) -> tuple[Path, dict[str, Any]]:
    """A run that learns numbers far from 0 by adapters."""
    folder = tmp_path_factory.mktemp("adapted")
    recipe = build_adapted_recipe(folder, towers, pictures, [100.5, 200.5, 300.5])
    assert (recipe.training.get("learning_rates") or {}, recipe.model.freeze) == ({}, [])
    return folder / "run", run_recipe(recipe, "plait train image_text")


def test_a_run_holds_its_adapters_alone_and_every_command_loads_them(run: tuple[Path, dict[str, Any]]) -> None:
    folder, results = run
    names = {path.name for path in folder.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "config.json", "README.md", "recipe.yaml"} <= names
    assert "model.safetensors" not in names
    recipe = load_model_recipe(str(folder), {})
    scores = evaluate(str(folder), recipe, "validation")
    assert scores["mae"] == pytest.approx(results["validation"]["model"]["mae"], rel=1e-4)
    rows = [{"text": "a red square", "image": None}, {"text": "a blue square", "image": None}]
    assert all(50 < answer["value"] < 350 for answer in predict(str(folder), rows, recipe))
    model, processor = load_run(folder)
    assert not any("lora" in name for name, _ in model.named_parameters())
    assert processor.find_part("tokenizer") is not None
    card = (folder / "README.md").read_text()
    assert 'model, processor = load_run("run")' in card
    whole = {row.part: row.parameters for row in model.composition().rows}
    table = next(line for line in card.splitlines() if line.startswith("part "))
    assert "adapters" in table.split()
    assert f"{whole['head']:,d}" in next(line for line in card.splitlines() if line.startswith("head "))
    with pytest.raises(OSError, match="but adapters: plait.training.load_run"):
        PlaitForClassification.from_pretrained(folder)


def test_merged_adapters_are_a_plain_folder_with_the_same_answers(run: tuple[Path, dict[str, Any]]) -> None:
    """`plait merge`: the folder of the adapters stays as it is, and nothing is overwritten."""
    folder, _ = run
    output, before = folder.parent / "whole", {path.name: path.read_bytes() for path in folder.glob("*.*")}
    assert main(["merge", str(folder), str(output)]) == 0
    assert {path.name: path.read_bytes() for path in folder.glob("*.*")} == before
    assert not (output / "adapter_config.json").exists()
    model = PlaitForClassification.from_pretrained(output)
    beside, processor = load_run(folder)
    merged, _ = load_run(output)
    inputs = processor(text=["a red square", "a blue square"], return_tensors="pt")
    with torch.no_grad():
        expected = beside.eval()(**inputs).logits
        for each in (model, merged):
            torch.testing.assert_close(each.eval()(**inputs).logits, expected, rtol=1e-5, atol=1e-5)
    assert evaluate(str(output), load_model_recipe(str(output), {}), "validation")["mae"] > 0
    assert main(["merge", str(folder), str(output)]) == 2
    assert main(["merge", str(output), str(folder.parent / "again")]) == 2


def test_adapters_and_new_modules_learn_and_pretrained_weights_stay(
    run: tuple[Path, dict[str, Any]], towers: dict[str, str]
) -> None:
    folder, _ = run
    config = json.loads((folder / "adapter_config.json").read_text())
    assert {part_of(f"{name}.weight") for name in config["modules_to_save"]} == {"fusion", "head"}
    model = load_weights(str(folder), find_task("classification"))
    for name, folder_of_tower in towers.items():
        tower = PlaitForClassification.from_pretrained(folder_of_tower)
        before = dict(tower.model.towers[name].named_parameters())
        after = dict(model.model.towers[name].named_parameters())
        changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
        assert changed
        assert all(before[key].ndim == 2 and "embeddings" not in key for key in changed)


def test_towers_are_found_from_another_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative folders are those of the directory in which the run was started, which is above the run's folder."""
    for name in ("runs/first", "runs/second", "towers/text", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    model = ModelRecipe(from_pretrained="runs/first", text="towers/text", image="some/hub-id")
    found = locate_sources(model, Path("../runs/second"))
    assert (found.from_pretrained, found.text) == (str(tmp_path / "runs/first"), str(tmp_path / "towers/text"))
    assert found.image == "some/hub-id"


@pytest.mark.slow
def test_merged_adapters_are_a_whole_model(
    tmp_path: Path, towers: dict[str, str], pictures: dict[str, Path], run: tuple[Path, dict[str, Any]]
) -> None:
    """And the same one as with the adapters beside it."""
    labels = [100.5, 200.5, 300.5]
    changes = {"lora": {"r": 2, "merge": True}}
    results = run_recipe(build_adapted_recipe(tmp_path, towers, pictures, labels, **changes), "plait train image_text")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert "model.safetensors" in names
    assert "adapter_config.json" not in names
    assert results["validation"]["model"]["mae"] == pytest.approx(run[1]["validation"]["model"]["mae"], rel=1e-4)
    merged = PlaitForClassification.from_pretrained(tmp_path / "run").state_dict()
    beside = load_weights(str(run[0]), find_task("classification")).state_dict()
    assert merged.keys() == beside.keys()
    for name, value in merged.items():
        torch.testing.assert_close(value, beside[name], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_run_with_adapters_is_resumed_from_its_checkpoint(
    tmp_path: Path, towers: dict[str, str], pictures: dict[str, Path]
) -> None:
    labels = [100.5, 200.5, 300.5]
    last = {"training.load_best_model_at_end": False}
    short = {**last, "training.max_steps": 2}
    run_recipe(build_adapted_recipe(tmp_path, towers, pictures, labels, **short), "plait train")
    before = load_weights(str(tmp_path / "run"), find_task("classification")).state_dict()
    run_recipe(build_adapted_recipe(tmp_path, towers, pictures, labels, **last), "plait train", resume=True)
    after = load_weights(str(tmp_path / "run"), find_task("classification")).state_dict()
    assert {part_of(name) for name, value in after.items() if not torch.equal(value, before[name])} == {
        "text",
        "image",
        "fusion",
        "head",
    }
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    assert [entry["step"] for entry in history if "eval_loss" in entry] == [2, 4]


@pytest.mark.parametrize("target", [["text"], "q_proj", ["text", "out_proj"]])
def test_targets_are_parts_or_ends_of_names(target: Any) -> None:
    names = ["model.towers.text.layers.0.self_attn.q_proj", "model.towers.image.layers.0.self_attn.q_proj"]
    wanted = [target] if isinstance(target, str) else target
    found = [any(is_target(name, each) for each in wanted) for name in names]
    assert found == {"q_proj": [True, True]}.get(str(target), [True, False])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora": {"r": 0}}, "lora.r is 0: expected at least 1"),
        ({"lora": {"rank": 4}}, "lora has no key 'rank'"),
        ({"lora": {"dropout": 1.0}}, "lora.dropout is 1.0"),
        ({"lora": {"target": ["text"]}, "model": {"freeze": ["text"]}}, "lora.target names 'text', which is frozen"),
        ({"model": {"freeze": ["text", "image"]}}, r"none that model.freeze leaves \(image, text\)"),
        ({"model": {"freeze": ["fusion"]}}, "'fusion' is trained whole with lora"),
        ({"training": {"optim": "muon"}}, "training.optim is 'muon'"),
        ({"training": {"average_decay": 0.99}}, "average_decay averages whole weights"),
        ({"task": "image_generation"}, "lora adapts pretrained weights"),
    ],
)
def test_wrong_combinations_are_errors_before_work(changes: dict[str, Any], message: str) -> None:
    model = {"text": "some/text", "image": "some/image", **changes.get("model", {})}
    content = {"task": "classification", "lora": {"r": 4}, **changes, "model": model}
    with pytest.raises(RecipeError, match=message):
        build_recipe(content)


def test_an_unknown_target_is_an_error_with_the_nearest(
    tmp_path: Path, towers: dict[str, str], pictures: dict[str, Path]
) -> None:
    recipe = build_adapted_recipe(tmp_path, towers, pictures, ["a", "b", "a"], lora={"target": ["q_porj"]})
    with pytest.raises(RecipeError, match="lora.target: no layer to adapt is 'q_porj'; did you mean 'q_proj'"):
        run_recipe(recipe, "plait train image_text")


@pytest.mark.parametrize(
    ("optim", "message"),
    [
        ("adamw_8bit", "needs the package bitsandbytes: pip install bitsandbytes, or choose adamw_torch"),
        ("galore_adamw", "needs the package galore_torch: pip install galore-torch"),
        ("adamw_torhc", "did you mean 'adamw_torch'"),
    ],
)
def test_an_optimizer_that_is_not_installed_is_an_error_before_work(
    optim: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plait.training.runs.combinations.find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=message):
        build_recipe({"training": {"optim": optim}})


@pytest.mark.slow
def test_adapters_beside_quantized_towers(tmp_path: Path, towers: dict[str, str], pictures: dict[str, Path]) -> None:
    """QLoRA: every command answers as the trained model did, and the merged folder too; frozen towers may be quantized
    without adapters, and a folder when it is loaded."""
    pytest.importorskip("torchao")
    kinds = {"text": "int8", "image": "int8"}
    changes = {"model.quantize": kinds}
    recipe = build_adapted_recipe(tmp_path, towers, pictures, [100.5, 200.5, 300.5], **changes)
    results = run_recipe(recipe, "plait train image_text")
    folder = tmp_path / "run"
    assert (folder / "adapter_model.safetensors").exists() and not (folder / "model.safetensors").exists()
    assert main(["merge", str(folder), str(tmp_path / "merged")]) == 0
    for place in (folder, tmp_path / "merged"):
        scores = evaluate(str(place), load_model_recipe(str(place), {"model.quantize": kinds}), "validation")
        assert scores["mae"] == pytest.approx(results["validation"]["model"]["mae"], rel=1e-3)
    model = load_weights(str(tmp_path / "merged"), find_task("classification"))
    assert not any(map(is_quantized_weight, model.parameters()))
    frozen = {"lora": None, "model.quantize": {"text": "int4"}, "model.freeze": ["text"], "training.max_steps": 2}
    frozen |= {"training.cache_features": ["text"], "output_dir": str(tmp_path / "frozen")}
    run_recipe(build_adapted_recipe(tmp_path, towers, pictures, ["a", "b", "a"], **frozen), "plait train image_text")
    model, _ = load_run(tmp_path / "frozen")
    assert {part_of(name) for name, weight in model.named_parameters() if is_quantized_weight(weight)} == {"text"}


@pytest.mark.slow
def test_several_tasks_share_the_adapters_of_their_body(
    tmp_path: Path, towers: dict[str, str], pictures: dict[str, Path]
) -> None:
    """Each task's folder is a whole model: towers that adapters changed alike, and its own head."""
    rows = [{"text": f"a {colour} square", "image": str(path), "label": colour} for colour, path in pictures.items()]
    Dataset.from_list(rows * 4).to_parquet(tmp_path / "rows.parquet")
    own = {"task": "classification", "data": {"source": str(tmp_path / "rows.parquet"), "validation_fraction": 0.4}}
    training = {key.removeprefix("training."): value for key, value in QUICK.items() if key.startswith("training.")}
    training = {key: value for key, value in training.items() if not key.startswith(("eval", "early"))}
    content = {"model": {**towers, "fusion": "early"}, "lora": {"r": 2}, "tasks": {"one": own, "other": own}}
    recipe = build_recipe({**content, "training": training, "output_dir": str(tmp_path / "run")})
    run_recipe(recipe, "plait train tasks")
    saved = [PlaitForClassification.from_pretrained(tmp_path / "run" / name).state_dict() for name in ("one", "other")]
    assert saved[0].keys() == saved[1].keys() and not any("lora" in name for name in saved[0])
    different = {part_of(name) for name, value in saved[0].items() if not torch.equal(value, saved[1][name])}
    assert different == {"head"}
    before = PlaitForClassification.from_pretrained(towers["text"]).state_dict()
    changed = {name for name, value in before.items() if ".text." in name and not torch.equal(value, saved[0][name])}
    assert changed and all(name.endswith("_proj.weight") for name in changed)


@pytest.mark.slow
def test_compared_systems_have_adapters(tmp_path: Path, towers: dict[str, str], pictures: dict[str, Path]) -> None:
    """Those of their own parts; a system without any keeps its tower. The best one is loaded with its adapters."""
    rows = [
        {"text": f"a {colour} square {'very ' * n}", "image": str(path), "label": colour}
        for n in range(20)
        for colour, path in pictures.items()
    ]
    Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    changes: dict[str, Any] = {"data.test_fraction": 0.4, "compare.fusions": ["early"], "compare.audit": False}
    changes |= {"compare.bootstrap": 100, "compare.group_by": ["text"]}
    changes |= {"lora": {"r": 2, "target": ["text"]}, "training.eval_strategy": "no", "training.save_strategy": "no"}
    changes |= {"training.load_best_model_at_end": False, "training.max_steps": 2}
    sources = {f"model.{name}": tower for name, tower in towers.items()}
    place = {"data.source": str(tmp_path / "rows.parquet"), "output_dir": str(tmp_path / "comparison")}
    recipe = load_recipe("image_text", {**QUICK, **sources, **place, **changes})
    compare(recipe, "plait compare")
    model, _ = load_run(tmp_path / "comparison" / "best")
    for name in towers:
        before = PlaitForClassification.from_pretrained(towers[name]).model.towers[name].state_dict()
        after = model.model.towers[name].state_dict()
        assert any(not torch.equal(value, before[key]) for key, value in after.items()) is (name == "text")
