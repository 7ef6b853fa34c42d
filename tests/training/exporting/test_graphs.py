"""Exported graphs equal the model; what cannot be exported says why."""

from pathlib import Path

import pytest

from plait.training.exporting import export_model
from plait.training.exporting.checking import TOLERANCE
from plait.training.recipes.errors import RecipeError

from ...modeling.zoo import CASES, build

pytest.importorskip("onnxruntime")
REFUSED = {
    case: "computes training objectives and answers nothing" for case in CASES if case[0] == "PlaitForPreTraining"
} | {("PlaitModel", "inline"): "save the model as PlaitForCausalLM"}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=() if case == ("PlaitForClassification", "image") else pytest.mark.slow)
        for case in CASES
    ],
    ids="-".join,
)
def test_every_class_is_exported_or_says_why_not(case: tuple[str, str], tmp_path: Path) -> None:
    """Of other numbers of rows, tokens and images, by the command's own check; generated tokens too."""
    if case in REFUSED:
        with pytest.raises(RecipeError, match=REFUSED[case]):
            export_model(build(*case), None, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        return
    found = export_model(build(*case), None, tmp_path / "out")
    assert found.differences
    assert max(found.differences.values()) <= TOLERANCE
    assert all((tmp_path / "out" / name).is_file() for name in found.differences)
