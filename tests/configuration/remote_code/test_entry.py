"""A saved folder explains itself to a process that does not import plait."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models
from transformers import AutoConfig, AutoModel, AutoProcessor, PreTrainedTokenizerFast

import plait
from plait import PlaitConfig, PlaitModel, PlaitProcessor
from plait.configuration.remote_code.entry import CODE, FILE_NAME, MODULE

from ...modeling.zoo import CASES, build

SCRIPT = """
import sys
class Hidden:
    def find_spec(name, path=None, target=None):
        if name == "plait":
            raise ModuleNotFoundError("No module named 'plait'", name="plait")
if sys.argv[1] == "hide":
    sys.meta_path.insert(0, Hidden)
import transformers
for name in sys.argv[3:]:
    found = getattr(transformers, name).from_pretrained(sys.argv[2], trust_remote_code=sys.argv[1] != "distrust")
    print(type(found).__module__.split(".")[0], type(found).__name__)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, word_tokenizer_path: Path) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    build("PlaitForClassification", "early").save_pretrained(folder)
    PlaitProcessor.compose(text=word_tokenizer_path).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def word_tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    words = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "red": 2}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    return folder


def run(mode: str, folder: Path, *names: str) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(Path(plait.__file__).parent.parent), "HF_MODULES_CACHE": str(folder / "modules")}
    command = [sys.executable, "-c", SCRIPT, mode, str(folder), *names]
    return subprocess.run(command, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_every_saved_config_names_the_code_that_lies_beside_it(case: tuple[str, str], tmp_path: Path) -> None:
    build(*case).save_pretrained(tmp_path / "once")
    PlaitConfig.from_pretrained(tmp_path / "once").save_pretrained(tmp_path / "twice")
    for saved in (tmp_path / "once", tmp_path / "twice"):
        content = json.loads((saved / "config.json").read_text())
        assert content["auto_map"] == {"AutoConfig": f"{MODULE}.PlaitConfig"}
        assert (saved / FILE_NAME).read_text() == CODE
        assert PlaitConfig.from_pretrained(saved).auto_map == {}


def test_a_saved_processor_names_the_code_that_lies_beside_it(word_tokenizer_path: Path, tmp_path: Path) -> None:
    processor = PlaitProcessor.compose(text=word_tokenizer_path)
    processor.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "processor_config.json").read_text())
    assert content["auto_map"] == {"AutoProcessor": f"{MODULE}.PlaitProcessor"}
    assert (tmp_path / FILE_NAME).read_text() == CODE
    assert PlaitProcessor.from_pretrained(tmp_path).to_dict() == processor.to_dict()


def test_other_entries_and_those_of_a_repository_are_told_apart() -> None:
    other = {"AutoModel": "user/repo--own_code.Model"}
    config = PlaitConfig(text_config={}, auto_map={**other, "AutoConfig": f"user/repo--{MODULE}.PlaitConfig"})
    assert config.auto_map == other
    assert config.to_diff_dict()["auto_map"] == {**other, "AutoConfig": f"{MODULE}.PlaitConfig"}


def test_trusting_the_code_where_plait_is_imported_changes_nothing(folder: Path, tmp_path: Path) -> None:
    for kind, auto in ((PlaitConfig, AutoConfig), (PlaitProcessor, AutoProcessor), (PlaitModel, AutoModel)):
        found = auto.from_pretrained(folder, trust_remote_code=True)
        assert type(found) is kind
        found.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.glob("*.py")} == {FILE_NAME}


@pytest.mark.slow
def test_a_folder_loads_without_an_import_of_plait(folder: Path) -> None:
    names = ("AutoConfig", "AutoProcessor", "AutoModel", "AutoModelForSequenceClassification")
    result = run("trust", folder, *names)
    assert result.stdout.splitlines() == [
        "plait PlaitConfig", "plait PlaitProcessor", "plait PlaitModel", "plait PlaitForClassification"
    ], result.stderr  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["AutoModel", "AutoProcessor"])
def test_without_plait_the_error_says_to_install_it(name: str, folder: Path) -> None:
    result = run("hide", folder, name)
    assert result.returncode == 1 and "pip install plait" in result.stderr


@pytest.mark.slow
def test_without_trust_nothing_else_is_loaded_in_its_place(folder: Path) -> None:
    result = run("distrust", folder, "AutoProcessor")
    assert result.returncode == 1 and "trust_remote_code=True" in result.stderr and not result.stdout
