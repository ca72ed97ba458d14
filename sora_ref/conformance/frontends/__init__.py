"""The ways to run the kit and to read what it found.

| module | holds |
|---|---|
| `call` | `check_implementation`, a function call |
| `parametrize` | `parametrize_with_checks`, for a test file of one's own |
| `pytest_plugin`, `test_conformance` | `pytest --pyargs sora_ref.conformance --sora-impl pkg.module:Name` |
| `expected` | failures that are expected, with their reasons |
| `text`, `json_report`, `junit` | a run in words, as JSON and as JUnit's XML |
| `identify` | which of the known variants an implementation is |
| `self_check` | the specification's own functions, shown to the kit |

The command line, `sora-ref check`, stands in `sora_ref/cli`.
"""
