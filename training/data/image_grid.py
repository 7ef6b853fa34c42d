"""Several images drawn as a grid in one, with labels."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ...modeling.diffusion.images import to_pil_images

GAP, LINE_HEIGHT, MOST_LINES = 4, 14, 3  # pixels between images and of a line of a label; the lines of a label


def draw_grid(images: Tensor | Sequence[Image.Image], columns: int, labels: Sequence[str] | None = None) -> Image.Image:
    """Draws images on white in rows of `columns`, each in a cell of the largest height and width.

    Args:
        images: (count, channels, height, width) with values from -1 to 1, or Pillow images.
        labels: a text for each image, or for each row of the grid, drawn above it; its end is cut after three lines.

    Raises:
        ValueError: no image, `columns` below 1, or labels of another number.
    """
    cells = to_pil_images(images) if isinstance(images, Tensor) else list(images)
    if not cells or columns < 1:
        raise ValueError(f"a grid of {len(cells)} images in {columns} columns: give at least 1 of each")
    rows = -(-len(cells) // columns)
    width, height = (GAP + max(image.size[side] for image in cells) for side in (0, 1))
    spans = find_label_spans(labels, len(cells), columns)
    texts = [wrap_label(text, spans * width - GAP) for text in labels or ()]
    per_row = columns // spans
    heads = [LINE_HEIGHT * max(map(len, texts[row * per_row : (row + 1) * per_row]), default=0) for row in range(rows)]
    tops = [GAP + row * height + sum(heads[:row]) for row in range(rows)]
    grid = Image.new("RGB", (GAP + columns * width, tops[-1] + heads[-1] + height), "white")
    for number, image in enumerate(cells):
        row, column = divmod(number, columns)
        grid.paste(image, (GAP + column * width, tops[row] + heads[row]))
    for number, lines in enumerate(texts):
        row, column = divmod(number, per_row)
        draw_lines(grid, lines, GAP + column * width, tops[row])
    return grid


def find_label_spans(labels: Sequence[str] | None, images: int, columns: int) -> int:
    """Returns how many columns a label stands above: 1 for one per image, else all."""
    rows = -(-images // columns)
    if labels is None or len(labels) == rows:
        return columns
    if len(labels) != images:
        raise ValueError(f"{len(labels)} labels for {images} images in {rows} rows: give one per image or per row")
    return 1


def build_font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Builds Pillow's own font."""
    return ImageFont.load_default(size=LINE_HEIGHT - 3)


def wrap_label(text: str, width: int) -> list[str]:
    """Breaks a text into at most three lines of a width in pixels, at spaces where there are any."""
    font, lines, words = build_font(), [""], text.split()
    for word in words:
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return [cut_line(line, width) for line in lines[:MOST_LINES]]


def cut_line(line: str, width: int) -> str:
    """Returns the longest beginning of a line that is at most `width` pixels wide."""
    font = build_font()
    while line and font.getlength(line) > width:
        line = line[:-1]
    return line


def draw_lines(grid: Image.Image, lines: Sequence[str], left: int, top: int) -> None:
    """Draws lines of black text below one another from a place in pixels on."""
    draw = ImageDraw.Draw(grid)
    for number, line in enumerate(lines):
        draw.text((left, top + number * LINE_HEIGHT), line, "black", build_font())
