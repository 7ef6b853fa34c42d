"""Runs a command of plait in several processes, on one machine or several, through accelerate."""

import logging
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate.commands.launch import launch_command, launch_command_parser
from accelerate.utils import is_deepspeed_available
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from ...configuration.messages import to_one_line
from ..recipes.errors import RecipeError, RunError

PORT = 29500  # of the first machine, if the address names none


class LaunchPlan(NamedTuple):
    """What is said of the processes of a command.

    config: ddp, fsdp2, zero2, zero3, or a file of accelerate (`accelerate config --config_file`); processes: their
    number on all machines together (None: one for each GPU); machine_rank: this machine's number, from 0; main_address:
    HOST:PORT of machine 0.
    """

    config: str
    processes: int | None = None
    machines: int = 1
    machine_rank: int = 0
    main_address: str | None = None


def launch(plan: LaunchPlan, command_line: Sequence[str]) -> int:
    """Runs `plait` with this command line in the processes of a plan, and returns the exit code: that of the process
    that failed first, 128 plus the number of a signal.

    Raises:
        RecipeError: a plan that cannot be followed; the message says what to change.
        RunError: a process was killed.
    """
    arguments = [*format_plan(plan), "-m", "plait", *command_line]
    with join_on_cpus(), hold_launcher_logs():
        try:
            launch_command(launch_command_parser().parse_args(arguments))
        except ChildFailedError as error:
            return explain_exit(error)
        except SignalException as error:
            return 128 + int(error.sigval)
        except (ConnectionError, ImportError, ValueError) as error:
            raise RecipeError(f"--launch {plan.config}: {to_one_line(error)}") from error
    return 0


def format_plan(plan: LaunchPlan) -> list[str]:
    """Returns the arguments of `accelerate launch` for a plan. Raises RecipeError for one that cannot be followed."""
    file = find_config(plan.config)
    processes = count_processes(plan)
    arguments = ["--config_file", str(file), "--num_processes", str(processes), "--num_machines", str(plan.machines)]
    if plan.config == "ddp" and processes > 1:
        arguments.append("--multi_gpu")  # without a GPU accelerate starts one process otherwise
    if plan.machines == 1:
        return [*arguments, "--main_process_port", "0"]
    host, port = parse_address(plan)
    rank = ["--machine_rank", str(plan.machine_rank)]
    return [*arguments, *rank, "--main_process_ip", host, "--main_process_port", port]


def find_config(name: str) -> Path:
    """Returns the file of a configuration: one of this folder by its name, or a file of accelerate. Raises RecipeError
    for an unknown one, or one that needs a package that is not installed."""
    folder = Path(str(files(str(__package__))))
    shipped = sorted(path.stem for path in folder.glob("*.yaml"))
    file = Path(name).expanduser() if name not in shipped else folder / f"{name}.yaml"
    if not file.is_file():
        raise RecipeError(f"--launch {name}: choose {', '.join(shipped)}, or give a file of `accelerate config`")
    if name.startswith("zero") and not is_deepspeed_available():
        raise RecipeError(f"--launch {name} needs the package deepspeed: pip install deepspeed, or choose fsdp2")
    return file


def count_processes(plan: LaunchPlan) -> int:
    """Returns the number of processes on all machines. Raises RecipeError if it does not fit the machines."""
    devices = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    if plan.machines < 1 or not 0 <= plan.machine_rank < plan.machines:
        raise RecipeError(
            f"--machine_rank {plan.machine_rank} of --machines {plan.machines}: expected 0 to {plan.machines - 1}"
        )
    processes = devices * plan.machines if plan.processes is None else plan.processes
    if plan.processes is None and not devices:
        raise RecipeError("--launch: there is no GPU to count: give the number of processes with --processes")
    if processes < 1 or processes % plan.machines:
        raise RecipeError(
            f"--processes {processes} cannot be spread over --machines {plan.machines}: it is the number of processes "
            "on all machines together, so give a multiple of these"
        )
    if 0 < devices < processes // plan.machines:
        raise RecipeError(
            f"--processes {processes}: this machine has {devices} GPUs for {processes // plan.machines} processes: "
            "lower it, or add machines"
        )
    return processes


def parse_address(plan: LaunchPlan) -> tuple[str, str]:
    """Returns host and port of machine 0. Raises RecipeError if several machines have no address."""
    if plan.main_address is None:
        raise RecipeError(
            f"--machines {plan.machines} needs --main_address HOST:PORT, of the machine with --machine_rank 0"
        )
    host, _, port = plan.main_address.partition(":")
    if not host or (port and not port.isdigit()):
        raise RecipeError(f"--main_address {plan.main_address}: expected HOST:PORT, such as 10.0.0.1:{PORT}")
    return host, port or str(PORT)


@contextmanager
def join_on_cpus() -> Iterator[None]:
    """Opens a context in which processes without a GPU are told to join on the CPU, which accelerate does not guess."""
    name, before = "ACCELERATE_USE_CPU", os.environ.get("ACCELERATE_USE_CPU")
    if not torch.accelerator.is_available():
        os.environ[name] = "true"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


@contextmanager
def hold_launcher_logs() -> Iterator[None]:
    """Opens a context without the launcher's logs: the process that fails says why itself."""
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def explain_exit(error: ChildFailedError) -> int:
    """Returns the exit code of the process that failed first. Raises RunError if it was killed, and so said nothing."""
    rank, failure = error.get_first_failure()
    if failure.exitcode >= 0:
        return failure.exitcode
    name = signal.Signals(-failure.exitcode).name
    hint = " (if memory was short: a smaller per_device_train_batch_size)" if name == "SIGKILL" else ""
    raise RunError(f"process {rank} was ended by the signal {name}{hint}: --resume continues from its last checkpoint")
