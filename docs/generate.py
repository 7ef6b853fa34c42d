"""Writes the pages of the site that have no source in docs/: recipes with every key, and one page a public name.

mkdocs calls the functions `on_...` (`hooks` of mkdocs.yml). The tests call the others.
"""

import inspect
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from transformers import TrainingArguments

from plait.training import PlaitTrainingArguments
from plait.training.recipes.schema import SECTIONS, Recipe
from plait.training.tasks.registry import TASKS

DOCS = Path(__file__).parent
ROOT = DOCS.parent
RECIPES = ROOT / "training" / "recipes"
NAMES = re.compile(r"^(?P<names>\w+(?:, \w+)*): (?P<text>.+(?:\n    .+)*)", re.MULTILINE)
TERMS = re.compile(r"(?P<names>`\w+`(?:,\s`\w+`)*):\s")
LOOK_UP = "howto/look_up.md"  # what the repository holds in place of the generated pages
GENERATED = {"recipes": "recipes/index.md", "keys": "recipes/keys.md", "reference": "reference/index.md"}
GENERATED["columns"] = "recipes/keys.md#settings-columns-and-metrics-by-task"
LINK = re.compile(r"\]\((?P<up>(?:\.\./)*)(?:howto/)?look_up\.md#(?P<part>\w+)\)")
INTRODUCTION = """# Recipes

A recipe is a training run as a YAML file. `plait train NAME` runs one that comes with plait, `plait train FILE.yaml`
one of yours; `--dotted.key value` changes a key. All keys: [keys](keys.md).

| recipe | task | what it does |
|---|---|---|
"""


def list_packages() -> list[str]:
    """The packages of plait that hand on public names, the shortest path first."""
    layers = ("configuration", "modeling", "processing", "training")
    faces = [ROOT / "__init__.py", *(path for layer in layers for path in (ROOT / layer).rglob("__init__.py"))]
    open_ones = [path.parent.relative_to(ROOT).parts for path in faces if "__all__" in path.read_text(encoding="utf-8")]
    return [".".join(("plait", *parts)) for parts in sorted(open_ones, key=lambda parts: (len(parts), parts))]


def list_public_names() -> dict[str, list[str]]:
    """Every public name by the package whose page has it: the first of those that hand it on."""
    pages: dict[str, list[str]] = {}
    seen: list[tuple[str, Any]] = []
    for package in list_packages():
        module = import_module(package)
        for name in sorted(module.__all__):
            value = getattr(module, name)
            if not any(name == other and value is same for other, same in seen):
                seen.append((name, value))
                pages.setdefault(package, []).append(name)
    return pages


def find_page(package: str, name: str) -> str:
    return f"reference/{package}.{name}.md"


def render_reference() -> dict[str, str]:
    """One page a public name, and one that lists them all."""
    pages = {}
    lines = ["# Reference", "", "Every public name, by the package to import it from.", ""]
    for package, names in list_public_names().items():
        lines += ["", f"## `{package}`", "", first_sentence(import_module(package)), ""]
        for name in names:
            pages[find_page(package, name)] = f"::: {package}.{name}\n"
            summary = summarize(getattr(import_module(package), name))
            lines.append(f"- [`{name}`]({package}.{name}.md){': ' if summary else ''}{summary}")
    arguments = find_page("plait", "PlaitTrainingArguments")
    pages[arguments] += f"\n## Its fields\n\n{render_table(PlaitTrainingArguments, describe_arguments())}\n"
    return {"reference/index.md": "\n".join(lines) + "\n", **pages}


def summarize(value: Any) -> str:
    """The first sentence of what has a docstring of its own; a constant has none."""
    return first_sentence(value) if inspect.isclass(value) or inspect.isroutine(value) else ""


def first_sentence(value: Any) -> str:
    text = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())
    return re.split(r"(?<=[.:])\s", text)[0].rstrip(":")


def describe_fields(kind: type) -> dict[str, str]:
    """The meaning of the fields of a dataclass, as its docstring gives it: a line `name, name: text` each, or sentences
    with the names in backticks."""
    document = inspect.cleandoc(kind.__doc__ or "").split("\n\nRaises:")[0]
    known = {item.name for item in fields(kind)}
    found = {}
    for match in NAMES.finditer(document):
        names = match["names"].split(", ")
        if set(names) <= known:
            found |= dict.fromkeys(names, " ".join(match["text"].split()))
    terms = [] if found else list(TERMS.finditer(document))
    for place, match in enumerate(terms):
        end = terms[place + 1].start() if place + 1 < len(terms) else len(document)
        names = re.findall(r"\w+", match["names"])
        if set(names) <= known:
            found |= dict.fromkeys(names, " ".join(document[match.end() : end].split()))
    return found


def describe_arguments() -> dict[str, str]:
    """The meaning of the fields that PlaitTrainingArguments adds to those of the Trainer."""
    theirs = {item.name for item in fields(TrainingArguments)} - {"remove_unused_columns"}
    own = [item for item in fields(PlaitTrainingArguments) if item.name not in theirs]
    return {item.name: " ".join(str(item.metadata.get("help", "")).split()) for item in own}


