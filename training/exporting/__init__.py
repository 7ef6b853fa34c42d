"""Export: a model as graphs for ONNX Runtime, OpenVINO or torch alone, compared with the model and with a script.

`export_model` takes a model and its processor, `main_export` a folder; `plait export` is the latter.
"""

from .run import Exported, export_model, main_export

__all__ = ["Exported", "export_model", "main_export"]
