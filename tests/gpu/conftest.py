"""A tiny checkpoint and text on disk."""

from study_factory import checkpoint, data_folder, spec_of

__all__ = ["checkpoint", "data_folder", "spec_of"]
