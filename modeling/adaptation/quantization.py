"""Weights in fewer bits, part by part, with torchao: the layers that get them, and their kinds."""

import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ...configuration.messages import suggest
from ..composition.composable import ComposableModel
from ..composition.parameter_names import is_adapter_weight, part_of
from ..core.attention import PlaitAttention
from ..core.layers import PlaitMLP
from ..kernels.int8 import install_int8_kernels
from ..kernels.plain import is_plain_weight
from ..towers.wrapped import WrappedTower
from .quantizer import build_quantizer

ROUTERS = ("gate", "router")  # small layers of wrapped families that choose experts
SKIP_FIELDS = {"torchao": "modules_to_not_convert", "bitsandbytes": "llm_int8_skip_modules"}  # by quant_method
BASE_MODEL = "PlaitModel"  # the class without the prefix of the base model in its names
KINDS = ("int8", "int8_dynamic", "int4", "float8")
# imported by its name, where it is used: code beside a model may not import what only some models need
TORCHAO = "torchao.quantization"
GROUP = 32  # the number of weights of a row that share a scale, in int4
FLOAT8_CAPABILITY = (8, 9)  # the first compute capability of GPUs with products of float8


def quantize(model: ComposableModel, parts: Mapping[str, str]) -> dict[str, int]:
    """Quantizes the weights of a model's parts in place, with torchao; returns the number of layers by part.

    The linear layers of attention and MLPs get fewer bits (in a wrapped tower all that are in its layers): embeddings,
    norms, gates, poolers, connectors, heads and what is newly initialized stay as they are. Quantized weights are not
    trained; adapters beside them are (`plait.lora_config`, QLoRA: Dettmers et al. 2023,
    https://arxiv.org/abs/2305.14314). `save_pretrained` saves them, `from_pretrained` loads them, and
    `model.dequantize()` makes them weights of the model's dtype again.

    Args:
        parts: by part (text, image, audio, video, document, decoder, fusion, denoiser) one of "int8" (a scale for each
            row), "int8_dynamic" (the layer's input is rounded to int8 too; not for training), "int4" (a scale for every
            32 weights of a row; on a CPU each takes a byte) and "float8" (on a GPU of compute capability 8.9 or more).

    Raises:
        ImportError: torchao is not installed.
        ValueError: a part without such layers, an unknown kind, one that the device does not have, a layer that fits no
            group of int4, or weights that are quantized, sharded, offloaded or beside an adapter already.
    """
    if not parts:
        return {}
    if find_spec("torchao") is None:
        raise ImportError("quantizing needs the package torchao: pip install 'plait[quantization]'")
    quantize_ = import_module(TORCHAO).quantize_
    found = list_quantizable_layers(model)
    chosen = {part: check_part(model, part, kind, found) for part, kind in parts.items()}
    configs = {part: build_kind(parts[part], part, layers) for part, layers in chosen.items()}
    for part, layers in chosen.items():
        for layer in layers.values():
            quantize_(layer, configs[part], filter_fn=lambda module, name: True)
    install_quantizer(model, OrderedDict((find_pattern(layers), configs[part]) for part, layers in chosen.items()))
    return {part: len(layers) for part, layers in chosen.items()}


def list_quantizable_layers(model: ComposableModel) -> dict[str, dict[str, nn.Linear]]:
    """Returns the linear layers that may be quantized, `{part: {name: layer}}`: those of attention and MLPs and, in a
    wrapped tower, those of its layers; not those that are newly initialized or tied."""
    wrapped = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, WrappedTower))
    tied = model.all_tied_weights_keys or {}
    kept = {*model.fresh_names, *tied, *tied.values()}
    found: dict[str, dict[str, nn.Linear]] = {}
    for path, module in model.named_modules():
        native = isinstance(module, PlaitAttention | PlaitMLP)
        if not native and not is_inside_layers(path, wrapped):
            continue
        for own, child in module.named_children():
            name = f"{path}.{own}"
            if type(child) is nn.Linear and f"{name}.weight" not in kept and (native or own not in ROUTERS):
                found.setdefault(part_of(f"{name}.weight"), {})[name] = child
    return found


