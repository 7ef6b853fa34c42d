"""Speed on a GPU against transformers on the same weights: `python benchmarks/gpu.py [NAME ...] [--json FILE]`.

Both sides run interleaved in one process and are timed by the clock, the GPU synchronised before and after; a figure is
the median of the pairwise ratios (peer / plait), with its quartiles. The peer's best setting is measured too: sorting
by length into sub-batches for ragged batches, a static cache with compiled steps for decoding, Liger's fused linear
cross-entropy for the loss (`pip install liger-kernel`). Before anything is timed the outputs are compared. Each
workload says its share of the device's own limit, measured in the same run: for training this is the model FLOP
utilization (MFU). `--tiny` takes small models, to try the script on any machine.
"""

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import transformers
from decoding import captioner_like, count_step_bytes, read_twice
from graphed_decoding import GraphedDecoder
from limits import Work, count_operations, measure_limits
from speed import bert_batch, both, describe, difference, quartiles, sorted_parts
from torch import Tensor
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    GPT2Config,
    GPT2LMHeadModel,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTModel,
)
from workload import Side, Workload

from plait import PlaitConfig, PlaitForCausalLM
from plait.modeling.losses.language_model import language_model_loss

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PRODUCT_SIZE = 8192 if DEVICE == "cuda" else 512
SMALL: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
SMALL_GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 1000}


def autocast(on: bool = True) -> Any:
    return torch.autocast(DEVICE, torch.bfloat16) if on else nullcontext()


def encode(folder: str, tiny: bool) -> Workload:
    """BERT-base over ragged sentences, bfloat16."""
    pair = both(BertModel(BertConfig(**(SMALL if tiny else {}))), folder)
    ours, peer = (model.to(DEVICE, torch.bfloat16).eval() for model in pair)
    ids, mask, lengths = bert_batch(8 if tiny else 512, 128, 0.22)
    parts = [[x.to(DEVICE) for x in part] for part in sorted_parts(ids, mask, 64)]
    ids, mask = ids.to(DEVICE), mask.to(DEVICE)

    def padded(model: Any) -> Tensor:
        with torch.inference_mode():
            return model(input_ids=ids, attention_mask=mask).last_hidden_state * mask[..., None]

    def by_length() -> Tensor:
        out = torch.zeros(*ids.shape, peer.config.hidden_size, device=DEVICE, dtype=torch.bfloat16)
        with torch.inference_mode():
            for rows, part, part_mask in parts:
                out[rows, : part.shape[1]] = peer(input_ids=part, attention_mask=part_mask).last_hidden_state
        return out * mask[..., None]

    title = f"encode: BERT-base, bf16, {describe(lengths)}; the peer's best: sorted, sub-batches of 64"
    work = Work(count_operations(lambda: padded(ours)), dtype=torch.bfloat16)
    return Workload(title, lambda: padded(ours), lambda: padded(peer), by_length, 0.1, work=work)


