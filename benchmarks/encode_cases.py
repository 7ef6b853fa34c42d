"""Sentences to vectors: `PlaitForRetrieval.encode`, and the exported graph, beside sentence-transformers (torch,
compiled or not; ONNX Runtime and OpenVINO, in single precision and in int8)."""

import io
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import onnxruntime
import openvino
import torch
import transformers as hf
from onnxruntime.quantization import QuantType, quantize_dynamic
from paired import Row, measure_turns, spend
from sentence_transformers import SentenceTransformer

from plait import PlaitForRetrieval, PlaitProcessor, quantize
from plait.training.exporting import export_model

RunGraph = Callable[[Mapping[str, np.ndarray]], np.ndarray]
Sides = dict[str, Callable[[], Any]]

BATCH = 32  # the default of sentence-transformers
CALIBRATION_TEXTS = 300
CLOSE = 1e-5  # vectors of unit length that are computed in single precision differ by less
INPUTS = ["input_ids", "attention_mask", "token_type_ids"]
PLAIN, PACKED, BFLOAT16, INT8 = "plait", "`prepack_weights()`", "plait in bfloat16", '`quantize`, "int8_dynamic"'
EXPORTED = "`plait export` in ONNX Runtime"
PAIRS = (  # ours, the peer's backend, and the bar
    (PLAIN, "torch", 1.3),
    (PLAIN, "torch, compiled", 1.0),
    (PLAIN, "ONNX", 1.0),
    (PLAIN, "OpenVINO", 1.0),
    (PACKED, "torch", 1.3),
    (EXPORTED, "ONNX", 1.0),
    (BFLOAT16, "torch, bfloat16", 1.0),
    (BFLOAT16, "OpenVINO as it comes", 1.0),
    (INT8, "ONNX int8", 1.0),
    (INT8, "OpenVINO int8", 1.0),
)


class LastHidden(torch.nn.Module):
    """The encoder without its pooler, as sentence-transformers' export has it."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.model = hf.AutoModel.from_pretrained(folder, attn_implementation="eager")

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        """All inputs: (rows, length); the last layer's hidden states, (rows, length, width)."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        return self.model(**inputs).last_hidden_state


class GraphModel(torch.nn.Module):
    """A graph in the place of a transformers model, as in sentence-transformers' backends "onnx" and "openvino"."""

    def __init__(self, run: RunGraph, config: hf.PreTrainedConfig) -> None:
        super().__init__()
        self.run = run
        self.config, self.dtype, self.device = config, torch.float32, torch.device("cpu")

    def forward(self, **inputs: Any) -> Any:
        """Runs the graph on (rows, length) inputs."""
        found = self.run({name: inputs[name].numpy() for name in INPUTS})
        return hf.modeling_outputs.BaseModelOutput(last_hidden_state=torch.from_numpy(found))


