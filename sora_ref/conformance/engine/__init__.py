"""What neither an implementer nor a check's author touches: how a check is run, and how its numbers are compared.

| module | holds |
|---|---|
| `check` | the record that a check is |
| `subject` | an implementation in one dtype, with canonical layouts and results that are verified to be arrays |
| `declarations` | the dtype and the precision by which an implementation is judged |
| `judge` | exact values, their rounding bounds, and the comparison |
| `step_intervals` | where an optimiser's step may land |
| `refusal` | what a check raises |
| `runner`, `outcome` | running one check; what became of it, and of a whole run |
| `loading` | the implementation that a user names as pkg.module:Name |
"""
