"""Kills runs of every kind at random moments, goes on as a user would, and compares the final weights bit for bit with
those of a run that was left alone.

    python benchmarks/kill_and_resume.py [--kills 100] [--seed 0] [--processes 1] [--kinds train multitask ...] [--keep]

The kinds are train, best (early stopping, the best weights, averaged), overwrite (a finished run is replaced),
pretraining, multitask and compare. A third of the kills
strike while files are written: at the n-th time that the process opens, renames or removes a file beside or in the run
folder. The others strike at a random time, half of them as SIGKILL, half as SIGTERM. After each, the next command is
`--resume`, or the same command once more where no run folder is left; it may be killed too. One parent that has
imported everything forks the processes, so that a run costs little more than its steps; with --processes 2 each run is
two processes that train together (gloo), of which a random one is killed. Last line:

    kill and resume: kills=100 runs=62 lost=0 differing=0 tracebacks=0 refused=0

lost: kills after which no whole model was left although there was one before; differing: final tensors that are not
equal to the last bit; tracebacks: in the output of any command; refused: commands after a kill that ended in an error.
"""

import argparse
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import datasets
import numpy as np
import torch
import transformers
import yaml
from PIL import Image
from safetensors.torch import load_file

from plait.training.cli import main
from plait.training.commands import COMMANDS

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT = {"config": {**TINY, "max_position_embeddings": 16}}
IMAGE = {"config": {**TINY, "image_size": 8, "patch_size": 4}}
# timing the kernels would choose others for a new run, which round differently
TRAINING = {
    "use_cpu": True,
    "disable_tqdm": True,
    "probe_products": False,
    "save_strategy": "steps",
    "save_steps": 2,
    "save_total_limit": 2,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-2,
    "num_train_epochs": 2,
}
WRITES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")
LIMIT = 120  # seconds after which a command counts as hanging
KINDS = ["train", "best", "overwrite", "pretraining", "multitask", "compare"]
CAUSES = ("write", "kill", "term")


class Killed(NamedTuple):
    """How a command is killed: by `cause`, at a fraction of a whole run (of its time, or of its writes)."""

    cause: str
    moment: float


class Ended(NamedTuple):
    """How a command ended: exit code (negative: the signal that killed it), seconds, output, and writes counted."""

    code: int
    seconds: float
    output: str
    writes: int


def write_recipes(folder: Path) -> dict[str, list[str]]:
    """Writes the data and a recipe of every kind; returns their command lines without the output folder."""
    rows = []
    for number in range(12):
        word, shade = ("red", "blue", "green")[number % 3], 20 * number
        Image.new("RGB", (8, 8), (shade, 255 - shade, 90)).save(folder / f"{number}.png")
        rows.append({"text": f"it is {word} {number}", "image": f"{number}.png", "label": ("warm", "cold")[number % 2]})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "pairs.jsonl").write_text(
        "".join(json.dumps({"text": row["text"], "image": row["image"]}) + "\n" for row in rows)
    )
    rows_file, pairs_file = (str(folder / f"{name}.jsonl") for name in ("rows", "pairs"))
    shared: dict[str, Any] = {
        "model": {"text": TEXT, "image": IMAGE, "fusion_config": TINY},
        "tokenizer": {"train": {"vocab_size": 300, "min_frequency": 1}},
        "training": TRAINING,
    }
    pretraining = {"task": "pretraining", "settings": {"objectives": {"contrastive": 1.0, "masked_lm": 1.0}}}
    best = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True, "average_decay": 0.9}
    best |= {"metric_for_best_model": "loss", "early_stopping_patience": 2, "learning_rate": 0.3, "num_train_epochs": 6}
    measured = {**shared, "data": {"source": {"train": rows_file, "validation": rows_file}}}
    contents = {
        "train": measured,
        "best": {**measured, "training": {**TRAINING, **best}},
        "pretraining": {**shared, **pretraining, "data": {"source": {"train": pairs_file}}},
        "multitask": {
            **shared,
            "tasks": {
                "answers": {"task": "classification", "data": {"source": {"train": rows_file}}},
                "pairs": {**pretraining, "data": {"source": {"train": pairs_file}}},
            },
        },
        "compare": {**shared, "data": {"source": rows_file}, "metrics": ["accuracy"]}
        | {"compare": {"folds": 2, "fusions": ["late"], "bootstrap": 100, "audit": False}},
    }
    contents["compare"]["training"] = {**TRAINING, "num_train_epochs": 1}
    lines = {}
    for kind, content in contents.items():
        (folder / f"{kind}.yaml").write_text(yaml.safe_dump(content))
        lines[kind] = ["compare" if kind == "compare" else "train", str(folder / f"{kind}.yaml")]
    return {**lines, "overwrite": [*lines["train"], "--overwrite"]}


