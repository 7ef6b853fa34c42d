"""Is bad input always refused in words? `python benchmarks/fuzz.py --inputs 20000 --folders 2000 --seed 0`.

Calls a processor with random inputs of every modality (values of every type, shape and size, damaged files), and loads
damaged run folders and recipes. Every case must end, within 10 seconds of processor time and 2 GiB more than before, in
a result or in an error of plait: ValueError, TypeError, OSError or ImportError with a message, raised in plait's own
code. A folder that loads although its model, processor or recipe differs must be found by `plait check`. Nothing may
run code or open a socket. The cases run in forked processes, each case from its own number and the seed: `--only 17`
runs one again.

Prints the counts, and one line per kind of failure with the numbers of its cases; exit code 1 if there are any.
"""

import argparse
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import socket
import sys
import tempfile
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from fuzz_folders import TEXTS, FolderDamager, damage_recipe, make_folder
from fuzz_inputs import SECONDS, InputMaker, make_seeds
from PIL import Image
from transformers import WhisperFeatureExtractor

import plait
from plait import PlaitForClassification, PlaitProcessor
from plait.training.runs.check import check_folder
from plait.training.runs.recipe import load_recipe

MEMORY = 2 * 2**30  # bytes above those of the process before the case
OURS = (ValueError, TypeError, OSError, ImportError)
ROOT = str(Path(plait.__file__).parent)
PACKAGES = tuple(f"{ROOT}/{name}/" for name in ("configuration", "modeling", "processing", "training"))
CHUNK = 100  # cases of a process
WAITING = 6  # times the processor time: what a case may take by the clock, on a machine with other work


class Outcome(NamedTuple):
    """How a case ended. kind: "result", "refused", or that of a failure; detail: the error, or what is wrong."""

    kind: str
    detail: str = ""


class HangError(BaseException):
    """A case took too long."""


def refuse_network(*arguments: Any, **options: Any) -> None:
    """Replaces the connection of sockets."""
    raise AssertionError("the network was touched")


def judge(case: Callable[[], Outcome]) -> Outcome:
    """Runs a case and returns how it ended."""
    for clock, kind in ((signal.ITIMER_PROF, signal.SIGPROF), (signal.ITIMER_REAL, signal.SIGALRM)):
        signal.signal(kind, raise_hang)
        signal.setitimer(clock, SECONDS if kind == signal.SIGPROF else WAITING * SECONDS)
    try:
        return case()
    except HangError:
        return Outcome("hang", find_place(sys.exc_info()[1]))
    except OURS as error:
        if not str(error).strip():
            return Outcome("without words", f"{type(error).__name__} in {find_place(error)}")
        return Outcome("refused") if is_ours(error) else Outcome("foreign", describe(error))
    except BaseException as error:  # everything else is what is looked for
        return Outcome("crash", describe(error))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def raise_hang(number: int, frame: Any) -> None:
    """Ends a case, as the handler of an alarm."""
    raise HangError


def is_ours(error: BaseException) -> bool:
    """Returns whether an error was raised in plait's own code."""
    return traceback.extract_tb(error.__traceback__)[-1].filename.startswith(PACKAGES)


def find_place(error: BaseException | None) -> str:
    """Returns the last line of plait, and the last line of all, that an error passed."""
    frames = traceback.extract_tb(None if error is None else error.__traceback__)
    own = [frame for frame in frames if frame.filename.startswith(ROOT) and "benchmarks" not in frame.filename]
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in (*own[-1:], *frames[-1:]))


def describe(error: BaseException) -> str:
    """Returns an error's type, place and message."""
    return f"{type(error).__name__} in {find_place(error)}: {' '.join(str(error).split())[:160]}"


class InputCase:
    """A call of a processor with every part."""

    def __init__(self, base: Path) -> None:
        processor = PlaitProcessor.from_pretrained(base)
        frames = processor.image_processor
        parts = {"feature_extractor": WhisperFeatureExtractor(chunk_length=1), "frame_processor": frames}
        self.processor = PlaitProcessor(
            image_processor=frames, tokenizer=processor.tokenizer, num_frames=2, target_image_processor=frames, **parts
        )
        self.seeds = make_seeds()

    def __call__(self, draw: random.Random, folder: Path) -> Outcome:
        """Makes a call and makes it."""
        arguments = InputMaker(self.seeds, folder, draw).make_call()
        values = self.processor(**arguments)
        sizes = {len(value) for value in values.values()}
        return Outcome("result") if len(sizes) <= 1 else Outcome("rows differ", str(sizes))


