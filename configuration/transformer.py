"""The config of the transformer that all towers, decoders and fusions share."""

from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict

from .base import LEFT_OUT, PlaitBaseConfig, Resolved, Size

LayerTypes = Resolved[list[str] | None, list[str]]


@strict
class PlaitTransformerConfig(PlaitBaseConfig):
    """The config of a stack of attention layers (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762).

    Every supported family is one setting of these fields. `num_key_value_heads` below `num_attention_heads` is
    grouped-query attention; `rope_parameters` None means no rotary positions; `layer_scale` is the initial value of a
    learned scale per channel (None: no scale). `cross_attention` gives the layers cross-attention to a context of width
    `context_size`; `cross_attention_layers` lists the layers that get it (None: all); with `gated_cross_attention` its
    output starts at zero. Scores are multiplied by `attention_scale` (None: 1 / sqrt(head_dim));
    `scale_by_layer` also divides those of layer i by i + 1. With `tie_last_hidden_state` the last of the returned
    `hidden_states` is the output after the norm (so in text families, not in vision families). `packing` computes only
    on real tokens when a batch has padding.

    With `adaptive_norm` a vector of width `condition_size` scales, shifts and gates every self-attention and MLP (DiT,
    Peebles and Xie 2023, https://arxiv.org/abs/2212.09748, section 3.2); its gates start at `adaptive_gate` (None: 0,
    the identity). `relative_grid` [rows, columns] adds to the scores of self-attention a learned number for each head
    and offset on that grid, which starts at minus `relative_decay` (one number for each head; None: 0) times the
    squared distance in eighths of the grid: such a head is local at first.

    Raises:
        ValueError: numbers of heads or a width that do not divide; `layer_types` of another length than the layers;
            `cross_attention_layers` that do not exist; a `relative_decay` for another number of heads.
    """

    model_type = "plait_transformer"
    saved_if_set: ClassVar[tuple[str, ...]] = (
        "adaptive_norm",
        "adaptive_gate",
        "condition_size",
        "relative_grid",
        "relative_decay",
    )

    hidden_size: int = 256
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: Size = LEFT_OUT
    head_dim: Size = LEFT_OUT
    intermediate_size: Size = LEFT_OUT
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.0
    attention_dropout: float | int = 0.0
    activation_dropout: float | int = 0.0
    initializer_range: float = 0.02
    norm_type: Literal["layer_norm", "rms_norm"] = "layer_norm"
    norm_eps: float = 1e-6
    norm_position: Literal["pre", "post"] = "pre"
    input_norm: bool = False
    output_norm: bool = True
    gated_mlp: bool = False
    qkv_bias: bool = True
    attention_out_bias: bool = True
    mlp_bias: bool = True
    qk_norm: bool = False
    layer_scale: float | int | None = None
    is_causal: bool = False
    attention_scale: float | int | None = None
    scale_by_layer: bool = False
    cross_attention: bool = False
    cross_attention_layers: list[int] | None = None
    gated_cross_attention: bool = False
    context_size: Size = LEFT_OUT
    rope_parameters: dict[str, Any] | None = None
    layer_types: LayerTypes = LEFT_OUT
    sliding_window: int | None = None
    max_position_embeddings: int = 512
    tie_last_hidden_state: bool = True
    packing: bool = True
    adaptive_norm: bool = False
    adaptive_gate: float | int | None = None
    condition_size: int | None = None
    relative_grid: list[int] | None = None
    relative_decay: list[float | int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self._fill(
            num_key_value_heads=self.num_attention_heads,
            head_dim=self.hidden_size // self.num_attention_heads,
            intermediate_size=4 * self.hidden_size,
            context_size=self.hidden_size,
            layer_types=["full_attention"] * self.num_hidden_layers,
        )
        super().__post_init__(**kwargs)
        self._check_sizes()

    def _check_sizes(self) -> None:
        if self.head_dim * self.num_attention_heads != self.hidden_size and self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        if len(self.layer_types) != self.num_hidden_layers:
            raise ValueError(
                f"layer_types has {len(self.layer_types)} entries for {self.num_hidden_layers} layers: give one each"
            )
        others = set(self.cross_attention_layers or ()) - set(range(self.num_hidden_layers))
        if others:
            last = self.num_hidden_layers - 1
            raise ValueError(f"cross_attention_layers has {min(others)}, but the layers are 0 to {last}")

        if self.relative_decay is not None and len(self.relative_decay) != self.num_attention_heads:
            raise ValueError(
                f"relative_decay has {len(self.relative_decay)} numbers for {self.num_attention_heads} heads: give one "
                "each"
            )

    def has_cross_attention(self, layer_idx: int) -> bool:
        """Returns whether layer `layer_idx` has cross-attention."""
        return self.cross_attention and layer_idx in (self.cross_attention_layers or range(self.num_hidden_layers))
