"""A fusion as data."""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict

from .transformer import PlaitTransformerConfig


@strict
class PlaitFusionConfig(PlaitTransformerConfig):
    """How the streams of the towers are braided (`strategy`; "inline": not at all, an image's tokens stand among the
    text of a decoder).

    `hidden_size` is the joint width; every tower's stream is brought to it by a `connector`: `linear`, `mlp` (two
    layers, LLaVA 1.5), `resampler` or `qformer` (`num_queries` learned queries read the stream in `resampler_layers`
    layers; Perceiver resampler, Alayrac et al. 2022; Q-Former, Li et al. 2023). `query` names the modality that asks in
    `cross_attention` and `gated_cross_attention` (default: text where there is text, else the first).
    `modality_dropout` is the chance, 0..1, that a row loses a modality in training (never its last one). `pooling`
    reads one vector from the fused tokens. `num_bottlenecks` tokens are shared in `bottleneck`; `tensor_size` numbers a
    modality enter the products of `tensor`, whose weights have the rank `tensor_rank` in `low_rank_tensor`.

    Raises:
        ValueError: `modality_dropout` outside 0..1, or a number below 1 of queries, layers, bottlenecks, or of a
            tensor's size or rank.
    """

    model_type = "plait_fusion"
    base_config_key = "fusion_config"

    strategy: str = "early"
    query: Literal["text", "image", "audio", "video"] | None = None
    connector: Literal["linear", "mlp", "resampler", "qformer"] = "linear"
    num_queries: int = 16
    resampler_layers: int = 2
    modality_dropout: float | int = 0.0
    pooling: Literal["mean", "first"] = "mean"
    num_hidden_layers: int = 2
    num_bottlenecks: int = 4
    tensor_size: int = 16
    tensor_rank: int = 4

    def __post_init__(self, **kwargs: Any) -> None:
        self.cross_attention = self.cross_attention or self.strategy in ("cross_attention", "co_attention")
        super().__post_init__(**kwargs)
        self._check_ranges()

    def items(self) -> tuple[()]:
        """None: transformers reads a config's `fusion_config` as its own mapping of fused kernels to switch on."""
        return ()

    def _check_ranges(self) -> None:
        if not 0 <= self.modality_dropout <= 1:
            raise ValueError(f"modality_dropout is a chance from 0 to 1, not {self.modality_dropout}")
        for field in ("num_queries", "resampler_layers", "num_bottlenecks", "tensor_size", "tensor_rank"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} is {getattr(self, field)}: expected at least 1")
