"""Pictures of a run: the rank kept in every module, and the gates over training."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sora_ref.errors import SoRAError, shown
from sora_ref.models import Architecture
from sora_ref.storage.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INK, _GONE, _ALIVE = "#222222", "#c9b8a8", "#2a6f97"
_LAYERS = 9999  # of a picture, at most


@contextmanager
def _own_style() -> Iterator[None]:
    """Matplotlib as it is shipped; a matplotlibrc that happens to lie in the current folder could ask for LaTeX."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield


@_own_style()
def draw_ranks(path: Path, architecture: Architecture, ranks: Mapping[str, int], r: int) -> None:
    """A heat map, layers from the bottom up and kinds of linear layer from left to right, the rank in every cell."""
    places = [_place(architecture, module) for module in ranks]
    layers = max(layer for layer, _ in places) + 1
    kinds = [kind for kind in architecture.kinds if any(found == kind for _, found in places)]
    grid = np.full((layers, len(kinds)), np.nan)
    for (layer, kind), rank in zip(places, ranks.values(), strict=True):
        grid[layer, kinds.index(kind)] = rank

    figure = _figure(1.6 + 1.1 * len(kinds), 1.5 + 0.42 * layers)
    axes = figure.add_subplot()
    image = axes.imshow(grid, origin="lower", aspect="auto", cmap="cividis", vmin=0, vmax=max(r, 1))
    for layer, column in np.ndindex(*grid.shape):
        if np.isfinite(grid[layer, column]):
            light = grid[layer, column] > 0.55 * max(r, 1)
            axes.text(
                column, layer, f"{grid[layer, column]:.0f}", ha="center", va="center", color=_INK if light else "w"
            )
    axes.set_xticks(range(len(kinds)), [kind.replace("_", "\n") for kind in kinds])
    axes.set_yticks(range(layers))
    axes.set_ylabel("layer")
    axes.set_title(f"rank kept, of {r}: {sum(ranks.values())} of {r * len(ranks)} components", fontsize=10)
    figure.colorbar(image, ax=axes, label="rank")
    _save(figure, path)


@_own_style()
def draw_gates(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Every gate's value against the step; those that end at zero in a pale colour behind the others."""
    steps = [record["step"] for record in history]
    modules = list(history[-1]["gates"])
    values = np.array([[value for module in modules for value in record["gates"][module]] for record in history])
    alive = values[-1] != 0
    figure = _figure(8, 4)
    axes = figure.add_subplot()
    for chosen, colour, width, label in ((~alive, _GONE, 0.5, "zero at the end"), (alive, _ALIVE, 0.7, "kept")):
        if chosen.any():
            lines = axes.plot(steps, values[:, chosen], color=colour, linewidth=width)
            lines[0].set_label(f"{label}: {chosen.sum()}")
    axes.axhline(0, color=_INK, linewidth=0.6)
    axes.set_xlabel("step")
    axes.set_ylabel("gate value")
    axes.set_title("gates over training", fontsize=10)
    if values.size:
        axes.legend(frameon=False, fontsize=8)
    _save(figure, path)


def _place(architecture: Architecture, module: str) -> tuple[int, str]:
    """Layer and kind of a module by its name; SoRAError for a name that no adapted module can have."""
    place = architecture.place(module)
    if place is None or place[0] > _LAYERS:
        raise SoRAError(
            f"a module {shown(module)}: expected {architecture.layers}.N. and one of "
            f"{', '.join(architecture.kinds.values())}"
        )
    return place


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_bytes(path, buffer.getvalue())
