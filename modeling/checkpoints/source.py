"""Opens a pretrained checkpoint, single or sharded, on the Hub or in a folder: its config and tensors as on disk."""

import copy
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import PurePath
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.utils import (
    CONFIG_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
)
from transformers.utils.hub import cached_file, has_file
from transformers.utils.peft_utils import ADAPTER_CONFIG_NAME

from ...configuration.json_files import read_json_file
from ...configuration.messages import to_one_line
from .families.registry import FAMILIES


class LazyTensors(Mapping[str, Tensor]):
    """The tensors of opened files by name, memory-mapped and read from disk when used."""

    def __init__(self, files: Mapping[str, Any], file_names: Mapping[str, str]) -> None:
        self.files, self.file_names = files, file_names

    def __getitem__(self, name: str) -> Tensor:
        return self.files[self.file_names[name]].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.file_names)

    def __len__(self) -> int:
        return len(self.file_names)


class OpenedCheckpoint(NamedTuple):
    """A checkpoint whose weights are not read yet.

    path: the folder or Hub id; config: transformers' config object; config_dict: the content of the config.json;
    tensors: by their names on disk.
    """

    path: str
    config: PreTrainedConfig
    config_dict: dict[str, Any]
    tensors: Mapping[str, Tensor]


def open_checkpoint(
    name_or_path: Any, *, variant: str | None = None, use_safetensors: bool | None = None, **hub: Any
) -> OpenedCheckpoint:
    """Opens a checkpoint folder or Hub repository without reading its weights.

    hub: where it is (`revision`, `subfolder`, `token`, `cache_dir`, `local_files_only`, `force_download`, `proxies`).
    Pickled weights are read only with `use_safetensors=False`, by `torch.load(..., weights_only=True)`.

    Raises:
        OSError: no config.json, no weights, a missing shard, or only pickled weights without `use_safetensors=False`.
        ValueError: a model type that transformers does not know; a truncated or corrupt file.
    """
    path = str(name_or_path)
    config, config_dict = read_config(path, **hub)
    return OpenedCheckpoint(path, config, config_dict, open_weights(path, variant, use_safetensors, **hub))


def open_weights(path: str, variant: str | None = None, use_safetensors: bool | None = None, **hub: Any) -> LazyTensors:
    """Opens the weights of a checkpoint folder or Hub repository, single or sharded, without reading them.

    Raises OSError and ValueError as `open_checkpoint`.
    """
    names = (
        (WEIGHTS_NAME, WEIGHTS_INDEX_NAME) if use_safetensors is False else (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)
    )
    single, index = (_add_variant(name, variant) for name in names)
    open_file = _open_pickle if use_safetensors is False else _open_safetensors
    if _has_file(path, single, **hub):
        file = open_file(_find_file(path, single, **hub))
        return LazyTensors({single: file}, dict.fromkeys(file.keys(), single))
    if _has_file(path, index, **hub):
        return _open_shards(path, index, open_file, **hub)
    raise OSError(_explain_missing_weights(path, single, index, **hub))


def read_config(path: str, **hub: Any) -> tuple[PreTrainedConfig, dict[str, Any]]:
    """Reads a checkpoint's config as transformers' object and as the dict in its file; runs no code of the repository.

    Raises OSError without a config.json, and ValueError for a model type that transformers does not know.
    """
    try:
        config_dict, _ = PreTrainedConfig.get_config_dict(path, **hub)
    except OSError as error:  # transformers does not always name the file
        raise OSError(f"{CONFIG_NAME} of {path}: {error}") from error
    if not config_dict:
        raise OSError(f"{path} has no {CONFIG_NAME}: is it a checkpoint in the format of transformers?")
    config_dict.pop("_commit_hash", None)  # added by older transformers; not in the file
    try:
        return build_hub_config(config_dict), config_dict
    except ValueError as error:
        raise ValueError(f"{CONFIG_NAME} of {path}: {error}") from error


