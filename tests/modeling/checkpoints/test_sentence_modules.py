"""The weights of a sentence encoder's modules: safetensors, and pickles only if they are asked for."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from plait.modeling.checkpoints.sentence_modules import read_module_weights


def save(folder: Path, pickled: float | None, safe: float | None) -> str:
    (folder / "2_Dense").mkdir()
    for number, name, write in (
        (pickled, "pytorch_model.bin", torch.save),
        (safe, "model.safetensors", save_file),
    ):
        if number is not None:
            write({"linear.weight": torch.full((2, 2), number)}, folder / "2_Dense" / name)
    return str(folder)


@pytest.mark.parametrize(("options", "expected"), [({}, 1.0), ({"use_safetensors": False}, 2.0)])
def test_a_pickle_is_read_only_if_asked_for(options: dict[str, bool], expected: float, tmp_path: Path) -> None:
    weights = read_module_weights(save(tmp_path, pickled=2.0, safe=1.0), "2_Dense", options)
    assert float(weights["linear.weight"][0, 0]) == expected


def test_safetensors_stand_in_for_a_pickle_that_is_not_there(tmp_path: Path) -> None:
    weights = read_module_weights(save(tmp_path, pickled=None, safe=3.0), "2_Dense", {"use_safetensors": False})
    assert float(weights["linear.weight"][0, 0]) == 3.0


def test_a_pickle_alone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"model\.safetensors: save it again"):
        read_module_weights(save(tmp_path, pickled=2.0, safe=None), "2_Dense", {})
