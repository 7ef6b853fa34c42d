"""Images inside conversations: trained, evaluated, predicted and reloaded from the recipe visual_chat."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

import plait
from plait import PlaitForCausalLM, PlaitProcessor
from plait.training.commands import run_recipe
from plait.training.recipes.errors import RecipeError
from plait.training.recipes.schema import Recipe
from plait.training.runs.assembly import build_collator
from plait.training.runs.evaluate import evaluate
from plait.training.runs.loading import load_model_recipe
from plait.training.runs.predict import build_option_rows, predict
from plait.training.runs.recipe import build_recipe, load_recipe
from plait.training.tasks.registry import find_task

DECODER = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 96}
IMAGE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
TOKENS = 5  # of an image: its patches and the class token
QUICK: dict[str, Any] = {
    "training.use_cpu": True,
    "training.disable_tqdm": True,
    "training.probe_products": False,
    "training.max_steps": 2,
    "training.per_device_train_batch_size": 3,
    "training.gradient_accumulation_steps": 1,
    "data.validation_fraction": 0.4,
    "generation.max_new_tokens": 4,
    "max_length": 90,
}


def build_visual_recipe(folder: Path, rows: list[dict], **changes: Any) -> Recipe:
    Dataset.from_list(rows).to_parquet(folder / "rows.parquet")
    towers = {"model.image": {"config": IMAGE}, "model.decoder": {"config": DECODER}}
    own = {"data.source": str(folder / "rows.parquet"), "output_dir": str(folder / "run"), "tokenizer": TOKENIZER}
    return load_recipe("visual_chat", {**QUICK, **towers, **own, **changes})


TOKENIZER = {"train": {"vocab_size": 320, "min_frequency": 1}}


@pytest.fixture(scope="module")
def captions(tmp_path_factory: pytest.TempPathFactory, pictures: dict[str, Path]) -> tuple[Path, dict, list[dict]]:
    """A run of two captions each."""
    folder = tmp_path_factory.mktemp("captions")
    rows = [
        {"image": str(path), "target": [f"a {colour} square", f"all of it is {colour}"]}
        for colour, path in pictures.items()
    ] * 2
    results = run_recipe(build_visual_recipe(folder, rows), "plait train visual_chat")
    return folder / "run", results, rows


def test_captions_are_trained_measured_and_answered(captions: tuple[Path, dict, list[dict]]) -> None:
    folder, results, rows = captions
    assert {"loss", "perplexity", "cider", "token_f1"} <= set(results["validation"]["model"])
    recipe = load_model_recipe(str(folder), {})
    scores = evaluate(str(folder), recipe, "validation")
    assert scores["loss"] == pytest.approx(results["validation"]["model"]["loss"], abs=1e-5)
    image = str(rows[0]["image"])
    alone = list(predict(str(folder), build_option_rows(find_task("dialogue"), {"image": [image]}), recipe))
    asked = build_option_rows(find_task("dialogue"), {"image": [image], "text": ["Describe this image."]})
    assert alone == list(predict(str(folder), asked, recipe))
    assert set(alone[0]) == {"generated_text"}
    assert "image-text-to-text" in (folder / "README.md").read_text()


def test_pipelines_answer_by_the_same_texts(captions: tuple[Path, dict, list[dict]]) -> None:
    folder, _, rows = captions
    image = str(rows[0]["image"])
    recipe = load_model_recipe(str(folder), {})
    (alone,) = predict(str(folder), [{"image": image}], recipe)
    (asked,) = predict(str(folder), [{"image": image, "prompt": "what is this ?"}], recipe)
    caption = plait.pipeline("image-captioning", model=str(folder))(image)
    answer = plait.pipeline("visual-question-answering", model=str(folder))(image, "what is this ?")
    assert (caption, answer) == ([alone], [{"answer": asked["generated_text"]}])


def test_the_processor_knows_the_image_token_and_the_chat_template(captions: tuple[Path, dict, list[dict]]) -> None:
    folder, _, rows = captions
    processor = PlaitProcessor.from_pretrained(folder)
    model = PlaitForCausalLM.from_pretrained(folder)
    assert (processor.image_token, processor.num_image_tokens) == ("<image>", TOKENS)
    assert processor.image_token_id == model.config.image_token_id < model.config.get_text_config().vocab_size
    text = processor.apply_chat_template(
        [{"role": "user", "content": "<image>\nDescribe this image."}], add_generation_prompt=True
    )
    batch = processor(text=[text], images=[str(rows[0]["image"])], add_special_tokens=False, return_tensors="pt")
    assert (batch["input_ids"] == model.config.image_token_id).sum() == TOKENS
    recipe = load_model_recipe(str(folder), {})
    (answer,) = predict(str(folder), [{"image": str(rows[0]["image"])}], recipe)
    tokens = model.generate(**batch)[:, batch["input_ids"].shape[1] :]
    assert processor.batch_decode(tokens, skip_special_tokens=True)[0].strip() == answer["generated_text"]


def prepare_rows(folder: Path, rows: list[dict], columns: dict[str, str]) -> tuple[dict[str, Any], PlaitProcessor]:
    """The training batch of rows, by the processor of a run."""
    processor = PlaitProcessor.from_pretrained(folder)
    recipe = build_recipe({"task": "dialogue", "data": {"columns": columns}, "generation": {"max_new_tokens": 4}})
    task = find_task("dialogue")
    data = task.prepare(Dataset.from_list(rows), "train", processor, recipe)
    return build_collator(recipe, task, processor, None)(list(data)), processor


def test_every_form_of_a_conversation_is_the_same_training_row(captions: tuple[Path, dict, list[dict]]) -> None:
    folder, _, rows = captions
    image, question, reply = str(rows[0]["image"]), "what is this ?", "a red square"
    asked = {"role": "user", "content": f"<image>\n{question}"}
    said = {"role": "assistant", "content": reply}
    parts = [{"type": "image", "text": None}, {"type": "text", "text": question}]
    replied = [{"type": "text", "text": reply}]
    forms: list[dict[str, Any]] = [
        {"messages": [asked, said]},
        {"messages": [{**asked, "content": question}, said]},
        {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": replied}]},
        {"messages": [{"from": "human", "value": asked["content"]}, {"from": "gpt", "value": reply}]},
        {"prompt": question, "target": reply},
    ]
    batches = []
    for form in forms:
        names = {name: name for name in ("image", *form)}
        batch, processor = prepare_rows(folder, [{**form, "image": image}], names)
        batches.append(batch)
    for batch in batches[1:]:
        assert batch.keys() == batches[0].keys()
        assert all(torch.equal(batch[name], batches[0][name]) for name in batch)
    learned = batches[0]["labels"][0]
    assert processor.tokenizer.decode(learned[learned != -100], skip_special_tokens=True).strip() == reply
    assert (batches[0]["input_ids"] == processor.image_token_id).sum() == TOKENS


def test_mistakes_in_rows_are_named(captions: tuple[Path, dict, list[dict]]) -> None:
    folder, _, rows = captions
    image, columns = str(rows[0]["image"]), {"image": "image", "prompt": "prompt", "target": "target"}
    with pytest.raises(RecipeError, match="row 1 of 'train' the text has 2 image tokens '<image>', but there are 1"):
        prepare_rows(
            folder,
            [
                {"image": image, "prompt": "what ?", "target": "red"},
                {"image": image, "prompt": "<image> <image>", "target": "red"},
            ],
            columns,
        )
    with pytest.raises(RecipeError, match="row 0 of 'train' is cut at 96 tokens, which do not hold the 5 tokens"):
        prepare_rows(folder, [{"image": image, "prompt": "what ?", "target": "red " * 200}], columns)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"task": "classification", "model": {"fusion": "inline", "image": "a"}}, "task classification does not read"),
        ({"task": "dialogue", "model": {"fusion": "inline", "image": "a"}}, "model.decoder is missing"),
        ({"task": "dialogue", "model": {"fusion": "inline", "decoder": "a"}}, "model.image is missing"),
        ({"task": "dialogue", "model": {"image": "a", "text": "b", "decoder": "c"}}, "model.text is there too"),
        ({"task": "dialogue", "model": {"fusion": "late", "image": "a", "decoder": "c"}}, "has no fusion"),
        ({"task": "classification", "model": {"text": "a", "image_token": "<i>"}}, "but nothing reads it"),
    ],
)
def test_wrong_combinations_are_errors_before_work(content: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build_recipe(content)


def test_captioning_becomes_inline() -> None:
    """Any recipe of the task generation, shipped or not."""
    recipe = load_recipe("captioning", {"model.fusion": "inline", "model.decoder": "some/decoder"})
    assert (recipe.task, recipe.model.decoder_config, recipe.settings) == ("dialogue", None, {})
    asked = load_recipe("visual_question_answering", {"model.fusion": "inline"})
    assert (asked.task, asked.model.text, asked.data.columns["prompt"]) == ("dialogue", None, "text")
