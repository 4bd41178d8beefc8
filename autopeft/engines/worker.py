"""`python -P -m autopeft.engines.worker DESCRIPTOR`: a worker, and the warden above it."""

import sys
from multiprocessing.connection import Connection

from autopeft.engines.waiting import wait_briefly
from autopeft.engines.warden import watch_over_worker


def main() -> None:
    """Serve the driver at the other end of an inherited socket until it hangs up."""
    descriptor = int(sys.argv[1])
    watch_over_worker(descriptor)
    wait_briefly()
    from autopeft.engines.serve import serve  # noqa: PLC0415 - the warden does without torch

    serve(Connection(descriptor))


if __name__ == "__main__":
    main()
