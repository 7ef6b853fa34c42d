"""The temperature and bias of similarities: scalars in files; of shape (1,) in the model, which FSDP shards."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from plait import PlaitForRetrieval, PlaitModel
from plait.configuration import PlaitRetrievalConfig
from plait.modeling.core.transformer import PlaitLayer
from plait.training.optimization.optimizer_state import fit_states_to_parameters

from .. import zoo

NAMES = ("similarity.logit_scale", "similarity.logit_bias")


def build() -> Any:
    """Two towers in one space, with a temperature and a bias."""
    config = zoo.config_of("apart")
    config.retrieval_config = PlaitRetrievalConfig(projection_dim=24, loss="sigmoid", logit_bias_init_value=-1.5)
    torch.manual_seed(0)
    return PlaitForRetrieval(config)


def test_files_hold_scalars_and_both_shapes_are_read(tmp_path: Path) -> None:
    model = build()
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert [saved[name].shape for name in NAMES] == [(), ()]
    for shape in ((), (1,)):
        shaped = saved | {name: saved[name].reshape(shape) for name in NAMES}
        save_file(shaped, tmp_path / "model.safetensors", {"format": "pt"})
        again, info = PlaitForRetrieval.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info.values())
        assert all(torch.equal(again.get_parameter(name), model.get_parameter(name)) for name in NAMES)
        other = build()
        other.load_state_dict(load_file(tmp_path / "model.safetensors"))
        assert all(torch.equal(other.get_parameter(name), model.get_parameter(name)) for name in NAMES)
    assert set(PlaitModel.from_pretrained(tmp_path, output_loading_info=True)[1]["unexpected_keys"]) >= set(NAMES)


def test_an_optimizer_goes_on_with_the_averages_of_scalars() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([weight])
    weight.grad = torch.ones(1)
    optimizer.step()
    state = optimizer.state_dict()
    old = {name: value.reshape(()) for name, value in state["state"][0].items()}
    again = torch.optim.AdamW([weight])
    again.register_load_state_dict_post_hook(fit_states_to_parameters)
    again.load_state_dict({**state, "state": {0: old}})
    again.step()
    assert again.state[weight]["exp_avg"].shape == (1,) and again.state[weight]["step"].shape == ()


def arguments() -> dict[str, Any]:
    return {**zoo.inputs_of("apart", batch=4), "return_loss": True}


def of_process(rank: int, port: int, folder: Path) -> None:
    """Two steps of one process of two, each with half of the rows; process 0 saves the whole model."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": "2"}
    distributed.init_process_group("gloo")
    model, mesh = build().train(), init_device_mesh("cpu", (2,))
    for layer in [module for module in model.modules() if isinstance(module, PlaitLayer)]:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    rows = {name: value[2 * rank :][:2] if isinstance(value, Tensor) else value for name, value in arguments().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(**rows).loss.backward()
        optimizer.step()
    whole = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    if rank == 0:
        model.save_pretrained(folder, state_dict=whole)
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_sharded_processes_train_as_one(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "SHARDED_PORT": str(port), "SHARDED_FOLDER": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "of_one_of_two"]
    processes = [subprocess.Popen(command, env={**environment, "SHARDED_RANK": str(rank)}) for rank in range(2)]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    one = build().train()
    optimizer = torch.optim.SGD(one.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        one(**arguments()).loss.backward()
        optimizer.step()
    loaded = dict(PlaitForRetrieval.from_pretrained(tmp_path).named_parameters())
    for name, parameter in one.named_parameters():
        torch.testing.assert_close(loaded[name], parameter, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.skipif("SHARDED_RANK" not in os.environ, reason="run by test_two_sharded_processes_train_as_one")
def test_of_one_of_two() -> None:
    of_process(int(os.environ["SHARDED_RANK"]), int(os.environ["SHARDED_PORT"]), Path(os.environ["SHARDED_FOLDER"]))
