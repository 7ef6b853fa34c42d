"""`--launch`: a command in several processes."""

import argparse
from collections.abc import Sequence

from ..launching.launch import LaunchPlan, launch


def run_launched(options: argparse.Namespace, arguments: Sequence[str], flags: Sequence[str]) -> int:
    """Runs a command in the processes that its options plan; these get its arguments without `flags`, each of which
    takes a value."""
    plan = LaunchPlan(options.launch, options.processes, options.machines, options.machine_rank, options.main_address)
    return launch(plan, drop_flags(arguments, flags))


def drop_flags(arguments: Sequence[str], flags: Sequence[str]) -> list[str]:
    """Returns arguments without these flags and their values: `--flag value` and `--flag=value`."""
    kept: list[str] = []
    rest = list(arguments)
    while rest:
        flag, equals, _ = rest[0].partition("=")
        if flag in flags:
            del rest[: 1 if equals else 2]
        else:
            kept.append(rest.pop(0))
    return kept
