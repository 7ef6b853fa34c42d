"""What all plait model classes share: initialisation, loading from any published family, composing."""

from collections.abc import Mapping, Sequence
from typing import Any, Self, cast

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from ...configuration import PlaitConfig, PlaitVideoConfig
from ...configuration.hub import select_hub_options
from ...configuration.modalities import MODALITIES, MODALITY_TABLE
from ..checkpoints.writing import freeze_zeros
from ..composition.composable import ComposableModel
from ..composition.compose import compose
from ..composition.from_checkpoint import from_checkpoint
from ..composition.hub import (
    complete_generation_config,
    pop_checkpoint_options,
    read_config_dict,
    read_config_without_decoder,
)
from ..composition.parameter_names import find_base_prefix
from ..composition.summary import ModelSummary
from ..core.layers import SelfInitializing
from ..core.transformer import PlaitLayer
from ..kernels.prepacking import drop_packed_weights, prepack_weights
from ..kernels.training import choose_products
from .parts import freeze

PRETRAINING = "PlaitForPreTraining"


class PlaitPreTrainedModel(ComposableModel):
    """Base of all plait models."""

    config_class = PlaitConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = [*MODALITIES]
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True
    smooths_labels = False  # whether `forward` takes label_smoothing
    pretraining_names: Mapping[str, str] = {}  # patterns of its heads' names in a pretrained folder, to those here
    loss_names: Sequence[str] = ()  # of the single losses, in a class whose loss is a sum of several
    is_prepacked = False  # whether weights were packed since the last `train()`
    _no_split_modules = ["PlaitLayer", "ResidualLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": PlaitLayer}

    def __init__(self, config: PlaitConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        for field in config.sub_configs:  # the parts are plain modules: nothing else tells them
            part = getattr(config, field)
            if part is not None and part._attn_implementation is None:
                part._attn_implementation = config._attn_implementation
        share_attention_implementation(config)
        self.origins = {}
        self.fresh_names = set()
        if len(config.encoders) > 1 and config.fusion_config is None and not self.reads_apart:
            raise ValueError(
                f"{type(self).__name__} braids its towers, and this config, of towers side by side "
                f"({', '.join(config.encoders)}), has no fusion: compose the class with them"
            )
        first = "text" if config.inline else next(iter(config.encoders), "text")
        self.main_input_name = find_main_input(first, config.encoders.get(first))

    def set_attn_implementation(self, *args: Any, **kwargs: Any) -> None:
        """As in transformers, of which older versions stop before the image tower inside a video tower."""
        super().set_attn_implementation(*args, **kwargs)
        share_attention_implementation(self.config)

    def post_init(self) -> None:
        """As in transformers, which asks only its children what may be split or halved: wrapped models stand deeper."""
        models = [module for module in self.modules() if isinstance(module, PreTrainedModel)]
        for field in ("_no_split_modules", "_keep_in_fp32_modules", "_keep_in_fp32_modules_strict"):
            setattr(self, field, {name for model in models for name in getattr(model, field) or ()})
        super().post_init()

    @property
    def parts(self) -> dict[str, Any]:
        """The towers by modality and, where there is one, the decoder (as "decoder")."""
        base = cast("Any", self.base_model)
        return dict(base.towers.items()) | ({} if base.decoder is None else {"decoder": base.decoder})

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, SelfInitializing):
            module.init_weights(self.config.initializer_range)
        else:
            super()._init_weights(module)

    def train(self, mode: bool = True) -> Self:
        """A tower without a trainable parameter stays in eval mode: no dropout, batch-norm statistics stand still."""
        if mode and self.is_prepacked:
            drop_packed_weights(self)
            self.is_prepacked = False
        super().train(mode)
        for tower in self.parts.values():
            tower.train(mode and any(parameter.requires_grad for parameter in tower.parameters()))
        return self

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding of the decoder or text tower; the first tower's input layer where there is no text."""
        return self._find_first_part().get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self._find_first_part().set_input_embeddings(value)
        text: Any = self.config.text_config
        if self.config.tie_encoder_embeddings and isinstance(value, nn.Embedding):
            text.vocab_size = value.num_embeddings

    def enable_input_require_grads(self) -> None:
        """As in transformers (adapters and checkpointing need it), but for every part's input layer: that of a wrapped
        family may give a tuple."""
        layers = [part.get_input_embeddings() for part in self.parts.values()]
        self._require_grads_hooks = [layer.register_forward_hook(require_grad) for layer in layers]

    def _find_first_part(self) -> Any:
        parts = self.parts
        return parts[next((name for name in ("decoder", "text") if name in parts), next(iter(parts)))]

    def prepack_weights(self) -> int:
        """Pack linear weights for oneDNN, for faster inference on a CPU: see `plait.modeling.prepack`."""
        for module in self.modules():  # a model inside this one drops its weights when it is trained alone
            if isinstance(module, PlaitPreTrainedModel):
                module.is_prepacked = True
        return prepack_weights(self)

    def choose_products(self) -> int:
        """Use the fastest kernels for the linear layers, for faster training on a CPU: see
        `plait.modeling.training_products`. PlaitTrainer does so itself."""
        return choose_products(self)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *model_args: Any,
        config: PreTrainedConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        """Load a plait folder, or any pretrained checkpoint (BERT, ViT, GPT-2, ...) as a model of one component.

        The folder of another class of the same parts loads too: towers and fusion are kept, heads that the folder lacks
        are new. Of a PlaitForPreTraining folder a class that reads no decoder leaves it out.

        Takes every argument of transformers' `from_pretrained`. Reads safetensors; a pickle only with
        `use_safetensors=False` (and then with torch's `weights_only=True`). Weights that the checkpoint does not hold
        are newly initialised and listed in a warning.

        Raises:
            OSError: no such folder or repository, no weights, or only pickled ones.
            ValueError: a corrupt file, an unknown model type, or a setting of the family that plait does not compute.
            RuntimeError: a weight of another shape than the config says.
        """
        hub = select_hub_options(kwargs)
        name = pretrained_model_name_or_path
        found = {} if name is None or config is not None else read_config_dict(name, hub)
        if found and found.get("model_type") != PlaitConfig.model_type:
            loaded = cls._from_checkpoint(name, **kwargs)
        else:
            pretrained = PRETRAINING in (found.get("architectures") or ())
            if pretrained and found.get("is_encoder_decoder") and cls.decoder_kind is None and find_base_prefix(cls):
                config = read_config_without_decoder(name, hub, kwargs)
            renamed = pretrained and cls.pretraining_names
            names = {"key_mapping": dict(cls.pretraining_names)} if renamed else {}
            loaded = super().from_pretrained(name, *model_args, config=config, **names, **kwargs)
            if renamed:  # or it would be saved under the names that it was read from
                model: Any = loaded[0] if isinstance(loaded, tuple) else loaded
                model._weight_conversions = []
        freeze_zeros((loaded[0] if isinstance(loaded, tuple) else loaded).parts.values())
        return loaded

    @classmethod
    def _from_checkpoint(cls, name: Any, **kwargs: Any) -> Any:
        overrides = {key: kwargs.pop(key) for key in (*PlaitConfig.__dataclass_fields__, "num_labels") if key in kwargs}
        dtype = kwargs.pop("dtype", kwargs.pop("torch_dtype", None))
        config, weights, generation = from_checkpoint(cls, name, overrides, pop_checkpoint_options(kwargs))
        loaded = super().from_pretrained(None, config=config, state_dict=weights, dtype=dtype, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if generation is not None and model.can_generate() and "generation_config" not in kwargs:
            model.generation_config = complete_generation_config(generation, config)
        model.name_or_path = model.config.name_or_path = str(name)
        model.origins = dict.fromkeys(model.parts, str(name))
        return loaded

    @classmethod
    def compose(cls, **parts: Any) -> Self:
        """Composes towers into one model: see `plait.modeling.composition.compose.compose`."""
        return compose(cls, **parts)

    def composition(self) -> Any:
        """The table of what is pretrained, fresh, frozen and trainable, by part."""
        return ModelSummary.from_model(self)

    def freeze(self, *names: str) -> None:
        """Stops training the named parts: modalities, "document", "fusion", "decoder" or "head".

        Raises ValueError for a name that is no part of this model.
        """
        freeze(self, names)


def share_attention_implementation(config: PlaitConfig) -> None:
    """What reads the frames of a video computes attention as what joins them."""
    if isinstance(config.video_config, PlaitVideoConfig):
        config.video_config.image_config._attn_implementation = config.video_config._attn_implementation


def find_main_input(modality: str, config: PreTrainedConfig | None) -> str:
    """The name of the input that a tower reads first."""
    return getattr(config, "reads", MODALITY_TABLE[modality].main_input)


def require_grad(module: nn.Module, inputs: Any, output: Tensor) -> None:
    """A forward hook: gradients reach this layer's output though nothing before it is trained."""
    output.requires_grad_(True)
