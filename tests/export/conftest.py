"""The tiny model, text and study, and the command line in this process."""

from command_line import run
from study_factory import checkpoint, data_folder, done, spec_of

__all__ = ["checkpoint", "data_folder", "done", "run", "spec_of"]
