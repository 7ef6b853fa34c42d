"""Parity with transformers, family by family: `python benchmarks/parity.py [FAMILY ...]`.

Each family: a small transformers model with weights drawn at std 0.2 is saved to disk, read by both sides, and every
returned tensor is compared at valid positions: max|a - b| / max(1, max|b|), in fp32, for eager and SDPA attention,
packed and padded. Beside it stands the error to the same model in float64, ours and transformers' own. An entry is
within parity when the difference is at most 1e-5 and our error at most twice theirs (or below 1e-6). Last line:
`plait parity: families=N worst=x.xe-xx`; the exit status is 1 if an entry is out of parity.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from typing import NamedTuple

import torch
import transformers as hf
from torch import Tensor, nn

from plait import PlaitModel

SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
TEXT = {"vocab_size": 64, "max_position_embeddings": 40, **SIZES}
IMAGE = {"image_size": 32, "patch_size": 8, **SIZES}
LLAMA = {**TEXT, "num_key_value_heads": 2, "head_dim": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 16}
QWEN2 = {name: value for name, value in LLAMA.items() if name != "head_dim"}
CLIP = {"bos_token_id": 0, "eos_token_id": 63, "pad_token_id": 63}
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


class Case(NamedTuple):
    """A family's name, its model in transformers, and what it reads."""

    name: str
    build: Callable[[], nn.Module]
    reads: str


FAMILIES = [
    Case("BERT", lambda: hf.BertModel(hf.BertConfig(**TEXT)), "text"),
    Case("RoBERTa", lambda: hf.RobertaModel(hf.RobertaConfig(**TEXT, pad_token_id=1)), "text"),
    Case("XLM-R", lambda: hf.XLMRobertaModel(hf.XLMRobertaConfig(**TEXT, pad_token_id=1)), "text"),
    Case("DistilBERT", lambda: hf.DistilBertModel(hf.DistilBertConfig(**DISTIL)), "text"),
    Case("ELECTRA", lambda: hf.ElectraModel(hf.ElectraConfig(**TEXT, embedding_size=32)), "text"),
    Case("GPT-2", lambda: hf.GPT2Model(hf.GPT2Config(**GPT2)), "text"),
    Case("Llama", lambda: hf.LlamaModel(hf.LlamaConfig(**LLAMA)), "text"),
    Case("Llama 3", lambda: hf.LlamaModel(hf.LlamaConfig(**LLAMA, rope_parameters=LLAMA3)), "text"),
    Case("Qwen2", lambda: hf.Qwen2Model(hf.Qwen2Config(**QWEN2)), "text"),
    Case("Qwen3", lambda: hf.Qwen3Model(hf.Qwen3Config(**LLAMA)), "text"),
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
]


def draw(model: nn.Module) -> nn.Module:
    """Every weight, bias and norm at std 0.2 (norm scales around 1); a CNN's kernels keep their own, smaller scale."""
    generator = torch.Generator().manual_seed(0)
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
    """Ragged sentences (padded right), or pictures."""
    if case.reads == "image":
        return {"pixel_values": torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))}
    lengths = torch.tensor([12, 5, 9, 5])
    mask = (torch.arange(12)[None] < lengths[:, None]).long()
    ids = torch.randint(3, 60, mask.shape, generator=torch.Generator().manual_seed(1))
    pad, end = model.config.pad_token_id or 0, model.config.eos_token_id
    ids = torch.where(mask.bool(), ids, pad)
    if case.name == "CLIP text":
        ids[torch.arange(4), lengths - 1] = end
    return {"input_ids": ids, "attention_mask": mask}


@torch.no_grad()
def tensors_of(model: nn.Module, inputs: dict[str, Tensor], hidden: bool) -> dict[str, Tensor]:
    """What a model returns, at valid positions; feature maps as tokens."""
    cached = {"use_cache": False} if model.config.get_text_config().to_dict().get("use_cache") else {}
    outputs = model(**inputs, **cached, output_hidden_states=hidden)
    found = {"last": outputs.last_hidden_state}
    if outputs.get("pooler_output") is not None:
        found["pooled"] = outputs.pooler_output.flatten(1)
    if hidden:
        found |= {f"hidden {number}": state for number, state in enumerate(outputs.hidden_states)}
    mask = inputs.get("attention_mask")
    for name, tensor in found.items():
        tensor = tensor.flatten(2).transpose(1, 2) if tensor.ndim == 4 else tensor
        found[name] = tensor[mask.bool()] if mask is not None and tensor.ndim == 3 else tensor
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


def entries(case: Case) -> list[tuple[str, str, float, float, float]]:
    """For each attention implementation, packed and padded: difference, our error to float64, theirs."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        peer = draw(case.build())
        peer.save_pretrained(folder)
        inputs = inputs_for(case, peer)
        attention = not case.name.startswith("ResNet")
        for implementation in ("eager", "sdpa") if attention else ("eager",):
            theirs = load(type(peer), folder, implementation, torch.float32)
            exact = load(type(peer), folder, implementation, torch.float64)
            ours = load(PlaitModel, folder, implementation, torch.float32)
            packs = case.reads == "text" and ours.config.single.packing
            for mode in ("padded", "packed") if packs else ("padded",):
                if attention:
                    ours.config.single.packing = mode == "packed"
                hidden = mode == "padded"  # recorded states are those of the padded grid
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
