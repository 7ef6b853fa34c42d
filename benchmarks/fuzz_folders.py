"""Damaged folders and recipes: what a run folder becomes by flipped bits, cuts, lost and swapped files and tensors, and
garbage in its configs."""

import json
import pickle
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from fuzz_inputs import ALPHABETS, ODD_NUMBERS, damage
from safetensors.torch import load_file, save_file
from torch import Tensor

from plait import PlaitForClassification, PlaitProcessor
from plait.configuration import PlaitConfig, PlaitTextConfig, PlaitVisionConfig
from plait.training.data.tokenizer import train_tokenizer
from plait.training.recipes.files import save_recipe
from plait.training.runs.recipe import build_recipe

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
TEXTS = ["a red cat", "the blue dog is here", "what is it?"]
RECIPES = (
    "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    "m0: &m0 {k: v}\n" + "".join(f"m{n}: &m{n}\n  <<: [{','.join([f'*m{n - 1}'] * 9)}]\n" for n in range(1, 12)),
    "a: &a [*a]",
    "[" * 100_000,
    "{" * 3000,
    "- " * 5000 + "x",
    "!!python/object/apply:os.system ['touch executed']",
    "!!timestamp x",
    "!!int ''",
    "seed: " + "9" * 5000,
    "seed: 0x" + "f" * 5000,
    "? [a]\n: b",
    "\ud800",
    "%YAML 9.9\n---\na: b",
)


class RunsCode:
    """A pickle of it writes a file when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.write_text, (self.file, "executed")


def make_folder(folder: Path) -> None:
    """Saves a small classifier of texts and images with its processor and a recipe."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    towers: dict[str, Any] = {"text_config": PlaitTextConfig(vocab_size=300, max_position_embeddings=16, **sizes)}
    towers["vision_config"] = PlaitVisionConfig(image_size=16, patch_size=8, **sizes)
    config = PlaitConfig(**towers, fusion_config={"strategy": "late_mean", **sizes})
    PlaitForClassification(config).save_pretrained(folder)
    tokenizer = train_tokenizer(TEXTS * 3, 16, vocab_size=300, min_frequency=1)
    PlaitProcessor.compose(text=tokenizer, image=towers["vision_config"]).save_pretrained(folder)
    content = {"model": {"text": {"config": dict(sizes)}}, "tokenizer": {"train": {"vocab_size": 300}}}
    content |= {"data": {"source": "rows.csv", "columns": {"text": "words"}}, "output_dir": "run"}
    save_recipe(build_recipe(content), folder / "recipe.yaml", "0.1.0")


