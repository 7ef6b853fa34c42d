"""The code that a saved folder names in its `auto_map`: with `trust_remote_code=True` transformers imports it.

It imports the installed plait, which registers its classes; without plait, the error says to install it. Or it is
plait's own code (`export_code`), three flat files of which this file is then a part.
"""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from shutil import copyfile

MODULE = "load_plait"
FILE_NAME = f"{MODULE}.py"
CODE = '''"""Lets transformers load this folder by plait's classes (trust_remote_code=True): pip install plait"""

from plait import PlaitConfig, PlaitProcessor

__all__ = ["PlaitConfig", "PlaitProcessor"]
'''
FLAT_LAYERS = ("configuration", "modeling", "processing")  # each is one flat file, which imports only files before it
FLAT_MODULES = {layer: f"{layer}_plait" for layer in FLAT_LAYERS}
IS_FLAT = Path(__file__).stem in FLAT_MODULES.values()  # whether this is the code beside a model, not installed plait


def write_remote_code(saved_file: str | PathLike[str]) -> None:
    """Writes the code beside a saved config or processor file; the code beside a model copies itself."""
    folder, here = Path(saved_file).parent, Path(__file__).parent
    if not IS_FLAT:
        (folder / FILE_NAME).write_text(CODE, encoding="utf-8")
        return
    for source in (here / f"{module}.py" for module in FLAT_MODULES.values()):
        if source.is_file() and source.parent.resolve() != folder.resolve():
            copyfile(source, folder / source.name)


def refer_to(class_name: str, flat: bool = IS_FLAT) -> str:
    """Returns an `auto_map`'s reference to a class; flat: in plait's own code beside the model."""
    if not flat:
        return f"{MODULE}.{class_name}"
    return f"{FLAT_MODULES['processing' if class_name == 'PlaitProcessor' else 'modeling']}.{class_name}"


def is_remote_code(reference: object) -> bool:
    """Returns whether an entry of an `auto_map`, "[repository--]module.class", names plait's code."""
    modules = (MODULE, *FLAT_MODULES.values())
    return isinstance(reference, str) and reference.split("--")[-1].split(".")[0] in modules


def read_auto_map(entries: Mapping[str, str]) -> dict[str, str]:
    """Returns what a config keeps of its file's `auto_map`: the installed plait needs no entry of its own."""
    return {name: code for name, code in entries.items() if IS_FLAT or not is_remote_code(code)}


def build_auto_map(kept: Mapping[str, str]) -> dict[str, str]:
    """Returns the `auto_map` of a file that is saved now: entries of plait's own name the code that lies beside it."""
    own = {name: code.split("--")[-1] for name, code in kept.items() if is_remote_code(code)}
    return {**kept, **own, "AutoConfig": refer_to("PlaitConfig")}
