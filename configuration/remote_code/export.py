"""Writes plait's own code beside a saved model, so that it loads with `trust_remote_code=True` where plait is not
installed."""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedConfig
from transformers.utils import CONFIG_NAME, PROCESSOR_NAME

from ..checksums import SUBFOLDERS, record_checksums
from ..json_files import read_json_mapping
from ..plait import PlaitConfig
from .auto_classes import list_auto_classes
from .collecting import collect_modules
from .entry import FILE_NAME, FLAT_MODULES, refer_to
from .flattening import MARK, flatten
from .source_tree import find_definition

BASE_CLASS, PROCESSOR_CLASS = "PlaitModel", "PlaitProcessor"


class ExportedCode(NamedTuple):
    """What an export wrote. files: the sizes of the code files in bytes; auto_map: the classes they are loaded by."""

    folder: Path
    files: dict[str, int]
    auto_map: dict[str, str]


def export_code(folder: str | PathLike[str], output: str | PathLike[str] | None = None) -> ExportedCode:
    """Writes plait's own code, generated from the installed package, beside a saved model or processor.

    With it the Auto classes and `pipeline` load the folder by `trust_remote_code=True` where plait is not installed.
    The code holds what this model uses: not composing, nor reading checkpoints of other models.

    Args:
        folder: a folder that plait saved: of a model, its processor, or both.
        output: a folder to write instead, with a copy of the model; one that was exported before is replaced.

    Raises:
        FileNotFoundError: no such folder, or neither a config.json nor a processor_config.json in it.
        FileExistsError: files of the same names that are not of an earlier export, or an output that holds other files.
        ValueError: the folder was not saved by plait, or by a class that is not part of it.
    """
    source = Path(folder).expanduser()
    if not source.is_dir():
        raise FileNotFoundError(f"there is no folder {str(source)!r}: name a folder that plait saved")
    if output is None:
        with record_checksums(source):
            return write_code(source)
    target = Path(output).expanduser()
    check_target_folder(target)
    staged = target.with_name(f".{target.name}.{os.getpid()}.unfinished")
    try:
        copy_model(source, staged)
        with record_checksums(staged):
            found = write_code(staged)
        if target.is_dir():
            shutil.rmtree(target)
        staged.rename(target)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return found._replace(folder=target)


def write_code(folder: Path) -> ExportedCode:
    """Writes the code into the folder of the model, and the classes that load it into its config files."""
    config = read_saved(folder / CONFIG_NAME, "model_type", PlaitConfig.model_type)
    processor = read_saved(folder / PROCESSOR_NAME, "processor_class", PROCESSOR_CLASS)
    if config is None and processor is None:
        raise FileNotFoundError(f"{folder} has neither a {CONFIG_NAME} nor a {PROCESSOR_NAME}: name a saved model")
    model_class = None if config is None else find_model_class(config, folder)
    names = [*([] if model_class is None else [BASE_CLASS, model_class]), *([PROCESSOR_CLASS] if processor else [])]
    rows = {} if config is None else select_rows(config)
    texts = flatten(collect_modules({find_definition("", name)[0] for name in names}, rows))
    check_free(folder, texts)
    for name, text in texts.items():
        write_whole(folder / name, text)
    auto_map: dict[str, str] = {}
    if config is not None and model_class is not None:
        auto_map |= map_auto_classes(model_class)
        write_auto_map(folder / CONFIG_NAME, config, auto_map)
    if processor is not None:
        own = {"AutoProcessor": refer_to(PROCESSOR_CLASS, flat=True)}
        auto_map |= own
        write_auto_map(folder / PROCESSOR_NAME, processor, own)
    drop_old_code(folder, texts)
    return ExportedCode(folder, {name: len(text.encode()) for name, text in texts.items()}, auto_map)


def read_saved(file: Path, key: str, wanted: str) -> dict[str, Any] | None:
    """Reads a config file; None if there is none. Raises ValueError if plait did not save it."""
    if not file.is_file():
        return None
    content = read_json_mapping(file)
    if content.get(key) != wanted:
        raise ValueError(f"{file} has {key} {content.get(key)!r}, not {wanted!r}: plait did not save it")
    return content


def find_model_class(config: Mapping[str, Any], folder: Path) -> str:
    """Returns the name of the class that saved a model; raises ValueError for one that is not part of plait."""
    name = next(iter(config.get("architectures") or ()), BASE_CLASS)
    try:
        find_definition("", name)
    except ValueError as error:
        raise ValueError(f"{folder} was saved by {name}, which is no class of plait: save its code with it") from error
    return name


def select_rows(content: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """Returns the towers and fusion strategies that a config names, as the rows of the tables that list them."""
    config = PlaitConfig(**{name: value for name, value in content.items() if name != "model_type"})
    towers = {type(part).__name__ for part in iterate_parts(config)}
    strategies = {config.fusion_config.strategy} if config.fusion_config is not None else set()
    return {"modeling.towers.registry": frozenset(towers), "modeling.fusion.registry": frozenset(strategies)}


def iterate_parts(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """Yields the configs inside a config, at any depth."""
    for part in (getattr(config, name, None) for name in config.sub_configs):
        if part is not None:
            yield part
            yield from iterate_parts(part)


def map_auto_classes(model_class: str) -> dict[str, str]:
    """Returns the `auto_map` of a model: its config, the base model and the Auto classes of its class."""
    classes = {"AutoConfig": "PlaitConfig", "AutoModel": BASE_CLASS}
    classes |= dict.fromkeys(list_auto_classes(model_class), model_class)
    return {auto: refer_to(name, flat=True) for auto, name in classes.items()}


def write_auto_map(file: Path, content: dict[str, Any], entries: Mapping[str, str]) -> None:
    """Writes the entries into a saved config's `auto_map`, which keeps those of others."""
    content["auto_map"] = {**content.get("auto_map", {}), **entries}
    write_whole(file, json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def write_whole(file: Path, text: str) -> None:
    """Writes a text file that is whole or absent."""
    unfinished = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(file)


def is_exported(file: Path) -> bool:
    """Returns whether a file was written by an export."""
    return file.is_file() and file.read_text(encoding="utf-8", errors="replace").startswith(MARK)


def check_free(folder: Path, names: Iterable[str]) -> None:
    """Raises FileExistsError if the folder has files of these names that no export wrote."""
    taken = [name for name in names if (folder / name).exists() and not is_exported(folder / name)]
    if taken:
        raise FileExistsError(f"{folder} has a {taken[0]} that plait did not write: rename or remove it")


def check_target_folder(target: Path) -> None:
    """Raises FileExistsError if the output holds anything but an earlier export."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not any(is_exported(target / f"{module}.py") for module in FLAT_MODULES.values()):
        raise FileExistsError(f"{target} has files that are not of an earlier export: name a new folder, or empty it")


def copy_model(source: Path, target: Path) -> None:
    """Copies the files of a saved model, without the folders of a run beside them."""
    for place in ("", *SUBFOLDERS):
        if (source / place).is_dir():
            (target / place).mkdir(parents=True, exist_ok=True)
            for file in (source / place).iterdir():
                if file.is_file() and not file.name.startswith("."):
                    shutil.copy2(file, target / place / file.name)


def drop_old_code(folder: Path, written: Iterable[str]) -> None:
    """Removes the code that the written files replace."""
    (folder / FILE_NAME).unlink(missing_ok=True)
    for name in {f"{module}.py" for module in FLAT_MODULES.values()}.difference(written):
        if is_exported(folder / name):
            (folder / name).unlink()
