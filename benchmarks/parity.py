"""Parity with transformers, family by family: `python benchmarks/parity.py [FAMILY ...]`.

Each family: a small transformers model with weights drawn at std 0.2 (five draws, of which the table has the largest
figures) is saved to disk, read by both sides, and every returned tensor (of a language model: logits and hidden states;
of an encoder-decoder: of both; of two towers in one space: features, vectors of unit length and logits) is compared at
valid positions: max|a - b| / max(1, max|b|), in fp32, for eager and SDPA attention, padded, packed, and for causal
language models padded left. Beside it stands the error to the same model in float64, ours and transformers' own. An
entry is within parity when the difference is at most 1e-5 and our error at most twice theirs (or below 1e-6).
Last line:
`plait parity: families=N worst=x.xe-xx`; the exit status is 1 if an entry is out of parity.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import transformers as hf
from torch import Tensor, nn

from plait import PlaitForCausalLM, PlaitForConditionalGeneration, PlaitForRetrieval, PlaitModel
from plait.modeling import PlaitPreTrainedModel

SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
TEXT = {"vocab_size": 64, "max_position_embeddings": 40, **SIZES}
IMAGE = {"image_size": 32, "patch_size": 8, **SIZES}
LLAMA = {**TEXT, "num_key_value_heads": 2, "head_dim": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 16}
QWEN2 = {name: value for name, value in LLAMA.items() if name != "head_dim"}
CLIP = {"bos_token_id": 0, "eos_token_id": 63, "pad_token_id": 63}
OLD_CLIP = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}  # pooled at the largest id
GIANT = {**IMAGE, "hidden_size": 96, "num_attention_heads": 6}  # wider than the texts, as in SigLIP 2
RESNET = {"embedding_size": 16, "hidden_sizes": [16, 32, 64], "depths": [1, 2, 1]}
DISTIL = {"vocab_size": 64, "max_position_embeddings": 40, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128}
GPT2 = {
    "vocab_size": 64,
    "n_positions": 40,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
DINOV2 = {"image_size": 32, "patch_size": 8, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


NEO = {"vocab_size": 64, "max_position_embeddings": 40, "hidden_size": 64, "num_layers": 2, "num_heads": 4}
NEO |= {"attention_types": [[["global", "local"], 1]], "window_size": 4, "bos_token_id": 0, "eos_token_id": 0}
MISTRAL = {**LLAMA, "sliding_window": 4}
STACKS = {"d_model": 64, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 128}
STACKS |= {"decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 128}
BART = {"vocab_size": 64, "max_position_embeddings": 40, **STACKS}
WHISPER = {"vocab_size": 64, "num_mel_bins": 16, "max_source_positions": 12, "max_target_positions": 40, **STACKS}
WHISPER |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
WHISPER |= {"suppress_tokens": None, "begin_suppress_tokens": None}


SOUND = {**SIZES, "num_mel_bins": 24, "max_length": 40}
WAVE = {**SIZES, "conv_dim": [16, 16, 16], "conv_kernel": [10, 3, 2], "conv_stride": [5, 2, 2]}
WAVE |= {"num_feat_extract_layers": 3, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4}
STABLE = {**WAVE, "do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}
VIDEO = {**SIZES, "image_size": 32, "num_frames": 4}

DRAWS = 5
# what transformers calls an input that has another name here
THEIRS = {"pixel_values_videos": "pixel_values"}


class Case(NamedTuple):
    """A family's name, its model in transformers, what it reads, and our class for it."""

    name: str
    build: Callable[[], nn.Module]
    reads: str
    ours: type = PlaitModel