def run_command(line: list[str], place: Path, killed: Killed | None, whole: Ended | None, processes: int) -> Ended:
    """Runs a command line in forked processes, in the folder of `place`, and kills it as asked."""
    log, port, begin = place.with_suffix(".log"), find_port(), time.monotonic()
    log.write_text("")
    victim = random.randrange(processes) if killed else -1
    at_write = int(killed.moment * whole.writes) + 1 if killed and whole and killed.cause == "write" else 0
    children = [
        fork(line, place, log, rank, processes, port, at_write if rank == victim else 0) for rank in range(processes)
    ]
    strikes = None if killed is None or whole is None or at_write else begin + killed.moment * whole.seconds
    codes: dict[int, int] = {}
    while len(codes) < processes and time.monotonic() - begin < LIMIT:
        for rank, child in enumerate(children):
            if rank not in codes:
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    codes[rank] = os.waitstatus_to_exitcode(status)
        if strikes is not None and time.monotonic() > strikes:
            number = signal.SIGKILL if killed and killed.cause == "kill" else signal.SIGTERM
            targets = range(processes) if number == signal.SIGTERM else [victim]
            for rank in targets:
                if rank not in codes:
                    os.kill(children[rank], number)
            strikes = None
        if codes and processes > 1 and any(code < 0 for code in codes.values()):
            processes_left = [rank for rank in range(processes) if rank not in codes]
            time.sleep(1.0)  # the others notice that one is gone
            for rank in processes_left:
                os.kill(children[rank], signal.SIGKILL)
        time.sleep(0.002)
    hanging = [children[rank] for rank in range(processes) if rank not in codes]
    for child in hanging:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    output = log.read_text(errors="replace") + ("\nTraceback: hangs" if hanging else "")
    writes = place.with_suffix(".writes")
    count = int(writes.read_text()) if writes.exists() else 0
    return Ended(min(codes.values(), default=-9), time.monotonic() - begin, output, count)


