"""A diverging colour map that colour-blind readers can tell apart, and images drawn with it and its scale."""

from base64 import b64encode
from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw

from ...data.image_grid import LINE_HEIGHT, build_font

# purple for less, orange for more: PuOr of ColorBrewer, https://colorbrewer2.org (Harrower & Brewer 2003)
ANCHORS = np.array([[84, 39, 136], [153, 142, 195], [247, 247, 247], [241, 163, 64], [179, 88, 6]], dtype=float)
FULL_COLOUR_QUANTILE = 0.995  # of the sizes of values: above it the colour is full
SMALLEST_SIDE = 192  # pixels of an overlay's longer side: smaller images are enlarged
BAR_HEIGHT = 10


def find_full_colour(*values: np.ndarray) -> float:
    """Returns the value at which the colour is full: the 99.5 % quantile of the sizes, above 0."""
    sizes = np.concatenate([np.abs(np.asarray(value, dtype=float)).ravel() for value in values] or [np.zeros(1)])
    if not sizes.size or not sizes.max() > 0:
        return 1.0
    quantile = float(np.quantile(sizes, FULL_COLOUR_QUANTILE))
    return quantile if quantile > 0 else float(sizes.max())


def map_colours(values: np.ndarray, scale: float) -> np.ndarray:
    """Returns (..., 3) colours, 0..255: purple at -scale, nearly white at 0, orange at +scale."""
    places = np.clip(np.asarray(values, dtype=float) / scale, -1, 1) * 2 + 2  # 0..4
    channels = [np.interp(places, np.arange(len(ANCHORS)), ANCHORS[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def draw_map(values: np.ndarray, scale: float) -> Image.Image:
    """Draws (height, width) values alone, enlarged, row 0 at the top."""
    return enlarge(Image.fromarray(map_colours(values, scale)))


def draw_overlay(image: Image.Image, values: np.ndarray, scale: float) -> Image.Image:
    """Draws (height, width) values over the grey image of this size: the larger a value's size, the less of the image
    shows through."""
    if (image.height, image.width) != values.shape:
        raise ValueError(
            f"a map of {values.shape} over an image of {(image.height, image.width)}: give one of its size"
        )
    grey = np.asarray(image.convert("L").convert("RGB"), dtype=float)
    light = 255 - (255 - grey) * 0.6
    opacity = np.clip(np.abs(values) / scale, 0, 1)[..., None] ** 0.5 * 0.85
    mixed = (1 - opacity) * light + opacity * map_colours(values, scale)
    return enlarge(Image.fromarray(mixed.round().astype(np.uint8)))


def enlarge(image: Image.Image) -> Image.Image:
    """Returns a small image enlarged by a whole number, with its pixels as they are."""
    factor = max(1, -(-SMALLEST_SIDE // max(image.size)))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def add_scale(image: Image.Image, scale: float, unit: str) -> Image.Image:
    """Returns the image with a bar of the colours below it, and the values at its ends in `unit`."""
    width = max(image.width, SMALLEST_SIDE)
    whole = Image.new("RGB", (width, image.height + BAR_HEIGHT + LINE_HEIGHT + 6), "white")
    whole.paste(image, (0, 0))
    bar = map_colours(np.linspace(-scale, scale, width)[None].repeat(BAR_HEIGHT, 0), scale)
    whole.paste(Image.fromarray(bar), (0, image.height + 3))
    draw, font, top = ImageDraw.Draw(whole), build_font(), image.height + BAR_HEIGHT + 4
    low, high = f"-{scale:.2g}", f"+{scale:.2g} {unit}"
    draw.text((0, top), low, "black", font)
    draw.text((width / 2, top), "0", "black", font, anchor="ma")
    draw.text((width - font.getlength(high), top), high, "black", font)
    return whole


def to_data_url(image: Image.Image) -> str:
    """Returns the image as a PNG in a data URL."""
    file = BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{b64encode(file.getvalue()).decode()}"


def to_css(value: float, scale: float) -> str:
    """Returns the ground of a value as a CSS colour, with black or white text, whichever can be read on it."""
    red, green, blue = (int(channel) for channel in map_colours(np.array(value), scale))
    dark = 0.299 * red + 0.587 * green + 0.114 * blue < 128
    return f"background:rgb({red},{green},{blue});color:{'#fff' if dark else '#000'}"
