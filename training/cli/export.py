"""The options of `plait export`."""

from .options import Commands, add_overwrite


def add_export(commands: Commands) -> None:
    """Adds the parser of `plait export`."""
    parser = commands.add_parser(
        "export",
        help="write a model for ONNX Runtime, OpenVINO or torch alone",
        description="Write a model's graphs, which serve any number of rows, tokens and images, with the processor's "
        "files and a script, predict.py, that needs neither plait nor torch where that is possible. Every graph is "
        "compared with the model on three other sizes; nothing is written if they differ by more than 1e-4.",
    )
    parser.add_argument("model", help="a run folder, a model folder or a Hub id")
    parser.add_argument(
        "--to", choices=("onnx", "torch", "openvino"), default="onnx", help="the format (default: onnx)"
    )
    parser.add_argument("--output", help="the folder to write (default: the model's name with -onnx behind it)")
    parser.add_argument("--task", help="the task to load a checkpoint of another library for (default: by its class)")
    add_overwrite(parser)
