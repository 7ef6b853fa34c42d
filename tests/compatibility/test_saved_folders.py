"""Folders that an earlier version saved load with nothing lost, answer as they did, and are saved as they were."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

import plait
from plait.configuration.checksums import CHECKSUM_FILE
from plait.configuration.remote_code.entry import FILE_NAME

from .answers import ask, embed, hide_padding, process, read_rows
from .comparing import check_files, check_tensors, is_same_transformers, read_json
from .tiny_models import FUSIONS, list_tiny_models
from .tiny_processors import list_processors

FOLDERS = Path(__file__).parent / "folders"
NAMES = sorted(folder.name for folder in FOLDERS.iterdir())
AUTO_CLASSES = {
    "PlaitModel": ("AutoModel",),
    "PlaitForClassification": (
        "AutoModelForSequenceClassification",
        "AutoModelForImageClassification",
        "AutoModelForAudioClassification",
        "AutoModelForVideoClassification",
    ),
    "PlaitForCausalLM": ("AutoModelForCausalLM", "AutoModelForImageTextToText"),
    "PlaitForConditionalGeneration": (
        "AutoModelForSeq2SeqLM",
        "AutoModelForSpeechSeq2Seq",
        "AutoModelForImageTextToText",
    ),
    "PlaitForImageAutoencoding": (),  # transformers has no Auto class for these two
    "PlaitForImageGeneration": (),
    "PlaitForMaskedLM": ("AutoModelForMaskedLM",),
    "PlaitForPreTraining": ("AutoModelForPreTraining",),
    "PlaitForQuestionAnswering": ("AutoModelForQuestionAnswering",),
    "PlaitForRetrieval": ("AutoModelForZeroShotImageClassification",),
}
MODEL_FILES = {"config.json", "generation_config.json", "model.safetensors"}
PROBLEMS = ("missing_keys", "unexpected_keys", "mismatched_keys")


def read_class_name(name: str) -> str:
    """Returns the class that a folder was saved by."""
    return read_json(FOLDERS / name / "config.json")["architectures"][0]


def list_expected(kind: str) -> list[tuple[str, str]]:
    """Returns every folder with each reader of it whose answers are kept, as far as its name begins so."""
    found = [(name, reader.name) for name in NAMES for reader in sorted((FOLDERS / name / "expected").iterdir())]
    return [(name, reader) for name, reader in found if reader.startswith(kind)]


LOADERS = [(name, loader) for name in NAMES for loader in (read_class_name(name), *AUTO_CLASSES[read_class_name(name)])]
READERS = [*list_expected("PlaitFor"), *list_expected("PlaitModel")]
PROCESSORS = [name for name, _ in list_expected("PlaitProcessor")]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    """Sums are split among threads: one of them computes as one did when the folders were saved."""
    torch.set_num_threads(1)


def find_loader(name: str) -> Any:
    """Returns a class of plait, or an Auto class of transformers, by its name."""
    return getattr(plait if name.startswith("Plait") else transformers, name)


def group_shared_names(state: dict[str, Tensor]) -> list[set[str]]:
    """Returns the names of a model's tensors, those of one and the same tensor together."""
    groups: dict[tuple[int, torch.Size], set[str]] = {}
    for name, tensor in state.items():
        groups.setdefault((tensor.data_ptr(), tensor.shape), set()).add(name)
    return list(groups.values())


def list_files(folder: Path) -> set[str]:
    """Returns the paths of all files of a folder, apart from what is expected of it, its `auto_map`'s code, and its
    checksums, which older folders do not have."""
    paths = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {path for path in paths if not path.startswith("expected/") and path not in (FILE_NAME, CHECKSUM_FILE)}


def test_every_class_fusion_tower_and_processor_has_a_folder() -> None:
    classes = {name for name in plait.__all__ if name.startswith("PlaitFor") or name == "PlaitModel"}
    assert {read_class_name(name) for name in NAMES} == classes == set(AUTO_CLASSES)
    assert set(NAMES) >= {*list_tiny_models(), *list_processors(), *(f"model_fusion_{name}" for name in FUSIONS)}
    assert len(PROCESSORS) > len(list_processors())


