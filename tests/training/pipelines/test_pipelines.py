"""One-liners, against what the command line answers."""

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from pandas import Series
from PIL import Image
from transformers import pipeline as hf_pipeline

import plait
from plait.training.commands import run_recipe as train
from plait.training.runs.loading import load_model_recipe
from plait.training.runs.predict import predict
from plait.training.runs.recipe import build_recipe

from ..text_recipes import chats, pairs, questions, recipe_for


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, pictures: dict[str, Path]) -> Callable[[str], str]:
    """The folder of a hardly trained model of each recipe, made once."""
    made: dict[str, str] = {}

    def find(name: str) -> str:
        if name not in made:
            recipe = build_recipe(recipe_for(name, tmp_path_factory.mktemp(name), pictures, max_steps=2))
            train(recipe, "plait train")
            made[name] = str(recipe.output_dir)
        return made[name]

    return find


@pytest.mark.parametrize(("task", "key"), [("translation", "translation_text"), ("summarization", "summary_text")])
def test_texts_to_texts(folder: Callable[[str], str], task: str, key: str) -> None:
    pipe = plait.pipeline(task, model=folder("translation"))
    texts = [row["text"] for row in pairs(5)]
    several = pipe(texts, batch_size=2)
    assert [set(answer) for answer in several] == [{key}] * 5
    assert pipe(texts[3]) == [several[3]]
    assert pipe(texts, max_new_tokens=1)[0] != several[0] or not several[0][key]
    assert pipe(texts) == several  # settings of one call are not those of the next
    other = hf_pipeline(f"plait-{task}", model=folder("translation"))
    assert other(texts) == several


def test_pictures_to_captions(folder: Callable[[str], str], pictures: dict[str, Path]) -> None:
    pipe = plait.pipeline("image-captioning", model=folder("captioning"), num_beams=2)
    path = str(pictures["red"])
    assert pipe(path) == pipe(Image.open(path)) == pipe([path, str(pictures["blue"])])[0]
    assert len(pipe([path] * 3)) == 3 and set(pipe(path)[0]) == {"generated_text"}
    other = hf_pipeline("plait-image-captioning", model=folder("captioning"))
    assert other(path, num_beams=2) == pipe(path)


def test_questions_to_spans(folder: Callable[[str], str]) -> None:
    pipe = plait.pipeline("question-answering", model=folder("question_answering"), max_length=44, doc_stride=12)
    rows = [{"question": row["question"], "context": row["context"]} for row in questions()]
    several = pipe(rows)
    for row, answer in zip(rows, several, strict=True):
        assert row["context"][answer["start"] : answer["end"]] == answer["answer"] and 0 <= answer["score"] <= 1
        assert pipe(**row) == pipe(row) == answer
    assert pipe(question=[row["question"] for row in rows], context=[row["context"] for row in rows]) == several
    for best, answer in zip(pipe(rows, top_k=3), several, strict=True):
        assert best[0] == answer and len(best) == 3
        assert best[0]["score"] >= best[1]["score"] >= best[2]["score"]
    refusing = pipe(rows[0], no_answer_threshold=-1000)
    assert (refusing["answer"], refusing["start"], refusing["end"]) == ("", 0, 0)
    with pytest.raises(TypeError, match="num_beams"):
        pipe(rows, num_beams=2)


def test_prompts_and_conversations_are_gone_on_with(folder: Callable[[str], str]) -> None:
    pipe = plait.pipeline("text-generation", model=folder("causal_lm"), max_new_tokens=3)
    assert pipe("a dog")[0]["generated_text"].startswith("a dog")
    assert pipe(["a dog", "a cat"])[1] == pipe("a cat")
    talk = plait.pipeline("text-generation", model=folder("dialogue"), max_new_tokens=3)
    messages = chats()[0]["messages"][:3]
    (answer,) = talk(messages)
    assert answer["generated_text"][:3] == messages and answer["generated_text"][3]["role"] == "assistant"
    assert talk([messages, messages]) == [[answer], [answer]]


