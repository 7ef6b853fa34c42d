"""A graph of any class, exported or traced, serves other numbers of rows, other paddings and other values."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plait import modeling

from ..zoo import CASES, build, inputs_of, main_tensor

ASKED = "is_torchdynamo_compiling"


class Positional(nn.Module):
    """The model as a function of its tensors in a fixed order, which returns one tensor."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *tensors: Tensor) -> Tensor:
        takes = inspect.signature(self.model.forward).parameters
        options: dict[str, Any] = {"use_cache": False} if "use_cache" in takes else {}
        return main_tensor(self.model(**dict(zip(self.names, tensors, strict=True)), **options))


def alter(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Five rows in another order, with other padding and values, of the same length."""
    altered = {name: value.flip(0) for name, value in inputs.items()}
    if "attention_mask" in altered:
        mask = altered["attention_mask"].clone()
        mask[1, -1:] = 0
        altered["attention_mask"] = mask
    return altered


def test_one_place_knows_whether_a_graph_is_recorded() -> None:
    """Who asks only for compilation takes a traced call for a plain one, and branches on its values."""
    root = Path(modeling.__file__).parent
    asking = {path.relative_to(root).as_posix() for path in root.rglob("*.py") if ASKED in path.read_text()}
    assert asking == {"graphs.py", "kernels/training.py"}  # the latter chooses kernels, by no value


@pytest.mark.slow
@pytest.mark.parametrize("how", ["exported", "traced"])
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_a_graph_serves_other_batches(case: tuple[str, str], how: str) -> None:
    model, inputs, others = build(*case), inputs_of(case[1]), alter(inputs_of(case[1], batch=5))
    names = list(inputs)
    function = Positional(model, names).eval()
    values = tuple(inputs.values())
    if how == "exported":
        batch = {0: torch.export.Dim("batch", min=2, max=64)}
        shapes = ((batch,) * len(names),)
        graph: Any = torch.export.export(function, values, dynamic_shapes=shapes, strict=False).module()
    else:
        graph = torch.jit.trace(function, values, check_trace=False)
    with torch.no_grad():
        for given in (inputs, others):
            tensors = [given[name] for name in names]
            expected, found = function(*tensors), graph(*tensors)
            if "attention_mask" in given and expected.ndim == 3:  # padding of the text, which comes first, has no value
                mask = given["attention_mask"].bool()
                kept = nn.functional.pad(mask, (0, expected.shape[1] - mask.shape[1]), value=True)
                expected, found = expected[kept], found[kept]
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
