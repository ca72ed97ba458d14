"""Damaged and hostile files for everything that reads one: each is read, or refused in a sentence, and soon."""
