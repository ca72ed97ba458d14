"""The console script `sora-ref`: one sentence and a non-zero exit where something is wrong, never a traceback."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress

from sora_ref.errors import SoRAError, brief, one_line


def main(ready: Callable[[], None] = lambda: None) -> None:
    """Run the command line and exit: 0 done, 1 bad input, 2 wrong usage, 130 interrupted, 70 a bug of ours.

    Ended by another signal than Ctrl-C, SIGTERM or SIGHUP, it exits with 128 and the signal's number.

    ready: called when everything is loaded, just before the command runs.
    """
    try:
        import click

        from sora_ref.cli import terminal
        from sora_ref.cli.commands import COMPLETE, cli
        from sora_ref.run.interrupt import Ended, Interrupted
    except ImportError as error:
        _leave(1, _not_loaded(error))
    try:
        ready()
        terminal.open_streams()
        if COMPLETE in os.environ:
            from click.shell_completion import shell_complete

            sys.exit(shell_complete(cli, {}, "sora-ref", COMPLETE, os.environ[COMPLETE]))
        with cli.make_context("sora-ref", sys.argv[1:]) as context:
            cli.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as done:  # --help and --version
        sys.exit(done.exit_code)
    except SoRAError as error:
        _leave(1, str(error))
    except click.ClickException as error:
        with suppress(OSError):
            terminal.show_usage(error, sys.stderr)
        sys.exit(error.exit_code)
    except Interrupted as stopped:
        _leave(128 + stopped.number, str(stopped))
    except Ended as ended:
        _leave(128 + ended.number, f"ended by {signal.Signals(ended.number).name}")
    except (KeyboardInterrupt, click.Abort):
        _leave(130, "interrupted")
    except BrokenPipeError:
        sys.exit(141)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _leave(1, f"{where}{error.strerror or error}")
    except MemoryError as error:  # CuPy's too, which says how much it has allocated
        said = f" ({str(error).rstrip('.')})" if str(error) else ""
        _leave(1, f"out of memory{said}: lower train.microbatch_tokens or the model's size")
    except OverflowError as error:  # nothing of ours counts so far by itself
        _leave(1, f"a number is too large for this machine ({error}): expected smaller sizes in the configuration")
    except Exception as error:  # the last resort: a traceback is for us, not for a user
        if isinstance(error, ImportError) and not str(error.name).startswith("sora_ref"):
            _leave(1, _not_loaded(error))
        if isinstance(error, RuntimeError) and "start new thread" in str(error):
            _leave(1, "no more threads can be started: expected room for some (ulimit -u), or --set workers=1")
        if os.environ.get("SORA_REF_DEBUG"):
            raise
        _leave(
            70, f"a bug of sora-ref, please report it: {type(error).__name__}: {error} (SORA_REF_DEBUG=1 shows where)"
        )
    finally:
        terminal.close_streams()


def _not_loaded(error: ImportError) -> str:
    if not isinstance(error, ModuleNotFoundError):  # one that is there: of another version, or too large for the memory
        return f"a library cannot be loaded ({brief(str(error))}): expected a sound installation, and memory for it"
    extra = "check" if sys.argv[1:2] == ["check"] else "run"
    package = str(error.name).partition(".")[0]
    return f"this command needs more packages ({package} is missing): pip install 'sora_ref[{extra}]'"


def _leave(status: int, sentence: str) -> None:
    with suppress(OSError):  # nobody listens
        print(f"sora-ref: {one_line(sentence)}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    from _sora_ref_cli import main as start

    start()