def train(folder: str, tiny: bool, rows: int = 512) -> Workload:
    """BERT-base forward and backward over ragged sentences, bfloat16 by autocast."""
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    pair = both(BertModel(BertConfig(**dropout, **(SMALL if tiny else {}))), folder)
    ours, peer = (model.to(DEVICE).train() for model in pair)
    ids, mask, lengths = bert_batch(8 if tiny else rows, 128, 0.34)
    whole = [[torch.arange(len(ids)), ids.to(DEVICE), mask.to(DEVICE)]]
    parts = [[x.to(DEVICE) for x in part] for part in sorted_parts(ids, mask, rows // 4)]

    def step(model: Any, parts: list[list[Tensor]]) -> Tensor:
        model.zero_grad(set_to_none=True)
        for _, part, part_mask in parts:
            with autocast():
                hidden = model(input_ids=part, attention_mask=part_mask).last_hidden_state
            (hidden.float() * part_mask[..., None]).square().sum().backward()
        return next(p.grad for name, p in model.named_parameters() if p.grad is not None and "ayer" in name)

    title = (
        f"train: BERT-base forward + backward, bf16 autocast, {describe(lengths)}; peer's best: parts of {rows // 4}"
    )
    work = Work(count_operations(lambda: step(ours, whole)), dtype=torch.bfloat16)
    return Workload(
        title, lambda: step(ours, whole), lambda: step(peer, whole), lambda: step(peer, parts), 0.1, work=work
    )


def vision(folder: str, tiny: bool, pictures: int = 256) -> Workload:
    """ViT-B/16 forward, bfloat16."""
    pair = both(ViTModel(ViTConfig(**(SMALL if tiny else {}))), folder)
    ours, peer = (model.to(DEVICE, torch.bfloat16).eval() for model in pair)
    pixels = torch.randn(4 if tiny else pictures, 3, 224, 224).to(DEVICE, torch.bfloat16)

    def run(model: Any) -> Tensor:
        with torch.inference_mode():
            return model(pixel_values=pixels).last_hidden_state

    title = f"vision: ViT-B/16 forward, bf16, {len(pixels)} pictures of 224 px"
    work = Work(count_operations(lambda: run(ours)), dtype=torch.bfloat16)
    return Workload(title, lambda: run(ours), lambda: run(peer), lambda: run(peer), 0.1, work=work)


def dual(folder: str, tiny: bool) -> Workload:
    """CLIP's image tower, bfloat16."""
    vision = {"num_hidden_layers": 2} if tiny else {}
    peer = CLIPModel(CLIPConfig(vision_config=vision)).vision_model
    ours, peer = (model.to(DEVICE, torch.bfloat16).eval() for model in both(peer, folder))
    pixels = torch.randn(4 if tiny else 512, 3, 224, 224).to(DEVICE, torch.bfloat16)

    def run(model: Any) -> Tensor:
        with torch.inference_mode():
            return model(pixel_values=pixels).pooler_output

    title = f"clip: CLIP B/32 image tower forward, bf16, {len(pixels)} pictures"
    work = Work(count_operations(lambda: run(ours)), dtype=torch.bfloat16)
    return Workload(title, lambda: run(ours), lambda: run(peer), lambda: run(peer), 0.1, work=work)


def decode(folder: str, tiny: bool, how: str = "as it comes") -> Workload:
    """GPT-2 of 124 M, batch 1; float32, so that both sides must write the same tokens. Through `generate`, or
    ("graph") by `GraphedDecoder` beside the peer's static cache with compiled steps."""
    ours, peer = (model.to(DEVICE).eval() for model in read_twice(GPT2LMHeadModel(GPT2Config(**gpt2(tiny))), folder))
    ids, tokens = torch.randint(0, 1000, (1, 16), generator=torch.Generator().manual_seed(0)).to(DEVICE), 64
    options: dict[str, Any] = {"attention_mask": torch.ones_like(ids), "max_new_tokens": tokens, "do_sample": False}
    for model in (ours, peer):
        model.generation_config.eos_token_id = None
        model.generation_config.pad_token_id = 0
    cache = {} if how == "as it comes" else {"cache_implementation": "static"}
    graphed = GraphedDecoder(ours, len(ids), ids.shape[1] + tokens) if how == "graph" else None

    def write(model: Any, **more: Any) -> Tensor:
        return model.generate(ids, **options, **more)

    def write_ours() -> Tensor:
        return write(ours, **cache) if graphed is None else graphed.write(ids, tokens)

    title = f"decode: GPT-2 124 M, fp32, {tokens} tokens, batch 1, {DECODING[how]}"
    work = Work(0.0, tokens * count_step_bytes(ours))
    return Workload(title, write_ours, lambda: write(peer), lambda: write(peer, **cache), exact=True, work=work)


DECODING = {
    "as it comes": "as it comes",
    "static": "static cache, compiled steps on both sides",
    "graph": "static cache, our own CUDA graph beside the peer's compiled steps",
}


def gpt2(tiny: bool) -> dict[str, Any]:
    return SMALL_GPT2 if tiny else {}


def loss(folder: str, tiny: bool) -> Workload:
    """GPT-2 of 124 M forward and backward, bfloat16 by autocast: the loss in chunks against the whole of the logits."""
    config = GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **gpt2(tiny))
    ours, peer = (model.to(DEVICE).train() for model in read_twice(GPT2LMHeadModel(config), folder))
    ids = torch.randint(0, 1000, (2 if tiny else 16, 512), generator=torch.Generator().manual_seed(0)).to(DEVICE)

    def step(model: Any) -> Tensor:
        model.zero_grad(set_to_none=True)
        with autocast():
            total = model(input_ids=ids, labels=ids, use_cache=False).loss
        total.backward()
        return next(p.grad for p in model.parameters() if p.grad is not None and p.ndim == 2)

    memory = [peak_memory(lambda model=model: step(model)) for model in (ours, peer)]
    shown = f"{memory[0]:.0f} MiB beside what it leaves, the peer's {memory[1]:.0f}: {memory[0] / memory[1]:.2f}"
    title = f"loss: GPT-2 124 M forward + backward, bf16 autocast, 16 x 512 tokens; step memory {shown}"
    work = Work(count_operations(lambda: step(ours)), dtype=torch.bfloat16)
    return Workload(title, lambda: step(ours), lambda: step(peer), lambda: step(peer), 0.1, work=work)


def liger(folder: str, tiny: bool) -> Workload:
    """The loss of a vocabulary alone, forward and backward, bfloat16: our chunks against Liger's fused kernel."""
    del folder
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss  # an extra that only this workload needs

    tokens, width, vocabulary = (64, 64, 1000) if tiny else (8192, 768, 50257)
    x = torch.randn(1, tokens, width, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.nn.Parameter(torch.randn(vocabulary, width, device=DEVICE, dtype=torch.bfloat16) * width**-0.5)
    labels, fused = torch.randint(0, vocabulary, (1, tokens), device=DEVICE), LigerFusedLinearCrossEntropyLoss()

    def step(compute: Callable[[], Tensor]) -> Tensor:
        x.grad = weight.grad = None
        compute().backward()
        assert x.grad is not None
        return x.grad * tokens

    def ours() -> Tensor:
        return step(lambda: language_model_loss(x, weight, None, labels))

    def peer() -> Tensor:
        return step(lambda: fused(weight, x[0], labels[0]))

    work = Work(count_operations(peer) or 6.0 * tokens * width * vocabulary, dtype=torch.bfloat16)
    shown = f"{peak_memory(ours):.0f} MiB of memory, Liger's {peak_memory(peer):.0f}"
    return Workload(f"liger: the loss of {tokens} tokens, bf16; {shown}", ours, peer, peer, 0.1, work=work)


def flex(folder: str, tiny: bool) -> Workload:
    """Images in text, each at another place and read in both directions, by FlexAttention's block mask and by a dense
    mask."""
    text = {**SMALL, "vocab_size": 1000} if tiny else {"hidden_size": 768, "num_hidden_layers": 12, "vocab_size": 32000}
    text |= {"num_attention_heads": 4 if tiny else 12, "max_position_embeddings": 4096}
    image = {**SMALL, "image_size": 32, "patch_size": 8} if tiny else {"hidden_size": 768, "num_hidden_layers": 12}
    inline = {"strategy": "inline", "connector": "mlp", "hidden_size": text["hidden_size"]}
    config = PlaitConfig(
        decoder_config=text, vision_config=image, fusion_config=inline, image_token_id=5, bidirectional_images=True
    )
    PlaitForCausalLM(config).save_pretrained(folder)
    ours, peer = (
        PlaitForCausalLM.from_pretrained(folder, attn_implementation=name).to(DEVICE, torch.bfloat16).eval()
        for name in ("flex_attention", "sdpa")
    )
    side, count, length = (32, 17, 64) if tiny else (224, 197, 2048)
    ids = torch.randint(6, 1000, (4, length), generator=torch.Generator().manual_seed(0))
    for row in range(4):
        ids[row, row * 7 : row * 7 + count] = 5
    pixels = torch.randn(4, 3, side, side).to(DEVICE, torch.bfloat16)
    ids = ids.to(DEVICE)

    def run(model: Any) -> Tensor:
        with torch.inference_mode():
            return model(input_ids=ids, pixel_values=pixels).logits

    title = f"flex: images in text, 4 x {length} tokens; FlexAttention against our dense mask"
    return Workload(title, lambda: run(ours), lambda: run(peer), lambda: run(peer), 0.1)


def peak_memory(step: Side) -> float:
    """The most memory in MiB that a step holds at once beyond what it holds when it ends."""
    if DEVICE == "cpu":
        return float("nan")
    step()
    torch.cuda.reset_peak_memory_stats()
    step()
    return (torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated()) / 2**20


def caption(folder: str, tiny: bool) -> Workload:
    """ViT-B/16 to GPT-2 of 124 M with cross-attention, batch 4, 20 tokens; float32, the same tokens."""
    del folder, tiny
    decoder = GPT2Config(is_decoder=True, add_cross_attention=True)
    pair = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(), decoder)
    torch.manual_seed(0)
    peer = VisionEncoderDecoderModel(config=pair).eval()
    ours = captioner_like(peer).to(DEVICE)
    peer = peer.to(DEVICE)
    pixels = torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    options = {"max_new_tokens": 20, "do_sample": False, "decoder_start_token_id": 1, "pad_token_id": 0}
    for model in (ours, peer):
        model.generation_config.eos_token_id = None

    def write(model: Any) -> Tensor:
        return model.generate(pixel_values=pixels, **options)

    title = "caption: ViT-B/16 to GPT-2 124 M, fp32, 4 pictures, 20 tokens"
    return Workload(title, lambda: write(ours), lambda: write(peer), lambda: write(peer), exact=True)


WORKLOADS: dict[str, Callable[[str, bool], Workload]] = {
    "encode": encode,
    "train": train,
    "train-small": lambda folder, tiny: train(folder, tiny, rows=64),
    "vision": vision,
    "vision-small": lambda folder, tiny: vision(folder, tiny, pictures=16),
    "clip": dual,
    "loss": loss,
    "liger": liger,
    "flex": flex,
    "caption": caption,
    "decode": decode,
    "decode-static": lambda folder, tiny: decode(folder, tiny, "static"),
    "decode-graph": lambda folder, tiny: decode(folder, tiny, "graph"),
}


def seconds(side: Side) -> float:
    synchronise()
    start = time.perf_counter()
    side()
    synchronise()
    return time.perf_counter() - start


def synchronise() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def measure(name: str, work: Workload, rounds: int) -> dict[str, Any]:
    print(work.title, flush=True)
    reference, found = work.default(), 0.0
    for side in (work.ours, work.best):
        outcome = side()
        if work.exact and not torch.equal(outcome, reference):
            raise SystemExit(f"{name}: the tokens differ")
        found = max(found, difference(outcome.float(), reference.float()))
    if found > work.tolerance:
        raise SystemExit(f"{name}: outputs differ by {found:.1e}, more than {work.tolerance:.0e}")
    for side in (work.ours, work.default, work.best):
        side()
    result: dict[str, Any] = {"workload": name, "title": work.title, "rounds": rounds}
    times = [[seconds(side) for side in (work.ours, work.default, work.best)] for _ in range(rounds)]
    for column, peer in ((1, "default"), (2, "best")):
        low, middle, high = quartiles([row[column] / row[0] for row in times])
        result |= {f"vs_{peer}": round(middle, 2), f"vs_{peer}_quartiles": [round(low, 2), round(high, 2)]}
        print(f"  vs {peer}: {middle:.2f} (quartiles {low:.2f} .. {high:.2f})", flush=True)
    middle = quartiles([row[0] for row in times])[1]
    result["milliseconds"] = round(1000 * middle, 2)
    limits = measure_limits(work.work.dtype, DEVICE, seconds, PRODUCT_SIZE)
    result["limit"] = round(limits.least_seconds(work.work) / middle, 2)
    print(f"  share of the limit: {result['limit']:.2f}: {limits.describe(work.work)}", flush=True)
    return result


def list_workloads() -> list[str]:
    """The workloads that this machine can run: Liger's kernels need a GPU."""
    has_liger = DEVICE == "cuda" and importlib.util.find_spec("liger_kernel") is not None
    return [name for name in WORKLOADS if has_liger or name != "liger"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list_workloads(), help=f"of {', '.join(WORKLOADS)}")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(WORKLOADS))
    if unknown:
        parser.error(f"no such workload: {', '.join(unknown)}; there are {', '.join(WORKLOADS)}")
    torch.manual_seed(0)
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else "CPU"
    machine = f"{name}, torch {torch.__version__}, transformers {transformers.__version__}"
    print(machine, flush=True)
    results: list[dict[str, Any]] = []
    for workload in options.names:
        with tempfile.TemporaryDirectory() as folder:
            results.append(measure(workload, WORKLOADS[workload](folder, options.tiny), options.rounds))
        if options.json:
            options.json.write_text(json.dumps({"machine": machine, "results": results}, indent=2) + "\n")
    for result in results:
        print("{workload} vs_default={vs_default:.2f} vs_best={vs_best:.2f} limit={limit:.2f}".format(**result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
