"""Faster forms on NumPy arrays; `table` names them."""
