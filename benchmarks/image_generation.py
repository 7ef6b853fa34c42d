"""The denoiser beside DiT of diffusers: `python benchmarks/image_generation.py [--rounds 20] [--bf16]`.

Both have the same width, layers, heads, patches, activation and attention (scaled dot products), one condition for each
image and no other; DiT (Peebles and Xie 2023) has a table of classes in each layer, ours reads one token of the same
width. Two jobs, turn by turn in one process: a training step (forward, mean squared error, backward) of a batch, and
sampling a batch in 20 steps of Euler's method with guidance (two predictions a step). Prints processor seconds and the
ratio diffusers / plait of every round: its median, and its 5th and 95th percentile. Needs: pip install diffusers
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor

from plait import PlaitForImageGeneration
from plait.configuration import PlaitTextConfig

WIDTH, LAYERS, HEADS, SIZE, PATCH, CLASSES, STEPS = 192, 6, 4, 64, 8, 24, 20


def build_ours() -> PlaitForImageGeneration:
    """Builds a denoiser of DiT's size whose condition is one token."""
    text = PlaitTextConfig(hidden_size=WIDTH, num_hidden_layers=0, num_attention_heads=HEADS, vocab_size=CLASSES)
    denoiser = {"relative_positions": False, "cross_attention": False, "hidden_act": "gelu_pytorch_tanh"}
    return PlaitForImageGeneration.compose(
        text=text,
        image_size=SIZE,
        patch_size=PATCH,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        denoiser_config={**denoiser, "prediction": "velocity"},
        attn_implementation="sdpa",
        verbose=False,
    )


def build_theirs() -> DiTTransformer2DModel:
    """Builds DiT."""
    return DiTTransformer2DModel(
        num_attention_heads=HEADS,
        attention_head_dim=WIDTH // HEADS,
        in_channels=3,
        out_channels=3,
        num_layers=LAYERS,
        sample_size=SIZE,
        patch_size=PATCH,
        num_embeds_ada_norm=CLASSES,
    )


def build_jobs(rows: int, bf16: bool) -> dict[str, dict[str, Callable[[], object]]]:
    """Builds the jobs: `{job: {side: function}}`."""
    ours, theirs = build_ours(), build_theirs()
    images, classes = torch.randn(rows, 3, SIZE, SIZE).clamp(-1, 1), torch.randint(CLASSES - 1, (rows,))
    precision = {"device_type": "cpu", "dtype": torch.bfloat16, "enabled": bf16}

    def train_ours() -> None:
        ours.train()
        with torch.autocast(**precision):
            loss = ours(input_ids=classes[:, None], target_pixel_values=images).loss
        loss.backward()

    def train_theirs() -> None:
        theirs.train()
        noise, times = torch.randn_like(images), torch.rand(rows)
        noisy = times[:, None, None, None] * images + (1 - times)[:, None, None, None] * noise
        with torch.autocast(**precision):
            velocity = theirs(noisy, timestep=times * 1000, class_labels=classes).sample
        torch.nn.functional.mse_loss(velocity.float(), images - noise).backward()

    def sample_ours() -> Tensor:
        ours.eval()
        with torch.autocast(**precision):
            return ours.generate_images(
                input_ids=classes[:, None], num_inference_steps=STEPS, guidance_scale=2.0, output_type="pt"
            )

    @torch.no_grad()
    def sample_theirs() -> Tensor:
        theirs.eval()
        x, both = torch.randn(rows, 3, SIZE, SIZE), torch.cat((classes, torch.full_like(classes, CLASSES - 1)))
        for step in range(STEPS):
            times = torch.full((2 * rows,), step / STEPS)
            with torch.autocast(**precision):
                given, empty = theirs(torch.cat((x, x)), timestep=times * 1000, class_labels=both).sample.chunk(2)
            x = x + (empty + 2.0 * (given - empty)).float() / STEPS
        return x

    return {
        "training step": {"plait": train_ours, "diffusers": train_theirs},
        "sampling": {"plait": sample_ours, "diffusers": sample_theirs},
    }


def measure(function: Callable[[], object]) -> float:
    """Returns the processor seconds of a call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--rows", type=int, default=32, help="images in a batch")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bf16", action="store_true", help="matrix products in bfloat16")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    counts = [sum(p.numel() for p in model.parameters()) for model in (build_ours(), build_theirs())]
    print(f"parameters: plait {counts[0]:,}, diffusers {counts[1]:,}")
    for job, sides in build_jobs(arguments.rows, arguments.bf16).items():
        for function in sides.values():
            function()
        rounds = []
        for number in range(arguments.rounds):
            names = list(sides) if number % 2 else list(reversed(sides))
            rounds.append({name: measure(sides[name]) for name in names})
        seconds = {name: statistics.median(each[name] for each in rounds) for name in sides}
        ratios = sorted(each["diffusers"] / each["plait"] for each in rounds)
        low, high = ratios[len(ratios) // 20], ratios[-1 - len(ratios) // 20]
        print(
            f"{job}: plait {seconds['plait']:.3f} s, diffusers {seconds['diffusers']:.3f} s, "
            f"ratio {statistics.median(ratios):.3f} ({low:.3f} .. {high:.3f})"
        )


if __name__ == "__main__":
    main()
