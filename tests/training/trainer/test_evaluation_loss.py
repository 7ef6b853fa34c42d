"""The loss of an evaluation is the mean over the tokens, rows or labels of the whole split: it depends on neither the
batch size nor the number of processes, in every class whose loss is such a mean."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from plait import PlaitForCausalLM, PlaitTrainer, PlaitTrainingArguments

from ...modeling.zoo import CLASSES, build, inputs_of, labels_of
from ..module_runner import run_module

CASES = [
    ("PlaitForCausalLM", "decoder"),
    ("PlaitForCausalLM", "inline"),
    ("PlaitForConditionalGeneration", "translator"),
    ("PlaitForMaskedLM", "text"),
    ("PlaitForQuestionAnswering", "text"),
    ("PlaitForClassification", "early"),
    ("multi_label_classification", "text"),
    ("regression", "text"),
]
APART = ("PlaitModel", "PlaitForRetrieval", "PlaitForPreTraining")  # no loss, or one that compares the rows of a batch


def model_of(case: str, shape: str) -> Any:
    if case in CLASSES:
        return build(case, shape)
    return build("PlaitForClassification", shape, problem_type=case)


def rows_of(case: str, shape: str) -> list[dict[str, Tensor]]:
    """Five rows with different numbers of labels, one of them with none."""
    inputs = inputs_of(shape, batch=5)
    if case in CLASSES:
        inputs |= labels_of(case, inputs)
    else:
        inputs["labels"] = torch.tensor([[0.0, 1, 1], [1, 0, 0], [1, 1, 0], [0, 0, 1], [1, 1, 1]])
        inputs["labels"][2, 1] = float("nan")
    for name in ("labels", "start_positions"):
        if name in inputs:
            inputs[name][3] = float("nan") if inputs[name].is_floating_point() else -100
    if case == "PlaitForConditionalGeneration":
        inputs["labels"][0, 2:] = -100
    return [{name: value[row] for name, value in inputs.items()} for row in range(5)]


def collate(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def trainer_of(case: str, shape: str, folder: Path, size: int = 8, **options: Any) -> PlaitTrainer:
    given = {"per_device_eval_batch_size": size, "per_device_train_batch_size": size, "use_cpu": True} | options
    arguments = PlaitTrainingArguments(str(folder), disable_tqdm=True, **given)
    rows: Any = rows_of(case, shape)
    return PlaitTrainer(model_of(case, shape), arguments, collate, train_dataset=rows, eval_dataset=rows)


@pytest.mark.parametrize(("case", "shape"), CASES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_every_batch_size_gives_the_same(case: str, shape: str, smoothing: float, tmp_path: Path) -> None:
    if smoothing and case == "regression":
        pytest.skip("a number is not smoothed")
    options = {"label_smoothing_factor": smoothing if case not in ("multi_label_classification",) else 0.0}
    whole = collate(rows_of(case, shape))
    trainer = trainer_of(case, shape, tmp_path, **options)
    with torch.no_grad():
        expected = trainer.compute_loss(trainer.model.eval(), dict(whole)).item()
    for size in (1, 2, 3, 5):
        found = trainer_of(case, shape, tmp_path, size, **options)
        assert found.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5), size
        predicted: Any = found.predict(found.eval_dataset)  # pyright: ignore[reportArgumentType]
        assert predicted.metrics["test_loss"] == pytest.approx(expected, rel=1e-5), size


@pytest.mark.parametrize(
    ("case", "shape"), [*CASES[:1], *(pytest.param(*each, marks=pytest.mark.slow) for each in CASES[1:])]
)
def test_micro_batches_add_up_to_the_batch(case: str, shape: str, tmp_path: Path) -> None:
    """Training divides by the targets of all accumulated batches, counted as the model does."""
    weights = []
    for size, steps in ((5, 1), (1, 5), (2, 3)):
        options = {"gradient_accumulation_steps": steps, "max_steps": 1, "optim": "sgd", "learning_rate": 0.1}
        options |= {"train_sampling_strategy": "sequential", "max_grad_norm": 0.0, "probe_products": False}
        trainer = trainer_of(case, shape, tmp_path, size, save_strategy="no", **options)
        trainer.train()
        weights.append(torch.cat([weight.detach().flatten() for weight in trainer.model.parameters()]))
    for other in weights[1:]:
        assert (other - weights[0]).abs().max() <= 1e-5


def test_flattened_rows_have_the_loss_of_the_padded_ones(tmp_path: Path) -> None:
    rows = rows_of("PlaitForCausalLM", "decoder")
    expected = trainer_of("PlaitForCausalLM", "decoder", tmp_path).evaluate()["eval_loss"]

    def flatten(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        real = [int(row["attention_mask"].sum()) for row in rows]
        joined = {
            name: torch.cat([row[name][:length] for row, length in zip(rows, real, strict=True)])[None]
            for name in ("input_ids", "labels")
        }
        return joined | {"position_ids": torch.cat([torch.arange(length) for length in real])[None]}

    for size in (1, 2, 5):
        trainer = trainer_of("PlaitForCausalLM", "decoder", tmp_path, size)
        trainer.data_collator = flatten
        assert isinstance(trainer.model, PlaitForCausalLM)
        assert len(rows) == len(trainer.eval_dataset)  # pyright: ignore[reportArgumentType]
        assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5), size


def test_every_class_is_here() -> None:
    assert {*APART, *(case for case, _ in CASES)} >= set(CLASSES)


WORKER = """
import importlib.util, json, sys, types
from pathlib import Path
tests = Path({tests!r})
for name in ("suite", "suite.modeling", "suite.training", "suite.training.trainer"):
    package = types.ModuleType(name)
    package.__path__ = [str(tests.joinpath(*name.split(".")[1:]))]
    sys.modules[name] = package
