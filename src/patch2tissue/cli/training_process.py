"""One of the processes that `distributed.launch` starts; not for users."""

from __future__ import annotations

import os
import sys
import threading


def _end_with_parent() -> None:
    """Wait for the end of standard input, which comes when the process that started this one is gone."""
    while os.read(0, 1):  # not through sys.stdin, whose lock the end of the program wants
        pass
    os._exit(1)


def main() -> None:
    """Read the order from standard input and train.

    Raises:
        SystemExit: always, with the exit code.
    """
    from patch2tissue.cli.app import run_and_leave, set_up_logging
    from patch2tissue.config import config_from_dict
    from patch2tissue.distributed.launch import Order
    from patch2tissue.pipeline import run_training
    from patch2tissue.progress import console

    order = Order.from_line(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.argv[:] = order.command
    console.quiet = order.quiet
    set_up_logging(order.level)
    run_and_leave(
        lambda: run_training(
            config_from_dict(order.config), stages=order.stages, resume=order.resume, progress=order.progress
        )
    )


if __name__ == "__main__":
    main()
