"""Speed against transformers on the same weights: `python benchmarks/speed.py [W1 W2 ...] [--rounds N] [--json FILE]`.

Both sides run interleaved in one process, one thread, and are timed by CPU time; a figure is the median of the pairwise
ratios (peer / plait), with its quartiles. Before anything is timed the outputs are compared. The peer's best setting
for ragged batches is sorting by length into sub-batches; it is measured too. Last, one line a workload:
`W1 vs_default=x.xx vs_best=x.xx limit=x.xx`, the last being the share of this machine's own limit, measured in the same
run: matrix products per second, or for decoding at batch 1 and 4 bytes read per second (see limits.py). Those named
-prepacked are after `model.prepack_weights()`; W4 and W4-gpt2 train with the products that PlaitTrainer chooses, those
named -plain without.
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import decoding
import torch
import transformers
from limits import Work, count_operations, measure_limits
from torch import Tensor
from transformers import BertConfig, BertModel, CLIPConfig, CLIPModel, ViTConfig, ViTModel
from workload import Side, Workload

from plait import PlaitForRetrieval, PlaitModel


def ragged_lengths(rows: int, longest: int, fill: float) -> list[int]:
    """Sentence lengths: log-normal, scaled so that real tokens fill `fill` of the padded batch; one row is longest."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(rows, generator=generator).mul(0.6).exp()
    low, high = 0.01, float(longest)
    for _ in range(60):  # bisection on the scale
        scale = (low + high) / 2
        lengths = (draws * scale).round().clamp(3, longest)
        lengths[0] = longest
        low, high = (scale, high) if lengths.mean() < fill * longest else (low, scale)
    return [int(n) for n in lengths]


def describe(lengths: list[int]) -> str:
    quarters = statistics.quantiles(lengths, n=4)
    fill = sum(lengths) / (len(lengths) * max(lengths))
    return (
        f"{len(lengths)} rows, lengths min {min(lengths)}, quartiles {'/'.join(f'{q:.0f}' for q in quarters)}, "
        f"max {max(lengths)}, fill {fill:.0%}"
    )


def both(model: torch.nn.Module, folder: str, **options: object) -> tuple[PlaitModel, torch.nn.Module]:
    """The same weights in plait and in transformers, each read from one saved folder."""
    model.save_pretrained(folder)
    peer = type(model).from_pretrained(folder, **options)
    return PlaitModel.from_pretrained(folder, **options), peer


def bert_batch(rows: int, longest: int, fill: float) -> tuple[Tensor, Tensor, list[int]]:
    lengths = ragged_lengths(rows, longest, fill)
    mask = (torch.arange(longest)[None] < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(1000, 30000, (rows, longest), generator=torch.Generator().manual_seed(1)) * mask
    return ids, mask, lengths


def sorted_parts(ids: Tensor, mask: Tensor, size: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The peer's best: rows by length, in sub-batches, each padded to its own longest row."""
    order = mask.sum(1).argsort()
    return [
        (part, ids[part, : mask[part].sum(1).max()], mask[part, : mask[part].sum(1).max()])
        for part in order.split(size)
    ]


def w1(folder: str, prepack: bool = False) -> Workload:
    ours, peer = both(BertModel(BertConfig()), folder)
    ids, mask, lengths = bert_batch(64, 128, 0.22)

    def padded(model: torch.nn.Module) -> Tensor:
        with torch.inference_mode():
            return model(input_ids=ids, attention_mask=mask).last_hidden_state * mask[..., None]

    def by_length() -> Tensor:
        out = torch.zeros(*ids.shape, peer.config.hidden_size)
        with torch.inference_mode():
            for rows, part, part_mask in sorted_parts(ids, mask, 8):
                out[rows, : part.shape[1]] = peer(input_ids=part, attention_mask=part_mask).last_hidden_state
        return out * mask[..., None]

    work = Work(count_operations(lambda: padded(ours)))
    packed = ours.prepack_weights() if prepack else 0
    title = f"W1 BERT-base encode, {packed} prepacked layers: {describe(lengths)}; the peer's best: sorted, by 8"
    return Workload(title, lambda: padded(ours), lambda: padded(peer), by_length, work=work)


def w2(folder: str, dtype: torch.dtype = torch.float32, prepack: bool = False) -> Workload:
    ours, peer = both(ViTModel(ViTConfig()), folder, dtype=dtype)
    pixels = torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(0)).to(dtype)

    def run(model: torch.nn.Module) -> Tensor:
        with torch.inference_mode():
            return model(pixel_values=pixels).last_hidden_state

    work = Work(count_operations(lambda: run(ours)), dtype=dtype)
    packed = ours.prepack_weights() if prepack else 0
    tolerance = 1e-5 if dtype == torch.float32 else 5e-2
    title = f"W2 ViT-B/16 forward: 4 pictures of 224 px, {str(dtype).removeprefix('torch.')}, {packed} prepacked layers"
    return Workload(title, lambda: run(ours), lambda: run(peer), lambda: run(peer), tolerance, work=work)


def w4(folder: str, choose: bool = True) -> Workload:
    ours, peer = both(BertModel(BertConfig(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)), folder)
    ours.train()
    peer.train()
    ids, mask, lengths = bert_batch(16, 128, 0.34)

    def step(model: torch.nn.Module, parts: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        model.zero_grad(set_to_none=True)
        for _, part, part_mask in parts:
            hidden = model(input_ids=part, attention_mask=part_mask).last_hidden_state
            (hidden * part_mask[..., None]).square().sum().backward()
        return next(
            p.grad for name, p in model.named_parameters() if p.grad is not None and p.ndim == 2 and "ayer" in name
        )

    whole = [(torch.arange(len(ids)), ids, mask)]
    parts = sorted_parts(ids, mask, 4)
    work = Work(count_operations(lambda: step(ours, whole)))
    chosen = ours.choose_products() if choose else 0
    title = f"W4 BERT-base forward + backward, {chosen} layers with chosen products: {describe(lengths)}; "
    title += "the peer's best: sorted, by 4"
    return Workload(
        title, lambda: step(ours, whole), lambda: step(peer, whole), lambda: step(peer, parts), 1e-4, work=work
    )


def w5(folder: str, prepack: bool = False) -> Workload:
    """CLIP B/32: 8 texts of 32 tokens, none of them padding, against 8 pictures; the similarities and both vectors."""
    CLIPModel(CLIPConfig()).save_pretrained(folder)
    peer: Any = CLIPModel.from_pretrained(folder)
    ours = PlaitForRetrieval.from_pretrained(folder)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 40000, (8, 32), generator=generator)
    ids[:, -1] = peer.config.text_config.eos_token_id
    pixels = torch.randn(8, 3, 224, 224, generator=generator)

    def run(model: torch.nn.Module) -> Tensor:
        with torch.inference_mode():
            out = model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels)
        return torch.cat((out.logits_per_image, out.text_embeds, out.image_embeds), dim=1)

    work = Work(count_operations(lambda: run(ours)))
    packed = ours.prepack_weights() if prepack else 0
    title = f"W5 CLIP B/32 forward: 8 texts of 32 tokens, 8 pictures of 224 px, {packed} prepacked layers"
    return Workload(title, lambda: run(ours), lambda: run(peer), lambda: run(peer), work=work)


