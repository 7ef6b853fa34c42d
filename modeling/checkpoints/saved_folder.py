"""Loads plait's own folders as strictly as pretrained checkpoints: no tensor of the class that saved one is missing."""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from ...configuration import PlaitConfig
from ...configuration.base import PlaitBaseConfig
from ...configuration.hub import select_hub_options
from ...configuration.messages import to_one_line
from ...configuration.remote_code.entry import IS_FLAT
from .conversion.family import format_names
from .source import LazyTensors, open_weights

# errors that already say what is wrong, or that are not the folder's
OWN_ERRORS = (OSError, ValueError, TypeError, ImportError, NotImplementedError, torch.OutOfMemoryError)
LABEL_FIELDS = frozenset("num_labels id2label label2id problem_type dtype".split())  # fields that add no tensor
DISTRIBUTED_SHARD = re.compile(r"shard-\d+-model-\d+-of-\d+\.safetensors")  # of torch's distributed checkpoints
PACKAGE = __name__.rpartition(".")[0] if IS_FLAT else __name__.partition(".")[0]  # that holds plait's classes
NO_PICKLE = {"use_safetensors": True}


class FolderError(ValueError, RuntimeError):
    """A saved folder does not hold what its config.json says; the message names the file, the tensor and the remedy."""


class SavedFolder(NamedTuple):
    """A folder or Hub repository that plait saved.

    name: where it is; class_name: the class that saved it, "" if it does not say; options: the arguments of
    `from_pretrained`; changed: whether they change which tensors the model has; tensors: of a local folder, unread.
    """

    name: str
    class_name: str
    options: Mapping[str, Any]
    changed: bool
    tensors: LazyTensors | None

    @property
    def file(self) -> str:
        """The file of the weights, or the folder of several files."""
        shards = set() if self.tensors is None else set(self.tensors.file_names.values())
        place = Path(self.name, self.options.get("subfolder") or "")
        return str(place / shards.pop()) if len(shards) == 1 else str(place)


def open_saved_folder(name: Any, architectures: Any, options: Mapping[str, Any]) -> SavedFolder:
    """Opens a folder that plait saved, without reading its weights.

    Raises OSError for missing weights, or pickled ones without `use_safetensors=False`, and ValueError for a file that
    is truncated or corrupt, or an index that names a file outside the folder.
    """
    class_name = next(iter(architectures or ()), "")
    changed = bool((options.keys() & PlaitConfig.__dataclass_fields__.keys()) - LABEL_FIELDS)
    tensors = None
    folder = Path(str(name), options.get("subfolder") or "")
    if folder.is_dir() and "gguf_file" not in options and not has_distributed_shards(folder):
        given = {key: options.get(key) for key in ("variant", "use_safetensors")}
        tensors = open_weights(str(name), **given, **select_hub_options(options))
    return SavedFolder(str(name), class_name, options, changed, tensors)


def has_distributed_shards(folder: Path) -> bool:
    """Returns whether a folder holds the shards of a distributed checkpoint, which transformers reads itself."""
    return any(DISTRIBUTED_SHARD.fullmatch(file.name) for file in folder.iterdir())


def load_saved_folder(
    load: Callable[..., Any], model_class: type[PreTrainedModel], folder: SavedFolder, strict: bool = True
) -> tuple[Any, dict[str, Any]]:
    """Loads the model of a folder by `load`, transformers' `from_pretrained`; returns it with its loading info.

    Raises FolderError if a tensor has another size than the config says and, if `strict`, as `check_loaded_keys` does.
    Who asks for the loading info reads the missing and unexpected keys there.
    """
    safe = NO_PICKLE if folder.options.get("use_safetensors") is None else {}
    ignored = bool(folder.options.get("ignore_mismatched_sizes"))
    try:
        model, info = load(**{**safe, "output_loading_info": True, "ignore_mismatched_sizes": True})
    except OWN_ERRORS:
        raise
    except Exception as error:  # a damaged config breaks anything that is built from it
        raise FolderError(
            f"{folder.name} cannot be loaded as a {model_class.__name__} ({type(error).__name__}: "
            f"{to_one_line(error)}): is its config.json as it was saved? plait check {folder.name} tells"
        ) from error
    if info["mismatched_keys"] and not ignored:
        raise FolderError(describe_mismatch(folder, info["mismatched_keys"]))
    if strict:
        check_loaded_keys(model, folder, info)
    return model, info


def check_loaded_keys(model: PreTrainedModel, folder: SavedFolder, info: Mapping[str, Any]) -> None:
    """Raises FolderError if the folder of a loaded model lacks a tensor of the class that saved it or, loaded as that
    class, has one that the class has no place for. Another class may have newly initialized heads."""
    if info["missing_keys"]:
        check_missing(type(model), folder, info["missing_keys"])
    same = folder.class_name == type(model).__name__ and not folder.changed
    if info["unexpected_keys"] and same and getattr(model, "hf_quantizer", None) is None:
        raise FolderError(
            f"{folder.file} has {format_names(sorted(info['unexpected_keys']))}, for which its config.json has no "
            "place: restore the file that was changed, or save the model again"
        )


def describe_mismatch(folder: SavedFolder, mismatched: Any) -> str:
    """Returns the error about tensors of another shape than the config says."""
    (name, found, wanted), *others = sorted((key, tuple(a), tuple(b)) for key, a, b in mismatched)
    more = f" ({len(others)} more tensors do not fit)" if others else ""
    return (
        f"size mismatch: {name} has shape {found} in {folder.file}, but the config says {wanted}{more}: restore the "
        "files as they were saved, or pass ignore_mismatched_sizes=True to initialize these tensors newly"
    )


def check_missing(model_class: type[PreTrainedModel], folder: SavedFolder, missing: Any) -> None:
    """Raises FolderError if tensors are missing that the class that saved the folder has."""
    if folder.class_name == model_class.__name__ and not folder.changed:
        absent = sorted(missing)
    else:
        absent = find_absent(folder)
    if absent:
        raise FolderError(
            f"{folder.file} lacks {format_names(absent)}, without which the model would answer by random weights: "
            "restore the file, or save the model again"
        )


def find_absent(folder: SavedFolder) -> list[str]:
    """Returns the tensors of the class that saved the folder that its file lacks; none if that is not known: another
    package's class, a part of transformers (with other names in its files), or packed weights."""
    saved_by = find_saving_class(folder.class_name)
    if saved_by is None or folder.tensors is None:
        return []
    config = PlaitConfig.from_pretrained(folder.name, **select_hub_options(folder.options))
    if not is_native(config) or getattr(config, "quantization_config", None) is not None:
        return []
    with torch.device("meta"):
        model = saved_by(config)
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    return sorted(name for name in model.state_dict() if name not in folder.tensors and name not in tied)


def is_native(config: PreTrainedConfig) -> bool:
    """Returns whether all parts of a config, at any depth, are plait's own."""
    parts = (getattr(config, field) for field in config.sub_configs)
    return isinstance(config, PlaitBaseConfig) and all(part is None or is_native(part) for part in parts)


def find_saving_class(name: str) -> Any:
    """Returns plait's model class of this name, None for another."""
    return next((one for one in iterate_subclasses(PreTrainedModel) if one.__name__ == name), None)


def iterate_subclasses(base: type) -> Iterator[type]:
    """Yields the classes of plait that are derived from a class, at any depth."""
    for one in base.__subclasses__():
        if one.__module__.startswith(f"{PACKAGE}."):
            yield one
        yield from iterate_subclasses(one)