module = importlib.import_module("suite.training.trainer.test_evaluation_loss")
folder, found = Path(sys.argv[1]), {{}}
for case, shape in module.CASES:
    for size in (1, 2):
        trainer = module.trainer_of(case, shape, folder, size)
        found[f"{{case}} {{shape}} {{size}}"] = trainer.evaluate()["eval_loss"]
if trainer.args.process_index == 0:
    (folder / "found.json").write_text(json.dumps(found))
"""


@pytest.mark.slow
def test_two_processes_give_the_same(tmp_path: Path) -> None:
    """The last of five rows is evaluated by one process alone: the other's fills are not counted."""
    (tmp_path / "evaluate_module.py").write_text(WORKER.format(tests=str(Path(__file__).parents[2])))
    run_module(
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        str(tmp_path / "evaluate_module.py"),
        str(tmp_path),
    )
    found = json.loads((tmp_path / "found.json").read_text())
    for case, shape in CASES:
        expected = trainer_of(case, shape, tmp_path).evaluate()["eval_loss"]
        for size in (1, 2):
            assert found[f"{case} {shape} {size}"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("case", "shape"), CASES)
def test_the_count_of_the_targets_gives_the_mean(case: str, shape: str, tmp_path: Path) -> None:
    """What the Trainer divides a batch's summed loss by is what the model divides it by itself."""
    trainer, batch = trainer_of(case, shape, tmp_path), collate(rows_of(case, shape))
    counted = trainer._get_num_items_in_batch([batch, batch], torch.device("cpu"))
    assert counted is not None and int(counted) > 0
    with torch.no_grad():
        mean = trainer.model.eval()(**batch).loss
        torch.testing.assert_close(trainer.model(**batch, num_items_in_batch=counted).loss, mean / 2)


def test_rows_without_labels_are_not_counted(tmp_path: Path) -> None:
    trainer = trainer_of("PlaitForClassification", "early", tmp_path)
    batch = collate(rows_of("PlaitForClassification", "early"))
    del batch["labels"]
    assert trainer._get_num_items_in_batch([batch], torch.device("cpu")) is None