def cpu_seconds(side: Side) -> float:
    start = time.process_time()
    side()
    return time.process_time() - start


def difference(a: Tensor, b: Tensor) -> float:
    """max|a - b| / max(1, max|b|)."""
    return ((a - b).abs().max() / b.abs().max().clamp(min=1)).item()


def quartiles(values: list[float]) -> list[float]:
    return statistics.quantiles(values, n=4, method="inclusive")


def measure(name: str, work: Workload, rounds: int) -> dict[str, object]:
    print(work.title, flush=True)
    reference = work.default()
    for side in (work.ours, work.best):
        outcome = side()
        found = difference(outcome.float(), reference.float())
        if not found <= work.tolerance or work.exact and not torch.equal(outcome, reference):
            raise SystemExit(f"{name}: outputs differ by {found:.1e}, more than {work.tolerance:.0e}")
    same = not name.startswith(("W1", "W4")) or name.startswith("W4-gpt2")  # the peer has no other setting
    ratios: dict[str, list[float]] = {"default": [], "best": []}
    limits, times = measure_limits(work.work.dtype), []
    for number in range(rounds):
        ours, default = cpu_seconds(work.ours), cpu_seconds(work.default)
        times.append(ours)
        ratios["default"].append(default / ours)
        ratios["best"].append((default if same else cpu_seconds(work.best)) / ours)
        print(f"  round {number + 1}/{rounds}: plait {ours:.3f} s, peer {default:.3f} s", flush=True)
    result: dict[str, object] = {"workload": name, "title": work.title, "rounds": rounds}
    for peer, values in ratios.items():
        low, middle, high = quartiles(values)
        result |= {f"vs_{peer}": round(middle, 2), f"vs_{peer}_quartiles": [round(low, 2), round(high, 2)]}
        print(f"  vs {peer}: {middle:.2f} (quartiles {low:.2f} .. {high:.2f})", flush=True)
    low, middle, high = quartiles([limits.least_seconds(work.work) / ours for ours in times])
    result |= {"limit": round(middle, 2), "limit_quartiles": [round(low, 2), round(high, 2)]}
    print(f"  share of the limit: {middle:.2f} ({low:.2f} .. {high:.2f}): {limits.describe(work.work)}", flush=True)
    return result


WORKLOADS: dict[str, Callable[[str], Workload]] = {
    "W1": w1,
    "W1-prepacked": lambda folder: w1(folder, prepack=True),
    "W2": w2,
    "W2-prepacked": lambda folder: w2(folder, prepack=True),
    "W2-bf16": lambda folder: w2(folder, torch.bfloat16),
    "W2-bf16-prepacked": lambda folder: w2(folder, torch.bfloat16, prepack=True),
    "W4": w4,
    "W4-plain": lambda folder: w4(folder, choose=False),
    "W5": w5,
    "W5-prepacked": lambda folder: w5(folder, prepack=True),
    **decoding.WORKLOADS,
}


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(WORKLOADS), help=f"of {', '.join(WORKLOADS)}")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(WORKLOADS))
    if unknown:
        parser.error(f"no such workload: {', '.join(unknown)}; there are {', '.join(WORKLOADS)}")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    machine = f"{cpu_name()}, 1 thread, torch {torch.__version__}, transformers {transformers.__version__}"
    print(machine, flush=True)
    results = []
    for name in options.names:
        with tempfile.TemporaryDirectory() as folder:
            results.append(measure(name, WORKLOADS[name](folder), options.rounds))
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "results": results}, indent=2) + "\n")
    for result in results:
        print("{workload} vs_default={vs_default:.2f} vs_best={vs_best:.2f} limit={limit:.2f}".format(**result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