class FolderCase:
    """The loading of a damaged folder: its model, processor and recipe."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.expected = self.read(base)

    def read(self, folder: Path) -> list[Any]:
        """Loads a folder; returns what its answers depend on."""
        model, processor = PlaitForClassification.from_pretrained(folder), PlaitProcessor.from_pretrained(folder)
        recipe = load_recipe(folder / "recipe.yaml")
        inputs = processor(text=TEXTS, images=[Image.new("RGB", (20, 30), "red"), None, None], return_tensors="pt")
        with torch.no_grad():
            logits = model(**inputs).logits
        config = {name: value for name, value in model.config.to_dict().items() if name != "_name_or_path"}
        return [logits.tolist(), config, processor.to_dict(), recipe]

    def __call__(self, draw: random.Random, folder: Path) -> Outcome:
        """Damages a copy of the folder and loads it."""
        place, executed = folder / "run", folder / "executed"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.base, place)
        kinds = FolderDamager(draw, executed).damage_folder(place)
        try:
            found = self.read(place)
        finally:
            if executed.exists():
                raise AssertionError("code of the folder was run")
        if repr(found) == repr(self.expected):
            return Outcome("result")
        problems, _, unsummed = check_folder(place)
        return Outcome("seen by check") if problems or unsummed else Outcome("silently wrong", kinds)


class RecipeCase:
    """The reading of a damaged recipe."""

    def __init__(self, base: Path) -> None:
        self.recipe = (base / "recipe.yaml").read_text()

    def __call__(self, draw: random.Random, folder: Path) -> Outcome:
        """Damages the recipe and reads it."""
        file = folder / "recipe.yaml"
        file.write_bytes(damage_recipe(self.recipe, draw))
        load_recipe(file)
        return Outcome("result") if not (Path.cwd() / "executed").exists() else Outcome("executed")


CASES: dict[str, Callable[[Path], Any]] = {"inputs": InputCase, "folders": FolderCase, "recipes": RecipeCase}


def run_chunk(case: Any, name: str, seed: int, numbers: range, folder: str, pipe: Any) -> None:
    """Runs cases in a forked process, and sends the number of each before it begins and its outcome when it ended."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    place = Path(folder, str(os.getpid()))
    place.mkdir()
    for number in numbers:
        pipe.send((number, None))
        outcome = judge(lambda number=number: case(random.Random(f"{name} {seed} {number}"), place))
        pipe.send((number, outcome))
    pipe.send((-1, Outcome("peak", str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))))
    shutil.rmtree(place, ignore_errors=True)


def run_cases(case: Any, name: str, seed: int, numbers: range, folder: str) -> Iterator[tuple[int, Outcome]]:
    """Yields the outcome of each case; a process that is stopped, or stops answering, is a failure of its case."""
    start = numbers.start
    while start < numbers.stop:
        ours, theirs = multiprocessing.Pipe(duplex=False)
        part = range(start, min(start + CHUNK, numbers.stop))
        worker = multiprocessing.get_context("fork").Process(
            target=run_chunk, args=(case, name, seed, part, folder, theirs)
        )
        worker.start()
        theirs.close()
        current = start
        try:
            while ours.poll(20 * SECONDS):
                number, outcome = ours.recv()
                if outcome is not None:
                    yield number, outcome
                current = number if number >= 0 else current
                start = max(start, number + (outcome is not None))
        except EOFError:
            pass
        else:
            worker.kill()
            yield current, Outcome("hang", "inside a library")
            start = current + 1
        worker.join()
        if worker.exitcode and worker.exitcode > 0 or (worker.exitcode or 0) < 0 and start == current:
            yield current, Outcome("killed", f"exit code {worker.exitcode}")
            start = current + 1


def show(name: str, outcomes: list[tuple[int, Outcome]]) -> int:
    """Prints the counts of the outcomes and the failures by kind; returns the number of failures."""
    peak = max((int(outcome.detail) for _, outcome in outcomes if outcome.kind == "peak"), default=0)
    counts = Counter(outcome.kind for number, outcome in outcomes if number >= 0)
    print(f"{name}: {sum(counts.values())} cases, {dict(counts)}, at most {peak / 2**30:.2f} GiB", flush=True)
    failures: dict[str, list[int]] = defaultdict(list)
    for number, outcome in outcomes:
        if outcome.kind not in ("result", "refused", "seen by check", "peak"):
            place = outcome.detail.split(": ")[0] if outcome.kind in ("foreign", "crash") else outcome.detail
            failures[f"{outcome.kind}: {place}"].append(number)
    examples = {number: outcome.detail for number, outcome in outcomes}
    for failure, numbers in sorted(failures.items(), key=lambda item: -len(item[1])):
        print(f"  {len(numbers):5d} x {failure} | {examples[numbers[0]][:220]} | cases {numbers[:5]}", flush=True)
    return sum(map(len, failures.values()))


def fuzz(counts: dict[str, int], seed: int, only: int | None = None) -> int:
    """Runs the numbers of cases of each kind; returns the number of failures."""
    socket.socket.connect = refuse_network
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder, "base")
        make_folder(base)
        for name, count in counts.items():
            if not count:
                continue
            case = CASES[name](base)
            if only is not None:
                case(random.Random(f"{name} {seed} {only}"), Path(folder))
                continue
            failed += show(name, list(run_cases(case, name, seed, range(count), folder)))
    return failed


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in CASES:
        parser.add_argument(f"--{name}", type=int, default=0, help=f"number of cases of {name}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="run the case of this number alone, and show its error")
    parser.add_argument("--json", type=Path, help="also write the number of failures to this file")
    options = parser.parse_args()
    failed = fuzz({name: getattr(options, name) for name in CASES}, options.seed, options.only)
    if options.json is not None:
        options.json.write_text(json.dumps({"seed": options.seed, "failures": failed}))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