def open_onnx(file: Path, **settings: Any) -> RunGraph:
    """Opens a graph in ONNX Runtime, with as many threads as torch has."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"], **settings)
    names = {entry.name for entry in session.get_inputs()}
    return lambda inputs: session.run(None, {name: array for name, array in inputs.items() if name in names})[0]


def open_openvino(graph: Any, precision: str | None = None) -> RunGraph:
    """Compiles a graph by OpenVINO, with as many threads as torch has; without a precision, in the one that it takes on
    this processor by itself."""
    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": torch.get_num_threads()}
    settings |= {"INFERENCE_PRECISION_HINT": precision} if precision else {}
    compiled = openvino.Core().compile_model(graph, "CPU", settings)
    return lambda inputs: compiled(inputs)[0]


def write_graph(folder: str, into: Path) -> Path:
    """Exports an encoder as sentence-transformers does."""
    file = into / "model.onnx"
    example = torch.ones(2, 7, dtype=torch.long)
    axes = {name: {0: "rows", 1: "length"} for name in [*INPUTS, "last_hidden_state"]}
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        torch.onnx.export(
            LastHidden(folder).eval(),
            (example,) * 3,
            str(file),
            input_names=INPUTS,
            output_names=["last_hidden_state"],
            dynamic_axes=axes,
            dynamo=False,
            opset_version=17,
        )
    return file


def round_onnx(file: Path) -> Path:
    """Rounds a graph's weights to int8 with scales per channel and dynamic activations, as sentence-transformers'
    `export_dynamic_quantized_onnx_model(model, "avx512_vnni", ...)` does."""
    rounded = file.with_name("model_qint8.onnx")
    quantize_dynamic(file, rounded, weight_type=QuantType.QInt8, per_channel=True)
    return rounded


def round_openvino(file: Path, tokenizer: Any, texts: list[str]) -> Any:
    """Rounds weights and activations to int8 with scales fitted to 300 texts, as sentence-transformers'
    `export_static_quantized_openvino_model` does."""
    rows = [dict(tokenizer(text, truncation=True, return_tensors="np")) for text in texts[:CALIBRATION_TEXTS]]
    options = {"model_type": nncf.ModelType.TRANSFORMER, "subset_size": len(rows)}
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        return nncf.quantize(openvino.convert_model(file), nncf.Dataset(rows), **options)


def build_peers(folder: str, texts: list[str], work: Path) -> Sides:
    """sentence-transformers with each of its backends, and with the model compiled by torch."""
    file = write_graph(folder, work)
    sides: dict[str, Callable[[Any], None]] = {
        "torch": lambda peer: None,
        "torch, compiled": lambda peer: peer[0].model.compile(dynamic=True),
        "torch, bfloat16": lambda peer: peer.bfloat16(),
        "ONNX": lambda peer: use_graph(peer, open_onnx(file)),
        "ONNX int8": lambda peer: use_graph(peer, open_onnx(round_onnx(file))),
        "OpenVINO": lambda peer: use_graph(peer, open_openvino(openvino.convert_model(file), "f32")),
        "OpenVINO as it comes": lambda peer: use_graph(peer, open_openvino(openvino.convert_model(file))),
        "OpenVINO int8": lambda peer: use_graph(peer, open_openvino(round_openvino(file, peer.tokenizer, texts))),
    }
    built: Sides = {}
    for name, change in sides.items():
        peer = SentenceTransformer(folder, device="cpu")
        change(peer)
        options = {"batch_size": BATCH, "show_progress_bar": False, "normalize_embeddings": True}
        built[name] = partial(peer.encode, texts, **options)
    return built


def use_graph(peer: SentenceTransformer, run: RunGraph) -> None:
    """Puts a graph in the place of the model."""
    peer[0].model = GraphModel(run, peer[0].model.config)


def build_ours(folder: str, texts: list[str], work: Path) -> Sides:
    """`encode` as it comes and in each other form, and the graph that `plait export` writes in ONNX Runtime."""
    processor = PlaitProcessor.from_pretrained(folder)
    models = {
        name: PlaitForRetrieval.from_pretrained(folder, dtype=dtype).eval()
        for name, dtype in ((PLAIN, "float32"), (PACKED, "float32"), (BFLOAT16, "bfloat16"), (INT8, "float32"))
    }
    models[PACKED].prepack_weights()
    quantize(models[INT8], {"text": "int8_dynamic"})
    export_model(models[PLAIN], processor, work / "exported", to="onnx")
    graph = open_onnx(work / "exported" / "text_model.onnx", disabled_optimizers=["SkipLayerNormFusion"])
    tokenizer = hf.AutoTokenizer.from_pretrained(work / "exported" / "tokenizer")
    sides: Sides = {
        name: lambda model=model: model.encode(texts, processor, show_progress=False).float().numpy()
        for name, model in models.items()
    }
    return {**sides, EXPORTED: partial(encode_by_graph, graph, tokenizer, texts)}


def encode_by_graph(run: RunGraph, tokenizer: Any, texts: list[str]) -> np.ndarray:
    """Encodes texts of like lengths together, as sentence-transformers does: (rows, width)."""
    order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
    found = []
    for start in range(0, len(order), BATCH):
        some = [texts[row] for row in order[start : start + BATCH]]
        found.append(run(dict(tokenizer(some, padding=True, truncation=True, return_tensors="np"))))
    return np.concatenate(found)[np.argsort(order)]


def compare_vectors(vectors: np.ndarray, reference: np.ndarray) -> str:
    """Describes how near vectors of unit length are to reference ones, (rows, width)."""
    difference = float(np.abs(vectors - reference).max())
    if difference < CLOSE:
        return f"within {difference:.0e}"
    cosines = (vectors * reference).sum(axis=1) / np.linalg.norm(vectors, axis=1)
    return f"cosine mean {cosines.mean():.4f}, least {cosines.min():.4f}"


def encode_texts(folder: str, texts: list[str], rounds: int, work: Path) -> list[Row]:
    """Measures every form of ours beside every backend of the peer, all in each round.

    Raises SystemExit if the vectors of a form in single precision differ from the peer's.
    """
    ours, peers = build_ours(folder, texts, work), build_peers(folder, texts, work)
    reference = peers["torch"]()
    same = {name: compare_vectors(np.asarray(encode()), reference) for name, encode in {**ours, **peers}.items()}
    for name in (PLAIN, PACKED, EXPORTED):
        if not same[name].startswith("within"):
            raise SystemExit(f"encode: the vectors of {name} differ: {same[name]}")
    sides = {name: lambda encode=encode: spend(encode) for name, encode in {**ours, **peers}.items()}
    spent = measure_turns(f"encode {len(texts):,} texts", sides, rounds)
    return [
        Row(own, f"sentence-transformers, {peer}", spent[own], spent[peer], bar, f"{same[own]}; peer {same[peer]}")
        for own, peer, bar in PAIRS
    ]