def build_hub_config(config_dict: dict[str, Any]) -> PreTrainedConfig:
    """Builds transformers' config object from the content of a config.json.

    Raises ValueError for a model type that transformers does not know, or without one unless a family recognises it.
    """
    model_type = config_dict.get("model_type")
    if model_type is not None and model_type in CONFIG_MAPPING:
        # a copy: some config classes of transformers 5.17 remove entries from their argument
        return CONFIG_MAPPING[model_type].from_dict(copy.deepcopy(config_dict))
    if model_type is not None:
        remedy = "update transformers"
        if "auto_map" in config_dict:
            remedy = "its code is in the repository: load it yourself with trust_remote_code=True and pass the model"
        raise ValueError(f"transformers does not know the model_type {model_type!r}; {remedy}")
    for name, family in FAMILIES.items():
        if family.recognises is not None and family.recognises(config_dict):
            return PreTrainedConfig.from_dict(config_dict | {"model_type": name})
    raise ValueError("no model_type: add that of the checkpoint's family")


class PickledTensors(dict[str, Tensor]):
    """The tensors of a pickle, with the interface of an opened safetensors file."""

    def get_tensor(self, name: str) -> Tensor:
        """Returns the tensor of this name."""
        return self[name]


def _open_safetensors(file: str) -> Any:
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{file} is truncated or corrupt ({error}): download or save it again") from error


def _open_pickle(file: str) -> PickledTensors:
    try:
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # unpickling raises anything: UnpicklingError, RuntimeError, EOFError, ...
        raise ValueError(
            f"{file} is no pickle of tensors, or is damaged ({to_one_line(error)}): download or save it again"
        ) from error
    if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise ValueError(f"{file} is a pickle, but not of tensors by name: download or save it again")
    return PickledTensors(found)


def _open_shards(path: str, index: str, open_file: Any, **hub: Any) -> LazyTensors:
    """Opens all shards of an index; raises OSError for a missing shard, ValueError for a missing tensor."""
    index_file = _find_file(path, index, **hub)
    places = _read_places(index_file)
    files = {shard: open_file(_find_file(path, shard, **hub)) for shard in sorted(set(places.values()))}
    held = {shard: set(opened.keys()) for shard, opened in files.items()}
    for name, shard in places.items():
        if name not in held[shard]:
            raise ValueError(f"{index_file} says that {name} is in {shard}, but it is not: save the checkpoint again")
    return LazyTensors(files, places)


def _read_places(index_file: str) -> dict[str, str]:
    """Returns the file of each tensor that an index names; raises ValueError for one outside the index's folder."""
    content = read_json_file(index_file)
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places:
        raise ValueError(f"{index_file} has no weight_map of tensors to files: save the checkpoint again")
    for name, shard in places.items():
        if not isinstance(shard, str) or PurePath(shard).name != shard or shard in ("", "..") or "\\" in shard:
            raise ValueError(
                f"{index_file} says that {name} is in {shard!r}, which is no file of its folder: save the checkpoint "
                "again"
            )
    return places


def _add_variant(name: str, variant: str | None) -> str:
    """Returns the file name of a variant as transformers builds it: model.safetensors to model.fp16.safetensors."""
    stem, ending = name.rsplit(".", 1)
    return name if variant is None else f"{stem}.{variant}.{ending}"


def _has_file(path: str, name: str, subfolder: str = "", force_download: bool = False, **hub: Any) -> bool:
    return has_file(path, f"{subfolder}/{name}" if subfolder else name, **hub)


def _find_file(path: str, name: str, **hub: Any) -> str:
    """Returns the path of the local file; raises OSError, which names it, if it does not exist."""
    file = cached_file(path, name, **hub)
    if file is None:
        raise OSError(f"{path} has no file {name}: download or save it again")
    return file


def _explain_missing_weights(path: str, single: str, index: str, **hub: Any) -> str:
    wanted = f"{path} has neither {single} nor {index}"
    if _has_file(path, ADAPTER_CONFIG_NAME, **hub):
        return f"{wanted}, but adapters: plait.training.load_run({path!r}) adds those of a run to their model"
    held = next(filter(partial(_has_file, path, **hub), (WEIGHTS_NAME, WEIGHTS_INDEX_NAME)), None)
    if held is None or single.endswith(".bin"):
        return f"{wanted}: check the name and the variant"
    return (
        f"{wanted}, only the pickle {held}: pass use_safetensors=False to read it (weights only, no code), "
        "or save it as safetensors"
    )