def render_recipes() -> dict[str, str]:
    """The keys, one page of each recipe that comes with plait, and their list."""
    rows, pages = [], {}
    for path in sorted(RECIPES.glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        task, summary = yaml.safe_load(text).get("task", "classification"), summarize_recipe(text)
        rows.append(f"| [`{path.stem}`]({path.stem}.md) | {task} | {summary} |")
        meaning = f"{summary}. What each key means: [keys](keys.md)."
        pages[f"recipes/{path.stem}.md"] = f"# {path.stem}\n\n{meaning}\n\n```yaml\n{text}```\n"
    return {"recipes/index.md": INTRODUCTION + "\n".join(rows) + "\n", "recipes/keys.md": render_keys(), **pages}


def summarize_recipe(text: str) -> str:
    """The first sentence of the comment at a recipe's head, without the command that may follow."""
    lines = [line.lstrip("# ") for line in itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())]
    said = " ".join(" ".join(lines).split("plait train")[0].split())
    return re.split(r"(?<=[.:])\s", said)[0].rstrip(":.")


def render_keys() -> str:
    """All keys of a recipe, from the dataclasses that read it."""
    parts = ["# The keys of a recipe", "An unknown key is an error that suggests the nearest known one."]
    whole = describe_fields(Recipe) | {name: f"its keys: [below](#{name})" for name in SECTIONS}
    parts.append(render_table(Recipe, whole))
    for section, kind in SECTIONS.items():
        parts += [f"## `{section}`", first_paragraph(kind), render_table(kind, describe_fields(kind))]
    parts += ["## `training`", "The fields of `PlaitTrainingArguments`. Its own:"]
    parts.append(render_table(PlaitTrainingArguments, describe_arguments()))
    parts += ["Those of transformers' `TrainingArguments`:", render_table(PlaitTrainingArguments, describe_theirs())]
    parts += ["## `settings`, columns and metrics by task"]
    parts += [part for task in TASKS.values() for part in render_task(task)]
    return "\n\n".join(parts) + "\n"


def first_paragraph(kind: type) -> str:
    return " ".join(inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0].split())


def describe_theirs() -> dict[str, str]:
    own = describe_arguments()
    theirs = [item for item in fields(TrainingArguments) if item.name not in own and item.init]
    return {item.name: first_help_sentence(item) for item in theirs}


def first_help_sentence(item: Field) -> str:
    return re.split(r"(?<=\.)\s", " ".join(str(item.metadata.get("help", "")).split()))[0]


def render_task(task: Any) -> Iterator[str]:
    """What a recipe may say for one task."""
    yield f"### {task.name}"
    yield first_paragraph(type(task))
    yield f"Columns: {', '.join(f'`{role}`' for role in task.roles)}."
    if task.metrics:
        yield f"Metrics by default: {', '.join(f'`{name}`' for name in task.metrics)}."
    described = describe_fields(task.settings)
    if described:
        yield render_table(task.settings, described, "settings")


def render_table(kind: type, described: Mapping[str, str], head: str = "key") -> str:
    known: dict[str, Field] = {item.name: item for item in fields(kind)}
    lines = [f"| {head} | type | default | meaning |", "|---|---|---|---|"]
    for name, text in described.items():
        cells = (f"`{name}`", f"`{render_type(known[name].type)}`", render_default(known[name]), text)
        lines.append("| " + " | ".join(cells) + " |")  # a bar inside backticks separates no cells
    return "\n".join(lines)


def render_type(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Z])", "", text)  # names without their modules


def render_default(item: Field) -> str:
    if item.default is not MISSING:
        return f"`{item.default!r}`" if not hasattr(item.default, "value") else f"`{item.default.value!r}`"
    if item.default_factory is MISSING:
        return ""
    made = item.default_factory()
    return f"`{made!r}`" if isinstance(made, list | dict) else ""


def list_results() -> list[str]:
    return sorted(f"results/{path.name}" for path in (DOCS / "results").glob("*.md"))


def on_config(config: Any) -> Any:
    """Puts the generated pages, and all results, into the navigation."""
    recipes, reference = list(render_recipes()), ["reference/index.md"]
    for package, names in list_public_names().items():
        reference.append({package: [{name: find_page(package, name)} for name in names]})
    made = {"Recipes": recipes, "Reference": reference, "Results": list_results()}
    config["nav"] = [{key: made.get(key, value) for key, value in entry.items()} for entry in config["nav"]]
    return config


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Leads links into LOOK_UP to the generated pages that stand for its parts on the site."""
    return point_to_generated(markdown, page.file.src_uri)


def point_to_generated(markdown: str, page: str) -> str:
    """Returns a page with links to the generated pages in place of those to the parts of LOOK_UP."""
    up = "../" * page.count("/")
    return LINK.sub(lambda link: f"]({up}{GENERATED[link['part']]})", markdown)


def on_files(files: Any, config: Any) -> Any:
    """Adds the generated pages."""
    from mkdocs.structure.files import File

    for path, text in {**render_recipes(), **render_reference()}.items():
        files.append(File.generated(config, path, content=text))
    return files
