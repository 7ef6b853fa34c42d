"""Chooses the columns that a model reads, and says why the others are left out."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ...configuration.modalities import MEDIA
from ..recipes.errors import RecipeError
from .columns import ColumnFacts
from .table import SourceTable, check_column_names
from .target import TargetFacts

PAIRS = (  # names of two texts that are one question about both
    ("question", "context"),
    ("question", "answer"),
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("text1", "text2"),
    ("question1", "question2"),
    ("query", "document"),
    ("query", "passage"),
    ("text", "text_pair"),
)
WRITABLE = ("category", "number", "text", "id", "time", "constant")  # what may stand in a text, if the user asks for it
UNREADABLE_SHARE = 0.5  # of a sample, above which a column is refused


class InputColumns(NamedTuple):
    """The columns that a model reads.

    columns: of each role (text, image, ...); template: how several columns of a text are joined; used, left_out: by
    column, what the table says of it; notes: what was chosen, and how to change it.
    """

    columns: dict[str, str | list[str]]
    template: str | None
    used: dict[str, str]
    left_out: dict[str, str]
    notes: tuple[str, ...] = ()

    @property
    def modalities(self) -> list[str]:
        """The modalities that are read, in the order of the roles."""
        return [role for role in self.columns if role in ("text", *MEDIA)]


def choose_inputs(
    table: SourceTable,
    columns: Mapping[str, ColumnFacts],
    target: TargetFacts | None,
    wanted: Sequence[str] | None = None,
) -> InputColumns:
    """Chooses the columns to read: the wanted ones, or all images, clips, videos and texts, or if there are none of
    these, categories and numbers written as a text.

    Raises RecipeError for a wanted column that does not exist or cannot be read, or if nothing is left to read.
    """
    taken = None if target is None else target.column
    others = {name: facts for name, facts in columns.items() if name != taken}
    if wanted is not None:
        check_column_names(wanted, list(columns), "--inputs")
        if taken in wanted:
            raise RecipeError(f"--inputs {taken}: it is the target: a model that reads its answer learns nothing else")
        chosen = {name: others[name] for name in wanted}
        check_wanted(chosen)
    else:
        chosen = {name: facts for name, facts in others.items() if facts.kind in ("text", *MEDIA)}
        chosen = drop_copies(table, chosen, target)
        if not chosen:
            chosen = {name: facts for name, facts in others.items() if facts.kind in ("category", "number")}
    if not chosen:
        raise RecipeError(describe_nothing(others))
    for facts in chosen.values():
        check_readable(facts, table)
    return build_inputs(chosen, others, wanted is not None)


def check_wanted(chosen: Mapping[str, ColumnFacts]) -> None:
    """Raises RecipeError for a wanted column that no tower reads."""
    for name, facts in chosen.items():
        if facts.kind not in (*WRITABLE, *MEDIA):
            raise RecipeError(f"--inputs {name}: it holds {facts.describe()}, which plait does not read")


def check_readable(facts: ColumnFacts, table: SourceTable) -> None:
    """Raises RecipeError if most files of a sample cannot be read."""
    media = facts.media
    if media is not None and media.unreadable > UNREADABLE_SHARE * media.sampled:
        raise RecipeError(
            f"column {facts.name}: {media.unreadable} of {media.sampled} sampled {facts.kind} cells cannot be read: "
            f"{media.problem}. Paths are relative to {table.root} (--data.image_root FOLDER changes that); --inputs "
            "names the columns to read"
        )


def drop_copies(
    table: SourceTable, chosen: Mapping[str, ColumnFacts], target: TargetFacts | None
) -> dict[str, ColumnFacts]:
    """Returns the columns without a text that is the target itself under another name."""
    if target is None or target.kind not in ("text", "classes"):
        return dict(chosen)
    answers = table.rows[target.column][:200]
    texts = {name: table.rows[name][:200] for name, facts in chosen.items() if facts.kind == "text"}
    return {name: facts for name, facts in chosen.items() if texts.get(name) != answers}


def describe_nothing(columns: Mapping[str, ColumnFacts]) -> str:
    """Returns the error of a table without anything to read."""
    found = "; ".join(f"{name}: {facts.describe()}" for name, facts in columns.items()) or "no other column"
    same = [name for name, facts in columns.items() if facts.kind == "constant"]
    hint = f" (every cell of {same[0]} is the same: there is nothing to learn from it)" if same else ""
    return f"there is nothing to read in the table{hint}: plait reads texts, images, audio and videos; it has {found}"


def build_inputs(chosen: Mapping[str, ColumnFacts], others: Mapping[str, ColumnFacts], is_wanted: bool) -> InputColumns:
    """Builds the inputs of the chosen columns."""
    roles: dict[str, str | list[str]] = {}
    texts = [name for name, facts in chosen.items() if facts.kind not in MEDIA]
    template = None
    if texts:
        pair = find_pair(texts) if all(chosen[name].kind == "text" for name in texts) else None
        roles["text"] = texts[0] if len(texts) == 1 else pair or texts
        template = None if pair else build_template({name: chosen[name] for name in texts})
    for modality in MEDIA:
        names = [name for name, facts in chosen.items() if facts.kind == modality]
        if names:
            roles[modality] = names[0] if len(names) == 1 else names
    rate = others.get("sampling_rate")
    if "audio" in roles and rate is not None:
        roles["sampling_rate"] = "sampling_rate"
    used = {name: "text" if facts.kind not in MEDIA else facts.kind for name, facts in chosen.items()}
    used |= {"sampling_rate": "rate of the audio"} if "sampling_rate" in roles else {}
    left_out = {name: explain_left_out(facts) for name, facts in others.items() if name not in used}
    is_plain = not any(facts.kind in ("text", *MEDIA) for facts in chosen.values())
    notes = (WRITTEN_NOTE,) if is_plain and not is_wanted else ()
    return InputColumns(roles, template, used, left_out, notes)


WRITTEN_NOTE = (
    "there are no texts, images, audio or videos: categories and numbers are written as a text; a model made for "
    "tables, such as gradient boosting, is likely better"
)


def find_pair(names: Sequence[str]) -> list[str] | None:
    """Returns two columns in their order if their names say that they are a pair (question and context, ...)."""
    lowered = {name.lower(): name for name in names}
    return next(([lowered[one], lowered[two]] for one, two in PAIRS if lowered.keys() == {one, two}), None)


def build_template(texts: Mapping[str, ColumnFacts]) -> str | None:
    """Returns how columns are joined to a text: one below the other, categories and numbers with their name before
    them; None for a single text."""
    if len(texts) != 2 and all(facts.kind == "text" for facts in texts.values()):
        return None  # one below the other is what plait does without a template; two would be a pair
    return "\n".join(f"{{{name}}}" if facts.kind == "text" else f"{name}: {{{name}}}" for name, facts in texts.items())


def explain_left_out(facts: ColumnFacts) -> str:
    """Returns why a column is left out."""
    reasons = {
        "id": "an id",
        "time": "a time",
        "constant": "always the same",
        "empty": "empty",
        "url": "addresses",
        "category": "may say the answer: --inputs adds it",
        "number": "may say the answer: --inputs adds it",
    }
    return reasons.get(facts.kind, "--inputs adds it" if facts.kind in ("text", *MEDIA) else "not read by plait")
