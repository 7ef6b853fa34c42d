"""TRL's trainers with images: each takes its steps and changes the weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, set_seed
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from plait import PlaitForCausalLM, PlaitProcessor
from plait.configuration import PlaitDecoderConfig, PlaitVisionConfig

trl: Any = pytest.importorskip("trl")
pytestmark = pytest.mark.slow

WORDS = "<pad> <unk> <end> <image> user assistant : what colour ? red green blue it is".split()
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
TEMPLATE = (
    "{% for m in messages %}{{ m.role }} : {% if m.content is string %}{{ m.content }} {% else %}"
    "{% for c in m.content %}{% if c.type == 'image' %}<image> {% else %}{{ c.text }} {% endif %}{% endfor %}"
    "{% endif %}{% if m.role == 'assistant' %}<end> {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant : {% endif %}"
)
TINY: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
PROMPT = [{"role": "user", "content": "what colour ?"}]
TOKENS: dict[str, Any] = {"pad_token_id": 0, "eos_token_id": 2, "bos_token_id": 2}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    tokenizer: Any = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        eos_token="<end>",
        pad_token="<pad>",
        additional_special_tokens=["<image>"],
    )


def decoder() -> PlaitDecoderConfig:
    return PlaitDecoderConfig(vocab_size=len(WORDS), max_position_embeddings=64, **TINY, **TOKENS)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """The folder of a model with images inline, by which TRL finds the reference."""
    set_seed(0)
    image = PlaitVisionConfig(image_size=8, patch_size=4, **TINY)
    model = PlaitForCausalLM.compose(image=image, decoder=decoder(), fusion="inline", image_token_id=3, verbose=False)
    processor = PlaitProcessor.compose(
        image=ViTImageProcessorPil(size={"height": 8, "width": 8}),
        decoder=tokenizer,
        image_token="<image>",
        num_image_tokens=model.num_image_tokens,
    )
    processor.chat_template = TEMPLATE
    folder = tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def reward(completions: list[Any], **columns: Any) -> list[float]:
    return [float(len(completion[0]["content"])) for completion in completions]


def rows(**columns: Callable[[str], Any]) -> Dataset:
    found = [
        {"images": [Image.new("RGB", (8, 8), value)], **{name: make(colour) for name, make in columns.items()}}
        for colour, value in COLOURS.items()
    ]
    return Dataset.from_list(found * 2)


def said(colour: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": colour}]


CASES: dict[str, tuple[dict[str, Any], dict[str, Callable[[str], Any]]]] = {
    "SFT": ({"max_length": None}, {"messages": lambda colour: PROMPT + said(colour)}),
    "DPO": ({"max_length": None}, {"prompt": lambda _: PROMPT, "chosen": said, "rejected": lambda _: said("it is")}),
    "GRPO": ({"beta": 0.1, "num_generations": 2, "max_completion_length": 6}, {"prompt": lambda _: PROMPT}),
    "RLOO": ({"num_generations": 2, "max_completion_length": 6}, {"prompt": lambda _: PROMPT}),
}


@pytest.mark.parametrize("name", CASES)
def test_it_trains_with_images(name: str, saved: Path, tmp_path: Path) -> None:
    options, columns = CASES[name]
    common = {"max_steps": 2, "per_device_train_batch_size": 2, "use_cpu": True, "save_strategy": "no", "bf16": False}
    args = getattr(trl, f"{name}Config")(str(tmp_path), learning_rate=1e-2, report_to="none", **common, **options)
    model, processor = PlaitForCausalLM.from_pretrained(saved), PlaitProcessor.from_pretrained(saved)
    before = {part: [each.clone() for each in module.parameters()] for part, module in model.parts.items()}
    rewarded = {"reward_funcs": reward} if name in ("GRPO", "RLOO") else {}
    trainer = getattr(trl, f"{name}Trainer")(
        model=model, args=args, train_dataset=rows(**columns), processing_class=processor, **rewarded
    )
    trainer.train()
    for part, module in trainer.model.parts.items():
        pairs = zip(module.parameters(), before[part], strict=True)
        assert any(not torch.equal(new, old) for new, old in pairs), part


def test_packed_texts_train(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    set_seed(0)
    model = PlaitForCausalLM.compose(decoder=decoder(), verbose=False)
    data = Dataset.from_list([{"text": "what colour ? red"}] * 16)
    args = trl.SFTConfig(
        str(tmp_path), packing=True, max_length=12, use_cpu=True, bf16=False, save_strategy="no", logging_steps=1
    )
    trainer = trl.SFTTrainer(model, args, train_dataset=data, processing_class=tokenizer)
    assert len(trainer.train_dataset) < 16
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
