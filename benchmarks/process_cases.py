"""Cases in which each side is a process of its own: training and predicting, with all that belongs to it."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from paired import Row, Spent, measure_turns

PEERS = Path(__file__).with_name("end_to_end_peers.py")
QUIET = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}


class Outcome(NamedTuple):
    """What a process took and what it wrote to its standard output."""

    spent: Spent
    output: str


def run_process(arguments: list[str]) -> Outcome:
    """Runs a Python program and returns what it took: memory is the most that was resident, in MiB.

    Raises SystemExit with the end of its messages if it fails.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *arguments], stdout=output, stderr=errors, env={**os.environ, **QUIET}
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            raise SystemExit(f"{' '.join(arguments)} ended with {process.returncode}:\n{errors.read()[-3000:]}")
        return Outcome(Spent(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024), output.read())


class Program:
    """A command that writes into a new folder in each run and keeps its last metric.

    arguments: of `python`; {output} stands for the folder.
    """

    def __init__(self, arguments: list[str], metric: str = "") -> None:
        self.arguments, self.metric, self.found = arguments, metric, float("nan")

    def __call__(self) -> Spent:
        """Runs it once."""
        with tempfile.TemporaryDirectory() as folder:
            output = str(Path(folder) / "out")
            outcome = run_process([part.replace("{output}", output) for part in self.arguments])
            if self.metric:
                self.found = self.read_metric(Path(output), outcome.output)
        return outcome.spent

    def read_metric(self, folder: Path, output: str) -> float:
        """Returns the test metric: of a run of ours from its folder, of a peer from its last line."""
        if self.arguments[0] != "-m":
            return float(json.loads(output.strip().splitlines()[-1])["metric"])
        return float(json.loads((folder / "metrics.json").read_text())["test"]["model"][self.metric])


def build_training(
    task: str, data: str, model: str, columns: dict[str, str], rows: list[int], **more: Any
) -> list[str]:
    """Builds the command of `plait train` with the settings of the peers' example scripts."""
    settings: dict[str, Any] = {
        "data.source": data,
        "data.columns": json.dumps(columns),
        "data.max_rows": json.dumps(dict(zip(("train", "validation", "test"), rows, strict=True))),
        "output_dir": "{output}",
        "training.num_train_epochs": 1,
        "training.learning_rate": 5e-5,
        "training.use_cpu": "true",
        "training.warmup_steps": 0,
        "seed": 0,
        **more,
    }
    return [
        "-m",
        "plait",
        "train",
        task,
        *(f"--{name}={value}" for name, value in settings.items()),
        f"--model.{model}",
    ]


def compare_programs(case: str, ours: Program, peers: dict[str, Program], rounds: int, bar: float) -> list[Row]:
    """Measures our program and each peer once in each round."""
    found = measure_turns(case, {"plait": ours, **peers}, rounds)
    return [
        Row(case, name, found["plait"], found[name], bar, f"{ours.metric} {ours.found:.3f} and {peer.found:.3f}")
        for name, peer in peers.items()
    ]
