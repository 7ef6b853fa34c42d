"""The folder of a run or comparison while a command fills it: locked, and built beside the old one, which it replaces
once the first step is done."""

import errno
import os
import shutil
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from ...configuration.checksums import renew_checksums
from ...configuration.messages import to_one_line
from ..recipes.errors import RecipeError, RunError, RunInterrupted
from ..recipes.schema import Recipe
from ..storage.atomic import UNFINISHED, install_folder
from ..storage.checkpoints import find_whole_checkpoint, list_checkpoints, remove_unfinished
from ..storage.lock import FolderLock
from ..trainer.stopping import StopSignals
from .fingerprint import compute_fingerprint, find_changes
from .folder import CELLS, CHECKPOINTS, FolderKind, read_run_file
from .loggers import move_writers

logger = logging.get_logger(__name__)

STARTING, REPLACED, DISCARDED = ".starting", ".replaced", ".discarded"  # end the names of folders beside the run's
SAVING = f".saving{UNFINISHED}"
DISK_ERRORS = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up", errno.EROFS: "read-only"}
FULL_SIGNS = ("No space left", "PytorchStreamWriter failed writing", "Disk quota exceeded")  # of safetensors and torch
Result = TypeVar("Result")


class ClaimedFolder:
    """The folder that a command fills, as a context; one process at a time has it.

    A new run is built in `NAME.starting`. `start`, after the first step, renames an old run to `NAME.replaced` and the
    new one to its place; `finish` removes the old one. A run that fails before its first step leaves nothing. Whatever
    a killed command leaves is put in order by the next one (`recover`). Only processes with `writes` change files.

    Args:
        kind: of the folder.
        recipe: with its output_dir.
        overwrite: whether an old run may be replaced.
        resume: whether the run in the folder is continued, in its place.
        writes: whether this process writes.
        changed_data: whether a resumed run may have other data than it started with.

    Raises:
        RecipeError: on entering: the folder exists and may not be overwritten, there is nothing to resume, another
            process fills it, or it cannot be written to.
    """

    def __init__(
        self,
        kind: FolderKind,
        recipe: Recipe,
        overwrite: bool = False,
        resume: bool = False,
        writes: bool = True,
        changed_data: bool = False,
    ) -> None:
        self.kind, self.recipe, self.overwrite, self.resume = kind, recipe, overwrite, resume
        self.writes, self.changed_data = writes, changed_data
        self.target = Path(str(recipe.output_dir)).expanduser()
        moves = (
            self.target.is_symlink() or ".." in self.target.parts
        )  # run/../run is nowhere while run is being replaced
        self.place = self.target.resolve() if moves else self.target.absolute()
        self.path = self.place if resume else self.beside(STARTING)
        self.signals = StopSignals(PartialState().num_processes)
        self.lock: FolderLock | None = None
        self.made: list[Path] = []  # parents that did not exist
        self.facts: dict[str, Any] = {}
        self.is_started = self.is_saved = False

    def beside(self, ending: str) -> Path:
        """Returns the path beside the folder with this ending."""
        return self.place.with_name(f"{self.place.name}{ending}")

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints, where it lies at present."""
        return self.path / CHECKPOINTS

    def __enter__(self) -> "ClaimedFolder":
        self.signals.__enter__()
        try:
            run_on_writers(self._claim, self.writes)
        except BaseException:
            self.signals.__exit__(None, None, None)
            if self.lock is not None:
                self._leave()
            raise
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.signals.__exit__(kind, error, trace)
        try:
            self._leave()
        except RuntimeError as late:  # of a worker that loads data: the signal of its end came only now
            if explain_failure(late) is None:
                raise
            error = error or late
            self._leave()
        if error is not None:
            self._explain(error)

    def _claim(self) -> None:
        for parent in reversed(self.place.parents):
            if not parent.exists():
                self.made.append(parent)
        with name_disk_errors(self.target, RecipeError):
            self.place.parent.mkdir(parents=True, exist_ok=True)
            lock = FolderLock(self.place)
            try:
                lock.acquire()
            except BlockingIOError as error:
                raise RecipeError(f"{self.target} is being written by {error}: wait for it or stop it") from None
            self.lock = lock
            self.recover()
            self.check()
            if self.resume:
                self.facts = {key: value for key, value in read_run_file(self.place).items() if key == "data"}
                self.facts |= {"finished": False, "replaces": self.beside(REPLACED).exists()}
                probe = self.path / f".probe{UNFINISHED}"
                probe.touch()
                probe.unlink()
            else:
                self.path.mkdir()
                self.kind.write(self.path, self.recipe, finished=False)

    def check(self) -> None:
        """Raises RecipeError if the folder exists and may not be overwritten, or there is nothing to resume."""
        if self.resume:
            self.kind.check_resumable(self.place, self.recipe, self.changed_data)
        elif self.place.exists() and any(self.place.iterdir()):
            if not self.overwrite:
                kept = self.beside(REPLACED)
                old = f" (the run before it is kept in {kept.name})" if kept.exists() else ""
                raise RecipeError(
                    f"{self.target} exists{old}: --overwrite replaces it, --resume continues it, --output_dir names "
                    "another"
                )
            if self.target.is_symlink():
                raise RecipeError(
                    f"{self.target} is a link to {self.target.resolve()}, and --overwrite replaces no links: name the "
                    "folder itself, or choose another one"
                )
            if not self.kind.marks(self.place):
                raise RecipeError(
                    f"{self.target} is not the folder of a {self.kind.name} of plait, and is not overwritten: choose "
                    "another one"
                )

    def recover(self) -> None:
        """Puts in order what a killed command left beside the folder: unfinished new runs, and old runs."""
        starting, replaced, discarded = map(self.beside, (STARTING, REPLACED, DISCARDED))
        if starting.is_dir():
            if not self.kind.marks(starting) and any(not path.name.startswith(".") for path in starting.iterdir()):
                raise RecipeError(f"{starting} is in the way, and not of plait: rename it")
            shutil.rmtree(starting)
        if replaced.is_dir() and not self.place.exists():  # killed between two renames
            os.replace(replaced, self.place)
        state = read_run_file(self.place)
        if replaced.is_dir() and state.get("finished") and state.get("replaces"):
            shutil.rmtree(replaced)
        if discarded.is_dir() and self.kind.marks(self.place):
            shutil.rmtree(discarded)
        if self.place.is_dir():
            remove_unfinished(self.place)
            remove_unfinished(self.place / CHECKPOINTS)
            remove_unfinished(self.place / CELLS)

    def find_checkpoint(self) -> str | None:
        """Returns the newest whole checkpoint of a run that is resumed, if any; damaged ones are set aside."""
        if not self.resume:
            return None
        found = run_on_writers(lambda: find_whole_checkpoint(self.checkpoints), self.writes)
        if found is None:
            logger.warning(f"{self.target} has no whole checkpoint: the run starts from its beginning")
        return None if found is None else str(found)

    def check_data(self, splits: Mapping[str, Any]) -> None:
        """Keeps the fingerprints of a new run's data, and compares those of a resumed one's.

        Raises RecipeError for other data than the run was started with, unless they are allowed.
        """
        found = run_on_writers(lambda: {name: compute_fingerprint(rows) for name, rows in splits.items()}, self.writes)
        old = self.facts.get("data")
        changes = find_changes(old, found) if old else []
        if changes and not self.changed_data:
            raise RecipeError(
                f"data: {self.target} was started with other data ({'; '.join(changes)}): restore them, or allow these "
                "with --allow_changed_data"
            )
        if changes:
            logger.warning(f"data: {'; '.join(changes)}, unlike when {self.target} was started")
        self.facts["data"] = found
        if self.writes and not self.resume:
            self.kind.write(self.path, self.recipe, finished=False, **self.facts)

    def check_space(self, needed: int) -> None:
        """Raises RecipeError if the disk has less than this number of bytes free."""
        free = shutil.disk_usage(self.path).free if self.path.exists() else needed
        if free < needed:
            raise RecipeError(
                f"{self.target} needs about {needed / 2**20:.1f} MiB for a checkpoint and the model, and the disk has "
                f"{free / 2**20:.1f} MiB: make room or choose another --output_dir"
            )

    def start(self) -> None:
        """Puts the new run in its place, once it has done its first step."""
        if not self.is_started:
            run_on_writers(self._start, self.writes)
            self.path, self.is_started = self.place, True

    def _start(self) -> None:
        with name_disk_errors(self.target):
            if not self.resume:
                replaced, discarded = self.beside(REPLACED), self.beside(DISCARDED)
                self.facts |= {"finished": False, "replaces": False}
                if self.place.exists() and any(self.place.iterdir()):
                    self.facts["replaces"] = True
                    os.replace(self.place, discarded if replaced.exists() else replaced)
                elif self.place.exists():
                    self.place.rmdir()
                os.replace(self.path, self.place)
                if discarded.exists():
                    shutil.rmtree(discarded)
            self.kind.write(self.place, self.recipe, **self.facts)

    def rebase(self, path: str) -> str:
        """Returns a path in the folder, as it is after `start`."""
        old = str(self.beside(STARTING))
        return str(self.place) + path.removeprefix(old) if path.startswith(old) else path

    def save(self, save: Callable[[Path], None]) -> None:
        """Calls `save` with an empty folder, in every process, and moves what it writes into this one."""
        self.start()
        staged = self.path / SAVING
        with self.signals.defer(), name_disk_errors(self.target):
            if self.writes:
                shutil.rmtree(staged, ignore_errors=True)
                staged.mkdir()
            wait_for_everyone()
            save(staged)
            wait_for_everyone()
            if self.writes:
                install_folder(staged, self.path)
            self.is_saved = True

    def finish(self) -> None:
        """Notes that the run has finished, and removes the one that it replaced."""
        with self.signals.defer(), name_disk_errors(self.target):
            if self.writes:
                self.kind.write(self.path, self.recipe, **{**self.facts, "finished": True})
                renew_checksums(self.path)
                if self.beside(REPLACED).exists() and self.facts.get("replaces"):
                    shutil.rmtree(self.beside(REPLACED))

    def _leave(self) -> None:
        if self.lock is not None and not self.is_started and not self.resume:
            shutil.rmtree(self.beside(STARTING), ignore_errors=True)
        if self.lock is not None:
            self.lock.release()
        for parent in reversed(self.made):
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()

    def _explain(self, error: BaseException) -> None:
        """Raises the error that a user sees: with what is left of the run, and how to continue."""
        left = self.describe_rest()
        if isinstance(error, RunInterrupted):
            raise RunInterrupted(error.number, f"{error}: {left}", error.step) from error
        if isinstance(error, RunError):
            raise RunError(f"{error}; {left}") from error
        reason = None if isinstance(error, RecipeError) else explain_failure(error)
        if reason is not None:
            raise RunError(f"{reason}; {left}") from error

    def describe_rest(self) -> str:
        """Returns what is left of the run after an error, and how to continue."""
        if not self.is_started and not self.resume:
            return "nothing was saved" + (f", {self.target} is as it was" if self.place.exists() else "")
        if self.is_saved:
            return f"the model is saved in {self.target}, --resume measures it"
        kept = f", the run before it is kept in {self.beside(REPLACED)}" if self.beside(REPLACED).exists() else ""
        if (self.place / CELLS).is_dir():
            count = len(list((self.place / CELLS).glob("*.npz")))
            return f"{count} trainings are finished in {self.target}, --resume runs the others{kept}"
        found = list_checkpoints(self.place / CHECKPOINTS)
        if not found:
            return f"{self.target} has no checkpoint yet, --resume starts it anew{kept}"
        return f"saved in {self.target}/{CHECKPOINTS}/{found[-1].name}, --resume continues{kept}"


class StartCallback(TrainerCallback):
    """Puts a run in its place after its first step, where its checkpoints will lie, with the open files of the other
    callbacks."""

    def __init__(self, folder: ClaimedFolder, callbacks: Sequence[TrainerCallback]) -> None:
        self.folder, self.callbacks = folder, callbacks

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Starts the folder, once."""
        if not self.folder.is_started:
            with move_writers(self.callbacks, self.folder.rebase):
                self.folder.start()
            args.output_dir = self.folder.rebase(str(args.output_dir))


