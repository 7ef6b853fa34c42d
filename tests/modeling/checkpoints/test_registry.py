"""The table of the families, by which their files are imported one by one."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

from plait.modeling.checkpoints.families import registry
from plait.modeling.checkpoints.families.registry import FAMILIES, MODULES


def test_the_table_says_what_the_files_hold() -> None:
    names = {path.stem for path in Path(registry.__file__).parent.glob("*.py")} - {"__init__", "registry"}
    held = {name: import_module(f"{registry.__package__}.{name}").FAMILIES for name in names}
    assert {model_type: name for name in names for family in held[name] for model_type in family.model_types} == MODULES
    assert all(FAMILIES[model_type] in held[name] for model_type, name in MODULES.items())


def test_an_unknown_model_type_has_no_family() -> None:
    assert "poolformer" not in FAMILIES
    assert FAMILIES.get("poolformer") is None


def test_a_family_is_imported_when_it_is_looked_up() -> None:
    code = f"""
import sys, plait
from {registry.__name__} import FAMILIES
def imported(): return {{name for name in FAMILIES if FAMILIES_FILE.format(name) in sys.modules}}
FAMILIES_FILE = "{registry.__package__}.{{}}"
assert not imported()
assert "bert" in FAMILIES and not imported()
FAMILIES["bert"]
assert imported() == {{"bert"}}
"""
    subprocess.run([sys.executable, "-c", code], check=True)
