"""What a user installs: the package list, its data, its pins, its commands."""

import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
from configparser import ConfigParser
from importlib import import_module
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import plait

ROOT = Path(__file__).parents[2]
LAYERS = ("configuration", "modeling", "processing", "training")
INSTALLED = Path(plait.__file__).parent
installed_only = pytest.mark.skipif(
    os.environ.get("PLAIT_TEST_INSTALLED") != "1", reason="PLAIT_TEST_INSTALLED=1 tests an installed package"
)


def setup_cfg() -> ConfigParser:
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def requirements() -> list[Requirement]:
    """Every requirement of setup.cfg, extras included."""
    parser = setup_cfg()
    texts = [parser["options"]["install_requires"], *parser["options.extras_require"].values()]
    return [Requirement(line) for text in texts for line in text.split("\n") if line]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}


def shipped(folder: Path) -> dict[str, bytes]:
    """The files of a package folder that users get, by their path in the package."""
    files = [folder / name for name in ("__init__.py", "__main__.py", "registration.py", "py.typed")]
    files += [path for layer in LAYERS for path in (folder / layer).rglob("*") if path.suffix in {".py", ".yaml"}]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def repository_texts() -> dict[str, str]:
    """The text files of the checkout, by path; environments, builds and what git keeps are left out."""
    texts = {}
    left_out = {"build", "dist", "site", "typings", "cache", "checkpoints", "outputs", "runs", "__pycache__"}
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name == ".ci" or not (name in left_out or name.startswith("."))]
        for path in (Path(folder, name) for name in names):
            if path.suffix not in {".png", ".safetensors", ".parquet"} and path.parent.name != "plait.egg-info":
                texts[path.relative_to(ROOT).as_posix()] = path.read_text(encoding="utf-8")
    return texts


def test_the_package_list_is_the_folders_with_an_init() -> None:
    folders = [path.parent for layer in LAYERS for path in (ROOT / layer).rglob("__init__.py")]
    expected = {"plait"} | {".".join(("plait", *folder.relative_to(ROOT).parts)) for folder in folders}
    assert set(setup_cfg()["options"]["packages"].split()) == expected


def test_every_module_lies_in_a_listed_package() -> None:
    listed = set(setup_cfg()["options"]["packages"].split())
    modules = [path.relative_to(ROOT) for layer in LAYERS for path in (ROOT / layer).rglob("*.py")]
    assert modules
    assert not [path for path in modules if ".".join(("plait", *path.parent.parts)) not in listed]


def test_every_requirement_is_pinned_within_its_range() -> None:
    tested = pins()
    wrong = {str(r) for r in requirements() if not r.specifier.contains(tested.get(canonicalize_name(r.name), "0"))}
    assert not wrong


def test_a_pin_is_a_name_and_a_public_version() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if not re.fullmatch(r"#.*|[\w.-]+==[\w.]+", line)]


def test_data_files_come_with_the_package() -> None:
    assert (INSTALLED / "py.typed").is_file()
    recipes = {path.name for path in (ROOT / "training" / "recipes").glob("*.yaml")}
    assert recipes
    assert {path.name for path in (INSTALLED / "training" / "recipes").glob("*.yaml")} == recipes


@installed_only
def test_the_tested_package_is_the_installed_one() -> None:
    assert INSTALLED.is_relative_to(Path(sysconfig.get_path("purelib")))
    assert importlib.metadata.version("plait") == plait.__version__


@installed_only
def test_the_installed_package_has_the_files_of_this_checkout() -> None:
    assert shipped(INSTALLED) == shipped(ROOT)


@installed_only
def test_the_console_script_is_installed() -> None:
    command = Path(sysconfig.get_path("scripts"), "plait")
    assert "train" in subprocess.run([command, "--help"], check=True, capture_output=True, text=True).stdout


def test_python_m_plait_offers_the_commands(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "plait", "--help"]
    text = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path).stdout
    assert [name for name in ("train", "evaluate", "predict") if name not in text] == []


def test_every_public_name_is_there_and_listed() -> None:
    assert set(plait.__all__) <= set(dir(plait))
    assert {name: getattr(plait, name).__name__ for name in plait.__all__} == {name: name for name in plait.__all__}


@pytest.mark.parametrize("layer", LAYERS)
def test_every_public_name_of_a_layer_is_there(layer: str) -> None:
    module = import_module(f"plait.{layer}")
    assert set(module.__all__) <= set(dir(module))
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="PlaitForEverything"):
        plait.PlaitForEverything  # noqa: B018


def test_every_script_that_make_runs_exists() -> None:
    scripts = re.findall(r"(?:examples|benchmarks)/\w+\.py", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert scripts
    assert not [script for script in scripts if not (ROOT / script).is_file()]


def test_no_file_names_a_place_of_one_machine() -> None:
    machine = re.compile(r"(?<![\w.~-])/(?:work|root|home|opt|tmp|mnt|Users)/|\.\./shared|pypi\.org|download\.pytorch")
    texts = repository_texts()
    assert "setup.cfg" in texts
    assert not {path: found[0] for path, text in texts.items() if (found := machine.search(text))}
