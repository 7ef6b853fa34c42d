"""Image generation: text, or any other modality, to an image by rectified flow."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self, Unpack, cast

import torch
from torch import Tensor
from transformers.utils.generic import can_return_tuple

from ...configuration import MODALITIES, ImageShape, PlaitConfig, PlaitDenoiserConfig, PlaitFusionConfig
from ..backbone.model import PlaitModel
from ..backbone.pretrained import PlaitPreTrainedModel
from ..composition.autoencoder import AutoencoderArgument
from ..composition.components import TowerArgument
from ..composition.image_generation import compose_image_generation
from ..core.rows import check_present_rows
from ..diffusion.autoencoder import build_autoencoder
from ..diffusion.condition import Condition, ConditionScale, NullCondition
from ..diffusion.denoiser import PlaitDenoiser
from ..diffusion.flow import draw_times, flow_loss, mix
from ..diffusion.generation import INPUT_NAMES, ImageSampler
from ..diffusion.images import check_pixels
from ..graphs import is_recording_graph
from ..inputs import EncoderInputs, expand_signature, split_by_modality
from ..outputs import PlaitImageGenerationOutput, TowerOutput


class PlaitForImageGeneration(ImageSampler, PlaitPreTrainedModel):
    """Generates images under the condition of any towers: a denoiser (`config.denoiser_config`) follows the flow from
    noise to an image and reads the towers' tokens, fused if there are several. See `PlaitDenoiserConfig` for the
    equations. With an autoencoder (`config.autoencoder_config`), whose weights are fixed, it works on latents: images
    are encoded before training, and decoded at the end of generation (Rombach et al. 2022,
    https://arxiv.org/abs/2112.10752).

    A row without any condition gets a learned token in its place; training also hides conditions
    (`condition_dropout`), so that generation can be guided (Ho and Salimans 2022, https://arxiv.org/abs/2207.12598).

    Raises:
        ValueError: a config without denoiser, or with a decoder; a denoiser that reads another width than the condition
            has; a `condition_dropout` of a modality without a tower.
    """

    reads_pooled = False

    def __init__(self, config: PlaitConfig) -> None:
        super().__init__(config)
        settings = config.denoiser_config
        check_denoiser(config)
        self.model = PlaitModel(config)
        self.condition_scale = ConditionScale(config.hidden_size)
        self.null_condition = NullCondition(config.hidden_size)
        self.denoiser = PlaitDenoiser(cast("Any", settings))
        self.autoencoder: Any = build_autoencoder(config.autoencoder_config)
        self.post_init()

    @classmethod
    def compose(
        cls,
        *,
        text: TowerArgument = None,
        image: TowerArgument = None,
        audio: TowerArgument = None,
        video: TowerArgument = None,
        autoencoder: AutoencoderArgument | None = None,
        image_size: int | list[int] = 64,
        patch_size: int | None = None,
        hidden_size: int = 192,
        num_hidden_layers: int = 6,
        num_attention_heads: int | None = None,
        denoiser_config: PlaitDenoiserConfig | Mapping[str, Any] | None = None,
        fusion: str | PlaitFusionConfig | None = None,
        query: str | None = None,
        connector: str = "linear",
        fusion_config: Mapping[str, Any] | None = None,
        video_config: Mapping[str, Any] | None = None,
        freeze: str | Sequence[str] = (),
        verbose: bool = True,
        dtype: Any = None,
        attn_implementation: str | None = None,
        **options: Any,
    ) -> Self:
        """Composes towers, which read the condition, and a newly initialized denoiser, in evaluation mode.

        Args:
            text, image, audio, video: the towers, as in `PlaitModel.compose`.
            autoencoder: the denoiser works on the latents of this one, whose weights are fixed: a folder or Hub id of
                plait's or diffusers' (AutoencoderKL, AutoencoderTiny), or a ready one.
            image_size: of the generated images in pixels, [height, width] or one number for a square.
            patch_size: of the denoiser; default: 8 pixels, or 2 latents.
            hidden_size, num_hidden_layers: of the denoiser.
            num_attention_heads: of the denoiser; default: one for each 48 channels.
            denoiser_config: further fields of `PlaitDenoiserConfig`, or a whole one, whose sizes are those of the
                latents.
            fusion, query, connector, fusion_config, video_config: how several towers are fused, as in
                `PlaitModel.compose`.
            freeze: parts to freeze: modalities, "fusion", "denoiser".
            verbose, dtype, attn_implementation, options: as in `PlaitModel.compose`.

        Raises:
            ValueError: no tower; a size that is no multiple of the patch size; an unknown part; an unusable checkpoint.
            ImportError: an autoencoder of diffusers without diffusers.
        """
        return compose_image_generation(
            cls,
            text,
            image,
            audio,
            video,
            autoencoder=autoencoder,
            image_size=image_size,
            patch_size=patch_size,
            hidden_size=hidden_size,
            num_hidden_layers=num_hidden_layers,
            num_attention_heads=num_attention_heads,
            denoiser_config=denoiser_config,
            fusion=fusion,
            query=query,
            connector=connector,
            fusion_config=fusion_config,
            video_config=video_config,
            freeze=freeze,
            verbose=verbose,
            dtype=dtype,
            attn_implementation=attn_implementation,
            **options,
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        """Loads a model: see `PlaitPreTrainedModel.from_pretrained`. The weights of its autoencoder are fixed."""
        loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        model: Any = loaded[0] if isinstance(loaded, tuple) else loaded
        model.autoencoder.requires_grad_(False)
        return loaded

    @can_return_tuple
    @expand_signature
    def forward(
        self,
        *,
        target_pixel_values: Tensor | None = None,
        target_latents: Tensor | None = None,
        times: Tensor | None = None,
        noise: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **inputs: Unpack[EncoderInputs],
    ) -> PlaitImageGenerationOutput:
        """Computes the loss of images under their conditions. Takes the inputs of `PlaitModel`; to generate images, see
        `generate_images`.

        Args:
            target_pixel_values: (batch, channels, height, width), the images to learn, -1 to 1; another size than the
                config's is a multiple of the patch size. An autoencoder encodes them without gradients: to the mean of
                the latents' distribution, in training to random latents.
            target_latents: (batch, latent channels, height, width), in place of target_pixel_values: what
                `encode_targets` returned.
            times: (batch,), 0 (noise) to 1 (image); noise: like the images, or with an autoencoder like their latents,
                standard normal. Default: drawn at random in training; in evaluation mode by a generator that is seeded
                with the row's own image, so that the loss depends on nothing else.
            num_items_in_batch: divides the summed loss, in place of the number of rows (gradient accumulation).

        Raises:
            ValueError: no target, or one of another shape; a row without a condition if none is hidden in training.
        """
        given = target_latents if target_pixel_values is None else target_pixel_values
        if given is None:
            raise ValueError("no target_pixel_values: pass the images to learn, or call generate_images")
        images = self.encode_targets(target_pixel_values, target_latents)
        times, noise = self.complete_noise(images, times, noise, given)
        condition = self.encode_condition(inputs, len(images), hide=self.training)
        settings = self.denoiser.config
        prediction = self.denoiser(mix(images, noise, times), times, *condition)
        losses = flow_loss(prediction, images, noise, times, settings.prediction)
        loss = losses.mean() if num_items_in_batch is None else losses.sum() / num_items_in_batch
        return PlaitImageGenerationOutput(loss, prediction)

    def select_targets(self, inputs: Mapping[str, Any]) -> Tensor | None:
        """Returns a zero for each row: the loss is the mean over the rows."""
        named = (inputs.get(name) for name in ("target_pixel_values", "target_latents"))
        images = next((each for each in named if each is not None), None)
        return None if images is None else images.new_zeros(len(images), dtype=torch.long)

    def encode_targets(self, pixel_values: Tensor | None, latents: Tensor | None = None) -> Tensor:
        """Returns what the denoiser learns, (batch, channels, height, width): the latents, or those of the images (the
        images themselves without an autoencoder). Raises ValueError for both, or for another shape."""
        settings = self.denoiser.config
        if latents is not None and pixel_values is not None:
            raise ValueError("target_pixel_values and target_latents say the same: pass one of them")
        if pixel_values is None:
            shape = ImageShape(settings.num_channels, *settings.height_width, settings.patch_size)
            return check_pixels("target_latents", cast("Tensor", latents), shape)
        images = check_pixels("target_pixel_values", pixel_values, self.config.image_shape)
        return self.autoencoder.encode(images, draw=self.training)

    def complete_noise(
        self, images: Tensor, times: Tensor | None, noise: Tensor | None, given: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns times and noise for images or latents, drawn where they are None; see `forward`. given: what seeds
        those of each row in evaluation mode, default: `images`."""
        seeds = None if self.training else [compute_seed(image) for image in (images if given is None else given)]
        settings = self.denoiser.config
        if noise is None:
            noise = draw_normal(images.shape, images, seeds, stream=0)
        if times is None:
            times = draw_times(settings, len(images), lambda rows: draw_normal((rows,), images, seeds, stream=1))
        return times, noise

    def encode_condition(
        self, inputs: Mapping[str, Any], rows: int, hide: bool = False, keep: Iterable[str] = MODALITIES
    ) -> Condition:
        """Computes the condition of each row: towers, fusion, standardized features.

        inputs: the arguments of `PlaitModel`; rows: their number; hide: whether to hide conditions at random, as in
        training; keep: the modalities to read, without the others.
        Raises ValueError for a row without any condition, if training hides none.
        """
        outputs = self.encode_towers(inputs)
        wrong = next((name for name, output in outputs.items() if output.mask.shape[0] != rows), None)
        if wrong is not None:
            raise ValueError(f"{wrong} has {len(outputs[wrong].mask)} rows for {rows} images: pass one for each")
        outputs = {name: output for name, output in outputs.items() if name in set(keep)}
        condition = self.fuse_condition(outputs, rows, self.draw_hidden(outputs, rows) if hide else {})
        if not self.denoiser.config.hides_conditions:
            check_present_rows(condition.mask.any(dim=1), self.model.towers)
        return self.null_condition.fill(condition)

    def encode_towers(self, inputs: Mapping[str, Any]) -> dict[str, TowerOutput]:
        """Runs the towers on the arguments of `PlaitModel`; nothing for a modality that the batch lacks."""
        recorded = {"output_attentions": False, "output_hidden_states": False}
        parts = split_by_modality(inputs)
        return self.model.encode_all(parts, inputs.get("encoder_outputs"), recorded, optional=True)

    def draw_hidden(self, outputs: Mapping[str, TowerOutput], rows: int) -> dict[str, Tensor]:
        """Draws the rows, (rows,) bool, whose condition is hidden, for each modality."""
        chance, device = self.denoiser.config.condition_dropout, self.null_condition.tokens.device
        if isinstance(chance, dict):
            return {name: torch.rand(rows, device=device) < chance.get(name, 0.0) for name in outputs}
        return dict.fromkeys(outputs, torch.rand(rows, device=device) < chance)

    def fuse_condition(self, outputs: Mapping[str, TowerOutput], rows: int, hidden: Mapping[str, Tensor]) -> Condition:
        """Fuses the towers' outputs without the hidden rows of each modality; a row that nothing is left of has no
        token, and does not enter the fusion."""
        kept = {}
        for name, output in outputs.items():
            kept[name] = output.mask.bool() & ~hidden[name][:, None] if name in hidden else output.mask.bool()
        null = self.null_condition.tokens
        present = torch.zeros(rows, dtype=torch.bool, device=null.device)
        for mask in kept.values():
            present = present | mask.any(dim=1)
        recorded = is_recording_graph()  # of which no size depends on what is present
        if not outputs or not (recorded or bool(present.any())):
            return Condition(null.new_zeros(rows, 0, null.shape[-1]), present.new_zeros(rows, 0))
        if self.model.fusion is None:
            ((name, output),) = outputs.items()
            return Condition(self.condition_scale(output.last_hidden_state), kept[name])
        chosen = slice(None) if recorded else present
        own = {
            name: TowerOutput(output.last_hidden_state[chosen], kept[name][chosen]) for name, output in outputs.items()
        }
        fused = self.model.fuse(self.model.fusion, own, {})
        tokens, mask = self.condition_scale(fused.last_hidden_state), fused.mask.bool()
        if recorded:
            return Condition(torch.where(present[:, None, None], tokens, 0), mask & present[:, None])
        whole = Condition(tokens.new_zeros(rows, *tokens.shape[1:]), mask.new_zeros(rows, mask.shape[1]))
        whole.tokens[present], whole.mask[present] = tokens, mask
        return whole

    def fit_condition_scale(self, batches: Iterable[Mapping[str, Any]]) -> int:
        """Sets the scale of the condition's features (see `ConditionScale`) to that of these batches of arguments of
        `forward`; returns the number of tokens it was computed from. Call it once, before training."""
        scale, training = self.condition_scale, self.training
        scale.init_weights(0.0)
        self.eval()
        try:
            with torch.no_grad():
                return scale.fit(self.read_unscaled(batch) for batch in batches)
        finally:
            self.train(training)

    def fit_latent_scale(self, batches: Iterable[Mapping[str, Any]]) -> int:
        """Sets the scale of the autoencoder's latents to that of the target images of these batches of arguments of
        `forward`; returns the number of positions it was computed from. Call it once, before training.

        Raises ValueError for a model without an autoencoder, or batches without images.
        """
        if self.config.autoencoder_config is None:
            raise ValueError("this model has no autoencoder whose latents could be standardized")
        shape = self.config.image_shape
        return self.autoencoder.fit_scale(
            check_pixels("target_pixel_values", batch["target_pixel_values"], shape) for batch in batches
        )

    def read_unscaled(self, inputs: Mapping[str, Any]) -> Condition:
        """Computes the condition of arguments of `forward` without scale and without the token for none."""
        outputs = self.encode_towers({name: value for name, value in inputs.items() if name in INPUT_NAMES})
        rows = len(next(iter(outputs.values())).mask) if outputs else 0
        tokens, mask = self.fuse_condition(outputs, rows, {})
        scale = self.condition_scale
        return Condition(tokens * (scale.std + 1e-3) + scale.mean, mask)


def check_denoiser(config: PlaitConfig) -> None:
    """Raises ValueError for a config that `PlaitForImageGeneration` cannot use."""
    settings = config.denoiser_config
    if settings is None:
        raise ValueError("image generation needs a denoiser_config: compose the class with image_size=...")
    if config.decoder_config is not None:
        raise ValueError("image generation has no decoder, and this config has one: compose it without decoder=...")
    if not config.encoders:
        raise ValueError("image generation needs a condition: compose it with text=... or another tower")
    if settings.context_size != config.hidden_size:
        raise ValueError(
            f"denoiser_config.context_size is {settings.context_size}, but the condition is {config.hidden_size} wide"
        )
    latents = config.autoencoder_config
    if latents is not None and latents.latent_channels != settings.num_channels:
        raise ValueError(
            f"denoiser_config.num_channels is {settings.num_channels}, but the autoencoder's latents have "
            f"{latents.latent_channels} channels: leave it out"
        )
    chances = settings.condition_dropout if isinstance(settings.condition_dropout, dict) else {}
    others = sorted(set(chances) - set(config.encoders))
    if others:
        towers = ", ".join(config.encoders)
        raise ValueError(f"condition_dropout names {', '.join(others)}, but the towers are {towers}: name one of them")


def compute_seed(image: Tensor) -> int:
    """Computes a seed from the content of an image, (channels, height, width)."""
    content = image.detach().to("cpu", torch.float).contiguous().numpy().tobytes()
    return int.from_bytes(hashlib.blake2b(content, digest_size=7).digest(), "little")


def draw_normal(shape: tuple[int, ...], like: Tensor, seeds: list[int] | None, stream: int) -> Tensor:
    """Draws standard normal numbers of a shape (rows, ...): at random, or each row with its own seed and the number of
    its stream, on the CPU."""
    if seeds is None:
        return torch.randn(shape, dtype=like.dtype, device=like.device)
    rows = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(2 * seed + stream)
        rows.append(torch.randn(shape[1:], generator=generator))
    return torch.stack(rows).to(like)
