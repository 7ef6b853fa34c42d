"""Starts the server of a page."""

from collections.abc import Mapping
from typing import Any

from ...configuration.messages import to_one_line
from ..recipes.errors import RecipeError
from .blocks import build_blocks
from .json_route import ROUTE
from .settings import ServeSettings, require_gradio

PASSWORDS = ("auth", "auth_dependency")  # gradio's arguments for pages that ask who it is


def serve(reference: str, settings: ServeSettings | None = None, overrides: Mapping[str, Any] | None = None) -> None:
    """Serves the page of a model until it is interrupted (`plait serve`).

    Raises RecipeError for a model that cannot be loaded, without gradio, or for a port that is taken.
    """
    blocks = build_blocks(reference, settings, overrides)
    host, port = blocks.served.settings.host, blocks.served.settings.port
    try:
        launch_blocks(blocks, quiet=True, prevent_thread_lock=True)
    except OSError as error:
        why = to_one_line(error).partition(". ")[0]
        raise RecipeError(
            f"cannot listen on --host {host} --port {port or '7860 .. 7959'} ({why}): choose another"
        ) from error
    address = blocks.share_url or blocks.local_url
    print(f"{blocks.served.name} is served at {address} (Ctrl-C ends it)", flush=True)
    if blocks.served.settings.api:
        print(f"API: {address}gradio_api/info, or gradio_client.Client({address!r}).view_api()", flush=True)
        if blocks.json_route is not None and blocks.json_route.texts:
            print(f"texts alone: POST {address.rstrip('/')}{ROUTE} with {blocks.json_route.describe()}", flush=True)
    blocks.block_thread()


def launch_blocks(blocks: Any, **options: Any) -> Any:
    """Launches the page of `build_blocks` with the settings of its model: fonts and scripts come from this server, and
    nothing is requested elsewhere unless the page is shared.

    options: further arguments of gradio's `launch`, which go first; with a password there is no `JsonRoute`, which
    would not ask for it. Returns what `launch` returns.
    """
    gradio = require_gradio()
    settings: ServeSettings = blocks.served.settings
    blocks.queue(default_concurrency_limit=settings.batch_size, api_open=False)
    usual: dict[str, Any] = {
        "server_name": settings.host,
        "server_port": settings.port or None,
        "share": settings.share,
        "max_file_size": settings.file_bytes,
        "footer_links": ["api"] if settings.api else [],
        "ssr_mode": False,
        "theme": build_theme(gradio),
    }
    if blocks.json_route is not None and not set(PASSWORDS) & set(options):
        usual["app_kwargs"] = {"routes": [blocks.json_route.build()]}
    return blocks.launch(**{**usual, **options})


def build_theme(gradio: Any) -> Any:
    """Builds the look of the page, with fonts that gradio brings along."""
    fonts = gradio.themes.utils.fonts
    # of this font gradio's files of the weights 400 and 700 are whole, that of 600 lacks most letters
    sans = (fonts.LocalFont("Source Sans Pro", weights=(400, 700)), "ui-sans-serif", "system-ui", "sans-serif")
    mono = (fonts.LocalFont("IBM Plex Mono", weights=(400,)), "ui-monospace", "monospace")
    return gradio.themes.Default(primary_hue="orange", neutral_hue="slate", font=sans, font_mono=mono)