FAMILIES = [
    Case("BERT", lambda: hf.BertModel(hf.BertConfig(**TEXT)), "text"),
    Case("RoBERTa", lambda: hf.RobertaModel(hf.RobertaConfig(**TEXT, pad_token_id=1)), "text"),
    Case("XLM-R", lambda: hf.XLMRobertaModel(hf.XLMRobertaConfig(**TEXT, pad_token_id=1)), "text"),
    Case("DistilBERT", lambda: hf.DistilBertModel(hf.DistilBertConfig(**DISTIL)), "text"),
    Case("ELECTRA", lambda: hf.ElectraModel(hf.ElectraConfig(**TEXT, embedding_size=32)), "text"),
    Case("GPT-2", lambda: hf.GPT2Model(hf.GPT2Config(**GPT2)), "text"),
    Case("GPT-Neo", lambda: hf.GPTNeoModel(hf.GPTNeoConfig(**NEO)), "text"),
    Case("Llama", lambda: hf.LlamaModel(hf.LlamaConfig(**LLAMA)), "text"),
    Case("Llama 3", lambda: hf.LlamaModel(hf.LlamaConfig(**LLAMA, rope_parameters=LLAMA3)), "text"),
    Case("Qwen2", lambda: hf.Qwen2Model(hf.Qwen2Config(**QWEN2)), "text"),
    Case("Qwen3", lambda: hf.Qwen3Model(hf.Qwen3Config(**LLAMA)), "text"),
    Case("Mistral", lambda: hf.MistralModel(hf.MistralConfig(**MISTRAL)), "text"),
    Case("CLIP text", lambda: hf.CLIPTextModel(hf.CLIPTextConfig(**TEXT, **CLIP)), "text"),
    Case("SigLIP text", lambda: hf.SiglipTextModel(hf.SiglipTextConfig(**TEXT)), "text"),
    Case("ViT", lambda: hf.ViTModel(hf.ViTConfig(**IMAGE)), "image"),
    Case("DeiT", lambda: hf.DeiTModel(hf.DeiTConfig(**IMAGE)), "image"),
    Case("DINOv2", lambda: hf.Dinov2Model(hf.Dinov2Config(**DINOV2)), "image"),
    Case("DINOv2 SwiGLU", lambda: hf.Dinov2Model(hf.Dinov2Config(**DINOV2, use_swiglu_ffn=True)), "image"),
    Case("CLIP vision", lambda: hf.CLIPVisionModel(hf.CLIPVisionConfig(**IMAGE)), "image"),
    Case("SigLIP vision", lambda: hf.SiglipVisionModel(hf.SiglipVisionConfig(**IMAGE)), "image"),
    Case("ResNet basic", lambda: hf.ResNetModel(hf.ResNetConfig(**RESNET, layer_type="basic")), "image"),
    Case("ResNet bottleneck", lambda: hf.ResNetModel(hf.ResNetConfig(**RESNET)), "image"),
    Case("AST", lambda: hf.ASTModel(hf.ASTConfig(**SOUND)), "spectrogram"),
    Case("wav2vec2", lambda: hf.Wav2Vec2Model(hf.Wav2Vec2Config(**WAVE)), "waveform"),
    Case("wav2vec2 stable", lambda: hf.Wav2Vec2Model(hf.Wav2Vec2Config(**STABLE)), "waveform"),
    Case("HuBERT", lambda: hf.HubertModel(hf.HubertConfig(**WAVE)), "waveform"),
    Case("HuBERT stable", lambda: hf.HubertModel(hf.HubertConfig(**STABLE)), "waveform"),
    Case("VideoMAE", lambda: hf.VideoMAEModel(hf.VideoMAEConfig(**VIDEO, patch_size=8)), "video"),
    Case("ViViT", lambda: hf.VivitModel(hf.VivitConfig(**VIDEO, tubelet_size=[2, 8, 8])), "video"),
    Case("GPT-2 LM", lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2)), "text", PlaitForCausalLM),
    Case("GPT-Neo LM", lambda: hf.GPTNeoForCausalLM(hf.GPTNeoConfig(**NEO)), "text", PlaitForCausalLM),
    Case("Llama LM", lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**LLAMA)), "text", PlaitForCausalLM),
    Case("Mistral LM", lambda: hf.MistralForCausalLM(hf.MistralConfig(**MISTRAL)), "text", PlaitForCausalLM),
    Case("Qwen2 LM", lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**QWEN2)), "text", PlaitForCausalLM),
    Case("Qwen3 LM", lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**LLAMA)), "text", PlaitForCausalLM),
    Case(
        "BART",
        lambda: hf.BartForConditionalGeneration(hf.BartConfig(**BART)),
        "text to text",
        PlaitForConditionalGeneration,
    ),
    Case(
        "Whisper",
        lambda: hf.WhisperForConditionalGeneration(hf.WhisperConfig(**WHISPER)),
        "sound to text",
        PlaitForConditionalGeneration,
    ),
    Case("CLIP", lambda: clip(CLIP), "pair", PlaitForRetrieval),
    Case("CLIP of 2021", lambda: clip(OLD_CLIP), "pair", PlaitForRetrieval),
    Case("SigLIP", lambda: siglip(64, IMAGE), "pair", PlaitForRetrieval),
    Case("SigLIP 2", lambda: siglip(96, GIANT), "pair", PlaitForRetrieval),
    Case("BERT with ViT", lambda: dual(hf.ViTConfig(**IMAGE)), "pair", PlaitForRetrieval),
    Case("BERT with CLIP", lambda: dual(hf.CLIPVisionConfig(**IMAGE)), "pair", PlaitForRetrieval),
]


def clip(tokens: dict[str, int]) -> nn.Module:
    return hf.CLIPModel(hf.CLIPConfig(text_config={**TEXT, **tokens}, vision_config=IMAGE, projection_dim=48))


