"""`plait.fit`: from a table to a trained model in one call."""

import copy
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState

from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...processing import PlaitProcessor
from ..data.columns import name_columns
from ..recipes.errors import RecipeError
from ..recipes.schema import Recipe
from ..runs.claim import ClaimedFolder, run_on_writers
from ..runs.folder import RUN_FOLDER
from ..runs.loading import load_model
from ..runs.predict import predict
from ..runs.recipe import build_recipe
from ..runs.reporting import list_run_cautions
from ..runs.train import Results, format_results, train
from ..storage.atomic import write_text
from ..tasks.registry import find_task
from .memory import build_data_set, collect_splits, save_splits
from .proposal import Proposal, propose
from .writing import format_proposal, write_commented_recipe

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from pandas import DataFrame

PROPOSAL_FILE = "proposal.yaml"  # in the run folder: the recipe as it was proposed, with its reasons
DATA_ENDING = "-data"  # of the folder beside a run that holds rows from memory


@dataclass(frozen=True)
class FittedModel:
    """What `fit` returns.

    model, processor: as saved in the run folder; results: metrics by split, of the model and of the baselines
    (`{"test": {"model": {...}, "majority": {...}}}`); folder: the run folder; recipe: it was trained by.
    """

    model: PlaitPreTrainedModel = field(repr=False)
    processor: PlaitProcessor = field(repr=False)
    results: Results
    folder: Path
    recipe: Recipe = field(repr=False)

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the model on the test rows, else on the validation rows; empty without either."""
        split = "test" if "test" in self.results else "validation"
        return self.results.get(split, {}).get("model", {})

    @property
    def baselines(self) -> dict[str, dict[str, float]]:
        """The metrics that answers without a model reach on the same rows, by the name of the baseline."""
        split = "test" if "test" in self.results else "validation"
        return {name: scores for name, scores in self.results.get(split, {}).items() if name != "model"}

    def predict(self, rows: Sequence[Mapping[str, Any]], batch_size: int = 32) -> list[dict[str, Any]]:
        """Returns the answer for each row, whose keys are the columns of the table.

        Raises RecipeError for a row without the columns that the model reads.
        """
        task, data = find_task(self.recipe.task), self.recipe.data
        columns = {role: name for role, name in data.columns.items() if role not in task.target_columns}
        roles = [role for role in task.roles if role not in task.target_columns]
        named = name_columns(build_data_set(rows), replace(data, columns=columns), "rows", roles)
        return list(predict(str(self.folder), named, self.recipe, batch_size))

    def format_results(self) -> str:
        """Returns a line for each metric, with the values of the baselines beside it."""
        return format_results(self.results)


def fit(
    data: "str | Path | Dataset | DatasetDict | DataFrame | Sequence[Mapping[str, Any]] | Mapping[str, Any]",
    target: str | None = None,
    *,
    inputs: Sequence[str] | None = None,
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    verbose: bool = True,
    recipe: Mapping[str, Any] | None = None,
) -> FittedModel:
    """Trains a model on a table: finds modalities, task and towers, writes the recipe, trains, and measures the model
    beside baselines.

    Args:
        data: a path (csv, tsv, parquet, json, jsonl, a folder of these, or of images, sounds or videos in a folder for
            each class), a Hub id, a `datasets.Dataset` or `DatasetDict`, a pandas DataFrame, a list of dicts, or a
            mapping of splits to these. Rows from memory are saved beside the run folder, as a recipe names its data.
        target: the column to predict (default: the one that is called label, target or class).
        inputs: the columns to read (default: all images, audio, videos and texts).
        output_dir: the run folder, which must not exist (default: a new one in `runs`).
        overwrite: whether an old run in `output_dir` may be replaced.
        verbose: whether to print what was found and chosen, and the metrics.
        recipe: further values of the recipe by dotted key, such as `{"training.num_train_epochs": 3}`.

    Raises:
        RecipeError: nothing can be learned from the table, or the recipe cannot be run; the message says what to do.
    """
    given = dict(recipe or {}) | ({"output_dir": str(output_dir)} if output_dir is not None else {})
    source, saved = (str(data), None) if isinstance(data, (str, Path)) else save_rows(data, target, given, overwrite)
    try:
        proposal, chosen = propose_recipe(source, target, inputs, given, keep_name=overwrite)
        check_run_folder(chosen, overwrite)
    except RecipeError:
        if saved is not None and PartialState().is_main_process:
            shutil.rmtree(saved)  # made just now, for a run that does not come
        raise
    if verbose and proposal is not None:
        print(f"{format_proposal(proposal)}\n", flush=True)
    results = train_proposed(chosen, proposal, "plait.fit", overwrite)
    if verbose and proposal is not None:
        notes = "".join(f"note: {text}\n" for text in list_run_cautions(Path(str(chosen.output_dir)), results))
        print(f"{format_results(results)}\n{notes}saved in {chosen.output_dir}")
    model, processor = load_model(str(chosen.output_dir), chosen, find_task(chosen.task))
    return FittedModel(model, processor, results, Path(str(chosen.output_dir)), chosen)


def propose_recipe(
    source: str | Mapping[str, str],
    target: str | None,
    inputs: Sequence[str] | None,
    given: Mapping[str, Any],
    keep_name: bool = False,
) -> tuple[Proposal | None, Recipe]:
    """Proposes a recipe in the first process and hands it to the others, which get no proposal.

    keep_name: whether the run folder may be one that exists; else the default name gets a number that is free.

    Raises RecipeError in every process, as `propose` and `build_recipe`.
    """
    made: list[Proposal] = []

    def build_content() -> dict[str, Any]:
        proposal = propose(source, target, inputs, given)
        if not keep_name and "output_dir" not in given:
            proposal.content["output_dir"] = find_free_folder(proposal.content["output_dir"])
        build_recipe(copy.deepcopy(proposal.content))
        made.append(proposal)
        return proposal.content

    content = run_on_writers(build_content, PartialState().is_main_process)
    return (made[0] if made else None), build_recipe(copy.deepcopy(content))


def check_run_folder(recipe: Recipe, overwrite: bool = False, resume: bool = False) -> None:
    """Raises RecipeError, in every process, for a run folder that exists and may not be overwritten, before anything
    is printed or built; one that is resumed is checked when it is claimed."""
    if not resume:
        run_on_writers(ClaimedFolder(RUN_FOLDER, recipe, overwrite).check, PartialState().is_main_process)


def train_proposed(
    recipe: Recipe,
    proposal: Proposal | None,
    command: str,
    overwrite: bool = False,
    resume: bool = False,
    allow_changed_data: bool = False,
) -> Results:
    """Trains by a proposed recipe, and leaves the recipe with its reasons in the run folder (PROPOSAL_FILE)."""
    results = train(recipe, command, overwrite, resume, allow_changed_data)
    if proposal is not None:
        write_text(Path(str(recipe.output_dir)).expanduser() / PROPOSAL_FILE, write_commented_recipe(proposal))
    return results


def find_free_folder(name: str) -> str:
    """Returns the name, with a number where there is such a folder already."""
    names = [name, *(f"{name}-{number}" for number in range(2, 10_000))]
    return next(free for free in names if not Path(free).exists() and not Path(f"{free}{DATA_ENDING}").exists())


def save_rows(data: Any, target: str | None, given: dict[str, Any], overwrite: bool) -> tuple[dict[str, str], Path]:
    """Saves rows from memory beside the run folder; returns their files by split, and their folder. Adds to the given
    values the run folder, and the working directory for paths that are relative to it.

    Raises RecipeError for a run folder that exists, unless it may be overwritten.
    """

    def save() -> tuple[dict[str, str], str]:
        splits = collect_splits(data)
        folder = given.get("output_dir") or find_free_folder(f"runs/{target or 'fit'}")
        place = Path(folder).expanduser()
        if not overwrite and place.exists() and any(place.iterdir()):
            raise RecipeError(f"{folder} exists: name another output_dir, or overwrite it with overwrite=True")
        beside = place.with_name(f"{place.name}{DATA_ENDING}")
        if overwrite and beside.exists():
            shutil.rmtree(beside)
        return save_splits(splits, beside), folder

    files, given["output_dir"] = run_on_writers(save, PartialState().is_main_process)
    given.setdefault("data.image_root", str(Path.cwd()))
    return files, Path(next(iter(files.values()))).parent