def fork(line: list[str], place: Path, log: Path, rank: int, processes: int, port: int, at_write: int) -> int:
    """Forks a process that runs a command line, and kills itself at its `at_write`-th write (0: never)."""
    child = os.fork()
    if child:
        return child
    code = 3
    try:
        handle = os.open(log, os.O_WRONLY | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        if processes > 1:
            names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_PORT": port}
            os.environ |= {name: str(value) for name, value in names.items()} | {"MASTER_ADDR": "127.0.0.1"}
        count = count_writes(place, at_write)
        code = main(line)
        if rank == 0:
            place.with_suffix(".writes").write_text(str(count[0]))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def count_writes(place: Path, at_write: int) -> list[int]:
    """Counts what this process does to files whose path begins with that of the run folder; kills it at a number."""
    count, start = [0], str(place)

    def watch(event: str, arguments: tuple) -> None:
        if event not in WRITES or not str(arguments[0]).startswith(start):
            return
        if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
            return
        count[0] += 1
        if count[0] == at_write:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    return count


def find_port() -> int:
    """Returns a free port."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def read_result(place: Path) -> dict[str, Any]:
    """Returns every final tensor of a run folder: weights, or the logits of a comparison."""
    found = {}
    for file in sorted(place.rglob("*.safetensors")):
        if "checkpoint" not in str(file.relative_to(place)):
            tensors = load_file(file).items()
            found |= {f"{file.relative_to(place)}/{name}": value.numpy() for name, value in tensors}
    for file in sorted((place / "cells").glob("*.npz")):
        with np.load(file) as content:
            found |= {f"{file.name}/{name}": content[name] for name in content if name != "facts"}
    return found


def count_differing(one: dict[str, Any], two: dict[str, Any]) -> int:
    """Returns the number of tensors that are not equal to the last bit."""
    return sum(
        name not in one or name not in two or one[name].tobytes() != two[name].tobytes() for name in {*one, *two}
    )


def has_model(place: Path) -> bool:
    """Returns whether a whole model lies in the folder, or in the one beside it that the old run is kept in."""
    for folder in (place, place.with_name(f"{place.name}.replaced")):
        try:
            if load_file(folder / "model.safetensors") and (folder / "config.json").stat().st_size:
                return True
        except Exception:  # a file that is missing or damaged is no model, whatever its reader raises
            continue
    return False


class Tally:
    """What has been counted."""

    def __init__(self) -> None:
        self.kills = self.runs = self.lost = self.differing = self.tracebacks = self.refused = 0
        self.causes: dict[str, int] = dict.fromkeys(CAUSES, 0)

    def __str__(self) -> str:
        names = ("kills", "runs", "lost", "differing", "tracebacks", "refused")
        return "kill and resume: " + " ".join(f"{name}={getattr(self, name)}" for name in names)


def kill_and_resume(kind: str, line: list[str], place: Path, whole: Ended, tally: Tally, options: Any) -> None:
    """Runs a command, kills it once to three times, goes on until it has finished, and counts what it finds."""
    rest, code = random.randint(1, 3), -9
    had_model = has_model(place)
    command = list(line)
    while code != 0:
        killed = None
        if rest and tally.kills < options.kills:
            killed = Killed(CAUSES[tally.kills % 3], random.random())
            rest -= 1
        ended = run_command([*command, "--output_dir", str(place)], place, killed, whole, options.processes)
        code = ended.code
        if "Traceback" in ended.output:
            tally.tracebacks += 1
            print(f"{kind} {killed}: {ended.output[-3000:]}", flush=True)
        if killed is not None and code != 0:
            tally.kills += 1
            tally.causes[killed.cause] += 1
            tally.lost += had_model and not has_model(place)
        elif code != 0:
            tally.refused += 1
            print(f"{kind} refused: {' '.join(command)}: {ended.output[-2000:]}", flush=True)
            return
        command = choose_next(kind, line, place)
    tally.runs += 1


def choose_next(kind: str, line: list[str], place: Path) -> list[str]:
    """Returns the next command of a user: --resume where a run was started, else the same command again."""
    plain = [part for part in line if part != "--overwrite"]
    if kind == "overwrite" and not place.with_name(f"{place.name}.replaced").exists():
        return line  # the old run is in its place
    return [*plain, "--resume"] if place.exists() else line


def main_kills() -> None:
    """Reads the command line, measures whole runs, and kills others until the number is reached."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", default=KINDS)
    parser.add_argument("--keep", action="store_true", help="keep the folder with the runs")
    options = parser.parse_args()
    assert COMMANDS["train"] and COMMANDS["compare"]  # looked up here, else every child would import them
    random.seed(options.seed)
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    folder = Path(tempfile.mkdtemp(prefix="kill_and_resume"))
    config: Any = datasets.config
    config.HF_DATASETS_CACHE = folder / "cache"
    lines, tally, whole = write_recipes(folder), Tally(), {}
    kinds = [kind for kind in options.kinds if options.processes == 1 or kind != "compare"]  # it runs in one process
    for kind in kinds:
        place = folder / f"{kind}-whole"
        ended = run_command([*lines[kind], "--output_dir", str(place)], place, None, None, options.processes)
        assert ended.code == 0, ended.output
        again = run_command(
            [*lines[kind], "--output_dir", f"{place}2"], Path(f"{place}2"), None, None, options.processes
        )
        assert not count_differing(read_result(place), read_result(Path(f"{place}2"))), f"{kind} is not deterministic"
        whole[kind] = again
        print(f"{kind}: {again.seconds:.1f} s, {again.writes} writes, {len(read_result(place))} tensors", flush=True)
    number = 0
    while tally.kills < options.kills:
        kind, number = kinds[number % len(kinds)], number + 1
        place = folder / f"{kind}-{number}"
        if kind == "overwrite":
            shutil.copytree(folder / f"{kind}-whole", place)
        kill_and_resume(kind, lines[kind], place, whole[kind], tally, options)
        differing = count_differing(read_result(folder / f"{kind}-whole"), read_result(place))
        if differing:
            print(f"{kind} {place}: {differing} tensors differ", flush=True)
        tally.differing += differing
        left = sorted(
            path.name for path in folder.iterdir() if path.name.startswith((f"{place.name}.", f".{place.name}."))
        )
        assert not [name for name in left if not name.endswith((".log", ".writes"))], left
        if not options.keep:
            shutil.rmtree(place)
        print(f"{number}: {tally}", flush=True)
    print("kills by cause:", " ".join(f"{cause}={count}" for cause, count in tally.causes.items()))
    print(tally)
    if not options.keep:
        shutil.rmtree(folder)
    sys.exit(bool(tally.lost or tally.differing or tally.tracebacks or tally.refused))


if __name__ == "__main__":
    main_kills()