def siglip(width: int, image: dict[str, int]) -> nn.Module:
    text = {**TEXT, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1, "projection_size": width}
    return hf.SiglipModel(hf.SiglipConfig(text_config=text, vision_config=image))


def dual(image: hf.PreTrainedConfig) -> nn.Module:
    parts = {"text_config": hf.BertConfig(**TEXT).to_dict(), "vision_config": image.to_dict()}
    return hf.VisionTextDualEncoderModel(hf.VisionTextDualEncoderConfig(**parts, projection_dim=48))


def draw(model: nn.Module, seed: int) -> nn.Module:
    """Every weight, bias and norm at std 0.2 (norm scales around 1); a CNN's kernels keep their own, smaller scale."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator) * 0.2
        if tensor.ndim == 1 and ("norm" in name.lower() or "running" in name) and not name.endswith("bias"):
            tensor.copy_(1 + noise.abs() if "running_var" in name else 1 + noise)
        elif tensor.ndim == 4 and tensor.shape[-1] < 8:
            tensor.copy_(noise * 5 / tensor[0].numel() ** 0.5)
        else:
            tensor.copy_(noise)
    return model.eval()


def inputs_for(case: Case, model: nn.Module) -> dict[str, Tensor]:
    """Ragged sentences (padded right), pictures, clips, videos; for an encoder-decoder its decoder's sentences too."""
    generator = torch.Generator().manual_seed(1)
    shapes = {
        "image": ("pixel_values", (3, 3, 32, 32)),
        "spectrogram": ("input_values", (3, 40, 24)),
        "waveform": ("input_values", (3, 600)),
        "video": ("pixel_values_videos", (3, 4, 3, 32, 32)),
    }
    if case.reads in shapes:
        name, shape = shapes[case.reads]
        return {name: torch.randn(shape, generator=generator)}
    if case.reads == "sound to text":
        inputs = {"input_features": torch.randn(4, 16, 24, generator=generator)}
    else:
        inputs = sentences((12, 5, 9, 5), model.config.get_text_config().pad_token_id or 0, generator)
    if case.name.startswith("CLIP"):
        inputs["input_ids"][torch.arange(4), inputs["attention_mask"].sum(1) - 1] = CLIP["eos_token_id"]
    if case.name.startswith("SigLIP") and case.reads == "pair":
        del inputs["attention_mask"]  # its texts are padded to one length, and the padding is read
    if case.reads == "pair":
        inputs["pixel_values"] = torch.randn(5, 3, 32, 32, generator=generator)
    if case.reads.endswith("to text"):
        written = sentences((7, 3, 8, 5), model.config.pad_token_id or 0, generator)
        inputs |= {f"decoder_{name}": value for name, value in written.items()}
    return inputs


