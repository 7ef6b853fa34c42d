"""How many of plait's own files an action enters: `python benchmarks/files_entered.py [NAME ...] [--list]`.

The actions, each in a new process, with a tiny BERT and a tiny ViT that transformers saved, and made data:

- `forward`: a classifier with cross-attention fusion, built before, answers a batch of padded texts and images with
  labels;
- `training_step`: `PlaitTrainer.training_step` (forward and backward) on a batch of such rows, collated before, after
  one step to warm up;
- `collate_and_step`: the same, and before it the collator makes the batch of the rows;
- `train`: `plait train`, from the import of plait to the written run folder, by a recipe like `easy_vqa_demo`: a frozen
  text tower whose outputs are cached, images that rows share, evaluation on two splits;
- `compose`: a text and an image tower are read from their folders and composed, plait being imported before.

A file is entered when a function of its own starts to run, in any thread (a method, lambda, generator or comprehension
too). The bodies of modules and classes do not count, nor does code without a file, such as the `__init__` of a
dataclass. Each action has one line:

    compose            37 files entered: 29 by calls, 8 only while a module is imported; 51 with module code

- by calls: while no module of plait is being imported further up the stack; what a reader of the action walks through;
- only while a module is imported: by functions that module code calls in what the action is the first to import
  (Python 3.12 and later run comprehensions of module code without a function of their own, and count fewer);
- with module code: these and the files of which the action only runs the module's body, by importing it.

`--list` prints the files of each kind with their functions, `--json FILE` saves them.
"""

import argparse
import inspect
import json
import multiprocessing
import os
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
import transformers as hf
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

# the actions import plait themselves: what they are the first to import is a part of what they enter
PACKAGE = "plait"
CALLED, IMPORTING, MODULE = "called", "importing", "module"
SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
FUSION = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 230)}
QUESTIONS = ("what colour is it ?", "is it red ?", "blue ?")
LABELS = ["blue", "green", "no", "red", "yes"]
WORDS = ("[PAD]", "[UNK]", *sorted({word for question in QUESTIONS for word in question.split()}))
PIXELS, TOKENS = 32, 16
QUIET = {"use_cpu": True, "disable_tqdm": True, "report_to": "none", "save_strategy": "no"}

Functions = dict[str, set[str]]  # by file
Files = dict[str, dict[str, list[str]]]  # by kind: the functions of each file
Action = Callable[[], object]


class FileRecorder:
    """Records which files of the package are entered while an action runs, and by which functions."""

    def __init__(self) -> None:
        spec = find_spec(PACKAGE)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"no package {PACKAGE!r}: install it, or name its parent folder in PYTHONPATH")
        self.prefix = f"{Path(spec.origin).parent}{os.sep}"
        self.found: dict[str, Functions] = {kind: defaultdict(set) for kind in (CALLED, IMPORTING, MODULE)}

    def record(self, action: Action) -> None:
        """Runs the action once, in this thread and in those that it starts."""
        threading.setprofile(self._on_event)
        sys.setprofile(self._on_event)
        try:
            action()
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    def files(self) -> Files:
        """Returns the functions of each file by kind; a file is of the first kind that it has."""
        result: Files = {}
        known: set[str] = set()
        for kind, functions in self.found.items():
            result[kind] = {file: sorted(functions[file]) for file in sorted(functions.keys() - known)}
            known |= functions.keys()
        return result

    def _on_event(self, frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or not self._is_own(frame):
            return
        code = frame.f_code
        file = code.co_filename.removeprefix(self.prefix)
        if not is_function(code):
            self.found[MODULE][file].add(code.co_qualname)
        elif code.co_qualname not in self.found[CALLED].get(file, ()):
            kind = IMPORTING if self._is_importing(frame) else CALLED
            self.found[kind][file].add(code.co_qualname)

    def _is_own(self, frame: FrameType) -> bool:
        """Whether the frame's code stands in a file of the package, which is not this script, a test or an example."""
        name = str(frame.f_globals.get("__name__"))
        return frame.f_code.co_filename.startswith(self.prefix) and name.partition(".")[0] == PACKAGE

    def _is_importing(self, frame: FrameType) -> bool:
        """Whether a module of the package is being imported further up the stack."""
        above = frame.f_back
        while above is not None:
            if above.f_code.co_name == "<module>" and self._is_own(above):
                return True
            above = above.f_back
        return False


def is_function(code: CodeType) -> bool:
    """Tells the code of functions from the bodies of modules and classes."""
    return bool(code.co_flags & inspect.CO_OPTIMIZED)


def write_towers(folder: Path) -> None:
    """Saves a BERT with a tokenizer of the questions' words and a ViT, as transformers saves them."""
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", model_max_length=TOKENS
    )
    text = hf.BertConfig(vocab_size=len(WORDS), max_position_embeddings=TOKENS, **SIZES)
    image = hf.ViTConfig(image_size=PIXELS, patch_size=8, **SIZES)
    tokenizer.save_pretrained(folder / "text")
    hf.BertModel(text).save_pretrained(folder / "text")
    hf.ViTModel(image).save_pretrained(folder / "image")


def answer(question: str, colour: str) -> str:
    """Returns the right answer to a question about a square."""
    if question.startswith("what"):
        return colour
    return "yes" if colour in question else "no"


