"""The options of `plait predict`."""

from .options import Commands, add_launch_options, add_overwrite


def add_predict(commands: Commands) -> None:
    """Adds the parser of `plait predict`."""
    parser = commands.add_parser(
        "predict",
        help="answer or generate with a model",
        description="Print a model's predictions for inputs, or write them beside the rows of a data set.",
    )
    parser.add_argument("model", help="a run folder, a model folder or a Hub id")
    parser.add_argument("--text", action="append", default=[], help="a text, question or prompt; may be repeated")
    parser.add_argument("--image", action="append", default=[], help="an image file; may be repeated")
    parser.add_argument("--audio", action="append", default=[], help="an audio file; may be repeated")
    parser.add_argument("--video", action="append", default=[], help="a video file; may be repeated")
    parser.add_argument(
        "--document", action="append", default=[], help="a document of a retrieval model; may be repeated"
    )
    parser.add_argument(
        "--context", action="append", default=[], help="the text that holds a question's answer; may be repeated"
    )
    parser.add_argument("--data", help="predict for the rows of a file, a folder, a Hub id or a registered source")
    parser.add_argument("--split", help="the split of --data (default: test, else validation, else train)")
    parser.add_argument(
        "--output",
        help="write the rows with their answers to this .jsonl, .csv, .tsv or .parquet file (default: print lines of "
        "JSON); generated images to a grid (.png, .jpg, .webp) or a folder",
    )
    add_overwrite(parser)
    parser.add_argument("--num-images", type=int, default=1, help="images to generate for each row (default: 1)")
    parser.add_argument("--batch-size", type=int, default=32, help="rows at a time (default: 32)")
    parser.add_argument("--top-k", type=int, help="the likeliest answers to list, with their scores")
    add_launch_options(parser)
    parser.epilog = (
        "--key value overrides a value of the run's recipe: --generation.num_beams 5 --max_length 256, "
        "--data.on_error skip (rows that cannot be read get no answer), --settings.thresholds 0.3 (of several labels)"
    )
