"""Makes the Hub's cache of the tests: tiny models with drawn weights under the ids that the documentation names.

So that `from_pretrained("google/vit-base-patch16-224")` of a page finds a model of the same family at once, offline.
What such a model answers means nothing.
"""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from transformers import PreTrainedTokenizerFast

from plait.training.data.tokenizer import TARGET_TEMPLATE, rewrap_tokenizer, train_tokenizer

from .pages import ROOT

LENGTH, PIXELS, COMMIT = 192, 32, "0" * 40
SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
IMAGE = {**SIZES, "image_size": PIXELS, "patch_size": 8}
WAVE = {**SIZES, "conv_dim": [8, 8], "conv_kernel": [10, 3], "conv_stride": [80, 4], "num_feat_extract_layers": 2}
WAVE |= {"num_conv_pos_embeddings": 6, "num_conv_pos_embedding_groups": 4}
CHAT = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
CHAT += "{% if add_generation_prompt %}assistant: {% endif %}"


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes and special tokens: every text of the documentation is known."""
    return train_tokenizer(["a red cat"], LENGTH, vocab_size=300, min_frequency=1)


def list_tokens(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """The vocabulary as fields of a text model's config."""
    return {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def save_bert(folder: Path) -> None:
    tokenizer = make_tokenizer()
    config = hf.BertConfig(**SIZES, **list_tokens(tokenizer), max_position_embeddings=LENGTH)
    hf.BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_sentence_encoder(folder: Path) -> None:
    """As all-MiniLM-L6-v2 is saved: BERT, the mean of its tokens, unit length."""
    tokenizer = make_tokenizer()
    config = hf.BertConfig(**SIZES, **list_tokens(tokenizer), max_position_embeddings=LENGTH)
    hf.BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(kinds.items())
    ]
    pooling = {"word_embedding_dimension": SIZES["hidden_size"], "pooling_mode_mean_tokens": True}
    write_json(folder / "modules.json", modules)
    write_json(folder / "1_Pooling" / "config.json", pooling)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": LENGTH, "do_lower_case": False})


def save_electra(folder: Path) -> None:
    tokenizer = make_tokenizer()
    config = hf.ElectraConfig(**SIZES, **list_tokens(tokenizer), embedding_size=16, max_position_embeddings=LENGTH)
    hf.ElectraForPreTraining(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_gpt2(folder: Path) -> None:
    tokenizer = rewrap_tokenizer(make_tokenizer(), TARGET_TEMPLATE)
    tokens = list_tokens(tokenizer)
    config = hf.GPT2Config(n_embd=32, n_layer=1, n_head=2, n_positions=LENGTH, **tokens)
    hf.GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_llama(folder: Path, chat_template: str | None = None) -> None:
    tokenizer = rewrap_tokenizer(make_tokenizer(), TARGET_TEMPLATE)
    tokenizer.chat_template = chat_template
    config = hf.LlamaConfig(**SIZES, **list_tokens(tokenizer), num_key_value_heads=2, max_position_embeddings=LENGTH)
    hf.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_bart(folder: Path) -> None:
    tokenizer = make_tokenizer()
    sizes = {f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in SEQ2SEQ.items()}
    tokens = {**list_tokens(tokenizer), "decoder_start_token_id": tokenizer.eos_token_id}
    config = hf.BartConfig(d_model=32, max_position_embeddings=LENGTH, **sizes, **tokens, forced_eos_token_id=None)
    hf.BartForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


SEQ2SEQ = {"layers": 1, "attention_heads": 2, "ffn_dim": 48}


def save_vit(folder: Path) -> None:
    hf.ViTForImageClassification(hf.ViTConfig(**IMAGE, num_labels=3)).save_pretrained(folder)
    save_image_processor(folder)


def save_dinov2(folder: Path) -> None:
    sizes = {key: value for key, value in IMAGE.items() if key != "intermediate_size"}
    hf.Dinov2Model(hf.Dinov2Config(**{**sizes, "hidden_size": 48})).save_pretrained(folder)
    save_image_processor(folder)


def save_clip(folder: Path) -> None:
    tokenizer = make_tokenizer()
    text = {**SIZES, **list_tokens(tokenizer), "max_position_embeddings": LENGTH}
    hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=IMAGE, projection_dim=32)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"shortest_edge": PIXELS}
    hf.CLIPImageProcessor(size=size, crop_size={"height": PIXELS, "width": PIXELS}).save_pretrained(folder)


