"""What plait can do, by kind of model: `python benchmarks/capabilities.py [--shapes NAME ...] [--only NAME ...]`.

Every capability is tried on 14 kinds of model (those of `conformance_shapes.py`) at tiny size, by the functions that a
user calls. A cell says "yes", "n/a" (it means nothing for this kind) or "no", with plait's own error, which REFUSED
names in advance. Any other error is a failure, and the exit status is 1. `--write FILE` writes the table as Markdown,
which needs all cells. Last line: `plait capabilities: cells=N yes=N no=N n/a=N failed=0`.
"""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import datasets
import torch
import transformers
from capability_cases import NAMES, TITLES, Case
from capability_outcomes import FAILED, NO, OTHER, YES, Outcome, run_cell
from capability_saving import (
    check_auto_map,
    check_onnx,
    check_quantized,
    check_saved,
    check_snippet,
    check_torch_export,
    check_with_code,
)
from capability_training import (
    check_adapters,
    check_checkpointing,
    check_compiled,
    check_half,
    check_resumed,
    check_run,
    check_shards,
    check_trainer,
)
from capability_using import (
    check_absent,
    check_doctor,
    check_explained,
    check_generated,
    check_modalities_explained,
    check_packed,
    check_pipeline,
    check_predicted,
)

CAPABILITIES: dict[str, tuple[str, Callable[[Case], None]]] = {
    "saved": ("saved and loaded, bit-equal", check_saved),
    "auto_map": ("loads without an import of plait (`trust_remote_code`), same SHA-256", check_auto_map),
    "with_code": ("loads where plait is not installed (`with_code`), same SHA-256", check_with_code),
    "snippet": ("the card's snippet runs to a prediction", check_snippet),
    "trainer": ("transformers' Trainer: every part learns", check_trainer),
    "train": ("`plait train`: a run folder with metrics", check_run),
    "resume": ("resumed from a checkpoint, bit-equal", check_resumed),
    "doctor": ("`plait doctor` passes it", check_doctor),
    "lora": ("`lora_config`: adapters reached by gradients, reloaded, merged", check_adapters),
    "checkpointing": ("gradient checkpointing, same gradients", check_checkpointing),
    "bf16": ("bfloat16: loss and gradients", check_half),
    "compile": ("`torch.compile`: answers as one graph, same gradients", check_compiled),
    "fsdp2": ("FSDP2, sharded by layer, same gradients", check_shards),
    "packing": ("packing = padding, eager = SDPA", check_packed),
    "missing": ("rows without a modality: a finite loss, and classifiers answer each row as alone", check_absent),
    "generate": ("`generate`: cached = uncached, beams too", check_generated),
    "predict": ("`plait predict`", check_predicted),
    "pipeline": ("`plait.pipeline` answers as `plait predict`", check_pipeline),
    "explain": ("`plait.explain`", check_explained),
    "modalities": ("`plait.explain_modalities`", check_modalities_explained),
    "int8": ("`quantize` to int8, saved and loaded bit-equal", check_quantized),
    "onnx": ("`plait export --to onnx`, equal to 1e-4", check_onnx),
    "torch": ("`plait export --to torch`, equal to 1e-4", check_torch_export),
}
# a part of plait's own error where it refuses, by capability and kind
REFUSED: Mapping[tuple[str, str], str] = {
    **{("torch", name): "cannot hold the cache of" for name in ("captioner", "gated", "inline", "gpt", "whisper")},
    **{(format, "pretraining"): "computes training objectives and answers nothing" for format in ("onnx", "torch")},
    **{(name, "pretraining"): "has no score of a row to explain" for name in ("explain", "modalities")},
}

Cells = dict[tuple[str, str], Outcome]


