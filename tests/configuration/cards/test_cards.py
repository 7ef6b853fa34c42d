"""Cards of models and processors: what they say is true, their snippets run, and nobody's own card is overwritten."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import EvalResult, ModelCard

import plait
from plait.configuration import cards
from plait.configuration.cards.rendering import render_hub_card
from plait.modeling.backbone.sharing import describe_card
from plait.processing.saving import describe_processor

from ...compatibility.tiny_models import TinyModel, build, list_tiny_models
from ...compatibility.tiny_processors import list_processors, make_tokenizer

QUICK = ("classification_text_image", "generation_image", "question_answering", "retrieval_text_image")
SLOW = (
    "causal_lm", "causal_lm_image", "classification_audio", "classification_image", "classification_text_video",
    "generation_audio", "generation_text", "generation_text_image", "image_autoencoding", "image_generation_text",
    "image_generation_text_image", "masked_lm", "masked_lm_text_image", "model_audio_mel", "model_decoder",
    "model_decoder_of_fused_towers", "model_four_modalities", "model_text_post_norm", "model_video_frames",
    "pretraining", "pretraining_image", "question_answering_text_image", "retrieval_documents", "retrieval_text_audio",
)  # fmt: skip
CASES = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
LENGTH = 64


def lengthen(part: dict[str, Any]) -> dict[str, Any]:
    """A config whose texts may be as long as a generated one."""
    known = {key: lengthen(value) if isinstance(value, dict) else value for key, value in part.items()}
    return known | ({"max_position_embeddings": LENGTH} if "max_position_embeddings" in known else {})


def save(name: str, folder: Path) -> plait.PlaitConfig:
    """Saves a tiny model with a processor of its parts."""
    tiny = list_tiny_models()[name]
    model = build(TinyModel(tiny.class_name, lengthen(copy.deepcopy(tiny.config)), {}))
    model.save_pretrained(folder)
    config, parts = model.config, {}
    if name == "causal_lm_image":
        list_processors()[name][0].save_pretrained(folder)
        return config
    if config.text_config is not None or config.decoder_config is not None:
        parts["text" if config.text_config is not None else "decoder"] = make_tokenizer(length=LENGTH)
    parts |= {"image": config} if config.vision_config is not None else {}
    parts |= {"audio": config.audio_config} if config.audio_config is not None else {}
    parts |= {"video": config, "num_frames": 4} if config.video_config is not None else {}
    parts |= {"target_image_size": 8} if config.denoiser_config or config.autoencoder_config else {}
    plait.PlaitProcessor.compose(**parts).save_pretrained(folder)
    return config


def write_card(class_name: str, folder: Path) -> str:
    model = getattr(plait, class_name).from_pretrained(folder)
    return render_hub_card(describe_card(model, folder.name))


@pytest.mark.parametrize("name", CASES)
def test_the_snippet_of_a_card_runs_to_a_prediction(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save(name, tmp_path / "model")
    text = write_card(list_tiny_models()[name].class_name, tmp_path / "model")
    snippet = text.partition("```python\n")[2].partition("\n```")[0]
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(compile(snippet, "snippet", "exec"), {})
    printed = capsys.readouterr().out.strip()
    assert printed or (tmp_path / "image.png").is_file() or "batch_decode" in snippet or "processor.decode" in snippet


def test_every_class_has_a_snippet() -> None:
    named = {list_tiny_models()[name].class_name for name in (*QUICK, *SLOW)}
    assert named == {name for name in plait.__all__ if name.startswith("PlaitFor") or name == "PlaitModel"}


def test_what_a_card_says_of_a_model(tmp_path: Path) -> None:
    tower = tmp_path / "own-tower"
    build(list_tiny_models()["model_text_post_norm"]).save_pretrained(tower)
    (tower / "README.md").write_text("---\nlicense: mit\nbase_model: some/bert\n---\n# a tower\n")
    image = plait.PlaitConfig(**list_tiny_models()["model_image_patches"].config).vision_config
    model = plait.PlaitForClassification.compose(text=str(tower), image=image, labels=["no", "yes"], verbose=False)
    facts = describe_card(model, "user/model", with_code=True)
    facts.results = [EvalResult("other", "rows", "rows", "accuracy", 0.5)]
    facts.sections = {"Data": "Ten rows.", "Results": "| accuracy | 0.5 |"}
    text = render_hub_card(facts)
    data = ModelCard(text).data
    assert (data.license, data.base_model, data.pipeline_tag) == ("mit", ["some/bert"], "image-text-to-text")
    assert data.library_name == "transformers" and data.model_name == "model"
    assert {"plait", "custom_code", "multimodal", "text", "image"} <= set(data.tags)
    assert data.eval_results is not None and data.eval_results[0].metric_value == 0.5
    assert "- text: own-tower (licence: mit)" in text and str(tmp_path) not in text
    assert str(model.composition()).splitlines()[0] in text
    assert all(f"## {title}" in text for title in ("What it is made of", "Data", "Results", "Intended use and limits"))
    assert 'from_pretrained("user/model", trust_remote_code=True)' in text and "import plait" not in text
    assert "`pip install plait`" in render_hub_card(describe_card(model, "user/model"))


def test_an_origin_without_a_card_has_no_licence(tmp_path: Path) -> None:
    assert cards.find_origin("text", "fresh") == ("text", None, None, ())
    assert cards.find_origin("text", "some/checkpoint") == ("text", "some/checkpoint", None, ("some/checkpoint",))
    assert cards.find_origin("text", str(tmp_path)) == ("text", tmp_path.name, None, ())
    assert cards.find_origin("text", str(tmp_path / "gone")) == ("text", "gone", None, ())
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: own\nbase_model: [a/b, c/d]\n---\n")
    assert cards.find_origin("text", str(tmp_path)) == ("text", tmp_path.name, "own", ("a/b", "c/d"))


def test_a_card_that_somebody_edited_stays(tmp_path: Path) -> None:
    facts = cards.CardFacts("model", "A model.", "print()", "For tests.")
    assert cards.write_readme(tmp_path, facts)
    first = (tmp_path / "README.md").read_text()
    facts.summary = "Another model."
    assert cards.write_readme(tmp_path, facts) and (tmp_path / "README.md").read_text() != first
    for text in (first.replace("A model.", "My model."), f"{first}My notes.\n", "my card", ""):
        (tmp_path / "README.md").write_text(text)
        assert not cards.write_readme(tmp_path, facts)
        assert (tmp_path / "README.md").read_text() == text


def test_the_card_of_a_processor(tmp_path: Path) -> None:
    processor = plait.PlaitProcessor.compose(text=make_tokenizer())
    text = render_hub_card(describe_processor(processor, "user/model"))
    assert "processor of plait" in text and "tokenizer" in text and "What it is made of" not in text
    assert json.loads(json.dumps(ModelCard(text).data.to_dict()))["library_name"] == "plait"