def is_inside_layers(path: str, wrapped: tuple[str, ...]) -> bool:
    """Returns whether a path leads into the numbered layers of a wrapped tower."""
    prefix = next((prefix for prefix in wrapped if path.startswith(prefix)), None)
    return prefix is not None and any(segment.isdigit() for segment in path.removeprefix(prefix).split("."))


def check_part(
    model: ComposableModel, part: str, kind: str, found: Mapping[str, dict[str, nn.Linear]]
) -> dict[str, nn.Linear]:
    """Returns the layers of a part that are quantized. Raises ValueError if it cannot be."""
    if any(is_adapter_weight(name) and part_of(name) == part for name, _ in model.named_parameters()):
        raise ValueError(f"quantize: {part} has adapters: quantize the model first, then put adapters into it")
    if part not in found:
        raise ValueError(f"quantize: no part with layers to quantize is {part!r}{suggest(part, found)}")
    if kind not in KINDS:
        raise ValueError(f"quantize: {part} is {kind!r}{suggest(kind, KINDS)}")
    for name, layer in found[part].items():
        if not is_plain_weight(layer.weight):
            held = "offloaded" if layer.weight.is_meta else f"a {type(layer.weight).__name__}"
            raise ValueError(f"quantize: the weight of {name} is {held} already: load the model without that")
    return found[part]


def build_kind(kind: str, part: str, layers: Mapping[str, nn.Linear]) -> Any:
    """Returns torchao's config of a kind for the layers of a part, as it fits them and their device.

    Raises ValueError for a kind that the device does not have, or layers that it does not fit.
    """
    torchao = import_module(TORCHAO)
    weights = {name: layer.weight for name, layer in layers.items()}
    device = next(iter(weights.values())).device
    if kind == "int8":
        return torchao.Int8WeightOnlyConfig()
    if kind == "int8_dynamic":
        return torchao.Int8DynamicActivationInt8WeightConfig()
    if kind == "float8":
        if device.type != "cuda" or torch.cuda.get_device_capability(device) < FLOAT8_CAPABILITY:
            raise ValueError(
                f"quantize: {part} is 'float8', which needs a GPU of compute capability 8.9 or more, and the part is "
                f"on {device}: choose int8"
            )
        return torchao.Float8WeightOnlyConfig()
    return build_int4(part, weights, device)


def build_int4(part: str, weights: Mapping[str, torch.Tensor], device: torch.device) -> Any:
    """Returns torchao's config of int4: packed for a GPU, elsewhere a byte for each weight (torchao's packed weights of
    a CPU can neither be saved nor trained through).

    Raises ValueError for layers that it does not fit.
    """
    torchao = import_module(TORCHAO)
    name, weight = min(weights.items(), key=lambda item: math.gcd(GROUP, item[1].shape[1]))
    group = math.gcd(GROUP, weight.shape[1])
    packed = device.type == "cuda"
    if group < (GROUP if packed else 8):
        raise ValueError(
            f"quantize: {part} is 'int4', but {name} has {weight.shape[1]} inputs, no multiple of "
            f"{GROUP if packed else 8}: choose int8"
        )
    if not packed:
        return torchao.IntxWeightOnlyConfig(weight_dtype=cast("Any", torch).int4, granularity=torchao.PerGroup(group))
    if weight.dtype != torch.bfloat16:
        raise ValueError(f"quantize: {part} is 'int4' on a GPU, which takes bfloat16 weights: load it with bfloat16")
    packing = import_module(f"{TORCHAO}.quantize_.workflows").Int4PackingFormat.TILE_PACKED_TO_4D
    return torchao.Int4WeightOnlyConfig(group, int4_packing_format=packing)


def find_pattern(layers: Mapping[str, nn.Linear]) -> str:
    """Returns torchao's pattern for all layers below the path that the names of these have in common."""
    first, last = (name.split(".") for name in (min(layers), max(layers)))
    common = next((n for n, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first) - 1)
    return "re:" + r"\.".join(first[:common]) + r"\..*"


def install_quantizer(model: ComposableModel, patterns: "OrderedDict[str, Any]") -> None:
    """Gives a model the quantizer and the config of its quantized layers, by which transformers saves and loads them;
    with those of parts that were quantized before."""
    from transformers import TorchAoConfig

    before = getattr(model, "hf_quantizer", None)
    earlier = {} if before is None else getattr(before.quantization_config.quant_type, "fqn_to_config", {})
    kept = [name for name, weight in list_linear_weights(model).items() if is_plain_weight(weight)]
    given = TorchAoConfig(
        import_module(TORCHAO).FqnToConfig(OrderedDict(earlier | patterns)), modules_to_not_convert=kept
    )
    adopt_quantizer(model, given)


