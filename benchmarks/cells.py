"""Which towers meet in which fusion: the cells of the matrix."""

from itertools import combinations, product
from typing import NamedTuple

from zoo import AUDIOS, FAMILIES, IMAGES, TEXTS, VIDEOS, Family

from plait.modeling.fusion import FUSIONS

FIRST, OTHERS = list(FUSIONS)[:4], list(FUSIONS)[4:]  # every text meets every image in the first ones
Towers = tuple[tuple[str, Family], ...]


class Cell(NamedTuple):
    """What is composed: a family for each modality, in the order text, image, audio, video."""

    towers: Towers
    fusion: str

    def __str__(self) -> str:
        return " x ".join([*(family.name for _, family in self.towers), self.fusion])

    @property
    def parts(self) -> list[tuple[str, str]]:
        """Each part by its place."""
        return [*((modality, family.name) for modality, family in self.towers), ("fusion", self.fusion)]


def cells_of(sample: int | None) -> list[Cell]:
    """All cells, or a sample: each text meets its K successors among the images."""
    return sampled(sample) if sample is not None else [*pairs(), *with_sound_or_video(), *of_many()]


def towers_of(turn: int, modalities: tuple[str, ...]) -> Towers:
    """A family for each modality; those of another turn differ, and two lists do not walk in step."""
    chosen = []
    for place, modality in enumerate(modalities):
        families = FAMILIES[modality]
        chosen.append((modality, families[(turn + place * (turn // len(families))) % len(families)]))
    return tuple(chosen)


def pairs() -> list[Cell]:
    """A text and an image: all of them in the first fusions, and each family once in each of the others."""
    every = [Cell((("text", a), ("image", b)), fusion) for a, b, fusion in product(TEXTS, IMAGES, FIRST)]
    for step, fusion in enumerate(OTHERS):
        for row in range(max(len(TEXTS), len(IMAGES))):
            text, image = TEXTS[row % len(TEXTS)], IMAGES[(row + step) % len(IMAGES)]
            every.append(Cell((("text", text), ("image", image)), fusion))
    return every


def with_sound_or_video() -> list[Cell]:
    """Each audio and each video family in each fusion, beside a text and beside an image by turns."""
    cells = []
    for modality in ("audio", "video"):
        for turn, (fusion, family) in enumerate(product(FUSIONS, FAMILIES[modality])):
            beside = ("text", "image")[turn % 2]
            partner = FAMILIES[beside][turn % len(FAMILIES[beside])]
            cells.append(Cell(((beside, partner), (modality, family)), fusion))
    return cells


def of_many() -> list[Cell]:
    """Each fusion over every three modalities, and over all four."""
    chosen = [*combinations(FAMILIES, 3), tuple(FAMILIES)]
    cells = product(FUSIONS, chosen)
    return [Cell(towers_of(turn, modalities), fusion) for turn, (fusion, modalities) in enumerate(cells)]


def sampled(sample: int) -> list[Cell]:
    """Each text with `sample` images, a fusion for each step; in every step each audio and each video family joins one
    of the rows, and one row has all four modalities."""
    fusions, rows = list(FUSIONS), range(max(len(TEXTS), len(IMAGES)))
    cells = {}
    for step, row in product(range(sample), rows):
        towers = [("text", TEXTS[row % len(TEXTS)]), ("image", IMAGES[(row + step) % len(IMAGES)])]
        if row < len(AUDIOS):
            towers.append(("audio", AUDIOS[row]))
        if 0 <= row - len(AUDIOS) + 1 < len(VIDEOS):
            towers.append(("video", VIDEOS[row - len(AUDIOS) + 1]))
        cell = Cell(tuple(towers), fusions[step % len(fusions)])
        cells[str(cell)] = cell
    return list(cells.values())
