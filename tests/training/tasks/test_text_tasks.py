"""Every task that reads or writes text, from its recipe to its answers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, GPT2Config, GPT2LMHeadModel, TrainerCallback

from plait import PlaitForCausalLM, PlaitProcessor, PlaitTrainer
from plait.training.cli import main
from plait.training.data.tokenizer import TARGET_TEMPLATE, rewrap_tokenizer, train_tokenizer
from plait.training.metrics.generation import compute_row_losses
from plait.training.runs.loading import load_model_recipe
from plait.training.runs.predict import predict
from plait.training.runs.recipe import build_recipe
from plait.training.runs.train import TrainingRun, train

from ..text_recipes import MODELS, pairs, questions, recipe_for

MakeRun = Callable[..., TrainingRun]


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
    recipe = load_model_recipe(str(folder), {})
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


@pytest.mark.parametrize("name", ["translation", "causal_lm", "dialogue"])
def test_the_loss_of_each_row_is_the_models_own(make_run: MakeRun, name: str) -> None:
    run = make_run(name)
    collator, rows = run.trainer.data_collator, list(run.data.validation)
    run.model.eval()
    with torch.no_grad():
        losses, tokens = compute_row_losses(run.model, collator(rows))
        assert float(losses.sum() / tokens.sum()) == pytest.approx(float(run.model(**collator(rows)).loss), rel=1e-5)
        for row, loss, count in zip(rows, losses, tokens, strict=True):
            assert float(loss / count) == pytest.approx(float(run.model(**collator([row])).loss), rel=1e-5)


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


class Weights(TrainerCallback):
    """The trained weights after every step."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.seen = [self.copy()]

    def copy(self) -> dict[str, torch.Tensor]:
        return {name: value.detach().clone() for name, value in self.model.named_parameters()}

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.seen.append(self.copy())


def test_the_average_of_the_weights_is_what_is_measured_and_left(make_run: MakeRun) -> None:
    """By hand; training itself goes on as without an average."""
    histories, runs = [], []
    for decay in (None, 0.6):
        run = make_run("translation", max_steps=6, average_decay=decay, eval_strategy="steps", eval_steps=6)
        weights = Weights(run.model)
        run.trainer.add_callback(weights)
        run.trainer.train()
        histories.append(weights.seen)
        runs.append(run)
    plain, averaged = runs
    for before, after in zip(*histories, strict=True):
        assert all(torch.equal(before[name], after[name]) for name in before)
    expected = histories[0][0]
    for step, weights in enumerate(histories[0][1:], 1):
        kept = min(0.6, (1 + step) / (10 + step))
        expected = {name: kept * value + (1 - kept) * weights[name] for name, value in expected.items()}
    for name, value in averaged.model.named_parameters():
        torch.testing.assert_close(value.detach(), expected[name], msg=name)
    measured = [entry["eval_loss"] for entry in averaged.trainer.state.log_history if "eval_loss" in entry]
    assert averaged.trainer.evaluate()["eval_loss"] == pytest.approx(measured[-1], rel=1e-5)
    assert plain.trainer.evaluate()["eval_loss"] != pytest.approx(measured[-1], rel=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_alone_is_measured_without_metrics(make_run: MakeRun, name: str) -> None:
    run = make_run(name)
    trainer = PlaitTrainer(
        run.model, run.trainer.args, run.trainer.data_collator, eval_dataset=run.data.validation, compute_metrics=None
    )
    batch = run.trainer.data_collator([run.data.validation[row] for row in range(len(run.data.validation))])
    with torch.no_grad():
        expected = float(run.model.eval()(**batch).loss)
    trainer.args.per_device_eval_batch_size = len(run.data.validation)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("smoothing", [pytest.param(0.0, marks=pytest.mark.slow), 0.1])
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
        "AutoModelForSeq2SeqLM" in card
        and "| validation | bleu |" in card
        and "copy: the input text, unchanged" in card
    )
    assert "AutoModelForQuestionAnswering" in (finished("question_answering") / "README.md").read_text()


