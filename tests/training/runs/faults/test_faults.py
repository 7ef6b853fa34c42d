"""What one sees of every fault, and what is left: one line without a traceback, and a run that goes on to the last bit.

The table of docs/guides/run_folders.md, row by row.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from multiprocessing.connection import Client, Listener
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from plait.training.cli import main
from plait.training.runs.claim import explain_failure
from plait.training.storage.lock import FolderLock

Result = tuple[int, str]
Run = Callable[..., Result]
ENDING = ("README.md", "config.json", "history.json", "metrics.json", "model.safetensors")


def assert_equal_weights(one: Path, two: Path) -> None:
    first, second = (load_file(folder / "model.safetensors") for folder in (one, two))
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def cut(folder: Path, step: int = 4) -> Path:
    """Leaves of a finished run what a kill after a step leaves: its checkpoints."""
    for name in ENDING:
        (folder / name).unlink()
    for path in (folder / "checkpoints").iterdir():
        if int(path.name.split("-")[1]) > step:
            shutil.rmtree(path)
    content = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**content, "finished": False}))
    return folder


def list_steps(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def stop_at(recipe: Path, folder: Path, step: int, stop: Callable[[int], None], *arguments: str) -> Result:
    """Runs the training in another process, and calls `stop` with it once the checkpoint of a step is there."""
    log = folder.with_suffix(".log")
    child = os.fork()
    if child == 0:
        code = 99
        try:
            with log.open("w") as output, redirect_stderr(output):
                code = main(["train", str(recipe), "--output_dir", str(folder), *arguments])
        except BaseException as error:
            with log.open("a") as output:
                traceback.print_exception(error, file=output)
        finally:
            os._exit(code)
    deadline = time.monotonic() + 60
    while not list(folder.glob(f"checkpoints/checkpoint-{step}")) and time.monotonic() < deadline:
        time.sleep(0.005)
    stop(child)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    output = log.read_text()
    assert "Traceback" not in output and code != 99, output
    return code, output.strip().splitlines()[-1]


def test_a_mistake_in_the_recipe_costs_no_model(run: Run, copy: Path, whole: Path) -> None:
    before = sorted(path.name for path in copy.iterdir())
    code, line = run(copy, "--overwrite", "--data.source", "typo.csv")
    assert code == 2 and "no file or folder typo.csv" in line
    assert sorted(path.name for path in copy.iterdir()) == before
    assert [path.name for path in copy.parent.iterdir()] == ["run"]
    assert_equal_weights(copy, whole)


def test_a_run_that_fails_before_its_first_step_leaves_nothing(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    for wrong in (("--model.fusion", "earlier"), ("--training.optim", "nothing"), ("--model.text", "./nowhere")):
        assert run(folder, *wrong)[0] == 2
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "trainer_state.json").unlink(), "trainer_state.json is missing"),
        pytest.param(
            lambda folder: os.truncate(folder / "model.safetensors", 500),
            "model.safetensors has other bytes",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda folder: (folder / "optimizer.pt").write_bytes(b""),
            "optimizer.pt has other bytes",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda folder: (folder / "rng_state.pth").unlink(), "rng_state.pth is missing", marks=pytest.mark.slow
        ),
    ],
)
def test_a_run_resumes_from_its_newest_whole_checkpoint(
    run: Run,
    copy: Path,
    whole: Path,
    damage: Callable[[Path], None],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    damage(cut(copy, 6) / "checkpoints" / "checkpoint-6")
    warned: list[str] = []
    monkeypatch.setattr("plait.training.storage.checkpoints.logger.warning", warned.append)
    assert run(copy, "--resume")[0] == 0
    assert len(warned) == 1 and message in warned[0] and "set aside as damaged-checkpoint-6" in warned[0]
    assert "damaged-checkpoint-6" in list_steps(copy) and "checkpoint-6" in list_steps(copy)
    assert_equal_weights(copy, whole)


@pytest.mark.slow
def test_checkpoints_of_older_versions_are_judged_by_their_content(run: Run, copy: Path, whole: Path) -> None:
    """Without the list of files and checksums; and older run folders without run.json."""
    cut(copy, 6)
    (copy / "run.json").unlink()
    for path in (copy / "checkpoints").iterdir():
        (path / "checkpoint_files.json").unlink()
    os.truncate(copy / "checkpoints" / "checkpoint-6" / "optimizer.pt", 2000)
    assert run(copy, "--resume")[0] == 0
    assert "damaged-checkpoint-6" in list_steps(copy)
    assert_equal_weights(copy, whole)


@pytest.mark.slow
def test_a_clock_that_was_set_back_changes_nothing(run: Run, copy: Path, whole: Path) -> None:
    cut(copy, 6)
    for step in (2, 4, 6):  # the older, the later by the clock
        os.utime(copy / "checkpoints" / f"checkpoint-{step}", (2e9 - 1e6 * step, 2e9 - 1e6 * step))
    assert run(copy, "--resume", "--training.save_total_limit", "2")[0] == 0
    assert list_steps(copy) == ["checkpoint-6", "checkpoint-8"]
    assert_equal_weights(copy, whole)


def test_a_moved_folder_with_a_damaged_processor_and_recipe_goes_on(run: Run, copy: Path, whole: Path) -> None:
    moved = copy.rename(copy.parent / "moved")
    for name in ("recipe.yaml", "processor_config.json", "tokenizer.json"):
        (cut(moved) if (moved / "config.json").exists() else moved).joinpath(name).write_text("")
    assert run(moved, "--resume")[0] == 0
    assert_equal_weights(moved, whole)


def test_a_run_with_a_damaged_config_goes_on(run: Run, copy: Path, whole: Path) -> None:
    cut(copy).joinpath("config.json").write_text('{"a": ')
    assert run(copy, "--resume")[0] == 0
    assert_equal_weights(copy, whole)


@pytest.mark.slow
def test_other_data_are_named(run: Run, copy: Path, recipe: Path, tmp_path: Path) -> None:
    cut(copy)
    rows = (recipe.parent / "d.csv").read_text().splitlines()
    same, longer, other = (tmp_path / f"{name}.csv" for name in ("same", "longer", "other"))
    same.write_text("\n".join(rows))
    longer.write_text("\n".join([*rows, rows[-1]]))
    other.write_text("\n".join([*rows[:-1], "it was blue,blue"]))
    for file, message in ((longer, "train has 17 rows, not 16"), (other, "train has other values or another order")):
        code, line = run(copy, "--resume", "--data.source.train", str(file))
        assert code == 2 and message in line and "--allow_changed_data" in line
    assert list_steps(copy) == ["checkpoint-2", "checkpoint-4"]
    assert run(copy, "--resume", "--data.source.train", str(same))[0] == 0
    assert run(copy, "--resume", "--data.source.train", str(other), "--allow_changed_data")[0] == 0


@pytest.mark.slow
def test_a_finished_run_trains_longer(run: Run, copy: Path) -> None:
    assert run(copy, "--resume", "--training.num_train_epochs", "3")[0] == 0
    state = json.loads((copy / "checkpoints" / "checkpoint-12" / "trainer_state.json").read_text())
    assert state["global_step"] == 12 and state["epoch"] == 3
    assert yaml.safe_load((copy / "recipe.yaml").read_text())["training"]["num_train_epochs"] == 3
    code, line = run(copy, "--resume", "--training.num_train_epochs", "1")
    assert code == 2 and "plans 4 steps, and the run has done 12: give more" in line


@pytest.mark.parametrize(
    ("number", "expected"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
def test_a_signal_saves_a_checkpoint(run: Run, recipe: Path, tmp_path: Path, number: int, expected: int) -> None:
    folder, alone = tmp_path / "run", tmp_path / "alone"
    constant = ("--training.lr_scheduler_type", "constant")
    code, line = stop_at(
        recipe, folder, 2, lambda child: os.kill(child, number), "--training.max_steps", "800", *constant
    )
    assert code == expected
    found = re.search(rf"stopped by {signal.Signals(number).name}: saved in (\S+), --resume continues$", line)
    assert found is not None and Path(found[1]).is_dir()
    assert not list(folder.rglob("*unfinished*"))
    more = ("--training.max_steps", str(int(found[1].rpartition("-")[2]) + 1), *constant)
    for place, arguments in ((folder, ("--resume", *more)), (alone, more)):
        assert run(place, *arguments)[0] == 0
    assert_equal_weights(folder, alone)


def test_a_second_writer_is_refused(run: Run, copy: Path) -> None:
    ready, done = os.pipe()
    child = os.fork()
    if child == 0:
        FolderLock(copy).acquire()
        os.write(done, b"x")
        signal.pause()
    os.read(ready, 1)
    try:
        for flag in ("--resume", "--overwrite"):
            code, line = run(copy, flag)
            assert code == 2 and f"is being written by process {child} on" in line
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert run(copy, "--resume")[0] == 0


def test_a_run_that_diverges_stops(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    code, line = run(folder, "--training.learning_rate", "1e30", "--training.save_steps", "1")
    assert code == 1 and re.search(r"the loss of step 2 is nan \(rows \d+, .* of the training data\): lower", line)
    assert "saved in" in line and "checkpoint-1, --resume continues" in line
    weights = load_file(folder / "checkpoints" / "checkpoint-1" / "model.safetensors")
    assert all(value.isfinite().all() for value in weights.values())
    assert not (folder / "model.safetensors").exists()


def test_an_old_run_is_kept_until_the_new_one_has_saved(run: Run, copy: Path, whole: Path) -> None:
    kept = copy.with_name("run.replaced")
    for _ in range(2):  # once more: the kept run stays
        code, line = run(copy, "--overwrite", "--training.learning_rate", "1e30")
        assert code == 1 and f"the run before it is kept in {kept}" in line
        assert_equal_weights(kept, whole)
    code, line = run(copy)
    assert code == 2 and "the run before it is kept in run.replaced" in line
    assert run(copy, "--overwrite")[0] == 0
    assert [path.name for path in copy.parent.iterdir()] == ["run"]
    assert_equal_weights(copy, whole)


def test_a_kill_between_two_renames_is_put_right(run: Run, copy: Path, whole: Path) -> None:
    """The old run has left its place, and the new one is not there yet."""
    copy.rename(copy.with_name("run.replaced"))
    shutil.copytree(whole, copy.with_name("run.starting"))
    code, line = run(copy)
    assert code == 2 and "run exists: --overwrite" in line
    assert [path.name for path in copy.parent.iterdir()] == ["run"]
    assert_equal_weights(copy, whole)


def test_secrets_are_not_written(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert run(folder, "--training.hub_token", "hf_abc123")[0] == 0
    assert not [path for path in folder.rglob("*") if path.is_file() and b"hf_abc123" in path.read_bytes()]
    code, line = run(tmp_path / "other", "--training.hub_token", "{hf_abc123")
    assert code == 2 and "hf_abc123" not in line


@pytest.mark.slow
def test_an_unreadable_file_in_the_middle(run: Run, tmp_path: Path) -> None:
    rows = [{"image": str(tmp_path / f"{number}.png"), "label": ("dark", "light")[number % 2]} for number in range(8)]
    for number in range(8):
        Image.new("RGB", (8, 8), (30 * number, 90, 90)).save(tmp_path / f"{number}.png")
    good = (tmp_path / "7.png").read_bytes()
    (tmp_path / "7.png").write_bytes(good[:40])
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tower = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8, "patch_size": 4}
    given = ("--model", json.dumps({"image": {"config": tower}}), "--tokenizer", "null", "--data.source")
    given += (str(tmp_path / "rows.jsonl"), "--training.per_device_train_batch_size", "2")
    given += ("--training.train_sampling_strategy", "sequential", "--training.num_train_epochs", "1")
    code, line = run(tmp_path / "run", *given)
    assert code == 1 and "7.png" in line and "checkpoint-2, --resume continues" in line
    (tmp_path / "7.png").write_bytes(good)
    code, line = run(tmp_path / "run", *given, "--resume")
    assert code == 2 and "train has other values" in line  # the file has another size than at the start
    assert run(tmp_path / "run", *given, "--resume", "--allow_changed_data")[0] == 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the workers are found in /proc")
def test_a_killed_worker(recipe: Path, tmp_path: Path) -> None:
    def kill_worker(child: int) -> None:
        workers = Path(f"/proc/{child}/task/{child}/children").read_text().split()
        os.kill(int(workers[0]), signal.SIGKILL)

    more = ("--training.max_steps", "800", "--training.dataloader_num_workers", "1")
    more += ("--training.dataloader_persistent_workers", "true")
    code, line = stop_at(recipe, tmp_path / "run", 2, kill_worker, *more)
    assert code == 1 and "DataLoader worker" in line and "lower training.dataloader_num_workers" in line
    assert "--resume continues" in line and list_steps(tmp_path / "run")


def test_a_worker_that_dies_while_it_sends_is_named(tmp_path: Path) -> None:
    """What the training process then gets is an error of the connection, of one kind or another."""
    listener = Listener(str(tmp_path / "socket"), "AF_UNIX")
    client, server = Client(listener.address), listener.accept()
    server.close()
    for read in (client.recv, lambda: Client(str(tmp_path / "gone"))):
        with pytest.raises((OSError, EOFError)) as caught:
            read()
        told = explain_failure(caught.value)
        assert told is not None and told.startswith("a DataLoader worker has ended ("), told
        assert "lower training.dataloader_num_workers" in told
    client.close()
    listener.close()
    for own in (OSError("the data"), FileNotFoundError("row 3")):
        told = explain_failure(own)
        assert told is not None and "worker" not in told


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts, or mounts again with other options, a small disk; skips where that is not allowed."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options: str) -> Path:
        again = ["-o", f"remount,{options}"] if os.path.ismount(place) else ["-t", "tmpfs", "-o", options, "tmpfs"]
        if subprocess.run(["mount", *again, str(place)], capture_output=True, check=False).returncode:
            pytest.skip("a disk cannot be mounted here")
        return place

    yield mount
    if os.path.ismount(place):
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.slow
def test_a_full_disk(run: Run, small_disk: Callable[[str], Path], whole: Path) -> None:
    disk = small_disk("size=64k")
    code, line = run(disk / "run")
    assert code == 2 and "MiB for a checkpoint and the model, and the disk has" in line
    assert not list(disk.iterdir())
    folder = small_disk("size=600k") / "run"
    code, line = run(folder, "--training.save_steps", "1")
    assert code == 1 and "the disk is full" in line and "--resume continues" in line
    left = list_steps(folder)
    assert left and not (folder / "model.safetensors").exists()
    small_disk("size=60m")
    assert run(folder, "--resume")[0] == 0
    assert_equal_weights(folder, whole)


def test_a_read_only_folder(run: Run, small_disk: Callable[[str], Path], whole: Path) -> None:
    folder = Path(shutil.copytree(whole, small_disk("size=20m") / "run"))
    small_disk("ro")
    for flag in ("--resume", "--overwrite"):
        code, line = run(folder, flag)
        assert code == 2 and "cannot be written (read-only)" in line
    small_disk("rw")
    assert_equal_weights(folder, whole)
