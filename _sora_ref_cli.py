"""Where the console script `sora-ref` begins: Ctrl-C is one line from here on, while the libraries are still loading.

This module stands outside the package, for whatever is imported from there loads NumPy first.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn


def main() -> None:
    """Run the command line; see `sora_ref.run.main.main`."""
    free = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not where Ctrl-C is ignored, as by nohup
    if free:
        signal.signal(signal.SIGINT, _interrupted)

    def ready() -> None:
        """From now on Ctrl-C is an exception, so that files that are half-written are taken away."""
        if free:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    _quiet_libraries()
    try:
        from sora_ref.run.main import main as run

        run(ready)
    except KeyboardInterrupt:  # a second one, while the first was being said
        _interrupted()
    finally:
        if free:
            signal.signal(signal.SIGINT, _interrupted)  # while threads and libraries end


def _quiet_libraries() -> None:
    """Turn Python's warnings off, which are for programmers; -W, PYTHONWARNINGS and SORA_REF_DEBUG bring them back.

    Nothing depends on them: numbers that are not finite are looked for where they would leave.
    """
    if not (sys.warnoptions or os.environ.get("SORA_REF_DEBUG")):
        import warnings

        warnings.simplefilter("ignore")


def _interrupted(*_: object) -> NoReturn:
    if sys.stderr is not None:
        sys.stderr.flush()
        os.write(2, b"sora-ref: interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    main()
