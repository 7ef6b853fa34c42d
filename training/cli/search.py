"""The options of `plait search`."""

from .options import Commands, add_overwrite


def add_search(commands: Commands) -> None:
    """Adds the parser of `plait search`."""
    parser = commands.add_parser(
        "search",
        help="search images, texts, audio and videos with a retrieval model",
        description="Search the files of a folder or the rows of a table with a retrieval model, by a text, an image "
        "or any other input. The index of vectors is kept in files and updated when content is added.",
    )
    parser.add_argument("model", help="a run folder, a model folder or a Hub id")
    parser.add_argument(
        "--index",
        required=True,
        metavar="SOURCE",
        help="a folder of images, audio clips, videos or .txt files, or a table (csv, tsv, jsonl, parquet)",
    )
    parser.add_argument("--query", action="append", default=[], help="a text to search by; may be repeated")
    for name in ("image", "audio", "video"):
        kind = "an" if name != "video" else "a"
        parser.add_argument(
            f"--{name}", action="append", default=[], help=f"{kind} {name} file to search by; may be repeated"
        )
    parser.add_argument("--document", action="append", default=[], help="a document to search by; may be repeated")
    parser.add_argument("--top-k", type=int, default=10, help="matches of each query (default: 10)")
    parser.add_argument("--side", help="the side of the model that encodes the items (default: the first with items)")
    parser.add_argument(
        "--output", help="write the matches to this .jsonl, .csv, .tsv or .parquet file, or a grid (.png, .jpg, .webp)"
    )
    add_overwrite(parser)
    parser.add_argument(
        "--index-folder", help="where the index lies (default: .plait-index in the folder, or beside the table)"
    )
    parser.add_argument("--rebuild", action="store_true", help="make the index anew")
    parser.add_argument("--no-update", action="store_true", help="search the index as it is, without reading the items")
    parser.add_argument("--batch-size", type=int, default=64, help="items encoded at a time (default: 64)")
    parser.epilog = "--key value overrides a value of the run's recipe: --data.columns.image picture"