class FolderDamager:
    """Damages a copy of a folder; every choice comes from `draw`."""

    def __init__(self, draw: random.Random, executed: Path) -> None:
        self.draw, self.executed = draw, executed
        self.kinds: dict[str, Callable[[Path], None]] = {
            "flip": self.flip_bits,
            "bytes": self.damage_file,
            "cut": self.cut_file,
            "remove": self.remove_file,
            "swap": self.swap_files,
            "tensor": self.change_tensor,
            "json": self.change_json,
            "index": self.write_index,
            "pickle": self.write_pickle,
            "link": self.link_file,
        }

    def damage_folder(self, folder: Path) -> str:
        """Damages the folder once or twice; returns the kinds of damage."""
        kinds = [self.draw.choice(sorted(self.kinds)) for _ in range(self.draw.choice((1, 1, 1, 2)))]
        for kind in kinds:
            self.kinds[kind](folder)
        return " ".join(kinds)

    def choose_file(self, folder: Path) -> Path:
        """Returns a file of the folder that can be damaged."""
        files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in (".json", ".safetensors"))
        return self.draw.choice(files or [folder / "config.json"])

    def flip_bits(self, folder: Path) -> None:
        """Flips one to three bits of a file."""
        file = self.choose_file(folder)
        content = bytearray(file.read_bytes() if file.is_file() else b"x")
        for _ in range(self.draw.choice((1, 1, 2, 3))):
            if content:
                content[self.draw.randrange(len(content))] ^= 1 << self.draw.randrange(8)
        file.write_bytes(content)

    def damage_file(self, folder: Path) -> None:
        """Damages a file as `damage` does."""
        file = self.choose_file(folder)
        file.write_bytes(damage(file.read_bytes() if file.is_file() else b"x", self.draw))

    def cut_file(self, folder: Path) -> None:
        """Cuts a file, often to nothing."""
        file = self.choose_file(folder)
        content = file.read_bytes() if file.is_file() else b""
        file.write_bytes(content[: self.draw.choice((0, 1, self.draw.randrange(len(content) + 1)))])

    def remove_file(self, folder: Path) -> None:
        """Removes a file."""
        self.choose_file(folder).unlink(missing_ok=True)

    def swap_files(self, folder: Path) -> None:
        """Gives one file the content of another."""
        one, other = self.choose_file(folder), self.choose_file(folder)
        if one != other and other.is_file():
            shutil.copyfile(other, one)

    def link_file(self, folder: Path) -> None:
        """Puts a folder, or a link to nothing, in the place of a file."""
        file = self.choose_file(folder)
        file.unlink(missing_ok=True)
        self.draw.choice((file.mkdir, lambda: file.symlink_to("/nowhere"), lambda: file.symlink_to("/dev/null")))()

    def change_tensor(self, folder: Path) -> None:
        """Removes, renames, reshapes, converts, adds or changes a tensor of the weights."""
        try:
            tensors = load_file(folder / WEIGHTS)
        except Exception:  # damaged already, in any way
            return
        name = self.draw.choice(sorted(tensors) or ["x"])
        tensor = tensors.pop(name, torch.zeros(2))
        kind = self.draw.choice(("drop", "rename", "reshape", "convert", "add", "change", "nan", "swap"))
        changed: dict[str, Callable[[], dict[str, Tensor]]] = {
            "drop": dict,
            "rename": lambda: {f"{name}{self.draw.choice(('x', '.weight', ''))}"[self.draw.randrange(2) :]: tensor},
            "reshape": lambda: {name: tensor.reshape(-1)[:-1].clone()},
            "convert": lambda: {
                name: tensor.to(self.draw.choice((torch.int8, torch.float16, torch.bool, torch.float64)))
            },
            "add": lambda: {name: tensor, f"{name}2": tensor.clone()},
            "change": lambda: {name: tensor + 1},
            "nan": lambda: {name: tensor * float("nan")},
            "swap": lambda: {name: tensor.flip(0).contiguous()},
        }
        save_file({**tensors, **changed[kind]()}, folder / WEIGHTS, {"format": "pt"})

    def change_json(self, folder: Path) -> None:
        """Changes a value or a key somewhere in a JSON file, or replaces the file by garbage."""
        file = self.draw.choice(sorted(folder.glob("*.json")) or [folder / "config.json"])
        try:
            content = json.loads(file.read_text())
            places = list(iterate_places(content))
        except (ValueError, OSError):
            places = []
        if not places or self.draw.random() < 0.2:
            garbage = (
                "",
                "{",
                "[]",
                "null",
                "3",
                "[" * 20_000,
                '{"a":' * 20_000,
                "\x00",
                "{}",
            )
            if not file.is_dir():
                file.write_text(self.draw.choice(garbage))
            return
        holder, key = self.draw.choice(places)
        values = [value for value in ODD_NUMBERS if not isinstance(value, complex)]
        values += [None, "", "x", [], {}, [1], {"a": 1}, self.draw.choice(ALPHABETS[:2]), "../../x", 10**7, 8, 16, 1]
        if self.draw.random() < 0.2 and isinstance(holder, dict):
            holder[f"{key}x"] = holder.pop(key)
        elif self.draw.random() < 0.2 and isinstance(holder, dict):
            del holder[key]
        else:
            holder[key] = self.draw.choice(values)
        file.write_text(json.dumps(content))

    def write_index(self, folder: Path) -> None:
        """Replaces the weights by an index, right or wrong, of one shard."""
        try:
            names = list(load_file(folder / WEIGHTS))
        except Exception:  # damaged already, in any way
            return
        shard = self.draw.choice(("part.safetensors", "part.safetensors", "../part.safetensors", "/etc/passwd", "", 3))
        (folder / WEIGHTS).rename(folder / "part.safetensors")
        names = names[self.draw.randrange(2) :] + ["new"][self.draw.randrange(2) :]
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, shard)}))

    def write_pickle(self, folder: Path) -> None:
        """Puts a pickle that runs code in the place of the weights."""
        name = self.draw.choice((WEIGHTS, "pytorch_model.bin"))
        if not (folder / WEIGHTS).is_dir():
            (folder / WEIGHTS).unlink(missing_ok=True)
            (folder / name).write_bytes(pickle.dumps(RunsCode(self.executed)))


def iterate_places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Yields every value inside JSON content as its holder and its key."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in list(items)[:200]:
        yield content, key
        yield from iterate_places(value)


def damage_recipe(recipe: str, draw: random.Random) -> bytes:
    """Returns a damaged recipe: garbage, flipped bits, or a changed value."""
    if draw.random() < 0.3:
        return draw.choice(RECIPES).encode("utf-8", "surrogatepass")
    if draw.random() < 0.5:
        return damage(recipe.encode(), draw)
    content = yaml.safe_load(recipe)
    holder, key = draw.choice(list(iterate_places(content)))
    values = [value for value in ODD_NUMBERS if not isinstance(value, complex)]
    holder[key] = draw.choice(
        [*values, None, "", "x", [], {}, [1], {"a": 1}, "package:../../etc", "package:os/x", [[]]]
    )
    return yaml.safe_dump(content, allow_unicode=True).encode("utf-8", "surrogatepass")
