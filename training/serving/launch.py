"""Starts the server of a page."""

from collections.abc import Mapping
from typing import Any

from .blocks import build_blocks
from .settings import ServeSettings, require_gradio


def serve(reference: str, settings: ServeSettings | None = None, overrides: Mapping[str, Any] | None = None) -> None:
    """Serves the page of a model until it is interrupted (`plait serve`).

    Raises RecipeError for a model that cannot be loaded, or without gradio; OSError for a port that is taken.
    """
    blocks = build_blocks(reference, settings, overrides)
    launch_blocks(blocks, quiet=True, prevent_thread_lock=True)
    address = blocks.share_url or blocks.local_url
    print(f"{blocks.served.name} is served at {address} (Ctrl-C ends it)", flush=True)
    if blocks.served.settings.api:
        print(f"API: {address}gradio_api/info, or gradio_client.Client({address!r}).view_api()", flush=True)
    blocks.block_thread()


def launch_blocks(blocks: Any, **options: Any) -> Any:
    """Launches the page of `build_blocks` with the settings of its model: fonts and scripts come from this server, and
    nothing is requested elsewhere unless the page is shared.

    options: further arguments of gradio's `launch`, which go first. Returns what `launch` returns.
    """
    gradio = require_gradio()
    settings: ServeSettings = blocks.served.settings
    blocks.queue(default_concurrency_limit=settings.batch_size, api_open=False)
    usual = {
        "server_name": settings.host,
        "server_port": settings.port or None,
        "share": settings.share,
        "max_file_size": settings.file_bytes,
        "footer_links": ["api"] if settings.api else [],
        "ssr_mode": False,
        "theme": gradio.themes.Default(primary_hue="orange", neutral_hue="slate"),
    }
    return blocks.launch(**{**usual, **options})
