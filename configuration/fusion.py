"""The config of a fusion."""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict

from .transformer import PlaitTransformerConfig


@strict
class PlaitFusionConfig(PlaitTransformerConfig):
    """The config of a fusion: how the tokens of the towers are joined.

    `strategy` names the fusion; "inline" means none: an image's tokens take the place of image tokens in a decoder's
    text. `hidden_size` is the joint width, to which a `connector` projects each tower's tokens: `linear`, `mlp` (two
    layers, LLaVA 1.5), `resampler` or `qformer` (`num_queries` learned queries cross-attend to the tokens in
    `resampler_layers` layers; Perceiver resampler, Alayrac et al. 2022; Q-Former, Li et al. 2023). `query` names the
    modality of the queries in `cross_attention` and `gated_cross_attention` (default: text if present, else the first).
    `modality_dropout` is the probability, 0..1, that a row loses a modality in training (never its last one). `pooling`
    makes one vector of the fused tokens. `bottleneck` shares `num_bottlenecks` tokens. `tensor` multiplies
    `tensor_size` numbers per modality; in `low_rank_tensor` the weights of these products have rank `tensor_rank`.

    Raises:
        ValueError: `modality_dropout` outside 0..1; `num_queries`, `resampler_layers`, `num_bottlenecks`, `tensor_size`
            or `tensor_rank` below 1.
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
        """Returns nothing: transformers reads a config's `fusion_config` as its own mapping of kernels to fuse."""
        return ()

    def _check_ranges(self) -> None:
        if not 0 <= self.modality_dropout <= 1:
            raise ValueError(f"modality_dropout is {self.modality_dropout}: expected a probability from 0 to 1")
        for field in ("num_queries", "resampler_layers", "num_bottlenecks", "tensor_size", "tensor_rank"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} is {getattr(self, field)}: expected at least 1")
