"""Imports point one way and cost little; files and functions stay small."""

import ast
import json
import os
import statistics
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from functools import cache
from io import StringIO
from pathlib import Path

import pytest

from plait.modeling.checkpoints.families.registry import MODULES

ROOT = Path(__file__).parents[2]
BELOW = {  # what a layer may import besides itself
    "configuration": set(),
    "modeling": {"configuration"},
    "processing": {"configuration"},
    "training": {"configuration", "modeling", "processing"},
}
HEAVY = {"datasets", "evaluate", "matplotlib", "pandas", "peft", "pyarrow", "sentence_transformers", "sklearn"}
HEAVY |= {"transformers.trainer"}
MOST_SECONDS = 0.3
IMPORT_COST = """
import gc, json, sys, time
from transformers import AutoModel, GenerationMixin, PreTrainedModel, ProcessorMixin
gc.freeze()  # a search for cycles in what transformers has made is not plait's
before, start = set(sys.modules), time.process_time()
import plait
print(json.dumps({"seconds": time.process_time() - start, "modules": sorted(set(sys.modules) - before)}))
"""


@cache
def texts() -> dict[str, str]:
    """The source of every module of the package, by its dotted name."""
    below = [path for layer in BELOW for path in (ROOT / layer).rglob("*.py")]
    paths = [*(ROOT / name for name in ("__init__.py", "__main__.py", "registration.py")), *below]
    return {module_name(path): path.read_text(encoding="utf-8") for path in paths}


@cache
def trees() -> dict[str, ast.Module]:
    return {module: ast.parse(text, module) for module, text in texts().items()}


def module_name(path: Path) -> str:
    parts = ("plait", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_parts(module: str) -> list[str]:
    is_package = (ROOT.joinpath(*module.split(".")[1:]) / "__init__.py").is_file()
    return module.split(".") if is_package else module.split(".")[:-1]


def imported(module: str, statement: ast.stmt) -> Iterator[str]:
    """The modules that one statement of `module` imports, by their absolute names."""
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names)
    elif isinstance(statement, ast.ImportFrom):
        parts = package_parts(module)
        above = parts[: len(parts) - statement.level + 1] if statement.level else []
        base = ".".join([*above, *([statement.module] if statement.module else [])])
        for alias in statement.names:
            is_module = f"{base}.{alias.name}" in texts()
            yield f"{base}.{alias.name}" if is_module or base == "plait" else base


def imports_anywhere(module: str) -> set[str]:
    return {name for node in ast.walk(trees()[module]) if isinstance(node, ast.stmt) for name in imported(module, node)}


def layer(module: str) -> str:
    """`plait.modeling.heads` -> modeling; the root itself -> plait."""
    return module.split(".")[1] if "." in module else module


@cache
def code_lines(module: str) -> set[int]:
    """The numbers of the lines that hold code: docstrings, comments and blank lines do not count."""
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = [t for t in tokenize.generate_tokens(StringIO(texts()[module]).readline) if t.type not in layout]
    strings = [node for node in ast.walk(trees()[module]) if isinstance(node, ast.Expr)]
    strings = [node for node in strings if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)]
    docstrings = {line for node in strings for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}
    return {line for token in tokens for line in range(token.start[0], token.end[0] + 1)} - docstrings


def lengths_of(kind: type[ast.FunctionDef] | type[ast.ClassDef]) -> dict[str, int]:
    """Code lines in the body of every function or class, by `module.name:line`."""
    return {
        f"{module}.{node.name}:{node.lineno}": sum(
            node.body[0].lineno <= line <= (node.end_lineno or 0) for line in code_lines(module)
        )
        for module, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, kind)
    }


def measure_import() -> dict:
    """CPU seconds and modules that `import plait` adds, in a fresh process."""
    folder = Path(__file__).parent  # no folder of the checkout may pass for a module
    run = subprocess.run([sys.executable, "-c", IMPORT_COST], check=True, capture_output=True, text=True, cwd=folder)
    return json.loads(run.stdout.splitlines()[-1])


@cache
def import_cost() -> list[dict]:
    """Three measurements; up to six more as long as none is below the bound: a busy machine slows some of them."""
    runs = [measure_import() for _ in range(3)]
    while len(runs) < 9 and min(run["seconds"] for run in runs) > MOST_SECONDS:
        runs.append(measure_import())
    return runs


@pytest.mark.parametrize("name", BELOW)
def test_a_layer_imports_only_what_lies_below(name: str) -> None:
    modules = [module for module in texts() if layer(module) == name]
    assert modules
    allowed = BELOW[name] | {name}
    upward = {
        (module, target)
        for module in modules
        for target in imports_anywhere(module)
        if target.split(".")[0] == "plait" and layer(target) not in allowed
    }
    assert not upward


def test_configuration_needs_no_torch() -> None:
    modules = [module for module in texts() if layer(module) == "configuration"]
    assert modules
    libraries = {target.split(".")[0] for module in modules for target in imports_anywhere(module)}
    assert not libraries & {"torch", "numpy", "PIL", "datasets", "accelerate"}


def test_importing_plait_costs_at_most_three_tenths_of_a_second() -> None:
    assert min(run["seconds"] for run in import_cost()) <= MOST_SECONDS


def test_importing_plait_brings_no_trainer_data_or_plotting_library() -> None:
    added = import_cost()[0]["modules"]
    assert "plait.modeling" in added
    assert not {module for module in added if module in HEAVY or module.split(".")[0] in HEAVY}


def test_no_file_has_more_than_400_lines() -> None:
    left_out = {"build", "site", "typings", "__pycache__"}
    lengths = {}
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in left_out and not name.startswith(".")]
        python = [Path(folder, name) for name in names if name.endswith(".py")]
        lengths |= {str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines()) for path in python}
    assert "__init__.py" in lengths
    assert not {path: length for path, length in lengths.items() if length > 400}


def test_functions_are_short() -> None:
    lengths = list(lengths_of(ast.FunctionDef).values())
    assert statistics.median(lengths) <= 8
    assert statistics.quantiles(lengths, n=10)[-1] <= 25


def test_every_forward_fits_in_25_lines() -> None:
    forwards = {name: length for name, length in lengths_of(ast.FunctionDef).items() if ".forward:" in name}
    assert forwards
    assert not {name: length for name, length in forwards.items() if length > 25}


def test_every_attention_fits_in_50_lines() -> None:
    lengths = {name: length for name, length in lengths_of(ast.ClassDef).items() if "Attention:" in name}
    assert any(".PlaitAttention:" in name for name in lengths)
    assert not {name: length for name, length in lengths.items() if length > 50}


def test_the_layer_fits_in_17_lines() -> None:
    lengths = {name: length for name, length in lengths_of(ast.ClassDef).items() if ".PlaitLayer:" in name}
    assert len(lengths) == 1
    assert not {name: length for name, length in lengths.items() if length > 17}


def test_every_mlp_fits_in_15_lines() -> None:
    lengths = {name: length for name, length in lengths_of(ast.ClassDef).items() if "MLP:" in name}
    assert any(".PlaitGatedMLP:" in name for name in lengths)
    assert not {name: length for name, length in lengths.items() if length > 15}


def test_every_family_fits_in_90_lines() -> None:
    lengths = {name: len(code_lines(f"plait.modeling.checkpoints.families.{name}")) for name in MODULES.values()}
    assert "bert" in lengths
    assert not {name: length for name, length in lengths.items() if length > 90}
