"""Makes a plain model folder of a checkpoint whose weights are in shards."""

import os
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load
from transformers import GenerationConfig
from transformers.utils import CONFIG_NAME, GENERATION_CONFIG_NAME, SAFE_WEIGHTS_NAME

from ...configuration import PlaitConfig
from ...modeling.checkpoints.saved_folder import find_saving_class
from ...processing import PlaitProcessor
from ..recipes.errors import RecipeError
from ..runs.adapters import is_adapter_folder
from ..runs.folder import CHECKPOINTS, PROCESSOR_FILE
from ..storage.atomic import UNFINISHED, flush_tree
from ..storage.checkpoints import find_damage, list_checkpoints

SHARDS = "pytorch_model_fsdp_0"  # the folder of torch.distributed.checkpoint in a checkpoint of accelerate
WEIGHT_PREFIX = "model."  # of the weights in it


def consolidate(checkpoint: Path, output: Path) -> Path:
    """Saves the model of a sharded checkpoint, with its processor, as a plain folder; one process is enough, whatever
    the number of those that wrote it. checkpoint: its folder, or a run folder, whose newest checkpoint is taken.

    Returns the folder of the checkpoint.
    Raises RecipeError for an output that exists, or a checkpoint that is damaged, or not in shards.
    """
    if output.exists():
        raise RecipeError(f"{output} exists already: name another folder, or remove it")
    folder = find_sharded_checkpoint(checkpoint)
    model = load_shards(folder)
    staged = output.with_name(f".{output.name}{UNFINISHED}")
    model.save_pretrained(staged)
    if (folder / PROCESSOR_FILE).is_file():
        PlaitProcessor.from_pretrained(folder).save_pretrained(staged)
    flush_tree(staged)
    os.replace(staged, output)
    return folder


def find_sharded_checkpoint(path: Path) -> Path:
    """Returns the sharded checkpoint that a path names. Raises RecipeError if there is none, or it is damaged."""
    found = list_checkpoints(path / CHECKPOINTS)
    folder = found[-1] if found else path
    if not (folder / SHARDS).is_dir():
        raise RecipeError(explain_no_shards(folder))
    damage = find_damage(folder)
    if damage is not None:
        raise RecipeError(f"{folder} is not whole ({damage}): name an earlier checkpoint")
    if not (folder / CONFIG_NAME).is_file():
        raise RecipeError(f"{folder} has no {CONFIG_NAME}: copy that of its model (and its processor) into it")
    return folder


def explain_no_shards(folder: Path) -> str:
    """Returns why a folder cannot be consolidated, and what to do."""
    if is_adapter_folder(str(folder)):
        return f"{folder} holds adapters, which are not in shards: plait merge adds them to the weights"
    if (folder / SAFE_WEIGHTS_NAME).is_file():
        return f"{folder} has whole weights ({SAFE_WEIGHTS_NAME}): it is loaded as it is"
    if any(folder.glob("global_step*")):
        return f"{folder} is a checkpoint of DeepSpeed: run the zero_to_fp32.py that lies in it"
    return f"{folder} has no sharded checkpoint ({SHARDS}): name a checkpoint of a run with fsdp2, or its run folder"


def load_shards(folder: Path) -> Any:
    """Loads the model of a sharded checkpoint, with the class and the types of its weights.

    Raises RecipeError for a class that plait does not have, or weights that are not those of the class.
    """
    config = PlaitConfig.from_pretrained(folder)
    name = next(iter(config.architectures or ()), "")
    model_class = find_saving_class(name)
    if model_class is None:
        raise RecipeError(f"{folder}: its {CONFIG_NAME} names the class {name or 'of no model'}, which plait has not")
    model = model_class(config)
    weights = read_weights(folder / SHARDS)
    tied = set(model.all_tied_weights_keys)
    wanted = set(model.state_dict())
    differing = sorted((wanted - tied - weights.keys()) | (weights.keys() - wanted))
    if differing:
        raise RecipeError(f"{folder}: {differing[0]} and {len(differing) - 1} other weights are not those of {name}")
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    if model.can_generate() and (folder / GENERATION_CONFIG_NAME).is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model


def read_weights(shards: Path) -> dict[str, torch.Tensor]:
    """Reads all weights of a folder of torch.distributed.checkpoint, whole, by name."""
    reader = FileSystemReader(shards)
    known: Any = reader.read_metadata().state_dict_metadata
    weights = {name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in known.items()}
    load(weights, storage_reader=reader, no_dist=True)
    return {name.removeprefix(WEIGHT_PREFIX): value for name, value in weights.items()}