def sentences(lengths: tuple[int, ...], pad: int, generator: torch.Generator) -> dict[str, Tensor]:
    mask = (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(3, 60, mask.shape, generator=generator)
    return {"input_ids": torch.where(mask.bool(), ids, pad), "attention_mask": mask}


def padded_left(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same sentences with their padding first, positions counted from the first token."""
    lengths, width = inputs["attention_mask"].sum(1), inputs["attention_mask"].shape[1]
    places = (torch.arange(width)[None] + lengths[:, None]) % width  # token i stands where i + its padding is
    turned = {name: value.gather(1, places) for name, value in inputs.items()}
    return turned | {"position_ids": (turned["attention_mask"].cumsum(1) - 1).clamp(min=0)}


@torch.no_grad()
def tensors_of(model: nn.Module, inputs: dict[str, Tensor], hidden: bool) -> dict[str, Tensor]:
    """What a model returns, at valid positions; feature maps as tokens."""
    if {"input_ids", "pixel_values"} <= inputs.keys():
        return features_of(model, inputs)
    cached = {"use_cache": False} if model.config.get_text_config().to_dict().get("use_cache") else {}
    named = inputs if isinstance(model, PlaitPreTrainedModel) else {THEIRS.get(n, n): x for n, x in inputs.items()}
    outputs = model(**named, **cached, output_hidden_states=hidden)
    names = ("last_hidden_state", "pooler_output", "logits", "encoder_last_hidden_state")
    found = {name: outputs[name] for name in names if outputs.get(name) is not None}
    for name in ("hidden_states", "decoder_hidden_states", "encoder_hidden_states"):
        found |= {f"{name} {number}": state for number, state in enumerate(outputs.get(name) or ())}
    own = inputs.get("decoder_attention_mask", inputs.get("attention_mask"))
    for name, tensor in found.items():
        mask = inputs.get("attention_mask") if name.startswith("encoder") else own
        if name == "pooler_output":
            tensor = tensor.flatten(1)
        elif tensor.ndim == 4:
            tensor = tensor.flatten(2).transpose(1, 2)
        found[name] = tensor[mask.bool()] if mask is not None and tensor.ndim == 3 else tensor
    return found


def features_of(model: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of two towers in one space: what each makes of its inputs, and how alike they are."""
    image = {"pixel_values": inputs["pixel_values"]}
    text = {name: value for name, value in inputs.items() if name not in image}
    outputs = model(**inputs)
    found = {name: outputs[name] for name in ("text_embeds", "image_embeds", "logits_per_text", "logits_per_image")}
    found["text features"] = model.get_text_features(**text).pooler_output
    found["image features"] = model.get_image_features(**image).pooler_output
    return found


def difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest max|a - b| / max(1, max|b|) over the tensors that both have; `b` may be float64."""
    if a.keys() != b.keys():
        raise SystemExit(f"plait returns {sorted(a)}, transformers {sorted(b)}")
    return max(((a[n].double() - b[n].double()).abs().max() / b[n].double().abs().max().clamp(min=1)).item() for n in a)


def load(side: type, folder: str, implementation: str, dtype: torch.dtype) -> nn.Module:
    return side.from_pretrained(folder, attn_implementation=implementation, dtype=dtype).eval()


def in_double(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}


def modes_of(case: Case, model: nn.Module) -> list[str]:
    """How the inputs are given: padded, packed where the core does that, and padded left where a text goes on."""
    packs = any(getattr(part, "packing", False) for part in text_parts(model))
    return ["padded", *(["packed"] if packs else []), *(["left"] if case.ours is PlaitForCausalLM else [])]


def text_parts(model: nn.Module) -> list[Any]:
    config = model.config
    return [part for part in (config.text_config, config.decoder_config) if part is not None]


def entries(case: Case) -> list[tuple[str, str, float, float, float]]:
    """For each attention implementation and mode: difference, our error to float64, theirs, each the largest over the
    draws: one draw's largest error is chance."""
    draws = [entries_of(case, seed) for seed in range(DRAWS)]
    return [(*rows[0][:2], *map(max, *(row[2:] for row in rows))) for rows in zip(*draws, strict=True)]


def entries_of(case: Case, seed: int) -> list[tuple[str, str, float, float, float]]:
    """The same for one draw of the weights."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        peer = draw(case.build(), seed)
        peer.save_pretrained(folder)
        padded = inputs_for(case, peer)
        attention = not case.name.startswith("ResNet")
        kernel = "sdpa" if peer._supports_sdpa else "eager"  # GPT-Neo has eager attention alone
        exact = load(type(peer), folder, kernel, torch.float64)
        for implementation in ("eager", "sdpa") if attention else ("eager",):
            theirs = load(type(peer), folder, implementation if peer._supports_sdpa else "eager", torch.float32)
            ours = load(case.ours, folder, implementation, torch.float32)
            for mode in modes_of(case, ours):
                inputs = padded_left(padded) if mode == "left" else padded
                for part in text_parts(ours):
                    part.packing = mode == "packed"
                hidden = mode != "packed"  # recorded states are those of the padded grid
                reference, anchor = tensors_of(theirs, inputs, hidden), tensors_of(exact, in_double(inputs), hidden)
                found = tensors_of(ours, inputs, hidden)
                errors = difference(found, anchor), difference(reference, anchor)
                rows.append((implementation if attention else "-", mode, difference(found, reference), *errors))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", help=f"of {', '.join(case.name for case in FAMILIES)}")
    chosen = parser.parse_args().families
    unknown = sorted(set(chosen) - {case.name for case in FAMILIES})
    if unknown:
        parser.error(f"no such family: {', '.join(unknown)}")
    hf.logging.set_verbosity_error()
    hf.logging.disable_progress_bar()
    torch.set_num_threads(1)
    print("| family | attention | mode | difference | error to float64 | transformers' own | |")
    print("|---|---|---|---|---|---|---|")
    worst, failed = 0.0, 0
    cases = [case for case in FAMILIES if not chosen or case.name in chosen]
    for case in cases:
        for attention, mode, found, ours, theirs in entries(case):
            within = found <= 1e-5 and ours <= max(2 * theirs, 1e-6)
            worst, failed = max(worst, found), failed + (not within)
            verdict = "ok" if within else "OUT OF PARITY"
            line = f"| {case.name} | {attention} | {mode} | {found:.1e} | {ours:.1e} | {theirs:.1e} | {verdict} |"
            print(line, flush=True)
    print(f"plait parity: families={len(cases)} worst={worst:.1e}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
