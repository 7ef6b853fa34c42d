"""Compares what is loaded now with what was saved: tensors, numbers and files of JSON.

Kernels differ between processors, so that numbers may differ by rounding: PLAIT_BIT_EQUAL=1 asks for equal bits, on the
machine and with the libraries that made the folders.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import PIL
import torch
import transformers
from torch import Tensor

BIT_EQUAL = os.environ.get("PLAIT_BIT_EQUAL") == "1"
TOLERANCE = 1e-5  # of the largest number, or of one
# the folders were saved with Pillow 13; other versions resize some pixels to the next of 256 levels, here as normalized
PIXELS, LEVEL = "pixel_values", 0.0 if PIL.__version__.startswith("13.") else 2.5 / 255
UNREAL = 1e30  # the lowest number there is stands for a token that cannot be chosen
# which versions wrote a file, and where a tokenizer was loaded from
CIRCUMSTANCES = ("transformers_version", "__version__", "is_local", "local_files_only", "auto_map")


def read_json(file: Path) -> Any:
    """Returns the content of a JSON file."""
    return json.loads(file.read_text(encoding="utf-8"))


def is_same_transformers(folder: Path) -> bool:
    """Whether a folder was saved with the installed version of transformers."""
    return read_json(folder / "config.json")["transformers_version"] == transformers.__version__


def measure_difference(found: Tensor, expected: Tensor) -> float:
    """Returns max|a - b| / max(1, max|b|); infinity where an unreal number stands in only one of them."""
    real = expected.abs() < UNREAL
    if not torch.equal(real, found.abs() < UNREAL) or not torch.equal(found[~real], expected[~real]):
        return float("inf")
    if not bool(real.any()):
        return 0.0
    return float((found[real] - expected[real]).abs().max() / expected[real].abs().max().clamp(min=1))


def check_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float = TOLERANCE) -> None:
    """Asserts that names, shapes and types are equal, and numbers up to rounding."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].shape, found[name].dtype) == (tensor.shape, tensor.dtype), name
        if LEVEL and name.endswith(PIXELS):
            assert measure_difference(found[name], tensor) <= LEVEL, name
        elif BIT_EQUAL or not tensor.is_floating_point():
            assert torch.equal(found[name], tensor), name
        else:
            assert measure_difference(found[name], tensor) <= tolerance, name


def check_values(found: Any, expected: Any, tolerance: float = TOLERANCE, path: str = "") -> None:
    """Asserts that nested values are equal, numbers up to rounding."""
    if isinstance(expected, Mapping):
        assert found.keys() == expected.keys(), path
        for name, value in expected.items():
            check_values(found[name], value, tolerance, f"{path}.{name}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), path
        for number, value in enumerate(expected):
            check_values(found[number], value, tolerance, f"{path}.{number}")
    elif isinstance(expected, float) and not BIT_EQUAL:
        assert abs(found - expected) <= tolerance * max(1.0, abs(expected)), path
    else:
        assert found == expected, path


def keep_common(found: Any, expected: Any) -> tuple[Any, Any]:
    """Returns both without the keys that only one of them has: versions of a library write different ones."""
    if not isinstance(found, Mapping) or not isinstance(expected, Mapping):
        return found, expected
    pairs = {name: keep_common(found[name], expected[name]) for name in found.keys() & expected.keys()}
    return {name: pair[0] for name, pair in pairs.items()}, {name: pair[1] for name, pair in pairs.items()}


def read_settings(file: Path) -> dict[str, Any]:
    """Returns the content of a JSON file but for the circumstances of its saving. Loading a model writes its dtype into
    the configs of its parts, which have none in a model that was never loaded: it is filled in here."""
    content = {name: value for name, value in read_json(file).items() if name not in CIRCUMSTANCES}
    if file.name != "config.json":
        return content
    dtype = {"dtype": content["dtype"]}
    return {
        name: {**part, **dtype} if isinstance(part, dict) and part.get("dtype", "") is None else part
        for name, part in content.items()
    }


def check_files(found: Path, expected: Path, exact: bool = True) -> None:
    """Asserts that a file of JSON or text is equal to another; not `exact`: where both have a key."""
    if found.suffix != ".json":
        assert found.read_text(encoding="utf-8") == expected.read_text(encoding="utf-8"), found.name
        return
    contents = (read_settings(found), read_settings(expected))
    ours, theirs = contents if exact else keep_common(*contents)
    assert ours == theirs, found.name