@contextmanager
def name_disk_errors(folder: Path, kind: type[Exception] = RunError) -> Iterator[None]:
    """Opens a context in which an OSError becomes an error of this kind that names the folder."""
    try:
        yield
    except OSError as error:
        reason = DISK_ERRORS.get(error.errno or 0) or error.strerror or to_one_line(error)
        raise kind(f"{folder} cannot be written ({reason}): make room or choose another --output_dir") from error


def explain_failure(error: BaseException) -> str | None:
    """Returns in one line what happened, if an error comes from the disk, from the data, or from another process: a
    worker that loads data, or one of the run; None for others."""
    text = to_one_line(error)
    if any(sign in str(error) for sign in FULL_SIGNS) or getattr(error, "errno", None) in DISK_ERRORS:
        return DISK_ERRORS.get(getattr(error, "errno", None) or errno.ENOSPC, "the disk is full")
    if text.startswith("DataLoader worker") or passed_between_processes(error):
        what = text if text.startswith("DataLoader worker") else f"a DataLoader worker has ended ({text})"
        return f"{what}: lower training.dataloader_num_workers if memory is short"
    remote = isinstance(error, RuntimeError) and any(word in text.lower() for word in ("gloo", "nccl", "connection"))
    if remote and PartialState().num_processes > 1:
        return "another process of this run has ended"
    if isinstance(error, (OSError, ValueError)):
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return lines[-1] if "Original Traceback" in str(error) else text
    return None


