"""Reads what makes a checkpoint a sentence encoder of sentence-transformers (https://sbert.net): its modules.json, and
the modules behind its tower (pooling, dense layers, unit length)."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_NAME
from transformers.utils.hub import cached_file

from ...configuration.hub import select_hub_options
from ...configuration.sentence import SENTENCE_MODULES_FILE, SENTENCE_TOWER_FILES, compute_sentence_widths

LIBRARY = "sentence_transformers"
# the poolings, in the order in which old files concatenate them: name in new files, key in old files, ours
POOLINGS_BY_NAME = (
    ("cls", "pooling_mode_cls_token", "first"),
    ("max", "pooling_mode_max_tokens", "max"),
    ("mean", "pooling_mode_mean_tokens", "mean"),
    ("mean_sqrt_len_tokens", "pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len"),
    ("weightedmean", "pooling_mode_weightedmean_tokens", "weighted_mean"),
    ("lasttoken", "pooling_mode_lasttoken", "last"),
)
ACTIVATIONS = {
    "Identity": None,
    "Tanh": "tanh",
    "ReLU": "relu",
    "GELU": "gelu",
    "Sigmoid": "sigmoid",
    "SiLU": "silu",
    "Mish": "mish",
}
# settings of the first module that leave the tower's output as it is, or that the processor honours; others must be
# unset
KNOWN_TOWER_SETTINGS = frozenset(
    "max_seq_length do_lower_case transformer_task modality_config module_output_name unpad_inputs".split()
)


class SentenceModules(NamedTuple):
    """The modules of a sentence encoder behind its tower. pooling, layers: as in `PlaitTextConfig`; weights: of the
    layers, by their names in the tower."""

    pooling: list[str]
    layers: list[dict[str, Any]]
    weights: dict[str, Tensor]


def read_sentence_modules(path: str, where: Mapping[str, Any]) -> SentenceModules | None:
    """Reads the modules of a folder or repository; None if it is no sentence encoder (it has no modules.json, or is a
    cross-encoder, whose checkpoint says everything).

    where: the options of `open_checkpoint`. Raises ValueError for a module or setting that plait does not have.
    """
    listed = read_json(path, SENTENCE_MODULES_FILE, where)
    if listed is None:
        return None
    types = [find_module_type(path, entry) for entry in listed]
    settings = read_tower_settings(path, where)
    if settings.get("transformer_task") == "sequence-classification":
        return None
    if types[:2] != ["Transformer", "Pooling"] or listed[0]["path"]:
        raise build_module_error(
            path, f"its modules are {', '.join(types)}", "a Transformer in the folder itself, then Pooling"
        )
    check_tower_settings(path, settings)
    pooling = read_poolings(path, read_module_config(path, listed[1], where))
    layers: list[dict[str, Any]] = []
    weights: dict[str, Tensor] = {}
    for number, (kind, entry) in enumerate(zip(types[2:], listed[2:], strict=True)):
        if kind not in LAYERS:
            raise build_module_error(path, f"its module {entry['path']} is a {kind}", f"one of {', '.join(LAYERS)}")
        reader, names = LAYERS[kind]
        layers.append(reader(path, read_module_config(path, entry, where)))
        if names:
            tensors = read_module_weights(path, entry["path"], where)
            weights |= {f"sentence.layers.{number}.{names[name]}": tensor for name, tensor in tensors.items()}
    return SentenceModules(pooling, layers, weights)


def describe_sentence_modules(path: str, where: Mapping[str, Any]) -> str:
    """Returns what an error about a folder without config.json adds if it is a sentence encoder: its modules, of which
    the first is no transformer of that folder; else an empty text."""
    try:
        listed = read_json(path, SENTENCE_MODULES_FILE, where)
    except OSError:
        return ""
    if listed is None:
        return ""
    modules = ", ".join(f"{entry['type'].rpartition('.')[2]} in {entry['path']!r}" for entry in listed)
    return f", a sentence encoder of {modules} (plait reads a Transformer in '')"


def find_module_type(path: str, entry: Mapping[str, Any]) -> str:
    """Returns the class name of a module of the library; raises ValueError for a class from elsewhere."""
    package, *_, name = entry["type"].split(".")
    if package != LIBRARY:
        raise build_module_error(path, f"a module is of the class {entry['type']}", f"a class of {LIBRARY}")
    return name


def build_module_error(path: str, found: str, wanted: str) -> ValueError:
    """Builds the error for a sentence encoder that plait cannot read as it was made."""
    return ValueError(
        f"{path} is a sentence encoder ({SENTENCE_MODULES_FILE}), but {found}, and plait reads {wanted}: to take its "
        "tower without these modules, load it by transformers' AutoModel and pass the model to compose"
    )


def read_tower_settings(path: str, where: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the settings of the first module; empty if the folder has none."""
    found = (read_json(path, name, where) for name in SENTENCE_TOWER_FILES)
    return next((settings for settings in found if settings is not None), {})


