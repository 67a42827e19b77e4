"""Data sets: read once, checked, counted, frozen as Arrow in the workspace."""

from .prepare import EVALUATION, TRAIN, WARM_START, load_all, prepare_all, suite_folder
from .store import Prepared, PreparedRow

__all__ = ["EVALUATION", "TRAIN", "WARM_START", "Prepared", "PreparedRow", "load_all", "prepare_all", "suite_folder"]
