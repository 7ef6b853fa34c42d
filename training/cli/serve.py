"""The options of `plait serve`."""

from .options import Commands


def add_serve(commands: Commands) -> None:
    """Adds the parser of `plait serve`."""
    parser = commands.add_parser(
        "serve",
        help="open a page in the browser for a model",
        description="Serve a page for a model of any task, to this machine alone unless asked otherwise, until Ctrl-C. "
        "Nothing is requested from other servers. Needs gradio: pip install 'plait[serve]'.",
    )
    parser.add_argument("model", help="a run folder, a model folder or a Hub id")
    parser.add_argument(
        "--host", default="127.0.0.1", help="the address to listen on; 0.0.0.0: all (default: %(default)s)"
    )
    parser.add_argument("--port", type=int, help="default: the first free one from 7860 on")
    parser.add_argument("--share", action="store_true", help="also give it a public address, by Gradio's servers")
    parser.add_argument("--api", action="store_true", help="also serve the answers as JSON, under named endpoints")
    parser.add_argument("--max-file-megabytes", type=int, default=100, help="of an uploaded file (default: 100)")
    parser.add_argument("--max-characters", type=int, default=100_000, help="of a text (default: 100,000)")
    parser.add_argument("--max-new-tokens", type=int, default=512, help="of a generated text (default: 512)")
    parser.add_argument("--batch-size", type=int, default=16, help="requests answered in one forward (default: 16)")
    parser.add_argument("--index", help="retrieval: a folder or a table to search, as in `plait search`")
    parser.add_argument("--index-folder", help="where the index lies (default: beside what it indexes)")
    parser.epilog = "--key value overrides a value of the run's recipe: --generation.num_beams 5 --max_length 256"
