"""Every class and shape is sharded as accelerate does it (FSDP2), layer by layer, and computes the same."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy, fsdp2_prepare_model
from torch import distributed
from torch.distributed.fsdp import FSDPModule

from plait.modeling.core.transformer import PlaitLayer

from ..zoo import CASES, build, inputs_of, main_tensor


@pytest.fixture(scope="module", autouse=True)
def process() -> Iterator[None]:
    """A group of one process, which shards as several would."""
    store: Any = getattr(distributed, "HashStore")()  # noqa: B009
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_sharded_layer_by_layer_it_computes_the_same(case: tuple[str, str]) -> None:
    plain: Any = build(*case)
    sharded: Any = build(*case)
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="transformer_based_wrap")
    state = SimpleNamespace(fsdp_plugin=plugin)
    accelerator: Any = SimpleNamespace(
        state=state, mixed_precision="no", is_main_process=True, device=torch.device("cpu")
    )
    plugin.set_auto_wrap_policy(sharded)
    wraps = fsdp2_prepare_auto_wrap_policy(plugin, sharded)
    assert wraps is not None and set(sharded._no_split_modules) == {
        type(part).__name__ for part in sharded.modules() if wraps(part)
    }
    fsdp2_prepare_model(accelerator, sharded)
    layers = [part for part in sharded.modules() if isinstance(part, PlaitLayer)]
    assert layers and all(isinstance(layer, FSDPModule) for layer in layers)
    outputs = [main_tensor(model(**inputs_of(case[1]))) for model in (plain, sharded)]
    torch.testing.assert_close(outputs[1], outputs[0])
    for output in outputs:
        output.square().sum().backward()
    gradients = {name: each.grad for name, each in plain.named_parameters()}
    for name, parameter in sharded.named_parameters():
        own = None if parameter.grad is None else parameter.grad.full_tensor()
        assert (own is None) == (gradients[name] is None), name
        if own is not None:
            torch.testing.assert_close(own, gradients[name], msg=name)
