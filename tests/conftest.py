"""One thread, and every shape annotation of the packages that hold tensors checked at run time."""

import os

from hypothesis import settings
from shapes import check_shapes_in

# On a busy machine any test is slow once.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# Before torch is imported. Two processes of two threads each on two cores take a hundred times
# as long as two of one.
os.environ["OMP_NUM_THREADS"] = "1"

# Before any of them is imported. The other packages have no shapes to check.
check_shapes_in("autopeft.ops", "autopeft.model", "autopeft.training", "autopeft.tasks")


def pytest_collection_modifyitems(items):
    """What is allowed to take longest begins first: processes that share tests end together."""
    items.sort(key=_patience, reverse=True)


def _patience(item):
    mark = item.get_closest_marker("timeout")
    return mark.args[0] if mark else 0