@pytest.mark.parametrize(("name", "loader"), LOADERS)
def test_every_tensor_of_the_file_is_in_the_model(name: str, loader: str) -> None:
    """Under its name, with its bits; nothing else is there but second names of tied weights."""
    model, info = find_loader(loader).from_pretrained(FOLDERS / name, output_loading_info=True)
    assert type(model) is find_loader(read_class_name(name))
    assert {problem: info[problem] for problem in PROBLEMS if info[problem]} == {}
    saved, state = load_file(FOLDERS / name / "model.safetensors"), model.state_dict()
    assert saved.keys() <= state.keys()
    assert [names for names in group_shared_names(state) if len(names & saved.keys()) != 1] == []
    assert [key for key, tensor in saved.items() if state[key].dtype != tensor.dtype] == []
    # a scalar of the file, the temperature of similarities, has the shape (1,) in the model
    assert [key for key, tensor in saved.items() if not torch.equal(state[key].view_as(tensor), tensor)] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_is_saved_again_as_it_was(name: str, tmp_path: Path) -> None:
    """The same files: the same names and bits of tensors, and the same configs."""
    find_loader(read_class_name(name)).from_pretrained(FOLDERS / name).save_pretrained(tmp_path)
    assert list_files(tmp_path) == list_files(FOLDERS / name) & MODEL_FILES
    before, after = FOLDERS / name / "model.safetensors", tmp_path / "model.safetensors"
    with safe_open(before, "pt") as old, safe_open(after, "pt") as new:
        assert (list(new.keys()), new.metadata()) == (list(old.keys()), old.metadata())
    old, new = load_file(before), load_file(after)
    assert [key for key in old if old[key].dtype != new[key].dtype or not torch.equal(old[key], new[key])] == []
    for file in list_files(tmp_path) - {"model.safetensors"}:
        check_files(tmp_path / file, FOLDERS / name / file, exact=is_same_transformers(FOLDERS / name))


@pytest.mark.parametrize(("name", "reader"), READERS)
def test_a_loaded_model_answers_as_before(name: str, reader: str) -> None:
    """In the class that saved it, and in others that read its folder and lack nothing."""
    model, info = find_loader(reader).from_pretrained(FOLDERS / name, output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"]
    expected = FOLDERS / name / "expected" / reader
    inputs = load_file(expected / "inputs.safetensors")
    answers, outputs = ask(model, inputs), hide_padding(load_file(expected / "outputs.safetensors"), inputs)
    assert outputs.keys() <= answers.keys()  # a class may return more than it did
    check_tensors(hide_padding({name: answers[name] for name in outputs}, inputs), outputs)


@pytest.mark.parametrize("loader", ["PlaitProcessor", "AutoProcessor"])
@pytest.mark.parametrize("name", PROCESSORS)
def test_a_processor_prepares_rows_as_before(name: str, loader: str) -> None:
    processor = find_loader(loader).from_pretrained(FOLDERS / name)
    assert type(processor) is plait.PlaitProcessor
    expected = FOLDERS / name / "expected" / "PlaitProcessor"
    wanted = load_file(expected / "outputs.safetensors")
    if processor.image_token is not None and wanted["image_present"].all():
        del wanted["image_present"]  # left out since then: it says nothing
    check_tensors(process(processor, read_rows(expected)), wanted)


@pytest.mark.parametrize("name", [name for name in PROCESSORS if (FOLDERS / name / "processor_config.json").is_file()])
def test_a_processor_is_saved_again_as_it_was(name: str, tmp_path: Path) -> None:
    plait.PlaitProcessor.from_pretrained(FOLDERS / name).save_pretrained(tmp_path)
    assert list_files(tmp_path) == list_files(FOLDERS / name) - MODEL_FILES
    for file in list_files(tmp_path):
        check_files(tmp_path / file, FOLDERS / name / file, exact=is_same_transformers(FOLDERS / name))


def test_an_embedder_of_sentence_transformers_is_found_by_the_path_of_its_class(tmp_path: Path) -> None:
    """Which stands in modules.json: its vectors are what they were, and it is saved as it was."""
    library = pytest.importorskip("sentence_transformers")
    folder = FOLDERS / "sentence_transformer"
    (module,) = read_json(folder / "modules.json")
    assert module["type"] == "plait.training.sentence_module.PlaitSentenceModule"
    embedder = library.SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")
    embedder.save(str(tmp_path), create_model_card=False)
    expected = folder / "expected" / "SentenceTransformer"
    check_tensors(embed(embedder, read_rows(expected)), load_file(expected / "outputs.safetensors"))
    assert list_files(tmp_path) == list_files(folder)
    assert read_json(tmp_path / "modules.json") == [module]
    for file in list_files(folder) - {"modules.json", "model.safetensors"}:
        check_files(tmp_path / file, folder / file, exact=is_same_transformers(folder))