def test_a_run_is_asked_as_it_was_trained(tmp_path: Path, pictures: dict[str, Path]) -> None:
    """The settings of its recipe hold in a pipeline as in `plait predict`, unless others are given."""
    content = recipe_for("dialogue", tmp_path, pictures, max_steps=2)
    rows = [{"prompt": row["text"], "target": row["target"]} for row in pairs(12)]
    (tmp_path / "dialogue.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    content |= {"settings": {"prompt_template": "Go: {prompt}"}, "generation": {"max_new_tokens": 6}}
    train(build_recipe(content), "plait train")
    run, texts = str(content["output_dir"]), [row["prompt"] for row in rows]
    pipe = plait.pipeline("summarization", model=run)
    assert isinstance(pipe.model, plait.PlaitForCausalLM)
    found = [answer["summary_text"] for answer in pipe(texts)]
    expected = list(predict(run, [{"prompt": text} for text in texts], load_model_recipe(run, {})))
    assert found == [answer["generated_text"] for answer in expected]
    plain = plait.pipeline("summarization", model=run, prompt_template="{prompt}")
    said = [f"Go: {text}" for text in texts]
    assert [answer["summary_text"] for answer in plain(said)] == found
    other = load_model_recipe(run, {"settings": {}})
    unasked = [answer["generated_text"] for answer in predict(run, [{"prompt": text} for text in texts], other)]
    assert [answer["summary_text"] for answer in plain(texts)] == unasked


def test_answers_in_words_about_pictures(folder: Callable[[str], str], pictures: dict[str, Path]) -> None:
    """A ready model with its processor; one that classifies gives its label."""
    chat = folder("causal_lm")
    with pytest.raises(ValueError, match="needs a model that reads image, and this one reads text"):
        plait.pipeline(
            "visual-question-answering",
            model=plait.PlaitForCausalLM.from_pretrained(chat),
            processor=plait.PlaitProcessor.from_pretrained(chat),
        )
    for name, column in (("image-captioning", "image"), ("automatic-speech-recognition", "audio")):
        with pytest.raises(ValueError, match=f"needs a model that reads {column}, and this one reads text"):
            plait.pipeline(name, model=folder("translation"))
    with pytest.raises(TypeError, match="missing question"):
        plait.pipeline("visual-question-answering", model=folder("captioning"))(str(pictures["red"]))


def test_mistakes(folder: Callable[[str], str]) -> None:
    with pytest.raises(ValueError, match="did you mean 'translation'"):
        plait.pipeline("translations", model="x")
    model: Any = plait.PlaitForConditionalGeneration.from_pretrained(folder("translation"))
    with pytest.raises(ValueError, match="needs its processor"):
        plait.pipeline("translation", model=model)
    with pytest.raises(ValueError, match="PlaitForCausalLM"):
        plait.pipeline("translation", model=folder("causal_lm"))


def test_importing_plait_loads_no_pipelines() -> None:
    code = "import sys, plait; print(json.dumps([m for m in sys.modules if m.startswith('plait.training')]))"
    done = subprocess.run([sys.executable, "-c", f"import json; {code}"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_one_input_is_one_row_however_it_is_given(folder: Callable[[str], str], pictures: dict[str, Path]) -> None:
    """An array, bytes or a dict is one image, a string one text; a column, tuple or Series is a list."""
    pipe = plait.pipeline("image-captioning", model=folder("captioning"))
    file = pictures["red"]
    expected, pixels = pipe(str(file)), np.asarray(Image.open(file))
    for one in (file, file.read_bytes(), pixels, {"bytes": file.read_bytes(), "path": None}):
        assert pipe(one) == expected
    for several in ([pixels], (pixels,), np.stack([pixels, pixels]), Dataset.from_dict({"x": [str(file)]})["x"]):
        assert pipe(several) == [expected] * len(several)
    translate = plait.pipeline("translation", model=folder("translation"))
    texts = [row["text"] for row in pairs(3)]
    for column in (tuple(texts), np.array(texts), Series(texts, index=[2, 0, 1]), Dataset.from_dict({"x": texts})["x"]):
        assert translate(column) == translate(texts)
    assert translate([]) == pipe([]) == []


def test_rows_that_cannot_be_read_are_named(folder: Callable[[str], str], pictures: dict[str, Path]) -> None:
    translate = plait.pipeline("translation", model=folder("translation"))
    with pytest.raises(ValueError, match="texts, row 0: it is None"):
        translate([None, "a dog"])
    with pytest.raises(TypeError, match="texts, row 1: .*Image.* is not a string"):
        translate(["a dog", Image.open(pictures["red"])])
    with pytest.raises(ValueError, match="images, row 1: it is None"):
        plait.pipeline("image-captioning", model=folder("captioning"))([str(pictures["red"]), None])
    ask = plait.pipeline("question-answering", model=folder("question_answering"))
    with pytest.raises(ValueError, match="context, row 1: it is None"):
        ask(question=["a", "b"], context=["c", None])


def test_threads_with_other_settings_do_not_meet(folder: Callable[[str], str]) -> None:
    """The generation settings of a call are those of no other call of the same pipeline."""
    pipe = plait.pipeline("text-generation", model=folder("causal_lm"))
    settings = [{"max_new_tokens": count} for count in (1, 4)]
    expected = [pipe(["a dog", "a"], **given) for given in settings]
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(pipe, ["a dog", "a"], **given) for given in settings * 6]
        assert [job.result() for job in jobs] == expected * 6
