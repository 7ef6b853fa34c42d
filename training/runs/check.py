"""Checks a folder that plait saved, or a cache of features: are its files as they were saved, and do they load?"""

from collections.abc import Iterator, Mapping
from inspect import signature
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from ...configuration.checksums import CHECKSUM_FILE, SAFETENSORS, find_changed_files, list_stamps, read_checksums
from ...configuration.json_files import read_json_mapping
from ...configuration.messages import to_one_line
from ...modeling.checkpoints.saved_folder import find_saving_class
from ...processing import PlaitProcessor
from ..data.feature_cache import check_features, is_feature_file
from ..recipes.errors import RecipeError
from ..storage.checkpoints import STATE_FILE, find_damage, parse_step
from .folder import PROCESSOR_FILE, RUN_FOLDER

WEIGHT_FILES = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)


class FolderReport(NamedTuple):
    """What was found in a folder.

    problems: one line each; parts: the folders that were read; unsummed: weights that were saved without checksums.
    """

    problems: list[str]
    parts: list[str]
    unsummed: list[str]


def check_folder(folder: Path) -> FolderReport:
    """Checks a model folder, a run folder with its checkpoints, or a folder of cached features, at any depth.

    Every file with a checksum is read; a model is loaded as its own class, on the CPU, and its numbers must be finite;
    a processor is loaded. Nothing is changed and no code of the folder is run.

    Raises RecipeError if there is no such folder, or nothing in it that plait saves.
    """
    if not folder.is_dir():
        raise RecipeError(f"there is no folder {folder}: pass the folder of a model, a run or cached features")
    report = FolderReport([], [], [])
    for place in (folder, *sorted(path for path in folder.rglob("*") if path.is_dir())):
        check_place(place, report)
    if not report.parts:
        raise RecipeError(f"{folder} holds no model, run or cached features: pass the folder that plait saved")
    return report


def check_place(place: Path, report: FolderReport) -> None:
    """Adds to the report what is found in one folder, without those inside it."""
    summed = (place / CHECKSUM_FILE).is_file()
    kinds = {
        "model": summed or any((place / name).is_file() for name in (CONFIG_NAME, *WEIGHT_FILES)),
        "recipe": (place / RUN_FOLDER.recipe_file).is_file(),
        "checkpoint": parse_step(place.name) is not None and (place / STATE_FILE).is_file(),
        "features": any(map(is_feature_file, place.glob("*.safetensors"))),
    }
    if any(kinds.values()):
        report.parts.append(str(place))
    checks = [check_sums(place, report)] if kinds["model"] else []
    checks += [check_checkpoint(place)] if kinds["checkpoint"] else []
    checks += [check_recipe(place)] if kinds["recipe"] else []
    checks += [check_features(place)] if kinds["features"] else []
    if kinds["model"] and not kinds["features"]:
        checks += [check_model(place), check_processor(place)]
    for check in checks:
        report.problems.extend(check)


def check_sums(place: Path, report: FolderReport) -> Iterator[str]:
    """Yields a line for each file that is not as it was saved."""
    try:
        yield from find_changed_files(place)
        known = read_checksums(place)
    except (OSError, ValueError) as error:
        yield to_one_line(error)
        return
    weights = (name for name in list_stamps(place) if name.endswith(SAFETENSORS))
    report.unsummed.extend(str(place / name) for name in weights if name not in known)


def check_checkpoint(place: Path) -> Iterator[str]:
    """Yields what is damaged in a checkpoint, by the sums of its files."""
    damage = find_damage(place)
    if damage is not None:
        yield f"{place}: {damage}: a run does not resume from it"


def check_recipe(place: Path) -> Iterator[str]:
    """Yields why the recipe of a run cannot be read."""
    try:
        RUN_FOLDER.read_recipe(place)
    except (OSError, ValueError) as error:
        yield f"{place / RUN_FOLDER.recipe_file}: {to_one_line(error)}"


def check_model(place: Path) -> Iterator[str]:
    """Yields why the model cannot be loaded as the class that saved it, or which of its numbers are not finite."""
    config = place / CONFIG_NAME
    weights = [place / name for name in WEIGHT_FILES if (place / name).is_file()]
    if not config.is_file() and not weights:
        return
    try:
        if not config.is_file():
            if CONFIG_NAME not in read_checksums(place):  # else its line is there already
                yield f"{config} is missing: {weights[0].name} cannot be loaded without it"
            return
        content = read_json_mapping(config)
        model_class = find_saving_class(next(iter(content.get("architectures") or ()), ""))
        if model_class is not None and weights:
            is_loadable = (
                "config" in signature(model_class.__init__).parameters
            )  # a run of several tasks builds its own
            tensors = model_class.from_pretrained(place).state_dict() if is_loadable else read_tensors(place)
            yield from find_unreal_numbers(tensors, place)
    except (SafetensorError, OSError, ValueError, TypeError, ImportError) as error:
        yield to_one_line(error) if str(place) in str(error) else f"{place}: {to_one_line(error)}"


def read_tensors(place: Path) -> dict[str, torch.Tensor]:
    """Returns the tensors in the safetensors files of a folder."""
    return {name: tensor for file in sorted(place.glob(f"*{SAFETENSORS}")) for name, tensor in load_file(file).items()}


def find_unreal_numbers(tensors: Mapping[str, torch.Tensor], place: Path) -> Iterator[str]:
    """Yields the tensors of a model with a number that is NaN or infinite."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            count = int((~torch.isfinite(tensor)).sum())
            yield f"{place}: {count} of {tensor.numel()} numbers of {name} are NaN or infinite: train it again"


def check_processor(place: Path) -> Iterator[str]:
    """Yields why the processor cannot be loaded."""
    if not (place / PROCESSOR_FILE).is_file():
        return
    try:
        PlaitProcessor.from_pretrained(place)
    except (OSError, ValueError, TypeError, ImportError) as error:
        yield to_one_line(error) if str(place) in str(error) else f"{place}: {to_one_line(error)}"
