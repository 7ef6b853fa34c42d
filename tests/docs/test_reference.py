"""Every public name has a page, every page is in the navigation, and every field and argument says what it means."""

import inspect
import re
from configparser import ConfigParser
from dataclasses import fields
from importlib import import_module
from typing import Any

import pytest
import yaml

import plait
from plait.training.commands import COMMANDS
from plait.training.recipes.schema import SECTIONS, Recipe, TokenizerRecipe
from plait.training.tasks.registry import TASKS

from .pages import ROOT, list_pages
from .site import load_generator

GENERATOR = load_generator()
RECIPES = (Recipe, *SECTIONS.values())
SETTINGS = list(dict.fromkeys(task.settings for task in TASKS.values()))
MODELS = [name for name in plait.__all__ if hasattr(getattr(plait, name), "compose") and name != "PlaitProcessor"]
LINK = re.compile(r"\]\(([^)\s]+)\)")
ENTRY = re.compile(r"^ {4}(?P<names>\w+(?:, \w+)*): ", re.MULTILINE)


def documented_arguments(function: Any) -> set[str]:
    """The names in the section `Args:` of a docstring."""
    section = inspect.cleandoc(function.__doc__).partition("\nArgs:\n")[2].split("\n\n")[0]
    return {name for entry in ENTRY.finditer(section) for name in entry["names"].split(", ")}


def list_navigation() -> set[str]:
    """The sources that mkdocs.yml names."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    entries = yaml.safe_load(text)["nav"]
    found = set()
    while entries:
        entry = entries.pop()
        if isinstance(entry, dict):
            for values in entry.values():
                entries += values if isinstance(values, list) else [values]
        else:
            found.add(entry)
    return found


def test_every_public_name_has_a_page() -> None:
    pages = GENERATOR.render_reference()
    index = pages["reference/index.md"]
    packages = GENERATOR.list_packages()
    assert {"plait", "plait.modeling", "plait.training.metrics.images"} <= set(packages)
    listed = GENERATOR.list_public_names()
    for package in packages:
        for name in import_module(package).__all__:
            places = [owner for owner, names in listed.items() if name in names]
            assert any(GENERATOR.find_page(place, name) in pages for place in places), f"{package}.{name}"
            assert f"[`{name}`]" in index


def test_every_page_is_in_the_navigation() -> None:
    pages = {page.removeprefix("docs/") for page in list_pages() if page != "README.md"}
    results = {page for page in pages if page.startswith("results/")}
    assert set(GENERATOR.list_results()) == results
    assert pages - results - list_navigation() == set()
    assert list_navigation() - pages == {"RECIPES", "REFERENCE", "RESULTS"}  # filled in by docs/generate.py


def test_the_readme_links_to_every_guide() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    guides = {page for page in list_pages() if page.startswith(("docs/guides/", "docs/howto/"))}
    assert {page for page in guides if f"({page})" not in readme} == set()
    assert len(readme.split()) < 700


def test_every_link_leads_to_a_file_of_the_repository() -> None:
    """Also for who reads the pages where they lie: what is generated for the site is linked by what stands for it."""
    broken = []
    for page in [*list_pages(), "CONTRIBUTING.md"]:
        text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
        links = [link for link in LINK.findall(text) if not link.startswith(("http", "#", "mailto:"))]
        broken += [(page, link) for link in links if not ((ROOT / page).parent / link.partition("#")[0]).exists()]
    assert not broken


def test_what_stands_for_generated_pages_leads_to_them_on_the_site() -> None:
    page = (ROOT / "docs" / GENERATOR.LOOK_UP).read_text(encoding="utf-8")
    made = {**GENERATOR.render_recipes(), **GENERATOR.render_reference()}
    for part, target in GENERATOR.GENERATED.items():
        assert f"\n## {part.capitalize()}\n" in page and target.partition("#")[0] in made
        for place, up in (("index.md", ""), ("guides/a.md", "../"), ("howto/b.md", "../")):
            link = GENERATOR.LOOK_UP.removeprefix("howto/") if place.startswith("howto") else f"{up}{GENERATOR.LOOK_UP}"
            assert GENERATOR.point_to_generated(f"[x]({link}#{part})", place) == f"[x]({up}{target})"


def test_the_quickstart_names_every_command_and_extra() -> None:
    page = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    assert {name for name in COMMANDS if f"`plait {name}" not in page} == set()
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    assert {name for name in parser["options.extras_require"] if f"| `{name}` |" not in page} == set()


def test_every_recipe_has_a_page_with_its_keys() -> None:
    pages = GENERATOR.render_recipes()
    shipped = {f"recipes/{path.stem}.md" for path in (ROOT / "training" / "recipes").glob("*.yaml")}
    assert shipped <= set(pages)
    keys = pages["recipes/keys.md"]
    assert {item.name for kind in RECIPES for item in fields(kind) if f"| `{item.name}` |" not in keys} == set()
    assert {name for name in TASKS if f"### {name}\n" not in keys} == set()


@pytest.mark.parametrize("kind", [*RECIPES, *SETTINGS], ids=lambda kind: kind.__name__)
def test_every_field_of_a_recipe_is_described(kind: type) -> None:
    described = GENERATOR.describe_fields(kind)
    assert {item.name for item in fields(kind) if len(described.get(item.name, "")) < 8} == set()


def test_every_own_training_argument_has_its_help() -> None:
    described = GENERATOR.describe_arguments()
    assert {"learning_rates", "frozen", "cache_features", "remove_unused_columns"} <= set(described)
    assert {name for name, text in described.items() if len(text) < 15} == set()


@pytest.mark.parametrize("name", [*MODELS, "PlaitProcessor"])
def test_compose_shows_and_documents_its_arguments(name: str) -> None:
    """An editor shows them: they stand in the signature, and `options` is only what is left."""
    function = getattr(plait, name).compose
    parameters = inspect.signature(function).parameters
    assert len(parameters) >= 5
    assert documented_arguments(function) == set(parameters)
    assert not [p for p in parameters.values() if p.kind is p.VAR_POSITIONAL]


def test_a_field_without_a_word_is_noticed() -> None:
    class Silent(TokenizerRecipe):
        """from_pretrained: a folder of a tokenizer."""

    assert set(GENERATOR.describe_fields(Silent)) == {"from_pretrained"}
