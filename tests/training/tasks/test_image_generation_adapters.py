"""A new subject for a trained denoiser: adapters alone are trained and saved."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from PIL import Image
from transformers import set_seed

from plait import PlaitForImageGeneration, PlaitProcessor, PlaitTrainer, PlaitTrainingArguments
from plait.configuration import PlaitTextConfig
from plait.modeling.composition.parameter_names import part_of
from plait.training import load_run
from plait.training.commands import run_recipe
from plait.training.data.tokenizer import train_tokenizer
from plait.training.runs.recipe import build_recipe
from plait.training.tasks.collator import PlaitDataCollator

peft = pytest.importorskip("peft")
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "initializer_range": 0.3}
TEXTS = ["a red square", "a blue square"]


@pytest.fixture
def processor() -> PlaitProcessor:
    tokenizer = train_tokenizer(TEXTS, 24, vocab_size=280, min_frequency=1)
    return PlaitProcessor.compose(text=tokenizer, target_image_size=8)


@pytest.fixture
def trained(processor: PlaitProcessor) -> PlaitForImageGeneration:
    """A model that draws something: as after training, with conditions that are standardized."""
    set_seed(0)
    tokenizer = processor.tokenizer
    text = PlaitTextConfig(
        **TINY, max_position_embeddings=24, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id
    )
    sizes: dict[str, Any] = {"image_size": 8, "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 2}
    model = PlaitForImageGeneration.compose(text=text, **sizes, num_attention_heads=2, verbose=False)
    for parameter in model.denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.fit_condition_scale([dict(processor(text=TEXTS, return_tensors="pt"))])
    return model


def draw(model: Any, processor: PlaitProcessor) -> torch.Tensor:
    inputs = processor(text=TEXTS, return_tensors="pt")
    noise = torch.Generator().manual_seed(0)
    return model.eval().generate_images(**inputs, num_inference_steps=3, generator=noise, output_type="pt")


@pytest.mark.parametrize("checkpointing", [pytest.param(False, marks=pytest.mark.slow), True])
def test_adapters_of_the_denoiser(
    trained: PlaitForImageGeneration, processor: PlaitProcessor, tmp_path: Path, checkpointing: bool
) -> None:
    trained.save_pretrained(tmp_path / "base")
    before, scale = draw(trained, processor), trained.condition_scale.mean.clone()
    adapted = peft.get_peft_model(
        trained, peft.LoraConfig(r=2, target_modules=r".*denoiser\.transformer.*\.(q_proj|v_proj|up_proj)")
    )
    torch.testing.assert_close(draw(adapted, processor), before)
    images = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = Dataset.from_list([{"text": text} for text in TEXTS] * 4)
    data = data.add_column("target_image", [{"bytes": None, "path": str(save(each, tmp_path))} for each in images] * 4)
    args = PlaitTrainingArguments(
        str(tmp_path / "run"),
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
        save_strategy="no",
        learning_rate=0.02,
        max_steps=3,
        gradient_checkpointing=checkpointing,
    )
    collator = PlaitDataCollator(processor, task="image_generation")
    weights = {name: value.detach().clone() for name, value in adapted.named_parameters()}
    PlaitTrainer(adapted, args, data_collator=collator, train_dataset=data, processing_class=processor).train()
    changed = {name for name, value in adapted.named_parameters() if not torch.equal(value, weights[name])}
    assert changed == {name for name in weights if "lora_" in name}
    assert torch.equal(trained.condition_scale.mean, scale)
    found = draw(adapted, processor)
    assert (found - before).abs().max() > 1e-3
    adapted.save_pretrained(tmp_path / "adapter")
    base = PlaitForImageGeneration.from_pretrained(tmp_path / "base")
    torch.testing.assert_close(draw(base, processor), before)
    loaded = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    torch.testing.assert_close(draw(loaded, processor), found)
    torch.testing.assert_close(draw(loaded.merge_and_unload(), processor), found, atol=1e-4, rtol=1e-4)


def save(image: Image.Image, folder: Path) -> Path:
    path = folder / f"{image.getpixel((0, 0))}.png"
    image.save(path)
    return path


def test_muon_has_nothing_to_do_with_adapters(trained: PlaitForImageGeneration, tmp_path: Path) -> None:
    adapted = peft.get_peft_model(trained, peft.LoraConfig(r=2, target_modules=r".*denoiser\.transformer.*\.q_proj"))
    args = PlaitTrainingArguments(str(tmp_path), use_cpu=True, optim="muon")
    with pytest.raises(ValueError, match="optim is 'muon', but .* has no trainable matrices .*an adapter's are none"):
        PlaitTrainer(adapted, args).create_optimizer()


@pytest.mark.slow
def test_a_recipe_adapts_a_trained_denoiser(
    trained: PlaitForImageGeneration, processor: PlaitProcessor, tmp_path: Path
) -> None:
    """The key `lora` with a trained model in `model.from_pretrained`; the run's folder draws as the trained one."""
    trained.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    images = [save(Image.new("RGB", (8, 8), text.split()[1]), tmp_path) for text in TEXTS]
    rows = [{"text": text, "target_image": str(path)} for text, path in zip(TEXTS, images, strict=True)]
    Dataset.from_list(rows * 4).to_parquet(tmp_path / "rows.parquet")
    training = {"use_cpu": True, "disable_tqdm": True, "report_to": "none", "max_steps": 2, "learning_rate": 0.02}
    content = {
        "task": "image_generation",
        "model": {"from_pretrained": str(tmp_path / "base")},
        "lora": {"r": 2, "target": "denoiser"},
    }
    content |= {"data": {"source": str(tmp_path / "rows.parquet")}, "output_dir": str(tmp_path / "run")}
    run_recipe(build_recipe({**content, "training": training}), "plait train")
    assert (tmp_path / "run" / "adapter_model.safetensors").exists()
    model, _ = load_run(tmp_path / "run")
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, trained.state_dict()[name])}
    assert {part_of(name) for name in changed} == {"denoiser", "head"}
