"""Saved plaits that write, in transformers' pipelines and chat templates."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, BertConfig, GPT2Config, PreTrainedTokenizerFast, ViTConfig, pipeline

from plait.modeling import PlaitForCausalLM, PlaitForConditionalGeneration
from plait.processing import PlaitProcessor

Make = Callable[..., Image.Image]
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
VIT = ViTConfig(**TINY, image_size=8, patch_size=4)
GREEDY = {"generate_kwargs": {"do_sample": False, "max_new_tokens": 4}}
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def gpt(vocab_size: int) -> GPT2Config:
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 60, "initializer_range": 0.5}
    return GPT2Config(vocab_size=vocab_size, bos_token_id=0, eos_token_id=0, **sizes)


def with_image_tokens(folder: Path, tokenizer: PreTrainedTokenizerFast) -> tuple[PlaitForCausalLM, PlaitProcessor]:
    """A causal model with images in its text, saved with its processor."""
    torch.manual_seed(0)
    model = PlaitForCausalLM.compose(image=VIT, decoder=gpt(len(tokenizer)), verbose=False)
    processor = PlaitProcessor.compose(
        image=VIT, decoder=tokenizer, image_token="<image>", num_image_tokens=model.num_image_tokens
    )
    model.set_image_token_id(processor.image_token_id)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor


def with_context(
    folder: Path, decoder: PreTrainedTokenizerFast, text: PreTrainedTokenizerFast | None = None
) -> tuple[PlaitForConditionalGeneration, PlaitProcessor]:
    """A model whose decoder reads its towers, saved with its processor."""
    torch.manual_seed(0)
    towers = {} if text is None else {"text": BertConfig(**TINY, vocab_size=len(text))}
    model = PlaitForConditionalGeneration.compose(image=VIT, decoder=gpt(len(decoder)), **towers, verbose=False)
    processor = PlaitProcessor.compose(text=text, image=VIT, decoder=decoder)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor


def written(model: Any, processor: PlaitProcessor, prompt: str, image: Image.Image) -> str:
    """What the model itself writes behind a prompt."""
    batch = processor(text=prompt, images=image, return_tensors="pt")
    ids = model.generate(**batch, do_sample=False, max_new_tokens=4)
    start = batch["input_ids"].shape[1] if isinstance(model, PlaitForCausalLM) else 0
    return processor.decode(ids[0, start:], skip_special_tokens=True)


def test_image_text_to_text_with_images_in_the_text(
    gpt_tokenizer: PreTrainedTokenizerFast, picture: Make, tmp_path: Path
) -> None:
    model, processor = with_image_tokens(tmp_path, gpt_tokenizer)
    pipe = pipeline("image-text-to-text", model=str(tmp_path))
    assert type(pipe.model) is PlaitForCausalLM
    prompt = "<image> what colour is the cat"
    (found,) = pipe(picture(1), text=prompt, return_full_text=False, **GREEDY)
    assert found["input_text"] == prompt
    assert found["generated_text"].strip() == written(model, processor, prompt, picture(1))
    prompts = [prompt, "<image> where"]
    many = pipe([picture(1), picture(2)], text=prompts, return_full_text=False, **GREEDY)
    assert [row["generated_text"].strip() for row in many] == [
        written(model, processor, each, picture(seed)) for seed, each in zip((1, 2), prompts, strict=True)
    ]


def test_image_text_to_text_in_a_chat(gpt_tokenizer: PreTrainedTokenizerFast, picture: Make, tmp_path: Path) -> None:
    gpt_tokenizer.chat_template = TEMPLATE
    model, processor = with_image_tokens(tmp_path, gpt_tokenizer)
    assert (tmp_path / "chat_template.jinja").read_text() == TEMPLATE
    pipe = pipeline("image-text-to-text", model=str(tmp_path))
    content = [{"type": "image", "image": picture(1)}, {"type": "text", "text": "where is the cat"}]
    chat = [{"role": "user", "content": content}]
    (found,) = pipe(text=chat, **GREEDY)
    prompt = "user: <image> where is the cat assistant: "
    answer = written(model, processor, prompt, picture(1))
    *asked, said = found["generated_text"]
    assert len(asked) == 1
    assert (said["role"], said["content"].strip()) == ("assistant", answer)


def test_a_chat_becomes_the_inputs_of_its_text_and_images(
    gpt_tokenizer: PreTrainedTokenizerFast, picture: Make, tmp_path: Path
) -> None:
    gpt_tokenizer.chat_template = TEMPLATE
    processor = with_image_tokens(tmp_path, gpt_tokenizer)[1]
    picture(2).save(tmp_path / "picture.png")
    chats = [
        [{"role": "user", "content": [{"type": "image", "image": picture(1)}, {"type": "text", "text": "the cat"}]}],
        [
            {"role": "user", "content": [{"type": "text", "text": "the dog"}]},
            {"role": "assistant", "content": [{"type": "image", "path": str(tmp_path / "picture.png")}]},
        ],
    ]
    for each in (processor, AutoProcessor.from_pretrained(tmp_path)):
        out = each.apply_chat_template(chats, tokenize=True, return_dict=True, return_tensors="pt")
        texts = ["user: <image> the cat ", "user: the dog assistant: <image> "]
        expected = processor(text=texts, images=[picture(1), picture(2)], return_tensors="pt")
        assert out.keys() == expected.keys()
        assert all(torch.equal(out[name], expected[name]) for name in expected)
        assert each.apply_chat_template(chats[0]) == texts[0]
    with pytest.raises(ValueError, match=r"row 0: 1 image token\(s\)"):
        processor.apply_chat_template([{"role": "user", "content": [{"type": "image"}]}], tokenize=True)


def test_a_processor_without_a_template_says_so(gpt_tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="does not have a chat template"):
        PlaitProcessor(tokenizer=gpt_tokenizer).apply_chat_template([{"role": "user", "content": "hello"}])


def test_what_the_assistant_said_is_marked_behind_images(
    gpt_tokenizer: PreTrainedTokenizerFast, picture: Make, tmp_path: Path
) -> None:
    said = "{% generation %}{{ message['content'][0]['text'] }}{% endgeneration %}"
    gpt_tokenizer.chat_template = (
        "{% for message in messages %}{% if message['role'] == 'assistant' %}" + said + "{% else %}<image> "
        "{{ message['content'][1]['text'] }} {% endif %}{% endfor %}"
    )
    processor = with_image_tokens(tmp_path, gpt_tokenizer)[1]
    asked = [{"type": "image", "image": picture()}, {"type": "text", "text": "where is the cat"}]
    chat = [{"role": "user", "content": asked}, {"role": "assistant", "content": [{"type": "text", "text": "red dog"}]}]
    out = processor.apply_chat_template(
        chat, tokenize=True, return_dict=True, return_tensors="pt", return_assistant_tokens_mask=True
    )
    mask = out["assistant_masks"][0].bool()
    assert processor.decode(out["input_ids"][0][mask]) == "red dog"


@pytest.mark.parametrize("reads_text", [True, False])
def test_image_text_to_text_with_a_context(
    gpt_tokenizer: PreTrainedTokenizerFast,
    bert_tokenizer: PreTrainedTokenizerFast,
    picture: Make,
    tmp_path: Path,
    reads_text: bool,
) -> None:
    model, processor = with_context(tmp_path, gpt_tokenizer, bert_tokenizer if reads_text else None)
    pipe = pipeline("image-text-to-text", model=str(tmp_path))
    assert type(pipe.model) is PlaitForConditionalGeneration
    (found,) = pipe(picture(1), text="the cat is", return_full_text=False, **GREEDY)
    answer = written(model, processor, "the cat is", picture(1))
    assert found["generated_text"].strip() == (answer if reads_text else answer.removeprefix("the cat is").strip())
    prompts = ["the cat is", "where" if reads_text else "where is the"]
    many = pipe([picture(1), picture(2)], text=prompts, return_full_text=False, **GREEDY)
    alone = [written(model, processor, text, picture(n)) for n, text in zip((1, 2), prompts, strict=True)]
    if not reads_text:
        alone = [answer.removeprefix(text).strip() for answer, text in zip(alone, prompts, strict=True)]
    assert [row["generated_text"].strip() for row in many] == alone


def test_text_generation(gpt_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = PlaitForCausalLM.compose(decoder=gpt(len(gpt_tokenizer)), verbose=False)
    processor = PlaitProcessor.compose(decoder=gpt_tokenizer)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    pipe = pipeline("text-generation", model=str(tmp_path))
    assert type(pipe.model) is PlaitForCausalLM
    prompts = ["the cat", "where is the red dog"]
    options = {"do_sample": False, "max_new_tokens": 4, "return_full_text": False}
    batch = processor(text=prompts, return_tensors="pt")
    ids = model.generate(**batch, do_sample=False, max_new_tokens=4)[:, batch["input_ids"].shape[1] :]
    expected = processor.batch_decode(ids, skip_special_tokens=True)
    assert [rows[0]["generated_text"].strip() for rows in pipe(prompts, **options)] == expected
    assert [rows[0]["generated_text"].strip() for rows in pipe(prompts, batch_size=2, **options)] == expected
