"""The console script `sora-ref`: one sentence and a non-zero exit where something is wrong, never a traceback."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line and exit: 0 done, 1 bad input, 2 wrong usage, 130 interrupted, 70 a bug of ours."""
    try:
        import click

        from sora_ref.errors import SoRAError
        from sora_ref.run.cli import cli
        from sora_ref.run.interrupt import Interrupted
    except ImportError as error:
        _leave(1, _more_packages(error))
    try:
        with cli.make_context("sora-ref", sys.argv[1:]) as context:
            cli.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as done:  # --help and --version
        sys.exit(done.exit_code)
    except SoRAError as error:
        _leave(1, str(error))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except Interrupted as stopped:
        _leave(130, str(stopped))
    except (KeyboardInterrupt, click.Abort):
        _leave(130, "interrupted")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _leave(1, f"{where}{error.strerror or error}")
    except MemoryError as error:  # CuPy's too, which says how much it has allocated
        said = f" ({str(error).rstrip('.')})" if str(error) else ""
        _leave(1, f"out of memory{said}: lower train.microbatch_tokens or the model's size")
    except Exception as error:  # the last resort: a traceback is for us, not for a user
        if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("sora_ref"):
            _leave(1, _more_packages(error))
        if os.environ.get("SORA_REF_DEBUG"):
            raise
        _leave(
            70, f"a bug of sora-ref, please report it: {type(error).__name__}: {error} (SORA_REF_DEBUG=1 shows where)"
        )


def _more_packages(error: ImportError) -> str:
    extra = "check" if sys.argv[1:2] == ["check"] else "run"
    return f"this command needs more packages ({error.name} is missing): pip install 'sora_ref[{extra}]'"


def _leave(status: int, sentence: str) -> None:
    print(f"sora-ref: {' '.join(sentence.split())}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
