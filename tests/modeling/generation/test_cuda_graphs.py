"""What a CUDA graph needs of a decode step over a static cache, shown on a CPU: nothing waits for a value of a tensor
while the step is captured, and the step writes the tokens that `generate` writes."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .. import zoo

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
from graphed_decoding import GraphedDecoder

ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
WAITS = ("_local_scalar_dense", "is_nonzero", "nonzero", "item", "equal")


class Waits(TorchDispatchMode):
    """Lists the operations that wait for values of tensors, which end a capture with an error."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.found += [name] if name in WAITS else []
        return func(*args, **(kwargs or {}))


def make_prompt(rows: int) -> Tensor:
    return torch.randint(3, 40, (rows, 7), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=ON_GPU)])
@pytest.mark.parametrize("rows", [1, 3])
def test_the_tokens_are_those_of_generate(rows: int, device: str) -> None:
    model, ids = zoo.build("PlaitForCausalLM", "decoder").eval().to(device), make_prompt(rows).to(device)
    model.generation_config.eos_token_id = None
    expected = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False)
    decoder = GraphedDecoder(model, rows, 7 + 6)
    assert torch.equal(decoder.write(ids, 6), expected) and torch.equal(decoder.write(ids, 6), expected)
    with pytest.raises(ValueError, match="7 \\+ 7 tokens are more than the 13"):
        decoder.write(ids, 7)


@torch.inference_mode()
def test_nothing_waits_for_a_value_while_a_step_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = GraphedDecoder(zoo.build("PlaitForCausalLM", "decoder").eval(), 3, 13)
    decoder.read(make_prompt(3))
    with Waits() as outside:
        decoder.step()
    expected = decoder.tokens.clone()
    assert outside.found  # the checks of positions and masks
    decoder.read(make_prompt(3))
    with monkeypatch.context() as patch, Waits() as captured:
        patch.setattr(torch.cuda, "is_initialized", lambda: True)
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        decoder.step()
    assert not captured.found
    assert torch.equal(decoder.tokens, expected)
