"""Sentences to vectors: `PlaitForRetrieval.encode` beside sentence-transformers (torch; int8 in ONNX)."""

import io
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
import transformers as hf
from onnxruntime.quantization import QuantType, quantize_dynamic
from paired import Row, measure_pairs, spend
from sentence_transformers import SentenceTransformer

from plait import PlaitForRetrieval, PlaitProcessor, quantize

BATCH = 32  # the default of sentence-transformers


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
    """A graph of ONNX Runtime in the place of a transformers model, as in sentence-transformers' backend "onnx"."""

    def __init__(self, file: Path, config: hf.PreTrainedConfig) -> None:
        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.config, self.dtype, self.device = config, torch.float32, torch.device("cpu")

    def forward(self, **inputs: Any) -> Any:
        """Runs the graph on (rows, length) inputs."""
        names = [entry.name for entry in self.session.get_inputs()]
        found = self.session.run(None, {name: inputs[name].numpy() for name in names})[0]
        return hf.modeling_outputs.BaseModelOutput(last_hidden_state=torch.from_numpy(found))


def write_int8_graph(folder: str, into: Path) -> Path:
    """Exports an encoder as a graph and rounds its weights to int8 with scales per channel and dynamic activations, as
    sentence-transformers' `export_dynamic_quantized_onnx_model(model, "avx512_vnni", ...)` does."""
    plain, rounded = into / "model.onnx", into / "model_qint8.onnx"
    names = ["input_ids", "attention_mask", "token_type_ids"]
    example = torch.ones(2, 7, dtype=torch.long)
    axes = {name: {0: "rows", 1: "length"} for name in [*names, "last_hidden_state"]}
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        torch.onnx.export(
            LastHidden(folder).eval(),
            (example,) * 3,
            str(plain),
            input_names=names,
            output_names=["last_hidden_state"],
            dynamic_axes=axes,
            dynamo=False,
            opset_version=17,
        )
    quantize_dynamic(plain, rounded, weight_type=QuantType.QInt8, per_channel=True)
    return rounded


def compare_cosines(vectors: np.ndarray, reference: np.ndarray) -> str:
    """Describes how near vectors of unit length are to reference ones, (rows, width)."""
    cosines = (vectors * reference).sum(axis=1)
    return f"cosine mean {cosines.mean():.4f}, least {cosines.min():.4f}"


def encode_texts(folder: str, texts: list[str], rounds: int, work: Path) -> list[Row]:
    """Measures ours as it comes, prepacked and in int8 beside both backends of the peer."""
    peer = SentenceTransformer(folder, device="cpu")
    ours, processor = PlaitForRetrieval.from_pretrained(folder).eval(), PlaitProcessor.from_pretrained(folder)
    case = f"encode {len(texts):,} texts"

    def encode() -> np.ndarray:
        return ours.encode(texts, processor, show_progress=False).numpy()

    def encode_peer() -> np.ndarray:
        return peer.encode(texts, batch_size=BATCH, show_progress_bar=False, normalize_embeddings=True)

    def compare(name: str, backend: str, bar: float, same: str) -> Row:
        spent = measure_pairs(name, lambda: spend(encode), lambda: spend(encode_peer), rounds)
        return Row(name, f"sentence-transformers, {backend}", *spent, bar, same)

    reference = encode_peer()
    difference = float(np.abs(encode() - reference).max())
    if difference > 1e-5:
        raise SystemExit(f"encode: vectors differ by {difference:.1e}, more than 1e-5")
    rows = [compare(case, "torch", 1.3, f"within {difference:.0e}")]
    with torch.no_grad():
        packed = ours.prepack_weights()
    rows.append(compare(f"{case}, `prepack_weights()` ({packed} layers)", "torch", 1.3, f"within {difference:.0e}"))
    peer[0].model = GraphModel(write_int8_graph(folder, work), peer[0].model.config)
    ours = PlaitForRetrieval.from_pretrained(folder).eval()
    quantize(ours, {"text": "int8_dynamic"})
    same = f"to fp32: ours {compare_cosines(encode(), reference)}; peer {compare_cosines(encode_peer(), reference)}"
    rows.append(compare(f"{case}, int8_dynamic", "ONNX int8", 1.0, same))
    return rows
