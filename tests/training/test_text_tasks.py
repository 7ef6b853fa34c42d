"""Every task that reads or writes text, from its recipe to its answers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, set_seed

from plait.training.cli import main
from plait.training.predict import predict, recipe_of
from plait.training.recipe import RecipeError, build_recipe, set_dotted
from plait.training.run import Run, build_run, make_arguments, train

from .text_recipes import MODELS, pairs, questions, recipe_for

MakeRun = Callable[..., Run]


@pytest.fixture
def make_run(tmp_path: Path, pictures: dict[str, Path]) -> MakeRun:
    """A recipe's run, built and not trained; keyword arguments are training arguments."""

    def make(name: str, changes: dict[str, Any] | None = None, **training: Any) -> Run:
        recipe = build_recipe({**recipe_for(name, tmp_path, pictures, **training), **(changes or {})})
        folder = tmp_path / f"built-{name}"
        folder.mkdir(exist_ok=True)
        return build_run(recipe, folder, make_arguments(recipe, folder / "checkpoints"))

    return make


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, pictures: dict[str, Path]) -> Callable[[str], Path]:
    """The folder of a trained model of each recipe, made once, only to be read."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            recipe = build_recipe(recipe_for(name, tmp_path_factory.mktemp(name), pictures))
            train(recipe, "plait train")
            made[name] = Path(str(recipe.output_dir))
        return made[name]

    return folder


def scores_of(folder: Path) -> dict[str, dict[str, float]]:
    return json.loads((folder / "metrics.json").read_text())["validation"]


@pytest.mark.parametrize("name", [name for name in MODELS if name != "causal_lm"])
def test_a_few_rows_are_learnt_and_given_again(finished: Callable[[str], Path], name: str) -> None:
    scores = scores_of(finished(name))
    assert scores["model"]["exact_match"] == 1
    assert scores["model"]["loss"] < (0.5 if name == "captioning" else 0.1)  # which of two captions, nobody knows
    assert all(values["exact_match"] < 1 for kind, values in scores.items() if kind != "model")


def test_a_text_is_gone_on_with(finished: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = finished("causal_lm")
    scores = scores_of(folder)
    assert scores["model"]["perplexity"] < 2 < scores["unigram"]["perplexity"]
    capsys.readouterr()
    assert main(["predict", str(folder), "--text", "a dog"]) == 0
    assert json.loads(capsys.readouterr().out)["generated_text"]


@pytest.mark.parametrize("name", MODELS)
def test_predictions_are_what_was_learnt(finished: Callable[[str], Path], name: str) -> None:
    """In batches of any size, from rows that hold no answer."""
    folder = finished(name)
    recipe = recipe_of(str(folder), {})
    rows = [{key: value for key, value in row.items() if key not in ("target", "answers")} for row in made(folder)]
    one, several = (list(predict(str(folder), rows, recipe, size)) for size in (1, 8))
    key = "answer" if name == "question_answering" else "generated_text"
    assert [answer[key] for answer in one] == [answer[key] for answer in several]
    if name == "question_answering":
        assert [answer["answer"] for answer in one] == [row["answers"]["text"][0] for row in made(folder)]
        assert all(row["context"][a["start"] : a["end"]] == a["answer"] for row, a in zip(rows, one, strict=True))
    if name == "translation":
        assert [answer[key] for answer in one] == [row["target"] for row in made(folder)]
    if name == "dialogue":
        assert [answer[key] for answer in one] == [row["messages"][-1]["content"] for row in made(folder)]


def made(folder: Path) -> list[dict[str, Any]]:
    """The rows that a finished run was made with."""
    (file,) = folder.parent.glob("*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("name", MODELS)
def test_evaluation_does_not_depend_on_the_batch(make_run: MakeRun, name: str) -> None:
    found = []
    for size in (1, 3, 8):
        run = make_run(name, per_device_eval_batch_size=size)
        scores = run.trainer.evaluate()
        found.append({key: scores[f"eval_{key}"] for key in ("loss", *run.metrics.names)})
    assert found[0] == pytest.approx(found[1], rel=1e-5) and found[0] == pytest.approx(found[2], rel=1e-5)


def test_prediction_gives_the_texts_in_the_order_of_the_rows(make_run: MakeRun) -> None:
    run = make_run("translation", per_device_eval_batch_size=5)
    output = run.trainer.predict(run.data.validation)
    again = run.trainer.predict(run.data.validation.select(range(11, -1, -1)))
    assert len(output.predictions) == 12 and output.metrics["test_bleu"] >= 0
    assert list(output.predictions) == list(again.predictions)[::-1]


def test_the_best_model_is_chosen_by_what_it_writes(tmp_path: Path, pictures: dict[str, Path]) -> None:
    content = recipe_for(
        "translation",
        tmp_path,
        pictures,
        num_train_epochs=6,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="bleu",
    )
    results = train(build_recipe(content), "plait train")
    history = json.loads((tmp_path / "run-translation" / "history.json").read_text())
    measured = [entry["eval_bleu"] for entry in history if "eval_bleu" in entry]
    assert len(measured) == 6
    assert results["validation"]["model"]["bleu"] == pytest.approx(max(measured))


STRATEGIES: list[dict[str, Any]] = [
    {"tokens_per_batch": 40},
    {"train_sampling_strategy": "group_by_length", "per_device_train_batch_size": 3},
    {"tokens_per_batch": 40, "average_decay": 0.8},
    {"tokens_per_batch": 40, "gradient_accumulation_steps": 2, "label_smoothing_factor": 0.1},
]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda chosen: "-".join(chosen))
def test_a_resumed_run_equals_an_uninterrupted_one(
    tmp_path: Path, pictures: dict[str, Path], strategy: dict[str, Any]
) -> None:
    """Dropout included: interrupted in the middle of an epoch."""
    settings = {**strategy, "num_train_epochs": 3, "save_strategy": "steps", "save_steps": 4, "logging_steps": 1}
    content = recipe_for("translation", tmp_path, pictures, **settings)
    content["model"]["text"]["config"]["hidden_dropout_prob"] = 0.1
    recipe = build_recipe(content)
    train(recipe, "plait train")
    folder = tmp_path / "run-translation"
    expected = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for checkpoint in (folder / "checkpoints").iterdir():
        if checkpoint.name != "checkpoint-4":
            shutil.rmtree(checkpoint)
    train(recipe, "plait train", resume=True)
    found = load_file(folder / "model.safetensors")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_average_is_what_is_measured_and_saved(tmp_path: Path, pictures: dict[str, Path]) -> None:
    """By hand: every step's weights weigh `decay` times as much as the next's, fewer in the beginning."""
    plain, averaged = (
        recipe_for("translation", tmp_path, pictures, num_train_epochs=4, save_strategy="steps", save_steps=1, **extra)
        for extra in ({}, {"average_decay": 0.7})
    )
    set_seed(0)
    train(build_recipe({**plain, "output_dir": str(tmp_path / "plain")}), "plait train")
    train(build_recipe({**averaged, "output_dir": str(tmp_path / "averaged")}), "plait train")
    checkpoints = [tmp_path / "plain" / "checkpoints" / f"checkpoint-{step}" for step in range(1, 5)]
    weights = [load_file(folder / "model.safetensors") for folder in checkpoints]
    expected = weights[0]
    for step, later in enumerate(weights[1:], 2):
        kept = min(0.7, (1 + step) / (10 + step))
        expected = {name: kept * value + (1 - kept) * later[name] for name, value in expected.items()}
    found = load_file(tmp_path / "averaged" / "model.safetensors")
    first = load_file(tmp_path / "averaged" / "checkpoints" / "checkpoint-1" / "trained_weights.safetensors")
    assert all(torch.equal(first[name], weights[0][name]) for name in first if name in weights[0])
    assert any(not torch.equal(found[name], weights[-1][name]) for name in found)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_accumulated_steps_equal_one_large_batch(make_run: MakeRun, name: str, smoothing: float) -> None:
    """Rows hold unequal numbers of tokens, and the last micro-batch is smaller."""
    states = []
    for size, steps in ((12, 1), (3, 4), (5, 3)):
        settings = {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0, "warmup_steps": 0, "max_steps": 1}
        run = make_run(
            name,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            train_sampling_strategy="sequential",
            label_smoothing_factor=smoothing,
            lr_scheduler_type="constant",
            logging_steps=1,
            **settings,
        )
        rows = min(12, len(run.data.train))
        run.trainer.train_dataset = run.data.train.select(range(rows))
        run.trainer.train()
        states.append((run.model.state_dict(), run.trainer.state.log_history[0]["loss"]))
    for state, loss in states[1:]:
        assert loss == pytest.approx(states[0][1], abs=1e-5)
        for key, value in state.items():
            torch.testing.assert_close(value, states[0][0][key], rtol=1e-4, atol=1e-6, msg=key)


def smoothed_by_hand(likelihoods: torch.Tensor, target: int, real: torch.Tensor, smoothing: float) -> torch.Tensor:
    """likelihoods: (classes,); smoothing spreads over the classes that are `real`."""
    return -(1 - smoothing) * likelihoods[target] - smoothing * likelihoods[real].mean()


@pytest.mark.parametrize("name", MODELS)
def test_smoothing_equals_a_loss_written_by_hand(make_run: MakeRun, name: str) -> None:
    run = make_run(name, label_smoothing_factor=0.1)
    run.model.eval()
    batch = run.trainer.data_collator([run.data.train[row] for row in range(3)])
    with torch.no_grad():
        outputs = run.model(**batch)
        found = run.trainer.compute_loss(run.model, dict(batch))
    terms = []
    if name == "question_answering":
        for row, real in enumerate(batch["attention_mask"].bool()):
            for scores, target in ((outputs.start_logits, "start_positions"), (outputs.end_logits, "end_positions")):
                likelihoods = scores[row].log_softmax(0)
                terms.append(smoothed_by_hand(likelihoods, int(batch[target][row]), real, 0.1))
    else:
        logits, labels = outputs.logits, batch["labels"]
        if not run.model.config.is_encoder_decoder:
            logits, labels = logits[:, :-1], labels[:, 1:]
        everything = torch.ones(logits.shape[-1], dtype=torch.bool)
        for row, token in (labels != -100).nonzero().tolist():
            likelihoods = logits[row, token].log_softmax(0)
            terms.append(smoothed_by_hand(likelihoods, int(labels[row, token]), everything, 0.1))
    torch.testing.assert_close(found, torch.stack(terms).mean())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_nothing_to_learn_is_a_loss_of_zero(make_run: MakeRun, name: str, smoothing: float) -> None:
    run = make_run(name, label_smoothing_factor=smoothing)
    batch = run.trainer.data_collator([run.data.train[0], run.data.train[1]])
    ignored = {
        key: torch.full_like(value, -100) if key in run.trainer.label_names else value for key, value in batch.items()
    }
    loss = run.trainer.compute_loss(run.model.train(), ignored)
    assert loss == 0
    loss.backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in run.model.parameters())


def test_a_decoder_with_its_own_tokenizer_keeps_its_special_tokens(make_run: MakeRun) -> None:
    """The Trainer would write those of the tokenizer that reads into the model that writes."""
    run = make_run("translation", max_steps=1)
    run.processor.tokenizer.pad_token = "[MASK]"
    before = {name: getattr(run.model.generation_config, name) for name in ("pad_token_id", "eos_token_id")}
    assert run.processor.tokenizer.pad_token_id != before["pad_token_id"]
    run.trainer.train()
    assert {name: getattr(run.model.generation_config, name) for name in before} == before
    assert run.model.config.decoder_config.pad_token_id == before["pad_token_id"]


def test_settings_of_the_generation_are_saved_with_the_model(finished: Callable[[str], Path]) -> None:
    model = AutoModelForSeq2SeqLM.from_pretrained(finished("translation"))
    assert model.generation_config.max_new_tokens == 16


def test_the_card_says_how_to_load_it(finished: Callable[[str], Path]) -> None:
    card = (finished("translation") / "README.md").read_text()
    assert (
        "AutoModelForSeq2SeqLM" in card and "| validation | bleu |" in card and "copy: the text that was read" in card
    )
    assert "AutoModelForQuestionAnswering" in (finished("question_answering") / "README.md").read_text()


BAD = [
    ("translation", {"data.columns": {"text": "text"}}, "the task generation needs a column for target"),
    ("translation", {"data.columns": {"target": "target"}}, "needs a column for text or image"),
    ("translation", {"model.decoder": None}, "model.decoder is missing: the task generation writes text"),
    ("translation", {"model.decoder.config.vocab_size": 50}, "has a vocabulary of 50, its tokenizer one of 3"),
    ("translation", {"model.options": {"pad_token_id": None}}, "model.decoder has no pad_token_id"),
    ("translation", {"generation.max_new_tokens": 49}, "max_new_tokens is 49, but the decoder has 48 positions"),
    ("translation", {"generation.num_beems": 2}, "generation has no setting num_beems"),
    ("translation", {"generation.num_return_sequences": 2}, "one text a row"),
    ("translation", {"metrics": ["blue"]}, "did you mean 'bleu'"),
    (
        "translation",
        {"training.metric_for_best_model": "cider", "training.eval_strategy": "epoch"},
        "measured are loss",
    ),
    ("translation", {"training.tokens_per_batch": 0}, "tokens_per_batch is 0"),
    ("translation", {"training.tokens_per_batch": 9, "training.share_images": True}, "cannot be used with"),
    ("translation", {"training.average_decay": 1.0}, "average_decay is 1.0"),
    ("translation", {"settings": {"block_size": 8}}, "settings has no key 'block_size'"),
    ("translation", {"task": "translate"}, "task is 'translate'"),
    ("causal_lm", {"settings": {"block_size": 64}}, "block_size is 64: expected 2 .. 48"),
    ("causal_lm", {"metrics": ["bleu"]}, "measured by its perplexity"),
    ("dialogue", {"generation.max_new_tokens": 48}, "max_new_tokens is 48"),
    ("question_answering", {"settings": {"doc_stride": 40}}, "raise max_length, lower doc_stride"),
    ("question_answering", {"generation": {"num_beams": 2}}, "question_answering generates nothing"),
]


@pytest.mark.parametrize(("name", "changes", "message"), BAD)
def test_mistakes_are_found_before_any_work(
    tmp_path: Path, pictures: dict[str, Path], name: str, changes: dict[str, Any], message: str
) -> None:
    content = recipe_for(name, tmp_path, pictures)
    for key, value in changes.items():
        set_dotted(content, key, value)
    with pytest.raises(RecipeError) as error:
        train(build_recipe(content), "plait train")
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("translation", {"text": "a dog", "target": " "}, "row 12 of 'train' has an empty target (1 of 13 rows"),
        ("captioning", {"image": "red.png", "target": []}, "row 3 of 'train' has an empty target"),
        ("dialogue", {"messages": [{"role": "user", "content": "hello"}]}, "no message is the assistant's"),
        ("dialogue", {"messages": [{"role": "assistant", "content": ""}]}, "the assistant has an empty message"),
        (
            "question_answering",
            {"question": "Who ?", "context": "Anna .", "answers": {"text": ["Ben"], "answer_start": [0]}},
            "the answer 'Ben' of row 4 of 'train' does not stand at character 0 of its context, where there is 'Ann'",
        ),
    ],
)
def test_a_row_that_teaches_nothing_is_named(
    tmp_path: Path, pictures: dict[str, Path], name: str, row: dict[str, Any], message: str
) -> None:
    content = recipe_for(name, tmp_path, pictures)
    with (tmp_path / f"{name}.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    with pytest.raises(RecipeError) as error:
        train(build_recipe(content), "plait train")
    assert message in str(error.value)


def test_a_prompt_without_room_to_go_on_is_an_error(
    finished: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(finished("causal_lm")), "--text", "a dog " * 20]) == 2
    assert "are more than the decoder's 48 positions" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("folder", "task", "message"),
    [
        ("translation", "causal_lm", "PlaitForConditionalGeneration"),
        ("causal_lm", "generation", "PlaitForCausalLM"),
        ("question_answering", "generation", "needs a decoder"),
        ("translation", "question_answering", "question answering"),
    ],
)
def test_a_folder_of_another_class_is_an_error(
    finished: Callable[[str], Path], capsys: pytest.CaptureFixture[str], folder: str, task: str, message: str
) -> None:
    capsys.readouterr()
    options = ["--text", "a dog", *(["--context", "a dog"] if task == "question_answering" else [])]
    options += ["--task", task, "--settings", "{}", "--generation", "{}"]
    assert main(["predict", str(finished(folder)), *options]) == 2
    assert message in capsys.readouterr().err


def test_options_that_a_task_does_not_read_are_errors(
    finished: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(finished("translation")), "--text", "a", "--context", "b"]) == 2
    assert "--context: the task generation reads --text, --image or --data" in capsys.readouterr().err
    assert main(["predict", str(finished("question_answering")), "--text", "Where ?"]) == 2
    assert "needs a column for context" in capsys.readouterr().err


def test_answers_from_the_command_line(
    finished: Callable[[str], Path], pictures: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    row = questions()[2]
    for name, options, key, expected in (
        ("translation", ["--text", pairs(1)[0]["text"], "--generation.num_beams", "3"], "generated_text", None),
        ("captioning", ["--image", str(pictures["green"])], "generated_text", "green"),
        ("dialogue", ["--text", "Who is there ? D"], "generated_text", "Dan"),
        ("question_answering", ["--text", row["question"], "--context", row["context"]], "answer", "Berlin"),
    ):
        folder = finished(name)
        capsys.readouterr()
        assert main(["predict", str(folder), *options]) == 0
        answer = json.loads(capsys.readouterr().out)[key]
        assert (pairs(1)[0]["target"] if expected is None else expected) in answer
