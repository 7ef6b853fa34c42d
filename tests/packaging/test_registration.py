"""`import plait` is cheap, and plait's classes are known to the Auto classes whatever is imported first."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HELP = """
import json, sys
from plait.training.cli import main
try:
    code = main({arguments!r})
except SystemExit as stop:
    code = stop.code
print()
print(json.dumps({{"code": code, "modules": sorted(sys.modules)}}))
"""
# each order in a fork of one process, which has torch, the larger part of the imports
ORDERS = """
import os, sys
import torch
for code in {orders!r}:
    child = os.fork()
    if not child:
        exec(code)
        from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
        from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
        kind = CONFIG_MAPPING["plait"]
        names = [table[kind].__name__ for table in (MODEL_FOR_CAUSAL_LM_MAPPING, PROCESSOR_MAPPING)]
        left = [finder for finder in sys.meta_path if "plait" in type(finder).__module__]
        os._exit(0 if names == ["PlaitForCausalLM", "PlaitProcessor"] and not left else 1)
    if os.waitpid(child, 0)[1]:
        sys.exit(code)
"""
MORE_ORDERS = [
    "import plait.modeling.core.attention",
    "from transformers import AutoModel; import plait",
    "import transformers, plait",
    "import transformers; transformers.PreTrainedModel; import plait; transformers.AutoConfig",
    "import plait, transformers.models.auto.tokenization_auto",
    "import plait; from transformers import PreTrainedModel, Trainer, pipeline",
    "from plait.configuration import PlaitConfig",
    "from plait.processing import PlaitProcessor",
    "import plait; plait.PlaitModel; plait.modeling.outputs",
    "from plait.training import COMMANDS; COMMANDS['train']",
]


def run_python(code: str) -> str:
    folder = Path(__file__).parent  # no folder of the checkout may pass for a module
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert not done.returncode, done.stderr
    return done.stdout


def check_orders(*orders: str) -> None:
    run_python(ORDERS.format(orders=orders))


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["train", "--help"], ["keys", "data"]], ids=" ".join)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    found = json.loads(run_python(HELP.format(arguments=arguments)).splitlines()[-1])
    assert not found["code"]
    assert not {"torch", "transformers", "datasets", "numpy"} & set(found["modules"])


def test_classes_are_registered_whatever_comes_first() -> None:
    check_orders("import plait; from transformers import AutoModel")


@pytest.mark.slow
def test_classes_are_registered_in_every_order() -> None:
    check_orders(*MORE_ORDERS)


def test_importing_plait_beside_transformers_costs_no_more_than_plait_alone() -> None:
    """transformers imports its modules when they are used, and so does plait."""
    found = run_python(
        "import transformers, plait, sys; print('torch' in sys.modules, 'plait.modeling' in sys.modules)"
    )
    assert found.split() == ["False", "False"]