def passed_between_processes(error: BaseException) -> bool:
    """Says whether an error arose while a batch came from a worker: one that dies then is a connection reset, an end of
    file, or a RuntimeError of its own, by where the kill struck. What a worker raises itself arises elsewhere."""
    files = (Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__))
    return isinstance(error, (OSError, EOFError, RuntimeError)) and any(
        file.parent.name == "multiprocessing" for file in files
    )


def run_on_writers(function: Callable[[], Result], writes: bool) -> Result:
    """Runs a function in the processes that write, and returns the first one's result in all of them; its RecipeError
    or RunError is raised in all of them too."""
    state = PartialState()
    if state.num_processes == 1:
        return function()
    outcome: list[Any] = [None, None]
    if writes:
        try:
            outcome = [function(), None]
        except (RecipeError, RunError) as error:
            outcome = [None, error]
    with name_lost_process():
        outcome = broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def wait_for_everyone() -> None:
    """Waits until all processes of the run have arrived."""
    with name_lost_process():
        PartialState().wait_for_everyone()


@contextmanager
def name_lost_process() -> Iterator[None]:
    """Opens a context in which processes wait for one another: that one of them has ended is a RunError."""
    try:
        yield
    except RuntimeError as error:
        reason = explain_failure(error)
        if reason is None:
            raise
        raise RunError(reason) from error
