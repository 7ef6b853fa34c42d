"""The config of the denoiser, which turns noise into an image under a condition."""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict

from .base import LEFT_OUT, Resolved
from .transformer import PlaitTransformerConfig

LOCAL_DECAY = (0.0, 0.05, 0.3, 1.0)
Layers = Resolved[list[int] | None, list[int]]
Decay = Resolved[list[float | int] | None, list[float | int]]
Grid = Resolved[list[int] | None, list[int]]


@strict
class PlaitDenoiserConfig(PlaitTransformerConfig):
    """The config of a transformer over the patches of a noisy image, of `num_channels` and `image_size` [height, width]
    (one number: a square) in patches of `patch_size` pixels.

    Rectified flow (Lipman et al. 2023, https://arxiv.org/abs/2210.02747; Liu et al. 2023,
    https://arxiv.org/abs/2209.03003) connects noise e at time 0 and an image x at time 1 by a straight line,

        x_t = t x + (1 - t) e,    v = dx_t / dt = x - e.

    `prediction` is what the network computes: "image", x, from which v = (x - x_t) / (1 - t) (JiT, Li and He 2025,
    https://arxiv.org/abs/2511.13720), or "velocity", v itself. The loss is the mean squared error of v for both.

    `time_sampling` is the distribution of t in training: "logit_normal", t = sigmoid(m + s n) with n ~ N(0, 1) (Esser
    et al. 2024, https://arxiv.org/abs/2403.03206, equation 19), or "uniform", t = u / (u + e^-m (1 - u)) with u ~ U(0,
    1) (equation 23). m is `time_mean`: below 0 most times are near the noise; s is `time_std`. The sampler spaces its
    steps as "uniform" does, with the same m.

    `condition_dropout` is the probability, in training, of hiding the condition of a row, which classifier-free
    guidance needs (Ho and Salimans 2022, https://arxiv.org/abs/2207.12598): one number for the whole condition, or
    `{modality: probability}`, each hidden independently of the others.

    The layers have adaptive norms; those of `cross_attention_layers` (default: every second one) cross-attend to the
    condition. With `relative_positions` the scores have learned relative positions (`relative_decay` by default
    repeats 0, 0.05, 0.3 and 1 over the heads).

    Raises:
        ValueError: an image size that is no multiple of the patch size; a probability outside 0..1 or a `time_std` that
            is not above 0.
    """

    model_type = "plait_denoiser"
    base_config_key = "denoiser_config"

    num_hidden_layers: int = 6
    hidden_act: str = "relu2"
    output_norm: bool = False
    cross_attention: bool = True
    cross_attention_layers: Layers = LEFT_OUT
    adaptive_norm: bool = True
    adaptive_gate: float | int | None = 1.0
    relative_grid: Grid = LEFT_OUT
    relative_decay: Decay = LEFT_OUT
    packing: bool = False
    image_size: int | list[int] = 64
    patch_size: int = 8
    num_channels: int = 3
    relative_positions: bool = True
    prediction: Literal["image", "velocity"] = "image"
    time_sampling: Literal["logit_normal", "uniform"] = "logit_normal"
    time_mean: float | int = -2.0
    time_std: float | int = 1.2
    condition_dropout: float | int | dict[str, float | int] = 0.1

    def __post_init__(self, **kwargs: Any) -> None:
        self._check_image()
        if self.relative_positions:
            repeats = -(-self.num_attention_heads // len(LOCAL_DECAY))
            self._fill(relative_grid=[*self.grid], relative_decay=[*LOCAL_DECAY * repeats][: self.num_attention_heads])
        self._fill(cross_attention_layers=list(range(0, self.num_hidden_layers, 2)), condition_size=self.hidden_size)
        super().__post_init__(**kwargs)

    @property
    def height_width(self) -> tuple[int, int]:
        """The height and width of an image in pixels."""
        size = self.image_size
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    @property
    def grid(self) -> tuple[int, int]:
        """The rows and columns of patches."""
        height, width = self.height_width
        return height // self.patch_size, width // self.patch_size

    @property
    def hides_conditions(self) -> bool:
        """Whether training hides conditions, without which there is no guidance."""
        dropout = self.condition_dropout
        return any(dropout.values()) if isinstance(dropout, dict) else dropout > 0

    def _check_image(self) -> None:
        if isinstance(self.image_size, list) and len(self.image_size) != 2:
            raise ValueError(f"image_size is {self.image_size}: expected one number, or [height, width]")
        if self.patch_size < 1 or any(size < 1 or size % self.patch_size for size in self.height_width):
            raise ValueError(
                f"image_size {self.image_size} is no multiple of patch_size {self.patch_size}: change one of them"
            )
        dropout = self.condition_dropout
        chances = dropout.values() if isinstance(dropout, dict) else [dropout]
        if any(not 0 <= chance <= 1 for chance in chances):
            raise ValueError(f"condition_dropout is {dropout}: expected probabilities, 0 to 1")
        if self.time_std <= 0:
            raise ValueError(f"time_std is {self.time_std}: expected a number above 0")