def test_the_card_counts_the_rows_of_the_data(finished: Callable[[str], Path], make_run: MakeRun) -> None:
    """Windows of long contexts too, but as windows."""
    card = (finished("question_answering") / "README.md").read_text()
    windows = len(make_run("question_answering").data.splits["train"])
    assert windows > 4
    assert f"4 rows ({windows} windows) for train, 4 rows ({windows} windows) for validation." in card
    assert "12 rows for train, 12 rows for validation." in (finished("translation") / "README.md").read_text()


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


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """The folder of a GPT-2 with a tokenizer of its own."""
    tokenizer = rewrap_tokenizer(
        train_tokenizer([row["target"] for row in pairs(12)], 40, vocab_size=320), TARGET_TEMPLATE
    )
    tokens = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id")}
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2, n_positions=40, **tokens)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    return tmp_path / "gpt2"


def test_weights_published_in_half_precision_are_trained_in_full(published: Path, tmp_path: Path) -> None:
    """Steps of this size would be rounded away in bfloat16."""
    weights = GPT2LMHeadModel.from_pretrained(published).to(torch.bfloat16)
    weights.save_pretrained(published)
    content = recipe_for("dialogue", tmp_path, {}, max_steps=2, learning_rate=1e-6, warmup_steps=0)
    content |= {"model": {"from_pretrained": str(published)}, "tokenizer": None, "generation": {"max_new_tokens": 2}}
    train(build_recipe(content), "plait train")
    trained = load_file(Path(content["output_dir"]) / "model.safetensors")
    assert {weight.dtype for weight in trained.values()} == {torch.float32}
    before = PlaitForCausalLM.from_pretrained(published, dtype=torch.float32).state_dict()
    assert all(not torch.equal(before[name], weight) for name, weight in trained.items() if "norm" not in name)
    content["model"]["options"] = {"dtype": "bfloat16"}
    content["output_dir"] += "-asked"
    train(build_recipe(content), "plait train")
    trained = load_file(Path(content["output_dir"]) / "model.safetensors")
    assert {weight.dtype for weight in trained.values()} == {torch.bfloat16}


@pytest.mark.parametrize("name", ["translation", "captioning"])
def test_a_published_decoder_learns_to_look(
    published: Path, tmp_path: Path, pictures: dict[str, Path], name: str
) -> None:
    """It keeps its tokenizer; a fresh text tower beside it gets one of its own, of what it reads."""
    content = recipe_for(name, tmp_path, pictures, max_steps=3)
    content["model"] |= {"decoder": str(published), "decoder_config": {"gated_cross_attention": True}}
    train(build_recipe(content), "plait train")
    folder = Path(content["output_dir"])
    processor, model = PlaitProcessor.from_pretrained(folder), AutoModelForSeq2SeqLM.from_pretrained(folder)
    assert len(processor.target_tokenizer) == model.config.decoder_config.vocab_size
    assert model.config.decoder_config.family == "gpt2" and model.config.decoder_config.gated_cross_attention
    if name == "translation":
        reader = processor.tokenizer
        assert len(reader) == model.config.text_config.vocab_size and len(reader) != len(processor.target_tokenizer)
        assert "Hund" not in "".join(reader.get_vocab()) and "dog" in "".join(reader.get_vocab())


def test_a_run_is_trained_further_from_its_folder(finished: Callable[[str], Path], tmp_path: Path) -> None:
    folder = finished("dialogue")
    content = {**recipe_for("dialogue", tmp_path, {}, num_train_epochs=1, learning_rate=0.0)}
    content |= {"model": {"from_pretrained": str(folder)}, "tokenizer": None}
    results = train(build_recipe(content), "plait train")
    before = scores_of(folder)
    assert results["validation"]["model"] == pytest.approx(before["model"], rel=1e-4)
