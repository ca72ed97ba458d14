"""Where the console script `sora-ref` begins: a signal is one line from here on, while the libraries are still loading.

This module stands outside the package, so that nothing of that is loaded before.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

_ENDING = tuple(signal.Signals[name] for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


def main() -> None:
    """Run the command line; see `sora_ref.cli.main.main`."""
    usual = {signal.SIGINT: signal.default_int_handler, **dict.fromkeys(_ENDING, signal.SIG_DFL)}
    free = [name for name, handler in usual.items() if signal.getsignal(name) is handler]  # not ignored, as by nohup
    for name in free:
        signal.signal(name, _end)

    def ready() -> None:
        """From now on a signal is an exception, so that files that are half-written are taken away."""
        from sora_ref.run.interrupt import end

        for name in free:
            signal.signal(name, signal.default_int_handler if name == signal.SIGINT else end)

    _quiet_libraries()
    try:
        from sora_ref.cli.main import main as run

        run(ready)
    except ImportError as error:  # of the package itself: all others are met with in `run`
        said = " ".join(str(error).split())[:300]
        sys.exit(f"sora-ref: a part of it cannot be loaded ({said}): expected a sound installation of sora_ref")
    except KeyboardInterrupt as second:  # while the first was being said
        _end(getattr(second, "number", signal.SIGINT))
    finally:
        for name in free:
            signal.signal(name, _end)  # while threads and libraries end


def _quiet_libraries() -> None:
    """Turn Python's warnings off, which are for programmers; -W, PYTHONWARNINGS and SORA_REF_DEBUG bring them back.

    Nothing depends on them: numbers that are not finite are looked for where they would leave.
    """
    if not (sys.warnoptions or os.environ.get("SORA_REF_DEBUG")):
        import warnings

        warnings.simplefilter("ignore")


def _end(number: int, *_: object) -> NoReturn:
    said = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
    try:
        sys.stderr.flush()
        os.write(2, f"sora-ref: {said}\n".encode())
    except (AttributeError, OSError, ValueError):  # there is none, or nobody listens
        pass
    os._exit(128 + number)


if __name__ == "__main__":
    main()
