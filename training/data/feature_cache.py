"""Computes the outputs of frozen towers once per distinct input and keeps them on disk.

The folder's name is a digest of the tower and its preprocessing (see `tower_digest`), so that outputs of another tower
are never read; an input is known by its content. Rows of different length are concatenated, without padding, in
safetensors files that are mapped into memory.
"""

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from huggingface_hub.constants import HF_HOME
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import IterableDataset
from tqdm.auto import tqdm
from transformers.utils import logging

from ...configuration import DOCUMENT, NEGATIVE
from ...modeling.adaptation.fresh import unwrap_plait
from ...processing import PlaitProcessor
from ...processing.errors import name_error
from .inputs import compute_text_key, encode_items, encode_text_inputs
from .media import (
    READ_ERRORS,
    Row,
    collect_items,
    find_columns,
    iterate_columns,
    iterate_keys,
    list_column_names,
)
from .tower_digest import FEATURE_FORMAT, compute_tower_digest

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.get_logger(__name__)

SHARD_BYTES = 2**28
FEATURE_FOLDER = re.compile(r"[a-z]+-[0-9a-f]{24}")  # see `name_folder`


class CachedFeatures(NamedTuple):
    """The tower's output for one input: tokens (length, width) and, if the tower pools, a pooled vector (width)."""

    tokens: Tensor
    pooled: Tensor | None


class InputPlace(NamedTuple):
    """Where an input is: the number of its data set, its row, and its position among the row's inputs."""

    data: int
    row: int
    position: int


