"""The one exception of this project."""


class SoRAError(ValueError):
    """Bad input, said in one sentence: what it is, where it is, what was expected.

    The command line prints the sentence and exits with status 1; nothing else is ever shown to a user.
    """
