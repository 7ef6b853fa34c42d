"""A program in which plait cannot be imported: what saved folders answer by the code that lies beside them.

python without_plait.py CASES.json    # {name: {"folder", "class_name", "inputs", "rows", "snippet"}, ...}

A folder may be the name of a repository of the Hub.
"""

import json
import os
import sys
from contextlib import redirect_stdout
from hashlib import sha256
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any


class HiddenPlait:
    """A finder by which plait is not installed."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] == "plait":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def hash_tensors(tensors: dict[str, Any]) -> str:
    """The SHA-256 of tensors and their names."""
    digest = sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def answer(case: dict[str, Any]) -> dict[str, Any]:
    """What a folder answers: the classes that load it, the hashes of its outputs, and what a snippet prints."""
    import torch
    import transformers
    from safetensors.torch import load_file
    from transformers.dynamic_module_utils import get_class_from_dynamic_module
    from transformers.utils import cached_file

    answers, folder = import_module("answers"), case["folder"]
    found: dict[str, Any] = {"classes": {}}
    torch.set_num_threads(1)
    if case.get("class_name"):
        auto_map = json.loads(Path(str(cached_file(folder, "config.json"))).read_text())["auto_map"]
        for auto in auto_map:
            loaded = getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True)
            found["classes"][auto] = type(loaded).__name__
        own = get_class_from_dynamic_module(f"modeling_plait.{case['class_name']}", folder)
        found["model"] = hash_tensors(answers.ask(own.from_pretrained(folder), load_file(case["inputs"])))
    if case.get("rows"):
        processor = transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=True)
        found["processor"] = hash_tensors(answers.process(processor, answers.read_rows(Path(case["rows"]))))
    if case.get("tokenizer"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
        found["tokenizer"] = tokenizer(case["tokenizer"])["input_ids"]
    if case.get("snippet"):
        printed = StringIO()
        if os.path.isdir(folder):
            os.chdir(Path(folder).parent)
        with redirect_stdout(printed):
            exec(compile(case["snippet"], "snippet", "exec"), {})
        found["printed"] = printed.getvalue()
    return found


if __name__ == "__main__":
    sys.meta_path.insert(0, HiddenPlait)  # type: ignore[arg-type]
    sys.path.insert(0, str(Path(__file__).parents[2] / "compatibility"))
    cases = json.loads(Path(sys.argv[1]).read_text())
    print("\n" + json.dumps({name: answer(case) for name, case in cases.items()}))