def save_hubert(folder: Path) -> None:
    hf.HubertModel(hf.HubertConfig(**WAVE)).save_pretrained(folder)
    hf.Wav2Vec2FeatureExtractor().save_pretrained(folder)


def save_videomae(folder: Path) -> None:
    sizes = {**SIZES, "image_size": PIXELS, "patch_size": 16, "num_frames": 4, "tubelet_size": 2}
    hf.VideoMAEModel(hf.VideoMAEConfig(**sizes)).save_pretrained(folder)
    hf.VideoMAEImageProcessor(
        size={"shortest_edge": PIXELS}, crop_size={"height": PIXELS, "width": PIXELS}
    ).save_pretrained(folder)


def save_whisper(folder: Path) -> None:
    """English, with windows of one second and timestamps."""
    tokenizer = make_tokenizer()
    start, timeless = len(tokenizer), len(tokenizer) + 2
    tokens = {"bos_token_id": start, "eos_token_id": start + 1, "pad_token_id": start + 1}
    tokens["decoder_start_token_id"] = start
    sizes = {f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in SEQ2SEQ.items()}
    lengths = {"max_source_positions": 50, "max_target_positions": 40, "num_mel_bins": 8, "d_model": 16}
    config = hf.WhisperConfig(vocab_size=timeless + 52, **lengths, **sizes, **tokens, suppress_tokens=None)
    config.begin_suppress_tokens = None
    model = hf.WhisperForConditionalGeneration(config)
    generation: Any = hf.GenerationConfig(**tokens, max_new_tokens=14)
    generation.is_multilingual, generation.return_timestamps = False, False
    generation.no_timestamps_token_id = timeless
    model.generation_config = generation
    model.save_pretrained(folder)
    hf.WhisperFeatureExtractor(feature_size=8, chunk_length=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_image_processor(folder: Path) -> None:
    hf.ViTImageProcessor(size={"height": PIXELS, "width": PIXELS}).save_pretrained(folder)


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


# every id that a page may name, and what stands for it: one of the same family
MODELS: dict[str, Callable[[Path], None]] = {
    "HuggingFaceTB/SmolLM2-135M": save_llama,
    "HuggingFaceTB/SmolLM2-135M-Instruct": partial(save_llama, chat_template=CHAT),
    "MCG-NJU/videomae-base": save_videomae,
    "bert-base-uncased": save_bert,
    "distilbert/distilgpt2": save_gpt2,
    "facebook/bart-base": save_bart,
    "facebook/dinov2-small": save_dinov2,
    "facebook/hubert-base-ls960": save_hubert,
    "google/vit-base-patch16-224": save_vit,
    "google/electra-small-discriminator": save_electra,
    "gpt2": save_gpt2,
    "openai/clip-vit-base-patch32": save_clip,
    "openai/whisper-tiny.en": save_whisper,
    "sentence-transformers/all-MiniLM-L6-v2": save_sentence_encoder,
}


# those that plait chooses by itself where a page names none: as if they had been used before
USUAL = (
    "HuggingFaceTB/SmolLM2-135M",
    "facebook/dinov2-small",
    "facebook/hubert-base-ls960",
    "sentence-transformers/all-MiniLM-L6-v2",
)


def fill_cache(cache: Path, text: str) -> None:
    """Saves the models that a page's text names into a cache of the Hub's layout, if they are not there yet; those that
    are named by a recipe that the text names, too."""
    recipes = ROOT / "training" / "recipes"
    named = [path for path in recipes.glob("*.yaml") if re.search(rf"\b{path.stem}\b", text)]
    text = "\n".join([text, *USUAL, *(path.read_text(encoding="utf-8") for path in named)])
    for name, save in MODELS.items():
        repository = cache / f"models--{name.replace('/', '--')}"
        if re.search(rf"{re.escape(name)}(?![\w-])", text) is None or repository.exists():
            continue
        torch.manual_seed(0)
        save(repository / "snapshots" / COMMIT)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(COMMIT)
