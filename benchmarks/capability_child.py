"""What saved folders answer in a process of its own: `python capability_child.py unimported|absent CASES.json`.

"unimported": plait is installed and not imported, trust_remote_code lets a folder import it. "absent": plait cannot be
imported, and a folder holds its code. CASES.json: `{name: {folder, auto, inputs, row}}`. The last line printed is
`{name: {hash, module}}`, or `{name: {error}}`.
"""

import json
import sys
from hashlib import sha256
from typing import Any


class HiddenPlait:
    """A finder by which plait is not installed."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] == "plait":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def name_values(output: Any, path: str = "") -> dict[str, Any]:
    """Returns the tensors of an output by dotted name; caches are left out."""
    if hasattr(output, "numpy"):
        return {path: output.detach()}
    if not isinstance(output, dict):
        return {}
    return {name: value for key, part in output.items() for name, value in name_values(part, f"{path}.{key}").items()}


def hash_values(output: Any) -> str:
    """Returns the SHA-256 of the tensors of an output and their names."""
    digest = sha256()
    for name, value in sorted(name_values(output).items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def hash_answers(model: Any, processor: Any, case: dict[str, Any]) -> str:
    """Returns one hash of what a model answers for saved inputs and of what a processor makes of a row."""
    import torch
    from safetensors.torch import load_file

    torch.manual_seed(0)
    with torch.no_grad():
        outputs = model.eval()(**load_file(case["inputs"]))
    return hash_values(dict(outputs)) + hash_values(dict(processor(**case["row"], return_tensors="pt")))


def answer_case(case: dict[str, Any]) -> dict[str, Any]:
    """Loads a folder by transformers' Auto classes and returns the hash of its answers."""
    import transformers

    try:
        load = {"trust_remote_code": True}
        if case["auto"] == "AutoModel":
            transformers.AutoConfig.from_pretrained(case["folder"], **load)
        model = getattr(transformers, case["auto"]).from_pretrained(case["folder"], **load)
        processor = transformers.AutoProcessor.from_pretrained(case["folder"], **load)
        return {"hash": hash_answers(model, processor, case), "module": type(model).__module__.partition(".")[0]}
    except Exception as error:  # whatever it is, it is this case's answer, and the parent names it
        return {"error": f"{type(error).__name__}: {error}"}


def main() -> None:
    mode, path = sys.argv[1:]
    if mode == "absent":
        sys.meta_path.insert(0, HiddenPlait)  # pyright: ignore[reportArgumentType]
    import torch

    torch.set_num_threads(1)
    assert "plait" not in sys.modules, "plait is imported already"
    with open(path, encoding="utf-8") as file:
        cases = json.load(file)
    print("\n" + json.dumps({name: answer_case(case) for name, case in cases.items()}))


if __name__ == "__main__":
    main()
