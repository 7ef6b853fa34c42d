"""PlaitTrainer trains with the products that the probe chooses, and leaves the model as it was."""

from collections.abc import Callable

import pytest
import torch
from transformers import TrainerCallback

from plait import PlaitTrainer, PlaitTrainingArguments
from plait.modeling.kernels import training as training_products
from plait.modeling.kernels.install import find_kernel
from plait.modeling.kernels.training import AutotunedLinear, LinearKernels, multiply_by_onednn
from plait.training.trainer.callbacks import KernelAutotuning

MakeTrainer = Callable[..., PlaitTrainer]

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")


class Watch(TrainerCallback):
    """How many layers had other products in each step."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def on_step_end(self, *args: object, model: torch.nn.Module, **kwargs: object) -> None:
        self.counts.append(others(model))


def others(model: torch.nn.Module) -> int:
    return sum(isinstance(find_kernel(module), AutotunedLinear) for module in model.modules())


@pytest.fixture
def onednn_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the probe says on this machine, and in models as small as the tests'."""
    monkeypatch.setattr(
        training_products, "probe_kernels", lambda outputs, width: LinearKernels(*[multiply_by_onednn] * 3)
    )
    monkeypatch.setattr(training_products, "LEAST_SIZE", 1)
    monkeypatch.setattr(training_products, "FEWEST_ROWS", 1)


@pytest.mark.usefixtures("onednn_everywhere")
def test_training_is_the_same_up_to_rounding(make_trainer: MakeTrainer) -> None:
    watch = Watch()
    chosen = make_trainer(trainer={"callbacks": [watch]}, num_train_epochs=3)
    plain = make_trainer(num_train_epochs=3, probe_products=False)
    for trainer in (chosen, plain):
        trainer.train()
        assert others(trainer.model) == 0
    assert watch.counts and min(watch.counts) > 10
    expected = plain.model.state_dict()
    for name, value in chosen.model.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)


def test_what_must_not_depend_on_a_probe(make_arguments: Callable[..., PlaitTrainingArguments]) -> None:
    assert make_arguments().probes_products
    for option in ("full_determinism", "torch_compile"):
        assert not make_arguments(**{option: True}).probes_products
    assert not make_arguments(probe_products=False).probes_products


def test_the_callback_is_the_trainers_own(make_trainer: MakeTrainer) -> None:
    for asked in (True, False):
        callbacks = make_trainer(probe_products=asked).callback_handler.callbacks
        assert any(isinstance(callback, KernelAutotuning) for callback in callbacks) == asked