def adopt_quantizer(model: Any, given: Any) -> None:
    """Makes plait's quantizer that of a model with weights of torchao: adapters beside them train, if they can."""
    model.hf_quantizer = build_quantizer(given)
    model.is_quantized, model.quantization_method = True, given.quant_method
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            module.config._is_quantized = True
    model.config.quantization_config = given
    model._weight_conversions = []  # saving would reverse those of the tensors' parts, which have no reverse
    install_int8_kernels(model)


def list_linear_weights(model: nn.Module) -> dict[str, Any]:
    """Returns the weights of all linear layers by the layer's name."""
    return {name: module.weight for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def protect_layers(
    model_class: type[ComposableModel], read_config: Callable[[], PreTrainedConfig], arguments: dict[str, Any]
) -> dict[str, Any]:
    """Returns arguments of `from_pretrained` whose `quantization_config`, of torchao or bitsandbytes, leaves out what
    must not be quantized, beside what it leaves out itself: all but the layers of `list_quantizable_layers`."""
    given = arguments.get("quantization_config")
    method = given.get("quant_method") if isinstance(given, Mapping) else getattr(given, "quant_method", None)
    field = SKIP_FIELDS.get(str(getattr(method, "value", method)))
    if given is None or field is None:
        return arguments
    with torch.device("meta"):
        model = model_class(copy.deepcopy(read_config()))
    layers = {name for names in list_quantizable_layers(model).values() for name in names}
    skipped = sorted(list_linear_weights(model).keys() - layers)
    changed: Any = copy.deepcopy(given)
    if isinstance(changed, dict):
        changed[field] = [*(changed.get(field) or ()), *skipped]
    else:
        setattr(changed, field, [*(getattr(changed, field) or ()), *skipped])
    return {**arguments, "quantization_config": changed}


def check_quantized_folder(model_class: type[ComposableModel], found: Mapping[str, Any]) -> None:
    """Raises ValueError if a folder with weights of torchao, of this content of config.json, was saved by a class that
    has other names for them: transformers finds them by their names in it."""
    method = (found.get("quantization_config") or {}).get("quant_method")
    saved_by = next(iter(found.get("architectures") or ()), model_class.__name__)
    if method == "torchao" and (saved_by == BASE_MODEL) != (model_class.__name__ == BASE_MODEL):
        raise ValueError(
            f"its quantized weights were saved by {saved_by} and have other names in {model_class.__name__}: load it "
            f"as {saved_by}, or the folder from before it was quantized"
        )


def finish_quantization(model: Any, parts: Mapping[str, str] | None) -> None:
    """Quantizes parts of a loaded model, and makes plait's quantizer that of a model with weights of torchao."""
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None and str(getattr(quantizer.quantization_config.quant_method, "value", "")) == "torchao":
        adopt_quantizer(model, quantizer.quantization_config)
    if parts:
        quantize(model, parts)


def is_quantized_weight(weight: Any) -> bool:
    """Returns whether a weight is one of torchao's."""
    return type(weight).__module__.startswith("torchao")


def check_savable(model: nn.Module) -> None:
    """Raises ValueError if a model has weights of torchao that safetensors cannot hold, or that torchao was told to
    quantize past plait and transformers."""
    held = {name: weight for name, weight in model.named_parameters() if is_quantized_weight(weight)}
    if not held:
        return
    savable = import_module("torchao.prototype.safetensors.safetensors_utils").ALLOWED_TENSORS_SUBCLASSES
    for name, weight in held.items():
        kind = type(weight).__name__
        if kind not in savable:
            raise ValueError(
                f"{name} is a {kind}, which safetensors cannot hold: save the model before it is quantized, and "
                "quantize it when it is loaded"
            )
    if getattr(model, "hf_quantizer", None) is None:
        raise ValueError(
            f"{next(iter(held))} was quantized by torchao itself, so that no config says how: use "
            "plait.quantize(model, parts) or from_pretrained(..., quantization_config=...), whose models can be saved"
        )
