"""The denoiser, the loss and the samplers against the equations written out by hand, in double precision."""

import math

import pytest
import torch
from torch import Tensor

from plait import PlaitForImageGeneration

from .fields import PATCH, SIZE, build_model, make_inputs

GRID = SIZE // PATCH
EXACT = 1e-10


class Reference:
    """The same weights, one row, one head and one pair of patches at a time."""

    def __init__(self, model: PlaitForImageGeneration) -> None:
        self.weights, self.config = model.denoiser.state_dict(), model.denoiser.config

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def norm(self, x: Tensor, name: str | None = None) -> Tensor:
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
        return x if name is None else x * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def modulations(self, name: str, condition: Tensor, count: int) -> list[Tensor]:
        return list(self.linear(f"{name}.proj", condition).view(count, -1))

    def attend(self, name: str, x: Tensor, context: Tensor, bias: Tensor | None) -> Tensor:
        query, key, value = (
            self.linear(f"{name}.{part}_proj", source) for part, source in (("q", x), ("k", context), ("v", context))
        )
        heads = []
        for head, place in enumerate((slice(0, 8), slice(8, 16))):
            scores = query[:, place] @ key[:, place].T / math.sqrt(8)
            scores = scores if bias is None else scores + bias[head]
            heads.append(scores.exp() / scores.exp().sum(-1, keepdim=True) @ value[:, place])
        return self.linear(f"{name}.o_proj", torch.cat(heads, dim=1))

    def position_bias(self, name: str) -> Tensor:
        table, count = self.weights[f"{name}.position_bias.weight"], GRID * GRID
        bias = torch.zeros(2, count, count, dtype=torch.double)
        for query in range(count):
            for key in range(count):
                row, column = query // GRID - key // GRID, query % GRID - key % GRID
                bias[:, query, key] = table[:, row + GRID - 1, column + GRID - 1]
        return bias

    def embed_time(self, time: float) -> Tensor:
        place = math.log(time / (1 - time)) + 10
        angles = torch.tensor([place * 50 * 10_000 ** (-number / 64) for number in range(64)], dtype=torch.double)
        hidden = self.linear("time_embedding.up_proj", torch.cat((angles.cos(), angles.sin())))
        return self.linear("time_embedding.down_proj", hidden / (1 + (-hidden).exp()))

    def layer(self, number: int, x: Tensor, context: Tensor, condition: Tensor) -> Tensor:
        name = f"transformer.layers.{number}"
        scale, shift, gate, mlp_scale, mlp_shift, mlp_gate = self.modulations(f"{name}.modulation", condition, 6)
        own = self.norm(x) * (1 + scale) + shift
        x = x + gate * self.attend(f"{name}.self_attn", own, own, self.position_bias(f"{name}.self_attn"))
        if number % 2 == 0:
            x = x + self.attend(f"{name}.cross_attn", self.norm(x, f"{name}.cross_attn_norm"), context, None)
        hidden = self.linear(f"{name}.mlp.up_proj", self.norm(x) * (1 + mlp_scale) + mlp_shift)
        return x + mlp_gate * self.linear(f"{name}.mlp.down_proj", hidden.clamp_min(0) ** 2)

    def denoise(self, noisy: Tensor, time: float, tokens: Tensor) -> Tensor:
        """noisy: (channels, height, width); tokens: (real tokens, width)."""
        corners = [(row * PATCH, column * PATCH) for row in range(GRID) for column in range(GRID)]
        patches = torch.stack([noisy[:, top : top + PATCH, left : left + PATCH].flatten() for top, left in corners])
        x = self.linear("input_proj", patches) + self.weights["position_embedding.weight"]
        pooled = self.linear("pooled_proj", self.norm(tokens.mean(dim=0), "context_norm"))
        condition = self.embed_time(time) + pooled
        condition = condition / (1 + (-condition).exp())
        for number in range(2):
            x = self.layer(number, x, self.norm(tokens, "context_norm"), condition)
        scale, shift = self.modulations("output_modulation", condition, 2)
        x = self.linear("output_proj", self.norm(x) * (1 + scale) + shift)
        image = torch.zeros_like(noisy)
        for (top, left), patch in zip(corners, x, strict=True):
            image[:, top : top + PATCH, left : left + PATCH] = patch.view(-1, PATCH, PATCH)
        return image

    def velocity(self, x: Tensor, time: float, tokens: Tensor) -> Tensor:
        found = self.denoise(x, max(time, 1e-4), tokens)  # log-odds are finite
        return found if self.config.prediction == "velocity" else (found - x) / (1 - time)


@pytest.fixture(params=["image", "velocity"])
def model(request: pytest.FixtureRequest) -> PlaitForImageGeneration:
    return build_model(denoiser_config={"prediction": request.param}).double()


@pytest.fixture
def tokens(model: PlaitForImageGeneration) -> list[Tensor]:
    """The condition's real tokens of each row, and the one that stands for none."""
    with torch.no_grad():
        condition = model.encode_condition(make_inputs(), 3)
    rows = [tokens[mask] for tokens, mask in zip(*condition, strict=True)]
    return [*rows, model.null_condition.tokens[0].detach()]


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.double, generator=torch.Generator().manual_seed(4))


@torch.no_grad()
def test_the_loss_is_the_equation(model: PlaitForImageGeneration, tokens: list[Tensor]) -> None:
    images, noise, times = draw(3, 3, SIZE, SIZE), draw(6, 3, SIZE, SIZE)[3:], [0.03, 0.6, 0.98]
    found = model(
        **make_inputs(), target_pixel_values=images, noise=noise, times=torch.tensor(times, dtype=torch.double)
    )
    reference, total = Reference(model), 0.0
    for row, time in enumerate(times):
        noisy = time * images[row] + (1 - time) * noise[row]
        prediction = reference.denoise(noisy, time, tokens[row])
        assert (prediction - found.prediction[row]).abs().max() < EXACT
        error = prediction - (images[row] - noise[row])
        if model.denoiser.config.prediction == "image":
            error = (prediction - images[row]) / max(1 - time, 0.05)
        total += float(error.square().mean()) / 3
    assert abs(total - float(found.loss)) < EXACT


@torch.no_grad()
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_the_sampler_is_the_equation(model: PlaitForImageGeneration, tokens: list[Tensor], solver: str) -> None:
    steps, guidance = 3, 2.5
    generator = torch.Generator().manual_seed(7)
    seeds = [int(torch.randint(2**62, (), generator=generator)) for _ in range(3)]
    found = model.generate_images(
        **make_inputs(),
        num_inference_steps=steps,
        guidance_scale=guidance,
        solver=solver,
        output_type="pt",
        generator=torch.Generator().manual_seed(7),
    )
    evenly = [number / steps for number in range(steps + 1)]
    times = [even / (even + math.exp(2) * (1 - even)) for even in evenly]
    reference = Reference(model)

    def slope(x: Tensor, time: float, row: int) -> Tensor:
        empty = reference.velocity(x, time, tokens[3])
        return empty + guidance * (reference.velocity(x, time, tokens[row]) - empty)

    for row, seed in enumerate(seeds):
        x = torch.randn(3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed)).double()
        for number, (now, later) in enumerate(zip(times, times[1:], strict=False)):
            first = slope(x, now, row)
            ahead = x + (later - now) * first
            if solver == "heun" and number + 1 < steps:
                ahead = x + (later - now) * (first + slope(ahead, later, row)) / 2
            x = ahead
        assert (x.clamp(-1, 1) - found[row]).abs().max() < EXACT
