"""The versions of the package and of what it specifies."""

__version__ = "0.1.0"
SPEC_VERSION = "0.3"
"""The version of the clauses in docs/spec.md, whose changes are listed apart in CHANGELOG.md.

>>> sr.SPEC_VERSION
'0.3'
"""
