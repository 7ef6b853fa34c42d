"""`doctor`: examines a recipe before any training, and names what would silently go wrong."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ...configuration.messages import to_one_line
from ..data.media import READ_ERRORS
from ..proposals.fit import propose_recipe
from ..proposals.tables import is_table
from ..recipes.errors import RecipeError
from ..recipes.schema import Recipe
from ..runs.recipe import load_recipe
from .findings import Diagnosis, Finding, Show, format_finding
from .giveaways import check_giveaways
from .labels import check_label_counts
from .leakage import SplitKeys, check_contradictions, check_leakage, collect_split_keys
from .media_rows import check_empty_rows, check_media
from .memory import check_memory
from .overfitting import check_one_batch
from .parts import check_trained_parts
from .samples import ShownRow, check_samples, write_page
from .settings import check_settings
from .subject import BuiltSubject, Subject, build_subjects, read_subjects
from .texts import check_texts

DataCheck = Callable[[Subject, dict[str, Any]], Iterator[Finding]]
ModelCheck = Callable[[BuiltSubject, dict[str, Any]], Iterator[Finding]]


def doctor(
    recipe: Recipe | str | Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    target: str | None = None,
    inputs: Sequence[str] | None = None,
    all_rows: bool = False,
    output: str | Path | None = None,
    show: Show = print,
) -> Diagnosis:
    """Examines a recipe, or a table as `plait train` takes it, before any training; nothing of the user's is changed.

    Args:
        recipe: a Recipe, a recipe file, the name of a recipe that comes with plait, or (with `target` or `inputs`) a
            table.
        overrides: values of the recipe by dotted key.
        target, inputs: of a table, as in `plait.fit`.
        all_rows: read every image, audio clip and video, rather than a sample.
        output: a folder for a page with rows as the model reads them, and their processed images.
        show: called with each line once it is found.

    Raises RecipeError for a recipe that cannot be read; what `plait train` refuses later is an error of the diagnosis.
    """
    if not isinstance(recipe, Recipe):
        recipe = read_recipe(recipe, overrides or {}, target, inputs)
    elif overrides or target is not None or inputs is not None:
        raise RecipeError("overrides, target and inputs are of a file or table: change the Recipe itself")
    diagnosis = Diagnosis()
    with tempfile.TemporaryDirectory(prefix="plait-doctor-") as folder, keep_random_state():
        examination = Examination(recipe, diagnosis, Path(folder), all_rows, output, show)
        examination.run()
    if output is not None:
        write_page(Path(output), diagnosis, examination.shown, str(recipe.output_dir or recipe.task))
    return diagnosis


def read_recipe(
    source: str | Path, overrides: Mapping[str, Any], target: str | None, inputs: Sequence[str] | None
) -> Recipe:
    """Returns the recipe of a file, or the one that is proposed for a table."""
    names = None if inputs is None else ",".join(inputs)
    if not is_table(str(source), target, names):
        return load_recipe(source, overrides)
    _, proposed = propose_recipe(str(source), target, inputs, overrides, keep_name=True)
    return proposed


@contextmanager
def keep_random_state() -> Iterator[None]:
    """Opens a context after which torch's random numbers go on as if nothing had been drawn in it."""
    with torch.random.fork_rng():
        yield


class Examination:
    """The checks of a recipe, one after the other; each line is shown as soon as it is found."""

    def __init__(
        self, recipe: Recipe, diagnosis: Diagnosis, folder: Path, all_rows: bool, output: Any, show: Show
    ) -> None:
        self.recipe, self.diagnosis, self.folder = recipe, diagnosis, folder
        self.all_rows, self.output, self.show = all_rows, output, show
        self.shown: dict[str, list[ShownRow]] = {}  # rows as the model reads them, by task

    def run(self) -> None:
        """Reads the data, then builds the model, and checks both as far as they come."""
        try:
            subjects = read_subjects(self.recipe, self.folder)
        except RecipeError as error:
            self.refuse("recipe", error)
            return
        for subject in subjects:
            self.check(subject, self.list_data_checks(subject))
        try:
            with build_subjects(self.recipe, subjects, self.folder) as built:
                for own in built:
                    self.check(own, self.list_model_checks(own))
        except RecipeError as error:
            self.refuse("recipe", error)

    def list_data_checks(self, subject: Subject) -> list[DataCheck]:
        """Returns the checks that need no model; the rows' keys are computed once."""
        keys: dict[str, SplitKeys] = {}

        def check_keys_first(subject: Subject, facts: dict[str, Any]) -> Iterator[Finding]:
            keys.update(collect_split_keys(subject, self.all_rows))
            yield from check_contradictions(subject, keys, facts)

        def check_shared_rows(subject: Subject, facts: dict[str, Any]) -> Iterator[Finding]:
            yield from check_leakage(subject, keys, facts)

        return [check_label_counts, check_keys_first, check_shared_rows, check_giveaways]

    def list_model_checks(self, subject: Subject) -> list[ModelCheck]:
        """Returns the checks of a model with its data."""

        def check_readable(subject: BuiltSubject, facts: dict[str, Any]) -> Iterator[Finding]:
            yield from check_media(subject, facts, self.all_rows)

        def show_samples(subject: BuiltSubject, facts: dict[str, Any]) -> Iterator[Finding]:
            yield from check_samples(subject, facts, self.shown.setdefault(subject.name, []))

        checks: list[ModelCheck] = [check_trained_parts, check_settings, check_empty_rows, check_readable, check_texts]
        return [*checks, show_samples, check_memory, check_one_batch]

    def check(self, subject: Any, checks: Sequence[Callable[[Any, dict[str, Any]], Iterator[Finding]]]) -> None:
        """Runs checks of one task, and adds and shows what they find."""
        facts = self.diagnosis.facts.setdefault(subject.name, {}) if subject.name else self.diagnosis.facts
        for check in checks:
            try:
                for finding in check(subject, facts):
                    self.add(finding._replace(task=subject.name))
            except READ_ERRORS as error:  # of a row that no sample had
                message = f"a batch cannot be built or run: {to_one_line(error)}"
                self.add(Finding("batch", "error", message, "correct it: the training would stop there", subject.name))

    def refuse(self, check: str, error: RecipeError) -> None:
        """Adds an error of the recipe, which `plait train` would stop at too."""
        self.add(Finding(check, "error", f"plait train refuses it: {to_one_line(error)}"))

    def add(self, finding: Finding) -> None:
        """Adds a finding and shows it."""
        self.diagnosis.findings.append(finding)
        self.show(format_finding(finding))
