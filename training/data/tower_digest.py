"""Computes digests of towers: of everything that a tower's output depends on, except its input.

Stored outputs are read only under an equal digest. Versions of the libraries that compute them belong to it.
"""

import json
import weakref
from collections.abc import Iterator, Mapping
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple
from uuid import uuid4

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from ...configuration.modalities import CONFIG_FIELDS, MODALITY_TABLE
from ...configuration.version import VERSION
from ...modeling.adaptation.fresh import unwrap_plait
from ...modeling.adaptation.quantization import is_quantized_weight
from ...modeling.backbone.pretrained import require_grad
from ...modeling.kernels.install import find_kernel, is_replaceable
from ...processing import PlaitProcessor
from ...processing.text import reads_padding
from .inputs import require_tokenizer

FEATURE_FORMAT = "plait features 2"  # 1 knew images, audio and videos by their path or id
VOLATILE_KEYS = frozenset(  # they change no output; the dtype, which saving writes down, is that of the weights
    "transformers_version _name_or_path name_or_path processor_class auto_map is_local local_files_only token revision "
    "cache_dir subfolder _commit_hash training gradient_checkpointing dtype torch_dtype".split()
)
THIS_PROCESS = uuid4().hex
READING_PACKAGES = {
    "text": ("tokenizers",),
    "image": ("pillow", "numpy"),
    "audio": ("soundfile", "soxr", "numpy"),
    "video": ("av", "pillow", "numpy"),
}


def compute_tower_digest(model: nn.Module, tower: nn.Module, processor: PlaitProcessor, modality: str) -> str:
    """Computes a digest of everything that a tower's output depends on, except its input.

    Raises ValueError for weights that are not in memory.
    """
    return combine_digest(describe_tower(model, tower, processor, modality), compute_weights_digest(tower))


def combine_digest(description: str, weights: str) -> str:
    """Computes the digest of a tower from its description and the digest of its weights."""
    return sha256(f"{FEATURE_FORMAT} {description} {weights}".encode()).hexdigest()


def compute_weights_digest(tower: nn.Module) -> str:
    """Computes a digest of all parameters and buffers."""
    digest = sha256()
    for name, tensor in sorted(iterate_tensors(tower)):
        if tensor.is_meta:
            raise ValueError(
                f"the weight {name} is offloaded, so that the tower cannot be recognised: load the whole model into "
                "memory, or leave cache_features out"
            )
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        content: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        digest.update(content)
    return digest.hexdigest()


def iterate_tensors(tower: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yields the parameters and buffers of a tower with their names; of quantized weights the values that they stand
    for."""
    for name, weight in tower.named_parameters():
        yield name, weight.dequantize() if is_quantized_weight(weight) else weight
    yield from tower.named_buffers()


def describe_tower(model: nn.Module, tower: nn.Module, processor: PlaitProcessor, modality: str) -> str:
    """Describes a tower's config, modules and preprocessing, and the versions of what computes with them."""
    config = getattr(unwrap_plait(model).config, CONFIG_FIELDS[modality]).to_dict()
    packages = ("torch", "transformers", *READING_PACKAGES[modality])
    content = {
        "config": drop_volatile(config),
        "processing": collect_processing_settings(processor, modality),
        "modules": [describe_module(name, module) for name, module in tower.named_modules()],
        "versions": {"plait": VERSION, **{name: find_version(name) for name in packages}},
    }
    return json.dumps(content, sort_keys=True, default=str)


def describe_module(name: str, module: nn.Module) -> list[Any]:
    """Describes a module by its class and its plain attributes, such as an adapter's scaling. A hook, or a `forward`
    that is not the class's own, may do anything: it is known only in this process."""
    alien = [] if is_replaceable(module) else [id(find_kernel(module))]
    own = [number for number, hook in module._forward_hooks.items() if hook is not require_grad]  # it changes no value
    hooks = [*alien, *own, *module._forward_pre_hooks]
    simple = {key: value for key, value in vars(module).items() if key[:4] != "_is_" and is_simple_value(value)}
    return [name, type(module).__qualname__, drop_volatile(simple), [THIS_PROCESS, *hooks] if hooks else []]


def is_simple_value(value: Any) -> bool:
    """Returns whether a value is a number, a text, or a collection of these."""
    if isinstance(value, (list, tuple)):
        return all(map(is_simple_value, value))
    if isinstance(value, dict):
        return bool(value) and all(isinstance(key, str) for key in value) and all(map(is_simple_value, value.values()))
    return value is None or isinstance(value, (bool, int, float, str))


def drop_volatile(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings without those that say where something was loaded from, or how it is trained."""
    return {key: value for key, value in settings.items() if key not in VOLATILE_KEYS}


def find_version(package: str) -> str | None:
    """Returns the version of an installed package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def collect_processing_settings(processor: PlaitProcessor, modality: str) -> dict[str, Any]:
    """Returns the settings of the processor's part that turns this modality into tensors."""
    if modality == "text":
        return collect_tokenizer_settings(processor)
    name = MODALITY_TABLE[modality].processor_part
    part: Any = processor.find_part(name)
    if part is None and modality == "video":
        part = processor.find_part("image_processor")
    if part is None:
        raise ValueError(f"the processor has no {name}, but the data have {modality}: compose the processor with one")
    settings = drop_volatile(part.to_dict())
    return settings | ({"num_frames": processor.num_frames, "fps": processor.fps} if modality == "video" else {})


def collect_tokenizer_settings(processor: PlaitProcessor) -> dict[str, Any]:
    """Returns the settings of the processor's tokenizer."""
    tokenizer = require_tokenizer(processor)
    own: Any = {"vocabulary": tokenizer.get_vocab(), "class": type(tokenizer).__qualname__}
    if isinstance(tokenizer, PreTrainedTokenizerFast):
        # padding and truncation are excluded, because every call sets them
        whole = json.loads(tokenizer.backend_tokenizer.to_str())
        own = {key: value for key, value in whole.items() if key not in ("padding", "truncation")}
    given = {
        key: value
        for key, value in tokenizer.init_kwargs.items()
        if is_simple_value(value) and not key.endswith("_file")
    }
    return {
        **own,
        "given": drop_volatile(given),
        "special": tokenizer.special_tokens_map,
        "inputs": list(tokenizer.model_input_names),
        "reads_padding": reads_padding(tokenizer),
        "prompts": processor.prompts,
        "model_max_length": tokenizer.model_max_length,
        "sides": [tokenizer.truncation_side, tokenizer.padding_side],
    }


class SeenTensor(NamedTuple):
    """A tensor, as a weak reference, and the number of changes made to it in place when its digest was computed."""

    reference: "weakref.ref[Tensor]"
    changes: int


class TowerDigest:
    """The digest of a model's tower and its preprocessing; weights are read again only if they may have changed."""

    def __init__(self, modality: str) -> None:
        self.modality = modality
        self.seen: list[SeenTensor] = []
        self.weights = ""

    def compute(self, model: nn.Module, processor: PlaitProcessor) -> str:
        """Computes the digest as it is now."""
        tower = unwrap_plait(model).towers[self.modality]
        tensors = [tensor for _, tensor in iterate_tensors(tower)]
        same = len(tensors) == len(self.seen) and all(
            seen.reference() is tensor and seen.changes == tensor._version
            for seen, tensor in zip(self.seen, tensors, strict=True)
        )
        if not same:
            self.weights = compute_weights_digest(tower)
            self.seen = [SeenTensor(weakref.ref(tensor), tensor._version) for tensor in tensors]
        return combine_digest(describe_tower(model, tower, processor, self.modality), self.weights)
