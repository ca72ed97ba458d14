"""The golden vectors: the cases as files, for implementations in any language, and what makes those files."""