def write_recipe(folder: Path) -> None:
    """Writes questions about coloured squares, and a recipe that learns them as `easy_vqa_demo` does its own."""
    rows = []
    for colour, value in COLOURS.items():
        path = folder / f"{colour}.png"
        Image.new("RGB", (PIXELS, PIXELS), value).save(path)
        rows += [{"text": text, "image": str(path), "label": answer(text, colour)} for text in QUESTIONS]
    for split in ("train", "validation", "test"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "task": "classification",
        "model": {
            "text": str(folder / "text"),
            "image": str(folder / "image"),
            "fusion": "cross_attention",
            "query": "text",
            "fusion_config": FUSION,
            "freeze": ["text"],
        },
        "data": {"source": {split: str(folder / f"{split}.jsonl") for split in ("train", "validation", "test")}},
        "training": {
            **QUIET,
            "per_device_train_batch_size": 4,
            "num_train_epochs": 2,
            "share_images": True,
            "image_cache": 0.5,
            "cache_features": ["text"],
            "feature_cache_dir": str(folder / "features"),
        },
        "metrics": ["accuracy"],
        "output_dir": str(folder / "run"),
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))  # JSON is YAML


def compose_model(folder: Path) -> Any:
    """Composes a classifier of the two towers."""
    from plait import PlaitForClassification

    return PlaitForClassification.compose(
        text=folder / "text",
        image=folder / "image",
        fusion="cross_attention",
        query="text",
        fusion_config=FUSION,
        labels=LABELS,
        verbose=False,
    )


def prepare_compose(folder: Path) -> Action:
    import plait as plait  # as a user would, before composing

    return lambda: compose_model(folder)


def prepare_forward(folder: Path) -> Action:
    model = compose_model(folder)
    mask = (torch.arange(7) < torch.tensor([[7], [4], [2]])).long()
    inputs = {
        "input_ids": torch.randint(2, len(WORDS), mask.shape) * mask,
        "attention_mask": mask,
        "pixel_values": torch.randn(3, 3, PIXELS, PIXELS),
        "labels": torch.arange(3),
    }
    return lambda: model(**inputs)


def prepare_trainer(folder: Path) -> tuple[Any, list[dict[str, Any]]]:
    """Builds a trainer with its collator, and rows of the training split whose texts differ in length."""
    from plait import PlaitProcessor
    from plait.training import PlaitDataCollator, PlaitTrainer, PlaitTrainingArguments, load_data, load_recipe

    recipe = load_recipe(folder / "recipe.yaml")
    data = load_data(recipe.data, recipe.seed)
    processor = PlaitProcessor.compose(text=folder / "text", image=folder / "image")
    trainer = PlaitTrainer(
        compose_model(folder),
        PlaitTrainingArguments(output_dir=str(folder / "steps"), **QUIET),
        data_collator=PlaitDataCollator(processor, data.labels),
        train_dataset=data.train,
    )
    trainer.current_gradient_accumulation_steps = 1  # `train` would set it
    return trainer, [data.train[number] for number in range(4)]


def prepare_training_step(folder: Path) -> Action:
    trainer, rows = prepare_trainer(folder)
    batch, again = trainer.data_collator(rows), trainer.data_collator(rows)
    trainer.training_step(trainer.model, again)
    return lambda: trainer.training_step(trainer.model, batch)


def prepare_collate_and_step(folder: Path) -> Action:
    trainer, rows = prepare_trainer(folder)

    def step() -> None:
        trainer.training_step(trainer.model, trainer.data_collator(rows))

    step()
    return step


def prepare_train(folder: Path) -> Action:
    def train() -> None:
        from plait.training.cli import main

        if code := main(["train", str(folder / "recipe.yaml")]):
            raise RuntimeError(f"plait train ended with the exit code {code}")

    return train


ACTIONS: dict[str, Callable[[Path], Action]] = {
    "forward": prepare_forward,
    "training_step": prepare_training_step,
    "collate_and_step": prepare_collate_and_step,
    "train": prepare_train,
    "compose": prepare_compose,
}


def record(name: str, folder: Path) -> Files:
    """Returns the files that an action enters, by kind, with their functions."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    hf.utils.logging.set_verbosity_error()
    hf.utils.logging.disable_progress_bar()
    write_towers(folder)
    write_recipe(folder)
    recorder, printed = FileRecorder(), StringIO()
    try:
        with redirect_stdout(printed), redirect_stderr(printed):
            recorder.record(ACTIONS[name](folder))
    except Exception as error:
        raise RuntimeError(f"{name} failed; it printed:\n{printed.getvalue()}") from error
    return recorder.files()


def record_apart(name: str) -> Files:
    """The same in a new process and with a folder of its own, so that no action finds what another one imported."""
    with tempfile.TemporaryDirectory() as folder:
        # read when the new process imports `datasets`
        os.environ |= {"HF_DATASETS_CACHE": f"{folder}/datasets", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
        with multiprocessing.get_context("fork").Pool(1) as pool:
            return pool.apply(record, (name, Path(folder)))


def describe(name: str, files: Files) -> str:
    """Returns the line of an action."""
    called, importing, module = (len(files[kind]) for kind in (CALLED, IMPORTING, MODULE))
    entered = f"{name:17s} {called + importing:3d} files entered: {called} by calls, {importing} only while a module"
    return f"{entered} is imported; {called + importing + module} with module code"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(ACTIONS), help=f"of {', '.join(ACTIONS)}")
    parser.add_argument("--list", action="store_true", help="print the files too, with their functions")
    parser.add_argument("--json", type=Path, help="write the files and their functions to this file")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(ACTIONS))
    if unknown:
        parser.error(f"no such action: {', '.join(unknown)}; there are {', '.join(ACTIONS)}")
    results = {}
    for name in options.names:
        results[name] = record_apart(name)
        print(describe(name, results[name]), flush=True)
        for kind, files in results[name].items() if options.list else ():
            for file, functions in files.items():
                print(f"  {kind:9s} {file}: {', '.join(functions)}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
