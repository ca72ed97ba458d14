"""Faster forms on NumPy arrays of float32, compiled by Numba; `table` names them."""
