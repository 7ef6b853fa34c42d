"""What an examination found: a line for each check, and the facts behind the lines."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

Level = Literal["ok", "warning", "error"]
MAX_NAMED = 5  # rows, names or classes that a line names


class Finding(NamedTuple):
    """One line of an examination.

    check: the name of the check (labels, leakage, ...); message: what was found, with its number; remedy: what to do,
    empty if all is well; task: which of several tasks it is about.
    """

    check: str
    level: Level
    message: str
    remedy: str = ""
    task: str = ""


@dataclass
class Diagnosis:
    """What `doctor` found.

    findings: a line for each check; facts: the numbers behind them by check (of several tasks by task), as they can be
    written as JSON.
    """

    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def errors(self) -> list[Finding]:
        """What would silently go wrong, or stops the run."""
        return [finding for finding in self.findings if finding.level == "error"]

    @property
    def warnings(self) -> list[Finding]:
        """What may be meant, but often is a mistake."""
        return [finding for finding in self.findings if finding.level == "warning"]

    @property
    def is_sound(self) -> bool:
        """Returns whether there is no error."""
        return not self.errors

    def format_summary(self) -> str:
        """Returns the last line: the numbers of errors, warnings and checks."""
        return f"{count_of(self.errors, 'error')}, {count_of(self.warnings, 'warning')} in {len(self.findings)} checks"

    def describe(self) -> str:
        """Returns all lines as `plait doctor` prints them."""
        return "\n".join([*map(format_finding, self.findings), self.format_summary()])

    def as_dict(self) -> dict[str, Any]:
        """Returns all that was found as JSON can hold it."""
        whole = asdict(self)
        whole["findings"] = [finding._asdict() for finding in self.findings]
        return {"errors": len(self.errors), "warnings": len(self.warnings), **whole}


Show = Callable[[str], None]


def format_finding(finding: Finding) -> str:
    """Returns a finding as text: its level, its check, its message and, on a line of its own, what to do."""
    name = f"{finding.task}: {finding.check}" if finding.task else finding.check
    head = f"{finding.level:8s} {name:11s} "
    lines = finding.message.splitlines()
    text = "\n".join([f"{head}{lines[0]}", *(f"{'':21s}{line}" for line in lines[1:])])
    return f"{text}\n{'':18s}-> {finding.remedy}" if finding.remedy else text


def count_of(items: Sequence[Any] | int, noun: str) -> str:
    """Returns a number with its noun: 1 row, 2 rows."""
    number = items if isinstance(items, int) else len(items)
    plural = {"class": "classes"}.get(noun, f"{noun}s")
    return f"{number:,} {noun if number == 1 else plural}"


def name_some(items: Iterable[Any], most: int = MAX_NAMED) -> str:
    """Returns the first items, and how many more there are."""
    every = list(map(str, items))
    more = f" and {len(every) - most:,} more" if len(every) > most else ""
    return f"{', '.join(every[:most])}{more}"


def format_share(part: float, whole: float) -> str:
    """Returns a share in percent: below 10 % with a decimal."""
    share = 100 * part / whole if whole else 0.0
    return f"{share:.1f} %" if 0 < share < 10 else f"{share:.0f} %"
