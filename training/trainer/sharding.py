"""Training whose weights are sharded over the processes (FSDP): what accelerate leaves out."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import DistributedType
from transformers.trainer_utils import unwrap_peft_model

from ..optimization.arguments import PlaitTrainingArguments


def allow_sharding_on_cpus(args: PlaitTrainingArguments) -> None:
    """Lets accelerate shard over processes on CPUs, before its state is built: it does so only for processes that count
    as those of an accelerator, and otherwise copies the whole model into each (DDP) without a word."""
    state = PartialState()
    if args.uses_fsdp and state.distributed_type == DistributedType.MULTI_CPU:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def find_sharded_plugin(trainer: Any) -> Any:
    """Returns accelerate's settings of FSDP, if checkpoints are written in shards; else None."""
    plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    return plugin if plugin is not None and "SHARDED" in str(plugin.state_dict_type) else None


@contextmanager
def gather_shards(trainer: Any) -> Iterator[None]:
    """Opens a context in which a model whose checkpoints are sharded is saved whole, as the Trainer does only with
    checkpoints that are whole too."""
    plugin = find_sharded_plugin(trainer)
    if plugin is None:
        yield
        return
    kept = plugin.state_dict_type, plugin.state_dict_config, plugin.optim_state_dict_config
    plugin.state_dict_config = plugin.optim_state_dict_config = None
    plugin.set_state_dict_type("FULL_STATE_DICT")
    try:
        yield
    finally:
        plugin.state_dict_type, plugin.state_dict_config, plugin.optim_state_dict_config = kept


def describe_checkpoint(trainer: Any, folder: Path) -> None:
    """Saves config and processor into a sharded checkpoint, from which a plain folder can then be made without the
    run (`plait consolidate`)."""
    if not trainer.args.should_save:
        return
    model = unwrap_peft_model(trainer.accelerator.unwrap_model(trainer.model))
    config = deepcopy(model.config)
    config.architectures = [type(model).__name__.removeprefix("FSDP")]  # `fully_shard` renames the class
    config.dtype = str(model.dtype).removeprefix("torch.")
    config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
    if trainer.processing_class is not None:
        trainer.processing_class.save_pretrained(folder)
