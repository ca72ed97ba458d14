"""What an implementer touches: the class to subclass, bases for PyTorch and JAX, what it is given, what it declares.

| module | holds |
|---|---|
| `implementation` | `Implementation`, the class to subclass; the names of its capabilities |
| `layer` | `Layer` and `Plan`, which it is given, and `Triple`, which it gives back |
| `storage_layout` | `StorageLayout`: weights that are transposed, fused or tied |
| `choices` | `Choices`: the gate rule, and whatever else implementations differ in |
| `torch_base`, `jax_base` | bases that derive most methods from a module and an optimiser, or from two functions |
"""
