"""A trained run as a model for other programs: ONNX, TorchScript, a MONAI bundle, TIAToolbox, QuPath, Hugging Face."""

from patch2tissue.export.model_folder import FORMATS, ExportResult, export_run

__all__ = ["FORMATS", "ExportResult", "export_run"]
