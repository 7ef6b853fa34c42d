"""A contrastive batch of thousands of pairs in chunks, beside plain batches as small as a chunk: memory and time.

    python benchmarks/gradient_cache.py [--pairs 4096] [--chunk 64] [--layers 4] [--width 256] [--rounds 3]

Both sides are small random towers (a text of --tokens tokens, a picture of --pixels pixels in patches of 16), and so is
the data. Memory is the most that a step holds at once beyond the model, its gradients and the inputs, as the profiler
counts it, less the vectors of the batch, once. Time is CPU time: the cached batch against as many plain steps (forward
and backward) as it has chunks, in turn, a median of pairwise ratios. Before that the gradients of the cached batch are
compared with those of the whole batch at once, at 4 chunks in float64. Last line:

    gradient cache: pairs=4096 memory=x.xx time=x.xx
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from decoding import step_memory
from torch import Tensor

from plait import PlaitForRetrieval
from plait.configuration import PlaitTextConfig, PlaitVisionConfig
from plait.training.optimization.gradient_cache import cached_backward, split_chunks

VOCABULARY = 30_000
Batch = dict[str, Tensor]


def towers(options: argparse.Namespace) -> PlaitForRetrieval:
    """A text and a vision transformer of the same size, without dropout."""
    sizes: dict[str, Any] = {
        "hidden_size": options.width,
        "num_hidden_layers": options.layers,
        "num_attention_heads": options.width // 64,
        "intermediate_size": 4 * options.width,
    }
    text = PlaitTextConfig(vocab_size=VOCABULARY, max_position_embeddings=options.tokens, pad_token_id=0, **sizes)
    image = PlaitVisionConfig(image_size=options.pixels, patch_size=16, **sizes)
    space = {"projection_dim": options.projection}
    model = PlaitForRetrieval.compose(text=text, image=image, retrieval_config=space, verbose=False)
    return model.train()


def pairs(count: int, options: argparse.Namespace) -> Batch:
    """Texts of half to all of the tokens, and pictures of noise."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(options.tokens // 2, options.tokens + 1, (count, 1), generator=generator)
    lengths[::8] = options.tokens  # chunks are padded alike
    mask = (torch.arange(options.tokens) < lengths).long()
    ids = torch.randint(1, VOCABULARY, mask.shape, generator=generator) * mask
    pixels = torch.randn(count, 3, options.pixels, options.pixels, generator=generator)
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}


def cached(model: PlaitForRetrieval, batch: Batch, chunk: int) -> Tensor:
    """One step of all pairs; gradients stay where they are, as zeros."""
    model.zero_grad(set_to_none=False)
    return cached_backward(model, batch, chunk)


def plain(model: PlaitForRetrieval, batches: list[Batch]) -> Tensor:
    """A step for each of the batches."""
    for batch in batches:
        model.zero_grad(set_to_none=False)
        model(**batch).loss.backward()
    return next(model.parameters())


def check(model: PlaitForRetrieval, batch: Batch, chunk: int) -> float:
    """The largest difference between the gradients of the cached and of the whole batch, in float64, relative
    to the largest gradient.

    Raises SystemExit where they differ.
    """
    model.double()
    batch = {name: part.double() if part.is_floating_point() else part for name, part in batch.items()}
    gradients = []
    for step in (partial(cached, model, batch, chunk), lambda: model(**batch).loss.backward()):
        model.zero_grad()
        step()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    model.zero_grad()
    model.float()
    found = ((gradients[0] - gradients[1]).abs().max() / gradients[1].abs().max()).item()
    if not found <= 1e-10:
        raise SystemExit(f"the gradients of the cached batch differ by {found:.1e}")
    return found


def seconds(step: Callable[[], Tensor]) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=4096)
    parser.add_argument("--chunk", type=int, default=64)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=256, help="a multiple of 64")
    parser.add_argument("--projection", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--pixels", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, batch = towers(options), pairs(options.pairs, options)
    batches = list(split_chunks(batch, options.chunk))
    size = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    print(f"{size:.1f} M parameters, {options.pairs} pairs in chunks of {options.chunk}, torch {torch.__version__}")
    few = {name: part[: 4 * options.chunk] for name, part in batch.items()}
    print(f"gradients beside those of the whole batch: {check(model, few, options.chunk):.1e}", flush=True)
    steps = {"plain": lambda: plain(model, batches), "cached": lambda: cached(model, batch, options.chunk)}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(options.rounds):
        for name, step in steps.items():
            times[name].append(seconds(step))
        shown = ", ".join(f"{name} {taken[-1]:.1f} s" for name, taken in times.items())
        print(f"round {number + 1}/{options.rounds}: {shown}", flush=True)
    rows = {"plain": options.chunk, "cached": options.pairs}
    measured = {"plain": lambda: plain(model, batches[:1]), "cached": steps["cached"]}
    vectors = {name: 2 * rows[name] * options.projection * 4 / 2**20 for name in rows}
    memory = {name: step_memory(measured[name]) - vectors[name] for name in rows}
    ratios = [ours / theirs for ours, theirs in zip(times["cached"], times["plain"], strict=True)]
    print("| | peak memory | CPU time of all pairs |\n|---|---|---|")
    for name in rows:
        print(f"| {name} | {memory[name]:.1f} MiB | {statistics.median(times[name]):.1f} s |")
    larger, slower = memory["cached"] / memory["plain"], statistics.median(ratios)
    print(f"| ratio | {larger:.2f} | {slower:.2f} ({min(ratios):.2f} .. {max(ratios):.2f}) |")
    print(f"gradient cache: pairs={options.pairs} memory={larger:.2f} time={slower:.2f}")


if __name__ == "__main__":
    main()
