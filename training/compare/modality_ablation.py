"""Test rows that lack modalities, or have another row's or a blank input: does a fusion use all of its modalities?"""

from collections.abc import Iterator, Sequence

from ..data.media import Row, find_columns
from ..explanations.blanks import build_blank_columns, shuffle_rows
from ..trainer.modality_patterns import list_modality_patterns


def generate_variations(rows: Sequence[Row], modalities: Sequence[str], seed: int) -> Iterator[tuple[str, list[Row]]]:
    """Yields the name and the rows of each variation: modalities left out, or one modality replaced.

    `only text`, `only text + audio`: all other modalities absent, in every combination (only text: a blind model).
    `shuffled text`: every row has the text of another row. `blank text`: an input without content in its place: an
    empty text, a grey image, silence.
    """
    for present in list_modality_patterns(modalities):
        absent = [name for other in modalities if other not in present for name in find_columns(rows[0], other)]
        yield format_present(present), [{**row, **dict.fromkeys(absent)} for row in rows]
    for modality in modalities:
        columns = find_columns(rows[0], modality)
        moved = [{name: row[name] for name in columns} for row in shuffle_rows(rows, seed)]
        yield f"shuffled {modality}", [{**row, **other} for row, other in zip(rows, moved, strict=True)]
        yield f"blank {modality}", [{**row, **build_blank_columns(row, columns, modality)} for row in rows]


def format_present(present: Sequence[str]) -> str:
    """Returns the name of the variation in which only these modalities are present."""
    return f"only {' + '.join(present)}"