def run_cells(shapes: list[str], only: list[str], folder: Path, trace: bool) -> Cells:
    """Runs the cells, kind by kind; prints a line for each kind, and one for each failure."""
    cases = tuple(Case(name, folder / name) for name in shapes)
    cells: Cells = {}
    seconds: Counter[str] = Counter()
    for case in cases:
        case.together = cases
        started = time.process_time()
        for name in only:
            begun = time.process_time()
            check = CAPABILITIES[name][1]
            cells[name, case.name] = run_cell(
                lambda check=check, case=case: check(case), REFUSED.get((name, case.name))
            )
            if cells[name, case.name].kind == FAILED:
                print(f"  FAILED {name}: {cells[name, case.name].reason[:300]}", flush=True)
                print(cells[name, case.name].trace if trace else "", end="")
            seconds[name] += time.process_time() - begun
        kinds = Counter(cells[name, case.name].kind for name in only)
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        print(f"{case.name}: {counts} ({time.process_time() - started:.0f} s)", flush=True)
    print("most time: " + ", ".join(f"{name} {count:.0f} s" for name, count in seconds.most_common(6)))
    return cells


def format_table(cells: Cells, shapes: list[str], only: list[str]) -> str:
    """Returns the cells as a Markdown table, a kind a column, with the reasons numbered below it."""
    reasons: dict[str, int] = {}
    lines = [f"| | {' | '.join(shapes)} |", f"|---|{'---|' * len(shapes)}"]
    for name in only:
        row = [CAPABILITIES[name][0]]
        for shape in shapes:
            cell = cells[name, shape]
            number = "" if cell.kind == YES else f" ({reasons.setdefault(cell.reason, len(reasons) + 1)})"
            row.append(f"{cell.kind}{number}")
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join([*lines, "", *(f"{number}. {reason}" for reason, number in reasons.items())])


def write_page(path: Path, table: str, counts: Counter[str], seconds: float) -> None:
    """Writes the page of the documentation."""
    kinds = "\n".join(f"- `{name}`: {TITLES[name]}" for name in NAMES)
    versions = f"torch {torch.__version__.partition('+')[0]}, transformers {transformers.__version__}"
    path.write_text(
        f"# What works with what\n\nWritten by `make capabilities`: {len(CAPABILITIES)} capabilities on {len(NAMES)} "
        f"kinds of model at tiny size with random\nweights, each tried by the functions that a user calls. "
        f"{counts[YES]} cells say yes, {counts[NO]} say no with plait's own\nsentence, {counts[OTHER]} do not apply. A "
        f"cell that ends in any other way makes the command fail. {versions},\none CPU thread, {seconds:.0f} s of CPU; "
        f"several processes, GPUs and real checkpoints are measured elsewhere.\n\n{kinds}\n\n{table}\n",
        encoding="utf-8",
    )


def main() -> int:
    """Runs the matrix; returns 1 if a cell failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--shapes", nargs="+", choices=NAMES, default=list(NAMES), metavar="NAME", help=", ".join(NAMES)
    )
    names = ", ".join(CAPABILITIES)
    parser.add_argument(
        "--only", nargs="+", choices=CAPABILITIES, default=list(CAPABILITIES), metavar="NAME", help=names
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table as a page of Markdown")
    parser.add_argument("--trace", action="store_true", help="print the traceback of every failure")
    options = parser.parse_args()
    whole = (options.shapes, options.only) == (list(NAMES), list(CAPABILITIES))
    if options.write is not None and not whole:
        parser.error("--write needs all shapes and capabilities: leave --shapes and --only out")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    torch.set_num_threads(1)  # more of them only wait for each other at these sizes
    with tempfile.TemporaryDirectory() as folder:
        cells = run_cells(options.shapes, options.only, Path(folder), options.trace)
    counts = Counter(cell.kind for cell in cells.values())
    table = format_table(cells, options.shapes, options.only)
    print(table)
    times = os.times()
    seconds = times.user + times.system + times.children_user + times.children_system
    if options.write is not None and not counts[FAILED]:
        write_page(options.write, table, counts, seconds)
    print(f"{seconds:.0f} s of CPU")
    shown = " ".join(f"{kind}={counts[kind]}" for kind in (YES, NO, OTHER))
    print(f"plait capabilities: cells={len(cells)} {shown} failed={counts[FAILED]}")
    return int(counts[FAILED] > 0)


if __name__ == "__main__":
    sys.exit(main())
