"""The base class of all plait models: initialization, loading of any known checkpoint, composing, freezing."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ...configuration import DOCUMENT, PlaitConfig, PlaitFusionConfig, PlaitVideoConfig
from ...configuration.base import PlaitBaseConfig
from ...configuration.hub import select_hub_options
from ...configuration.modalities import MODALITIES, MODALITY_TABLE
from ..adaptation.quantization import check_quantized_folder, finish_quantization, protect_layers
from ..checkpoints.conversion.zeros import freeze_zeros
from ..checkpoints.load_report import name_load_report
from ..checkpoints.saved_folder import load_saved_folder, open_saved_folder
from ..composition.components import TowerArgument
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
from .sharing import ShareableModel
from .tensor_plan import build_tensor_plan, check_tensor_plan

PRETRAINING = "PlaitForPreTraining"


class PlaitPreTrainedModel(ShareableModel):
    """The base class of all plait models."""

    config_class = PlaitConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = [*MODALITIES]  # of any; a model names its own
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True
    smooths_labels = False  # whether `forward` takes label_smoothing
    pretraining_names: Mapping[
        str, str
    ] = {}  # names of its heads in a PlaitForPreTraining folder (patterns) to its own
    loss_names: Sequence[str] = ()  # of the single losses, if the class's loss is a sum of several
    is_prepacked = False  # whether weights were packed since the last `train()`
    # layers, and modules that hold parameters of their own beside those of their children: offloading cannot cut these
    _no_split_modules = ["PlaitLayer", "ResidualLayer", "ConvolutionalPositions", "MaskedImageHead"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": PlaitLayer}

    def __init__(self, config: PlaitConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        share_attention_implementation(config)
        self.origins = {}
        self.fresh_names = set()
        if len(config.encoders) > 1 and config.fusion_config is None and not self.reads_apart:
            raise ValueError(
                f"{type(self).__name__} fuses its towers, but this config has several "
                f"({', '.join(config.encoders)}) and no fusion: compose the class with these towers"
            )
        first = "text" if config.inline else next(iter(config.encoders), "text")
        self.main_input_name = find_main_input(first, config.encoders.get(first))
        self.input_modalities = [*dict.fromkeys((first, *config.encoders))]

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        """Returns the tower of a modality, None: the first; as in transformers, a model without it returns itself.

        Raises ValueError for a name that is no modality.
        """
        towers = dict(cast("Any", self.base_model).towers.items())
        if modality not in (None, DOCUMENT, *MODALITIES):
            raise ValueError(f"there is no modality {modality!r}: choose {', '.join(MODALITIES)} or {DOCUMENT}")
        name = next(iter(towers), None) if modality is None else modality
        return self if name is None else towers.get(name, self)

    def set_attn_implementation(self, attn_implementation: str | dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """Sets the attention implementation as transformers does, of which older versions skip the image tower inside a
        video tower, and newer ones warn of parts that are no `PreTrainedModel`."""
        before = set_native_attention(self.config, attn_implementation)
        try:
            super().set_attn_implementation(attn_implementation, *args, **kwargs)
        except Exception:
            for part, implementation in before:
                part._attn_implementation_internal = implementation
            raise
        share_attention_implementation(self.config)

    def post_init(self) -> None:
        """Finishes initialization as transformers does, with `_no_split_modules` (those that are in the model) and
        `_keep_in_fp32_modules` collected from models at any depth: transformers collects them only from direct
        children."""
        models = [module for module in self.modules() if isinstance(module, PreTrainedModel)]
        for field in ("_no_split_modules", "_keep_in_fp32_modules", "_keep_in_fp32_modules_strict"):
            setattr(self, field, {name for model in models for name in getattr(model, field) or ()})
        share_attention_implementation(self.config)  # with the configs that the class's own `__init__` added
        present = {type(module).__name__ for module in self.modules()}
        self._no_split_modules = present.intersection(self._no_split_modules or ())
        self._can_compile_fullgraph = all(type(model)._can_compile_fullgraph for model in models)
        super().post_init()
        check_tensor_plan(self, self.config)
        self._tp_plan = build_tensor_plan(self)

    @property
    def device(self) -> torch.device:
        """The device of the first weight that is not offloaded, where transformers says "meta"; if all are offloaded,
        the device on which they are computed."""
        devices = (parameter.device for parameter in self.parameters())
        found = next((device for device in devices if device.type != "meta"), None)
        if found is not None or not hasattr(self, "hf_device_map"):
            return super().device if found is None else found
        places = cast("dict[str, Any]", self.hf_device_map).values()
        return torch.device(next((place for place in places if place not in ("cpu", "disk")), "cpu"))

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether activations are computed again in the backward pass: as in transformers, without its warning."""
        return any(getattr(module, "gradient_checkpointing", False) for module in self.modules())

    @property
    def parts(self) -> dict[str, Any]:
        """The towers by modality and the decoder, if there is one, as "decoder"."""
        base = cast("Any", self.base_model)
        return dict(base.towers.items()) | ({} if base.decoder is None else {"decoder": base.decoder})

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, SelfInitializing):
            module.init_weights(self.config.initializer_range)
        else:
            super()._init_weights(module)

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        """Initializes a module's weights that are not loaded. transformers leaves out modules of other packages without
        parameters of their own, such as the denoiser; ours initialize tensor by tensor, as it does itself."""
        super()._initialize_weights(module, is_custom_code and not isinstance(module, SelfInitializing))

    def train(self, mode: bool = True) -> Self:
        """Sets training mode, except for towers without trainable parameters: they stay in eval mode, without dropout
        and with fixed batch-norm statistics. Drops packed weights (see `prepack_weights`)."""
        if mode and self.is_prepacked:
            drop_packed_weights(self)
            self.is_prepacked = False
        super().train(mode)
        for tower in self.parts.values():
            tower.train(mode and any(parameter.requires_grad for parameter in tower.parameters()))
        return self

    def get_input_embeddings(self) -> nn.Module:
        """Returns the token embedding of the decoder or else of the text tower, or the input layer of the first tower
        in a model without text."""
        return self._find_first_part().get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the module that `get_input_embeddings` returns."""
        self._find_first_part().set_input_embeddings(value)
        text: Any = self.config.text_config
        if self.config.tie_encoder_embeddings and isinstance(value, nn.Embedding):
            text.vocab_size = value.num_embeddings

    def enable_input_require_grads(self) -> None:
        """Makes the outputs of every part's input layer require gradients, which adapters and gradient checkpointing
        need; transformers does so for one input layer only."""
        layers = [part.get_input_embeddings() for part in self.parts.values()]
        self._require_grads_hooks = [layer.register_forward_hook(require_grad) for layer in layers]

    def _find_first_part(self) -> Any:
        parts = self.parts
        return parts[next((name for name in ("decoder", "text") if name in parts), next(iter(parts)))]

    def prepack_weights(self) -> int:
        """Packs the weights of linear layers for faster inference on a CPU; returns the number of packed layers.

        See `plait.modeling.kernels.prepacking.prepack_weights`.
        """
        for module in self.modules():  # a model inside this one, trained alone, drops its packed weights too
            if isinstance(module, PlaitPreTrainedModel):
                module.is_prepacked = True
        return prepack_weights(self)

    def choose_products(self) -> int:
        """Installs the fastest kernels of linear layers for training on a CPU; returns the number of changed layers.

        See `plait.modeling.kernels.training.choose_products`. PlaitTrainer calls it itself.
        """
        return choose_products(self)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *model_args: Any,
        config: PreTrainedConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        """Loads a plait folder, or any pretrained checkpoint (BERT, ViT, GPT-2, ...) as a model of one component.

        The folder of another class with the same parts loads too: towers and fusion are kept, heads that it does not
        have are newly initialized. From a PlaitForPreTraining folder, a class without a decoder does not load it.

        Takes every argument of transformers' `from_pretrained`, and `quantize`: the parts of `plait.quantize`, such as
        `{"decoder": "int4"}`. (A `quantization_config` leaves out what `quantize` does.) Reads safetensors, and pickled
        weights only with `use_safetensors=False` (then with torch's `weights_only=True`). Heads that the checkpoint
        does not have are newly initialized and listed in a warning; a plait folder has every tensor of the class that
        saved it.

        Raises:
            OSError: no such folder or repository, no config.json, no weights, or only pickled ones.
            ValueError: a corrupt file, an unknown model type, or a setting of the family that plait does not support.
            FolderError (a ValueError and a RuntimeError): a plait folder lacks a tensor of its class, has one of
                another shape than the config says, or one that its class has no place for.
        """
        hub = select_hub_options(kwargs)
        name, quantized = pretrained_model_name_or_path, kwargs.pop("quantize", None)
        found = {} if name is None or config is not None else read_config_dict(name, hub)
        check_quantized_folder(cls, found)
        if found and found.get("model_type") != PlaitConfig.model_type:
            loaded, renamed = cls._from_checkpoint(name, **kwargs), False
        else:
            architectures = found.get("architectures") or getattr(config, "architectures", None) or ()
            pretrained = PRETRAINING in (found.get("architectures") or ())
            if pretrained and found.get("is_encoder_decoder") and cls.decoder_kind is None and find_base_prefix(cls):
                config = read_config_without_decoder(name, hub, kwargs)
            kwargs = protect_layers(cls, lambda: config or PlaitConfig.from_pretrained(str(name), **hub), kwargs)
            renamed = pretrained and cls.pretraining_names
            names = {"key_mapping": dict(cls.pretraining_names)} if renamed else {}
            informs = kwargs.pop("output_loading_info", False)
            folder = None if name is None else open_saved_folder(name, architectures, kwargs)
            load = partial(super().from_pretrained, name, *model_args, config=config, **names, **kwargs)
            if folder is None:
                loaded: Any = load(output_loading_info=True)
            else:
                loaded = load_saved_folder(load, cls, folder, strict=not informs)
            loaded = loaded if informs else loaded[0]
        model: Any = loaded[0] if isinstance(loaded, tuple) else loaded
        if renamed:  # else it would be saved under the names of the pretraining folder
            model._weight_conversions = []
        freeze_zeros(model.parts.values())
        finish_quantization(model, quantized)
        return loaded

    @classmethod
    def _from_checkpoint(cls, name: Any, **kwargs: Any) -> Any:
        overrides = {key: kwargs.pop(key) for key in (*PlaitConfig.__dataclass_fields__, "num_labels") if key in kwargs}
        dtype = kwargs.pop("dtype", kwargs.pop("torch_dtype", None))
        config, weights, generation = from_checkpoint(cls, name, overrides, pop_checkpoint_options(kwargs))
        kwargs = protect_layers(cls, lambda: config, kwargs)
        with name_load_report(name):
            loaded = super().from_pretrained(None, config=config, state_dict=weights, dtype=dtype, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if generation is not None and model.can_generate() and "generation_config" not in kwargs:
            model.generation_config = complete_generation_config(generation, config)
        model.name_or_path = model.config.name_or_path = str(name)
        model.origins = dict.fromkeys(model.parts, str(name))
        return loaded

    @classmethod
    def compose(
        cls,
        *,
        text: TowerArgument = None,
        image: TowerArgument = None,
        audio: TowerArgument = None,
        video: TowerArgument = None,
        decoder: TowerArgument = None,
        fusion: str | PlaitFusionConfig | None = None,
        query: str | None = None,
        connector: str = "linear",
        fusion_config: Mapping[str, Any] | None = None,
        decoder_config: Mapping[str, Any] | None = None,
        video_config: Mapping[str, Any] | None = None,
        labels: Sequence[str] | int | None = None,
        freeze: str | Sequence[str] = (),
        verbose: bool = True,
        dtype: Any = None,
        attn_implementation: str | None = None,
        **options: Any,
    ) -> Self:
        """Composes towers into one model, in evaluation mode.

        Args:
            text, image, audio, video: a Hub id, a folder, a config (newly initialized weights) or a ready model. Of a
                two-tower checkpoint (CLIP) the tower of that modality is taken; a family that plait does not know is
                wrapped. `video` may also be an image tower, which then runs on each frame (`PlaitVideoConfig`).
            decoder: the text model that reads the towers, given likewise; only for classes that generate.
            fusion: a strategy's name, or a whole `PlaitFusionConfig`. Default: "early"; with a decoder whose
                cross-attention fuses the towers, "concatenate". One tower alone has no fusion unless you name one.
            query: the modality of the queries, in cross-attention fusion.
            connector: "linear", "mlp", "resampler" or "qformer".
            fusion_config: further fields of `PlaitFusionConfig`, e.g. `{"num_hidden_layers": 4}`.
            decoder_config: fields of the decoder's config to change, e.g. `{"gated_cross_attention": True}`.
            video_config: fields of `PlaitVideoConfig` around an image tower, e.g. `{"temporal": "mean"}`.
            labels: the names of the classes, or their number.
            freeze: parts to freeze: modalities, "fusion", "decoder", "head".
            verbose: print the table of pretrained, newly initialized, frozen and trainable parameters, which
                `model.composition()` returns.
            dtype, attn_implementation: as in `from_pretrained`.
            options: `token`, `cache_dir`, `local_files_only`, `use_safetensors`, ... as in `from_pretrained`, for all
                towers; any other field of `PlaitConfig`.

        Raises:
            ValueError: no tower; an unknown fusion or part; labels of equal names; an unusable checkpoint, as in
                `from_pretrained`.
        """
        return compose(
            cls,
            text,
            image,
            audio,
            video,
            decoder,
            fusion=fusion,
            query=query,
            connector=connector,
            fusion_config=fusion_config,
            decoder_config=decoder_config,
            video_config=video_config,
            labels=labels,
            freeze=freeze,
            verbose=verbose,
            dtype=dtype,
            attn_implementation=attn_implementation,
            **options,
        )

    def select_targets(self, inputs: Mapping[str, Any]) -> Tensor | None:
        """Returns a tensor with one number for each target of the loss of these inputs, -100 where `forward` leaves it
        out: the loss is the mean over the others. None if the loss is no mean over single targets."""
        return inputs.get("labels")

    def composition(self) -> Any:
        """Returns a table of which weights are pretrained, newly initialized, frozen and trainable, by part."""
        return ModelSummary.from_model(self)

    def freeze(self, *names: str) -> None:
        """Freezes the named parts: modalities, "document", "fusion", "decoder" or "head".

        Raises ValueError for a name that is no part of this model.
        """
        freeze(self, names)


def set_native_attention(config: PreTrainedConfig, requested: str | dict[str, Any]) -> list[tuple[Any, str | None]]:
    """Gives the native parts of a config, at any depth, the attention implementation that is requested for them if it
    is known; returns these parts with what they had before."""
    before: list[tuple[Any, str | None]] = []
    for field in config.sub_configs:
        part = getattr(config, field)
        wanted = requested.get(field, part._attn_implementation) if isinstance(requested, dict) else requested
        before += set_native_attention(part, wanted)
        own = wanted.get("", part._attn_implementation) if isinstance(wanted, dict) else wanted
        if isinstance(part, PlaitBaseConfig) and own in ("eager", *ALL_ATTENTION_FUNCTIONS.valid_keys()):
            before.append((part, part._attn_implementation))
            part._attn_implementation_internal = own
    return before


def share_attention_implementation(config: PlaitConfig) -> None:
    """Gives parts without an attention implementation that of the whole (transformers sets it only in models, and the
    parts are plain modules), and the image tower inside a video tower that of the video tower."""
    for part in (getattr(config, field) for field in config.sub_configs):
        if part._attn_implementation is None:
            part._attn_implementation = config._attn_implementation
    if isinstance(config.video_config, PlaitVideoConfig):
        config.video_config.image_config._attn_implementation = config.video_config._attn_implementation


def find_main_input(modality: str, config: PreTrainedConfig | None) -> str:
    """Returns the name of a tower's main input, such as "pixel_values"."""
    return getattr(config, "reads", MODALITY_TABLE[modality].main_input)


def require_grad(module: nn.Module, inputs: Any, output: Tensor) -> None:
    """Makes a layer's output require gradients although nothing before it is trained, as a forward hook."""
    output.requires_grad_(True)