class FeatureStore:
    """Tower outputs by the key of their input, stored in the files of one folder.

    Raises:
        ValueError: a damaged file, or one that is not a file of features.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.refresh()

    def refresh(self) -> None:
        """Reads the index of all files that are in the folder now."""
        self.shards: list[dict[str, Tensor]] = []
        self.index: dict[str, tuple[int, int]] = {}
        for file in sorted(self.folder.glob("*.safetensors")):
            keys, tensors = _read_shard(file)
            self.index |= {key: (len(self.shards), row) for row, key in enumerate(keys)}
            self.shards.append(tensors)

    def __len__(self) -> int:
        return len(self.index)

    def __getstate__(self) -> dict[str, Any]:
        # a data loader's worker maps the files again instead of receiving a copy of their content
        return {"folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["folder"])

    def has_keys(self, keys: Iterable[str | None]) -> bool:
        """Returns whether the store is not empty and has every key (None, no input, is ignored)."""
        return bool(self.index) and all(key is None or key in self.index for key in keys)

    def __getitem__(self, key: str) -> CachedFeatures:
        """Returns the output for one input; raises KeyError if it is not stored."""
        number, row = self.index[key]
        shard = self.shards[number]
        start, end = shard["offsets"][row : row + 2].tolist()
        return CachedFeatures(shard["tokens"][start:end], shard["pooled"][row] if "pooled" in shard else None)

    def gather(self, rows: Sequence[Sequence[str]]) -> dict[str, Tensor]:
        """Builds a batch like a tower's output, from the keys of each row's inputs.

        Returns last_hidden_state (batch, length, width), a row's tokens concatenated and padded to the longest row;
        mask (batch, length); and, if the tower pools, pooler_output (batch, width), the mean over a row's inputs.
        """
        distinct = {tuple(row): number for number, row in enumerate(dict.fromkeys(map(tuple, rows)))}
        select = torch.tensor([distinct[tuple(row)] for row in rows])
        found = [[self[key] for key in row] for row in distinct]
        blank = self.shards[0]["tokens"][:1] * 0
        tokens = [torch.cat([item.tokens for item in items]) if items else blank for items in found]
        lengths = torch.tensor([sum(len(item.tokens) for item in items) for items in found])
        padded = pad_sequence(tokens, batch_first=True)
        mask = torch.arange(padded.shape[1]) < lengths[:, None]
        result = {"last_hidden_state": padded[select], "mask": mask[select]}
        if "pooled" in self.shards[0]:
            blank = self.shards[0]["pooled"][:1] * 0
            pooled = [[item.pooled for item in items if item.pooled is not None] for items in found]
            result["pooler_output"] = torch.stack([torch.stack(row or [*blank]).mean(0) for row in pooled])[select]
        return result

    def add(self, keys: Sequence[str], outputs: Sequence[CachedFeatures]) -> None:
        """Writes the outputs to a new file, atomically; `refresh` makes them visible."""
        lengths = torch.tensor([0, *(len(output.tokens) for output in outputs)])
        tensors = {"tokens": torch.cat([output.tokens for output in outputs]), "offsets": lengths.cumsum(0)}
        if outputs[0].pooled is not None:
            tensors["pooled"] = torch.stack([output.pooled for output in outputs if output.pooled is not None])
        self.folder.mkdir(parents=True, exist_ok=True)
        named = json.dumps(list(keys))
        name = sha256(" ".join(keys).encode()).hexdigest()[:24]
        unfinished = self.folder / f"{name}.{os.getpid()}.tmp"
        metadata = {"format": FEATURE_FORMAT, "keys": named, "sha256": compute_shard_digest(named, tensors)}
        save_file(tensors, unfinished, metadata)
        unfinished.replace(self.folder / f"{name}.safetensors")


def cache_features(
    model: nn.Module,
    processor: PlaitProcessor,
    datasets: Sequence["Dataset"],
    modality: str,
    *,
    folder: str | Path | None = None,
    limit: float = 50.0,
    batch_size: int = 64,
    max_length: int | None = None,
) -> FeatureStore:
    """Runs a frozen tower once on every distinct input of these data sets that is not stored yet.

    Args:
        folder: where outputs are kept; default: the folder plait/features in HF_HOME.
        limit: maximum size of new files in GiB; the size is estimated, and logged, after the first batch.
        max_length: the largest number of tokens of a text, as in the collator.

    Raises:
        ValueError: the tower is not frozen, the model or processor lacks the modality, or the outputs exceed the limit
            or the free disk space.
    """
    for data in datasets:
        if isinstance(data, IterableDataset):
            raise ValueError(
                f"cache_features: a {type(data).__name__} is a stream, but the cache reads rows by number: load it as "
                "a Dataset, or leave cache_features out"
            )
    tower = find_frozen_tower(model, modality).eval()
    root = Path(folder).expanduser() if folder is not None else Path(HF_HOME) / "plait" / "features"
    store = FeatureStore(root / name_folder(modality, compute_tower_digest(model, tower, processor, modality)))
    inputs = _find_distinct_inputs(datasets, modality, max_length)
    missing = {key: source for key, source in inputs.items() if key not in store.index}
    logger.info(f"{modality} features: {len(inputs)} distinct inputs, {len(missing)} to compute, in {store.folder}")
    if missing:
        _fill_store(
            store,
            _compute_outputs(model, processor, datasets, modality, list(missing.values()), batch_size, max_length),
            missing,
            limit,
        )
        store.refresh()
    return store


def name_folder(modality: str, digest: str) -> str:
    """Returns the name of the folder with the outputs of a tower, from its digest."""
    return f"{modality}-{digest[:24]}"


def find_frozen_tower(model: nn.Module, modality: str) -> nn.Module:
    """Returns the tower of this modality.

    Raises:
        ValueError: the model has no such tower, or it has trainable parameters.
    """
    towers = unwrap_plait(model).towers
    if modality not in towers:
        raise ValueError(f"the model has no {modality} tower to cache: it has {', '.join(towers)}")
    trained = [name for name, parameter in towers[modality].named_parameters() if parameter.requires_grad]
    if trained:
        raise ValueError(
            f"the {modality} tower is not frozen ({len(trained)} trainable tensors, first {trained[0]}): its outputs "
            f"change while it trains and cannot be cached; add {modality!r} to frozen"
        )
    return towers[modality]


def _find_distinct_inputs(
    datasets: Sequence["Dataset"], modality: str, max_length: int | None
) -> dict[str, InputPlace]:
    """Returns the first place of each distinct input by key."""
    found: dict[str, InputPlace] = {}
    for number, data in enumerate(datasets):
        for row, keys in enumerate(_iterate_input_keys(data, modality, max_length)):
            for position, key in enumerate(keys):
                if key is not None:
                    found.setdefault(key, InputPlace(number, row, position))
    return found


def _iterate_input_keys(data: Any, modality: str, max_length: int | None) -> Iterator[Sequence[str | None]]:
    """Yields the keys of the inputs of each row."""
    columns = list_column_names(data)
    names = find_columns(columns, modality)
    if modality == "text" and DOCUMENT not in columns and NEGATIVE in columns:
        names.append(NEGATIVE)  # hard negatives are encoded by the same text tower
    if not names:
        raise ValueError(f"nothing to cache: the data have no {modality} column, only {', '.join(columns)}")
    if modality != "text":
        yield from iterate_keys(data, modality)
    else:
        for row in iterate_columns(data, names):
            yield [compute_text_key(one, max_length) for one in split_row_texts(row)]


def split_row_texts(row: Row) -> list[Row]:
    """Returns one row for each text of a row, and one for each of its hard negatives."""
    text, hard = row["text"], row.get(NEGATIVE)
    negatives = hard if isinstance(hard, list) else [hard]
    own = {name: value for name, value in row.items() if name != NEGATIVE}
    return [{**own, "text": one} for one in (*(text if isinstance(text, list) else [text]), *negatives)]


def _compute_outputs(
    model: nn.Module,
    processor: PlaitProcessor,
    datasets: Sequence["Dataset"],
    modality: str,
    places: Sequence[InputPlace],
    batch_size: int,
    max_length: int | None,
) -> Iterator[tuple[list[str], list[CachedFeatures]]]:
    """Yields batches of keys with their outputs, on the CPU."""
    plait = unwrap_plait(model)
    device = next(plait.parameters()).device
    for start in tqdm(range(0, len(places), batch_size), desc=f"{modality} features", unit="batch"):
        part = places[start : start + batch_size]
        rows = [cast("Row", datasets[place.data][place.row]) for place in part]
        if modality == "text":
            texts = [split_row_texts(row)[place.position] for row, place in zip(rows, part, strict=True)]
            keys = [str(compute_text_key(text, max_length)) for text in texts]
            inputs = encode_text_inputs(processor, texts, max_length)
        else:
            items = [_read_item(row, modality, place) for row, place in zip(rows, part, strict=True)]
            # a file may have changed since the keys were collected: its output is stored under what was read now
            keys = [key for key, _ in items]
            names = [f"{modality}, row {place.row}" for place in part]
            inputs = encode_items(processor, modality, [item for _, item in items], names)
        with torch.no_grad():
            output = plait.encode(modality, **{name: value.to(device) for name, value in inputs.items()})
        pooled = [None] * len(part) if output.pooler_output is None else list(output.pooler_output.cpu())
        tokens = [tokens[mask.bool()].cpu() for tokens, mask in zip(output.last_hidden_state, output.mask, strict=True)]
        yield keys, [CachedFeatures(*pair) for pair in zip(tokens, pooled, strict=True)]


def _read_item(row: Row, modality: str, place: InputPlace) -> tuple[str, Any]:
    """Returns the key and the content of one input; an error names its row."""
    try:
        return collect_items(row, modality)[place.position]
    except READ_ERRORS as error:
        raise name_error(error, f"{modality}, row {place.row}") from error


def _fill_store(
    store: FeatureStore,
    batches: Iterator[tuple[list[str], list[CachedFeatures]]],
    missing: Mapping[str, Any],
    limit: float,
) -> None:
    keys: list[str] = []
    outputs: list[CachedFeatures] = []
    for number, (more_keys, more_outputs) in enumerate(batches):
        if number == 0:
            _check_size(store, _count_bytes(more_outputs) / len(more_keys) * len(missing), limit)
        keys += more_keys
        outputs += more_outputs
        if _count_bytes(outputs) >= SHARD_BYTES:
            store.add(keys, outputs)
            keys, outputs = [], []
    if keys:
        store.add(keys, outputs)


def _count_bytes(outputs: Sequence[CachedFeatures]) -> int:
    return sum(item.nbytes for output in outputs for item in output if item is not None)


def _check_size(store: FeatureStore, expected: float, limit: float) -> None:
    store.folder.mkdir(parents=True, exist_ok=True)
    needed, free = expected / 2**30, shutil.disk_usage(store.folder).free / 2**30
    logger.info(f"features: about {needed:.3g} GiB to write, {free:.3g} GiB free")
    if needed > min(limit, free):
        raise ValueError(
            f"features would take about {needed:.3g} GiB in {store.folder} (limit {limit:.3g}, free {free:.3g}): raise "
            "feature_cache_limit, choose another feature_cache_dir, or train without cache_features"
        )


def compute_shard_digest(keys: str, tensors: Mapping[str, Tensor]) -> str:
    """Computes the SHA-256 of a file's features and of the keys of their inputs, as written in the file."""
    digest = sha256(keys.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def is_feature_file(file: Path) -> bool:
    """Returns whether a safetensors file holds features; False for a damaged one in a folder of another name."""
    try:
        with safe_open(file, "pt") as content:
            return (content.metadata() or {}).get("format") == FEATURE_FORMAT
    except (SafetensorError, OSError):
        return bool(FEATURE_FOLDER.fullmatch(file.parent.name))


def check_features(folder: Path) -> Iterator[str]:
    """Yields a line for each file of a folder of features that is damaged; files of older versions have no digest."""
    for file in sorted(folder.glob("*.safetensors")):
        try:
            _, tensors = _read_shard(file)
        except ValueError as error:
            yield str(error)
            continue
        with safe_open(file, "pt") as content:
            metadata = content.metadata()
        if metadata.get("sha256") not in (None, compute_shard_digest(metadata["keys"], tensors)):
            yield f"{file} is not as it was written: delete it, and its features are computed again"


def _read_shard(file: Path) -> tuple[list[str], dict[str, Tensor]]:
    try:
        with safe_open(file, "pt") as content:
            metadata = content.metadata() or {}
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 - no dict
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged ({error}): delete it, and its features are computed again") from error
    if metadata.get("format") != FEATURE_FORMAT:
        raise ValueError(
            f"{file} is not a file of features of this version: remove it from the cache folder, and its features are "
            "computed again"
        )
    try:
        keys = json.loads(metadata["keys"])
        whole = len(keys) + 1 == len(tensors["offsets"]) and int(tensors["offsets"][-1]) == len(tensors["tokens"])
    except (KeyError, ValueError, TypeError, IndexError, RecursionError) as error:
        raise ValueError(f"{file} is damaged ({error}): delete it, and its features are computed again") from error
    if not whole:
        raise ValueError(
            f"{file} is damaged (its keys and features do not fit): delete it, and they are computed again"
        )
    return keys, tensors
