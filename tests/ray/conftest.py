"""The tiny model, text and study."""

from study_factory import checkpoint, data_folder, done, spec_of

__all__ = ["checkpoint", "data_folder", "done", "spec_of"]