def check_tower_settings(path: str, settings: Mapping[str, Any]) -> None:
    """Raises ValueError for a setting of the first module that changes the tower's output."""
    expected = {"transformer_task": "feature-extraction", "module_output_name": "token_embeddings"}
    for name, value in settings.items():
        if name in expected and value not in (None, expected[name]) or name not in KNOWN_TOWER_SETTINGS and value:
            raise build_module_error(path, f"its Transformer has {name} {value!r}", f"{name} {expected.get(name)!r}")


def read_module_config(path: str, entry: Mapping[str, Any], where: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the config.json of one module; empty if it has none (as of Normalize)."""
    return read_json(path, f"{entry['path']}/config.json", where) or {}


def read_poolings(path: str, config: Mapping[str, Any]) -> list[str]:
    """Returns the poolings of a Pooling module, of which old files have one flag each.

    Raises ValueError for an unknown pooling, or one that leaves out the prompt.
    """
    if not config.get("include_prompt", True):
        raise build_module_error(path, "its Pooling leaves out the prompt (include_prompt)", "poolings of all tokens")
    named = config.get("pooling_mode") or [name for name, key, _ in POOLINGS_BY_NAME if config.get(key)] or ["mean"]
    ours = {name: own for name, _, own in POOLINGS_BY_NAME}
    modes = [named] if isinstance(named, str) else list(named)
    if unknown := [mode for mode in modes if mode not in ours]:
        raise build_module_error(path, f"its pooling is {', '.join(unknown)}", f"{', '.join(ours)}")
    return [ours[mode] for mode in modes]


def read_dense(path: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the entry of a Dense module; raises ValueError for a residual connection or an unknown activation."""
    check_sentence_input(path, config)
    act = config.get("activation_function", "torch.nn.modules.activation.Tanh").rpartition(".")[2]
    if act not in ACTIVATIONS or config.get("use_residual"):
        what = f"the activation {act}" if act not in ACTIVATIONS else "a residual connection"
        raise build_module_error(path, f"its Dense has {what}", f"no residual, and {', '.join(ACTIVATIONS)}")
    return {"type": "dense", "size": config["out_features"], "bias": config.get("bias", True), "act": ACTIVATIONS[act]}


def read_normalize(path: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the entry of a Normalize module."""
    check_sentence_input(path, config)
    return {"type": "normalize"}


def check_sentence_input(path: str, config: Mapping[str, Any]) -> None:
    """Raises ValueError for a module that does not turn the sentence's vector into the next."""
    names = {config.get(key) or "sentence_embedding" for key in ("module_input_name", "module_output_name")}
    if names != {"sentence_embedding"}:
        raise build_module_error(
            path, f"a module reads or writes {', '.join(sorted(names))}", "sentence_embedding alone"
        )


Reader = Callable[[str, Mapping[str, Any]], dict[str, Any]]
# the modules behind the pooling: how their config is read, and the names of their weights on disk and in the layer
LAYERS: dict[str, tuple[Reader, dict[str, str]]] = {
    "Dense": (read_dense, {"linear.weight": "dense.weight", "linear.bias": "dense.bias"}),
    "Normalize": (read_normalize, {}),
    "LayerNorm": (lambda path, config: {"type": "layer_norm"}, {"norm.weight": "weight", "norm.bias": "bias"}),
    "Dropout": (lambda path, config: {"type": "dropout", "p": config.get("dropout", 0.2)}, {}),
}


def read_module_weights(path: str, folder: str, where: Mapping[str, Any]) -> dict[str, Tensor]:
    """Reads the weights of one module, pickled ones only with `use_safetensors=False`.

    Raises OSError if it has none to read.
    """
    pickled = where.get("use_safetensors") is False
    names = (WEIGHTS_NAME, SAFE_WEIGHTS_NAME) if pickled else (SAFE_WEIGHTS_NAME,)
    for name in names:
        file = find_file(path, f"{folder}/{name}", where)
        if file is not None:
            return load_file(file) if name == SAFE_WEIGHTS_NAME else torch.load(file, "cpu", weights_only=True)
    raise OSError(
        f"{path}/{folder} has no {' or '.join(names)}: save it again with safetensors, or pass use_safetensors=False "
        "to read a pickle"
    )


def write_sentence_modules(config: Any, weights: Mapping[str, Tensor], folder: str | Path) -> None:
    """Writes the modules of a sentence encoder beside its tower's checkpoint, as sentence-transformers reads them.

    weights: of the tower, by their names inside it.
    """
    theirs = {own: name for name, _, own in POOLINGS_BY_NAME}
    modes = [theirs[mode] for mode in config.sentence_pooling]
    parts: list[tuple[str, dict[str, Any], dict[str, Tensor]]] = [
        ("Pooling", {"embedding_dimension": config.hidden_size, "pooling_mode": modes, "include_prompt": True}, {})
    ]
    widths = compute_sentence_widths(config, config.hidden_size)
    for number, (entry, width) in enumerate(zip(config.sentence_layers or [], widths, strict=False)):
        kind, fields = LAYER_WRITERS[entry["type"]](entry, width)
        start = f"sentence.layers.{number}."
        own = {name.removeprefix(start): tensor for name, tensor in weights.items() if name.startswith(start)}
        parts.append((kind, fields, {name: own[ours] for name, ours in LAYERS[kind][1].items() if ours in own}))
    listed = [{"idx": 0, "name": "0", "path": "", "type": f"{LIBRARY}.models.Transformer"}]
    for number, (kind, fields, tensors) in enumerate(parts, start=1):
        path = f"{number}_{kind}"
        Path(folder, path).mkdir(parents=True, exist_ok=True)
        Path(folder, path, CONFIG_NAME).write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
        if tensors:
            save_file(
                {name: tensor.contiguous() for name, tensor in tensors.items()}, Path(folder, path, SAFE_WEIGHTS_NAME)
            )
        listed.append({"idx": number, "name": str(number), "path": path, "type": f"{LIBRARY}.models.{kind}"})
    Path(folder, SENTENCE_MODULES_FILE).write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")


def write_dense(entry: Mapping[str, Any], width: int) -> tuple[str, dict[str, Any]]:
    """Returns the class and the config of a Dense module."""
    names = {act: name for name, act in ACTIVATIONS.items()}
    act = names[entry.get("act")]
    place = "linear" if act == "Identity" else "activation"
    fields = {"in_features": width, "out_features": entry["size"], "bias": entry.get("bias", True)}
    return "Dense", {**fields, "activation_function": f"torch.nn.modules.{place}.{act}"}


LAYER_WRITERS: dict[str, Callable[[Mapping[str, Any], int], tuple[str, dict[str, Any]]]] = {
    "dense": write_dense,
    "normalize": lambda entry, width: ("Normalize", {}),
    "layer_norm": lambda entry, width: ("LayerNorm", {"dimension": width}),
    "dropout": lambda entry, width: ("Dropout", {"dropout": entry["p"]}),
}


def find_file(path: str, name: str, where: Mapping[str, Any]) -> str | None:
    """Returns the local path of a file, downloaded if necessary; None if there is no such file."""
    return cached_file(path, name, **select_hub_options(where), _raise_exceptions_for_missing_entries=False)


def read_json(path: str, name: str, where: Mapping[str, Any]) -> Any:
    """Reads a JSON file; None if there is no such file. Raises ValueError for invalid JSON."""
    file = find_file(path, name, where)
    if file is None:
        return None
    with open(file, encoding="utf-8") as opened:
        try:
            return json.load(opened)
        except ValueError as error:
            raise ValueError(f"{name} of {path} is not valid JSON ({error}): save the checkpoint again") from error
