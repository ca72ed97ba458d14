"""`python -m sora_ref` is `sora-ref`; no part of the specification."""

from _sora_ref_cli import main

if __name__ == "__main__":
    main()
