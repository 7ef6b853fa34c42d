"""The checks of `capabilities.py` that train a model, or compute its gradients in another way."""

import shutil
from functools import cache
from types import SimpleNamespace
from typing import Any

import peft
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy, fsdp2_prepare_model
from capability_cases import Case, answer, check_equal, find_loss
from capability_outcomes import NotApplicableError
from torch import Tensor, distributed
from torch.distributed.fsdp import FSDPModule
from transformers import Trainer, TrainingArguments

import plait
from plait.modeling.composition.parameter_names import part_of
from plait.modeling.core.transformer import PlaitLayer
from plait.training.runs.train import train

QUIET: dict[str, Any] = {"use_cpu": True, "disable_tqdm": True, "report_to": "none", "save_strategy": "no"}


def compute_gradients(model: Any, batch: dict[str, Any]) -> dict[str, Tensor]:
    """Returns the gradient of the loss for every trained parameter. Raises AssertionError for one without."""
    model.zero_grad()
    torch.manual_seed(0)
    find_loss(model, model(**batch)).backward()
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    without = [name for name, each in trained.items() if each.grad is None]
    assert not without, f"no gradient: {', '.join(without[:5])}"
    gradients: dict[str, Any] = {name: each.grad for name, each in trained.items()}
    return {name: getattr(grad, "full_tensor", lambda grad=grad: grad)().clone() for name, grad in gradients.items()}


def check_trainer(case: Case) -> None:
    """transformers' own Trainer takes steps; every part changes."""
    model, arguments = (
        case.load(),
        TrainingArguments(str(case.folder / "trainer"), max_steps=2, learning_rate=1e-2, **QUIET),
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    arguments.remove_unused_columns = False
    trainer = case.run.trainer
    Trainer(model, arguments, data_collator=trainer.data_collator, train_dataset=trainer.train_dataset).train()
    changed = {part_of(name) for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    still = {part_of(name) for name, _ in model.named_parameters()} - changed
    assert not still, f"did not learn: {', '.join(sorted(still))}"


def check_run(case: Case) -> None:
    """`plait train` of a recipe fills a run folder, with the metrics of the model and of the baselines."""
    results = train(case.build_recipe("run", save_strategy="no"), "plait train", overwrite=True)
    found = results["validation"]["model"]
    assert found and all(value == value for value in found.values()), f"metrics that are no numbers: {found}"
    assert all((case.folder / "run" / name).is_file() for name in ("model.safetensors", "README.md", "metrics.json"))


def check_resumed(case: Case) -> None:
    """From a checkpoint in the middle, training ends with the same weights, to the bit."""
    for name in ("whole", "resumed"):
        shutil.rmtree(case.folder / name, ignore_errors=True)
    whole, resumed = case.build_run("whole").trainer, case.build_run("resumed", save_strategy="no").trainer
    whole.train()
    resumed.train(resume_from_checkpoint=str(case.folder / "whole" / "checkpoint-2"))
    assert resumed.state.global_step == whole.state.global_step == 4
    check_equal(resumed.model.state_dict(), whole.model.state_dict())


def check_adapters(case: Case) -> None:
    """Adapters by one call: gradients reach them all, the Trainer's folder comes back, merged they answer the same."""
    model = case.load()
    adapted: Any = peft.get_peft_model(model, plait.lora_config(model, r=2, parts=None, init_lora_weights=False))
    assert any("lora_A" in name for name, _ in adapted.named_parameters())
    optimizer = torch.optim.SGD([each for each in adapted.parameters() if each.requires_grad], lr=1e-2)
    gradients = compute_gradients(adapted.train(), case.batch)
    still = [name for name, gradient in gradients.items() if "lora" in name and not gradient.any()]
    assert not still, f"nothing reaches {', '.join(still[:5])}"
    optimizer.step()
    expected = answer(adapted, case.inputs)
    adapted.save_pretrained(case.folder / "adapters")
    loaded: Any = peft.AutoPeftModel.from_pretrained(case.folder / "adapters")
    assert type(loaded.get_base_model()) is case.shape.kind
    check_equal(answer(loaded, case.inputs), expected)
    check_equal(answer(loaded.merge_and_unload(), case.inputs), expected, tolerance=1e-4)


def check_checkpointing(case: Case) -> None:
    """Gradient checkpointing changes no gradient."""
    model = case.load().train()
    expected = compute_gradients(model, case.batch)
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing
    check_equal(compute_gradients(model, case.batch), expected, tolerance=1e-5)


def check_half(case: Case) -> None:
    """In bfloat16 the loss is near, gradients are finite, and the folder keeps the type."""
    batch = {
        name: value.bfloat16() if torch.is_tensor(value) and value.is_floating_point() else value
        for name, value in case.batch.items()
    }
    plain, model = case.load(), case.load(dtype=torch.bfloat16)
    assert {each.dtype for each in model.parameters()} == {torch.bfloat16}
    losses = [find_loss(each, each(**given)).item() for each, given in ((plain, case.batch), (model, batch))]
    assert abs(losses[1] - losses[0]) < 0.1 * max(1, abs(losses[0])), f"a loss of {losses[1]:.3f}, not {losses[0]:.3f}"
    assert all(bool(gradient.isfinite().all()) for gradient in compute_gradients(model.train(), batch).values())
    model.save_pretrained(case.folder / "half")
    assert type(model).from_pretrained(case.folder / "half").dtype == torch.bfloat16


def check_compiled(case: Case) -> None:
    """torch.compile takes the answers as one graph. In training the graph may break, at checks of the labels and
    at the loss over a vocabulary in chunks: the gradients are the same."""
    model = case.load()
    if case.use.task != "pretraining":
        torch._dynamo.reset()
        whole: Any = torch.compile(model, backend="eager", fullgraph=True)
        check_equal(answer(whole, case.inputs), answer(model, case.inputs), tolerance=1e-5)
    expected = compute_gradients(model.train(), case.batch)
    torch._dynamo.reset()
    compiled: Any = torch.compile(model, backend="eager")
    model.zero_grad()
    torch.manual_seed(0)
    compiled(**case.batch).loss.backward()
    found = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    check_equal(found, expected, tolerance=1e-5)
    if case.use.task == "pretraining":
        raise NotApplicableError("its answers are losses, of pairs that depend on values; gradients are the same")


@cache
def open_process_group() -> None:
    """Opens a group of this process alone, which shards as several would."""
    store: Any = getattr(distributed, "HashStore")()  # noqa: B009
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)


def check_shards(case: Case) -> None:
    """FSDP2 as accelerate does it: every layer a unit of its own, answers and gradients as without."""
    open_process_group()
    plain, sharded = case.load().train(), case.load().train()
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="transformer_based_wrap")
    state = SimpleNamespace(fsdp_plugin=plugin)
    device = torch.device("cpu")
    accelerator: Any = SimpleNamespace(state=state, mixed_precision="no", is_main_process=True, device=device)
    plugin.set_auto_wrap_policy(sharded)
    wraps = fsdp2_prepare_auto_wrap_policy(plugin, sharded)
    assert wraps is not None
    assert {type(each).__name__ for each in sharded.modules() if wraps(each)} == set(sharded._no_split_modules)
    fsdp2_prepare_model(accelerator, sharded)
    layers = [each for each in sharded.modules() if isinstance(each, PlaitLayer)]
    assert layers and all(isinstance(layer, FSDPModule) for layer in layers)
    check_equal(compute_gradients(sharded, case.batch), compute_gradients(plain, case.batch), tolerance=1e-5)
    check_equal(answer(sharded, case.inputs), answer(plain, case.inputs), tolerance=1e-5)
