"""Made streams, small configs and modules with every parameter drawn."""

from collections.abc import Callable, Iterable
from itertools import product

import pytest
import torch
from torch import nn

from plait.configuration import MODALITIES, PlaitFusionConfig
from plait.modeling.core.layers import SelfInitializing
from plait.modeling.fusion import Fusion, Stream, build_fusion

LENGTHS = {"text": 5, "image": 7, "audio": 4, "video": 3}
WIDTH = 32


def start_weights(module: nn.Module) -> None:
    """What `_init_weights` of the models does: the usual layers, and modules that know how they start."""
    for part in module.modules():
        if isinstance(part, SelfInitializing):
            part.init_weights(0.02)
        elif isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.LayerNorm):
            part.reset_parameters()


def draw_weights(module: nn.Module) -> None:
    """Every parameter at random, so that nothing hides behind a zero."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)


def make_config(strategy: str = "early", implementation: str = "sdpa", **fields: object) -> PlaitFusionConfig:
    fields = {"hidden_size": WIDTH, "num_attention_heads": 2, "intermediate_size": 48} | fields
    config = PlaitFusionConfig(strategy=strategy, **fields)
    config._attn_implementation = implementation
    return config


@pytest.fixture
def build() -> Callable[..., Fusion]:
    def builder(strategy: str, count: int = 3, implementation: str = "sdpa", **fields: object) -> Fusion:
        fusion = build_fusion(make_config(strategy, implementation, **fields), MODALITIES[:count])
        draw_weights(fusion)
        return fusion.eval()

    return builder


@pytest.fixture
def make_streams() -> Callable[..., dict[str, Stream]]:
    def maker(patterns: Iterable[Iterable[bool]], width: int = WIDTH, grad: bool = False) -> dict[str, Stream]:
        """One row a pattern; row r of a present modality is r % 2 tokens shorter than the longest."""
        generator = torch.Generator().manual_seed(1)
        streams = {}
        for modality, present in zip(MODALITIES, zip(*patterns, strict=True), strict=False):
            length = LENGTHS[modality]
            tokens = torch.randn(len(present), length, width, generator=generator).requires_grad_(grad)
            counts = torch.tensor([(length - row % 2) * there for row, there in enumerate(present)])
            streams[modality] = Stream(tokens, torch.arange(length) < counts[:, None])
        return streams

    return maker


@pytest.fixture
def all_patterns() -> Callable[[int], list[tuple[bool, ...]]]:
    """Every non-empty set of present modalities, one a row."""
    return lambda count: [pattern for pattern in product((True, False), repeat=count) if any(pattern)]


@pytest.fixture
def start() -> Callable[[nn.Module], None]:
    return start_weights


@pytest.fixture
def draw() -> Callable[[nn.Module], None]:
    return draw_weights


@pytest.fixture
def config() -> Callable[..., PlaitFusionConfig]:
    return make_config
