"""What a check's author touches: a module for each group of clauses, the draws they share, and the list of all checks.

A module gives its checks, in order, as `CHECKS`; `catalogue` puts them together.
"""
