"""Which golden vectors there are.

Arguments are chosen numbers or `keyed` ones, expected results are made by `values`: so the files are the same, bit for
bit, wherever they are made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from sora_ref.bounds import unmerge_bound
from sora_ref.conformance.engine.judge import (
    exact_forward,
    exact_gradients,
    exact_merged,
    exactly,
    forward_bound,
    gradient_bounds,
    number,
    weight_bound,
)
from sora_ref.conformance.golden.arguments import keyed_uniform, layer, problem, problems
from sora_ref.conformance.golden.values import (
    Expected,
    arithmetic,
    gate_steps,
    interpolated,
    judged,
    means,
    settled,
    training,
)
from sora_ref.conformance.golden.vector_file import VectorFile, as_json
from sora_ref.conformance.protocol.choices import VARIANTS, Choices
from sora_ref.conformance.protocol.layer import Plan
from sora_ref.prox import l1_value, released_threshold, soft_threshold
from sora_ref.schedules import algorithm_1_values, linear_warmup_decay

DTYPES = ("float64", "float32")
_ADAM = ("betas", "eps")

# The checks that no list of numbers can stand for.
NOT_DATA = {
    "SORA-LINEAR-5": "what a function remembers or changes shows only while it runs",
    "SORA-LINEAR-5.arguments": "what a function changes shows only while it runs",
    "SORA-LINEAR-1.dropout": "the mask is the implementation's own; only what must be refused is data",
    "SORA-LINEAR-3.dropout": "the mask is the implementation's own",
    "SORA-INIT-1": "whether draws depend on the key alone shows only while they are made",
    "SORA-INIT-2": "a distribution is no list of numbers",
}


def make() -> dict[str, bytes]:
    """The files by name."""
    book = VectorFile()
    for dtype in DTYPES:
        for write in (_linear, _prox, _gates, _training, _what_is_left, _refusals):
            write(book, dtype)
    _schedules(book)
    return book.contents()


# --- the linear map


def _linear(book: VectorFile, dtype: str) -> None:
    long = ("long", "sums of 24 terms", problem("long", dtype, (2,), 2, 24, 4, s=16 / 3))
    for name, about, case in [*problems(dtype), long]:
        forward, backward = ("SORA-BOUND-2", "SORA-BOUND-4") if name == "long" else ("SORA-LINEAR-1", "SORA-LINEAR-3")
        whole, x = case["layer"], case["x"]
        y = judged(exact_forward(whole, x), forward_bound(whole, x, arithmetic(dtype)), dtype)
        book.add(f"forward/{name}", forward, "forward", dtype, about, {"layer": whole, "x": x}, {"y": y})
        book.add(f"gradients/{name}", backward, "gradients", dtype, about, case, _gradients(case, dtype))
    for name, gates in (("closed", (0.0, 1.5, 0.0)), ("all-closed", (0.0, 0.0, 0.0))):
        case = problem("gradients.closed", dtype, (2,), 2, 3, 3, g=gates)
        about = "a closed gate's row of dA and column of dB are exactly zero, its dg is not"
        expected = _gradients(case, dtype, zeros=True)
        book.add(f"closed-gates/{name}", "SORA-LINEAR-4", "gradients", dtype, about, case, expected)


def _gradients(case: Mapping[str, Any], dtype: str, *, zeros: bool = False) -> dict[str, Expected]:
    exact = exact_gradients(case["layer"], case["x"], case["dy"])
    bounds = gradient_bounds(case["layer"], case["x"], case["dy"], arithmetic(dtype))
    return {name: judged(exact[name], bounds[name], dtype, zeros=zeros and name != "dx") for name in exact}


# --- the threshold map


def _prox(book: VectorFile, dtype: str) -> None:
    signs = np.array([-3.0, -1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 2.0])
    many = 2 * keyed_uniform("prox", 24)
    points = [
        ("signed", "SORA-PROX-1", "negative numbers, ±ξ and 0", signs, 0.5),
        ("no-threshold", "SORA-PROX-1", "ξ = 0 changes nothing", signs, 0.0),
        ("empty", "SORA-PROX-1", "no numbers", signs[:0], 0.5),
        ("zeros", "SORA-PROX-1.zero", "zero exactly where |v| ≤ ξ, for a ξ that no dtype holds", many, 1 / 3),
        ("odd", "SORA-PROX-2", "T(−v) = −T(v); the v rise, and so does T", np.sort([*many, *-many]), 0.625),
        ("optimal", "SORA-PROX-3", "v − T(v) is ξ·sgn T(v), or at most ξ", keyed_uniform("prox.optimal", 8), 0.375),
    ]
    for word, declared in (("soft", soft_threshold), ("released", released_threshold)):
        for name, check, about, v, xi in points:
            if word == "released" and name in ("odd", "optimal"):
                continue  # laws of a prox, which that map is not
            arguments: dict[str, Any] = {"v": v.astype(dtype), "xi": xi}
            exact = declared(exactly(arguments["v"]), number(xi))
            bound = 4 * arithmetic(dtype).unit * (np.abs(arguments["v"].astype(float)) + xi)
            out = {"T": judged(exact, bound, dtype, zeros=True)}
            book.add(f"prox/{word}/{name}", check, "prox", dtype, about, arguments, out, choices={"threshold": word})
        v = np.array([np.nan, np.inf, -np.inf, 0.25], dtype)
        out = {"T": {"value": np.array([np.nan, np.inf, -np.inf, 0.0], dtype)}}
        about, check = "NaN stays NaN, ±∞ stays ±∞", "SORA-PROX-1.special"
        book.add(
            f"prox/{word}/special", check, "prox", dtype, about, {"v": v, "xi": 0.5}, out, choices={"threshold": word}
        )
    for name, gates in (
        ("one", [[0.5, -1.5, 0.0]]),
        ("several", [[0.5, -1.0], [], [keyed_uniform("penalty", 1)[0], -0.25]]),
    ):
        vectors, lam = [np.array(g, dtype) for g in gates], 0.25
        exact = l1_value([exactly(g) for g in vectors], number(lam))
        bound = 9 * 4 * arithmetic(dtype).unit * float(exact)
        about = "a sum over all modules and gates, empty modules included, no mean"
        arguments = {"gates": vectors, "lam": lam}
        out = {"penalty": judged(exact, bound, "float64")}
        book.add(f"penalty/{name}", "SORA-PROX-4", "penalty", dtype, about, arguments, out)


# --- gates


def _declared(choices: Choices, *names: str) -> dict[str, Any]:
    """These choices and Adam's numbers, where there is an Adam."""
    names = (*names, *(_ADAM if "adamw" in choices.descend + choices.weights else ()))
    return {name: as_json(getattr(choices, name)) for name in names}


def _gates(book: VectorFile, dtype: str) -> None:
    plans = [
        ("first-step", "SORA-GATE-1", "one step", 1, (0.25, 0.25)),
        ("rates", "SORA-GATE-2", "a learning rate for every step", 3, (0.25, 0.5, 0.125, 0.0625)),
        ("moments", "SORA-OPT-2", "four steps of one learning rate", 4, (0.25,) * 5),
        (
            "closed",
            "SORA-REVIVAL-1",
            "all gates closed: each comes back when its step exceeds the threshold",
            2,
            (0.25,) * 3,
        ),
        ("metric", "SORA-GATE-3", "gradients of different sizes; one gate has had none", 2, (0.25,) * 3),
    ]
    for rule, choices in VARIANTS.items():
        for name, check, about, count, lrs in plans:
            if name == "metric" and not choices.amount.startswith("metric"):
                continue
            g, grads = keyed_uniform(f"gates.{name}.g", 6), 2 * keyed_uniform(f"gates.{name}.grads", count, 6)
            g[1], grads[0, 3] = 0, 0
            if name == "closed":
                g, grads = np.zeros(6), grads / 2
            if name == "moments":
                grads *= np.array([[1], [1 / 64], [0.5], [1]])  # v̂ falls, too
            if name == "metric":
                grads *= np.array([1, 4, 0.25, 1, 0, 0.0625])
            size = 0.3 if name == "closed" and choices.descend == "sgd" else 0.1
            plan = Plan(lrs, max(lrs), size if choices.amount == "xi" else size / max(lrs))
            arguments: dict[str, Any] = {"g": g.astype(dtype), "grads": grads.astype(dtype), "plan": plan}
            out = {"gates": gate_steps(choices, arguments["g"], arguments["grads"], plan, dtype)}
            own = _declared(choices.replace(weights="sgd"), "descend", "amount", "threshold", "reads_lr", "gate_decay")
            book.add(f"gates/{rule}/{name}", check, "gate_steps", dtype, about, arguments, out, choices=own)


# --- whole steps


def _training(book: VectorFile, dtype: str) -> None:
    open_, half = (0.75, -1.0, 0.5), (0.75, 0.0, -0.5)
    plans: list[tuple[str, str, str, int, dict[str, Any], tuple[float, ...]]] = [
        ("one-iterate", "SORA-STEP-1", "all gradients at one iterate", 1, {}, open_),
        ("steps", "SORA-STEP-7", "three steps with three learning rates", 3, {}, open_),
        ("decay", "SORA-STEP-6", "A and B decay, gates do not, closed ones move on", 2, {"weight_decay": 0.5}, half),
        ("clip", "SORA-STEP-4", "the norm of all gradients is above the limit", 2, {"clip": 0.25}, open_),
        ("below-clip", "SORA-STEP-4", "the norm of all gradients is below the limit", 1, {"clip": 64.0}, open_),
    ]
    for rule, choices in VARIANTS.items():
        for name, check, about, count, more, gates in plans:
            if "clip" in name and rule != "paper":
                continue
            lrs = (0.125, 0.25, 0.0625, 0.03125)[: count + 1]
            strength = 0.02 if choices.amount == "xi" else 0.16
            plan = Plan(lrs, max(lrs), strength, **more)
            whole = layer("train", dtype, 2, 3, 3, s=1.5, g=gates)
            xs, dys = (
                keyed_uniform("train.x", count, 2, 3).astype(dtype),
                keyed_uniform("train.dy", count, 2, 2).astype(dtype),
            )
            out = training(choices, whole, xs, dys, plan, dtype)
            own = _declared(choices, "descend", "amount", "threshold", "reads_lr", "gate_decay", "weights", "loss_l1")
            arguments = {"layer": whole, "xs": xs, "dys": dys, "plan": plan}
            book.add(f"train/{rule}/{name}", check, "train", dtype, about, arguments, out, choices=own)
    for sizes in ((1, 2), (3, 1), (1, 1, 2)):
        whole = layer("train", dtype, 2, 3, 3, s=1.5, g=half)
        x = [keyed_uniform(f"accumulate.x{k}", n, 3).astype(dtype) for k, n in enumerate(sizes)]
        dy = [keyed_uniform(f"accumulate.dy{k}", n, 2).astype(dtype) for k, n in enumerate(sizes)]
        out = means(whole, list(zip(x, dy, strict=True)), dtype)
        name = f"accumulate/{'-'.join(map(str, sizes))}"
        about = "microbatches of different sizes: every example counts alike"
        book.add(name, "SORA-STEP-2", "accumulate", dtype, about, {"layer": whole, "x": x, "dy": dy}, out)


# --- what is left


def _what_is_left(book: VectorFile, dtype: str) -> None:
    tiny = 2.0**-100
    pruned = [
        ("mixed", "negative gates stay, zero ones go", (0.0, -0.5, 0.75, 0.0)),
        ("tiny", "no tolerance: the smallest gate is open", (tiny, 0.0, -tiny, 2.0**-30)),
        ("all", "rank 0 is left", (0.0, 0.0)),
        ("none", "nothing is dropped", (0.25, -1.0)),
        ("rank-0", "there was nothing to drop", ()),
    ]
    for name, about, gates in pruned:
        case = problem(f"prune.{name}", dtype, (2,), 3, 2, len(gates), s=16 / 3, g=gates)
        whole, x = case["layer"], case["x"]
        bound = forward_bound(whole, x, arithmetic(dtype))
        y, kept = judged(exact_forward(whole, x), bound, dtype), int(np.count_nonzero(whole.g))
        arguments = {"layer": whole, "x": x}
        book.add(f"prune/rank/{name}", "SORA-PRUNE-1", "prune", dtype, about, arguments, {"rank": kept})
        map_of = f"{about}; y is the map of what is left"
        book.add(f"prune/map/{name}", "SORA-PRUNE-2", "prune", dtype, map_of, arguments, {"y": y}, choices=_KEPT)
    for name, about, case in problems(dtype):
        if name in ("plain", "short", "rank-0", "wide-rank", "signed-gates"):
            whole = case["layer"]
            W = judged(exact_merged(whole), weight_bound(whole, arithmetic(dtype)), dtype)
            W0 = judged(exactly(whole.W0), unmerge_bound(whole.W0, whole.adapter, precision=arithmetic(dtype)), dtype)
            book.add(f"merge/{name}", "SORA-PRUNE-4", "merge", dtype, about, {"layer": whole}, {"W": W})
            book.add(f"unmerge/{name}", "SORA-PRUNE-5", "unmerge", dtype, about, {"layer": whole}, {"W0": W0})
            parts = ("A", "g", "B", "W0", "b") if whole.b is not None else ("A", "g", "B", "W0")
            same = {part: {"value": getattr(whole, part)} for part in parts}
            same["s"] = {"value": np.array(whole.s)}
            about = "what is saved comes back bit for bit"
            book.add(f"store/{name}", "SORA-STORE-1", "save", dtype, about, {"layer": whole}, same)
    _counts(book, dtype)


_KEPT = {"scale_after_pruning": "kept"}


def _counts(book: VectorFile, dtype: str) -> None:
    sizes: dict[str, tuple[int, int, tuple[float, ...]]] = {
        "attention.query": (2, 2, (0.5, 0.0, -1.0)),
        "ffn.in": (4, 2, (0.0, 2.0**-100)),
        "ffn.out": (2, 4, (0.0,)),
    }
    whole = {name: layer(name, dtype, out, in_, len(g), g=g) for name, (out, in_, g) in sizes.items()}
    query = whole["attention.query"]
    whole["twice"] = query._replace(g=query.g[[0, 2, 2]], A=query.A[[0, 2, 2]], B=query.B[:, [0, 2, 2]])
    sizes["twice"] = (2, 2, (0.5, -1.0, -1.0))  # the matrix has rank 2, and three components are open
    for name, names in (
        ("twice", ["twice"]),
        ("one", ["attention.query"]),
        ("unequal", [*sizes]),
        ("closed", ["ffn.out"]),
    ):
        kept = {module: int(np.count_nonzero(whole[module].g)) for module in names}
        total = sum(sum(sizes[module][:2]) * rank for module, rank in kept.items())
        arguments = {"modules": names} | {module: whole[module] for module in names}
        about = "entries of A and B in open components; an FFN's cost more"
        book.add(f"count/{name}", "SORA-COUNT-2", "count", dtype, about, arguments, {"count": total})
        ranks = {f"{module}/rank": rank for module, rank in kept.items()}
        book.add(f"ranks/{name}", "SORA-COUNT-1", "ranks", dtype, "open components by module", arguments, ranks)


# --- schedules and beginnings: Python numbers, whatever the dtype of the arrays


def _schedules(book: VectorFile) -> None:
    def add(name: str, check: str, capability: str, about: str, settings: dict[str, Any], **expected: Expected) -> None:
        book.add(name, check, capability, None, about, settings, expected)

    for peak, total, warmup in ((1.0, 12, 3), (0.001, 7, 0), (0.1, 5, 5), (1.0, 1, 1)):
        about, name = "no step of learning rate 0", f"rates/{total}-steps-{warmup}-warmup"
        settings: dict[str, Any] = {"peak": peak, "total": total, "warmup": warmup}
        add(name, "SORA-SCHED-1", "learning_rates", about, settings, rates=settled(_rates(**settings)))
    for values, total, warmup in (([0.0, 0.1, 0.2], 4, 1), ([0.1, 0.1], 3, 0)):
        about, name = "every stage has a schedule of its own", f"stages/{len(values)}"
        settings = {"peak": 0.5, "total": total, "warmup": warmup}
        one = settled(_rates(**settings))
        rates = {part: np.tile(array, (len(values), 1)) for part, array in one.items()}
        add(name, "SORA-STAGE-1", "stage_rates", about, settings | {"values": values}, rates=rates)
    for kind in ("linear", "log_linear", "exp_linear"):
        for start, stop, count in ((0.25, 2.0, 5), (1.0, 0.5, 3), (0.5, 1.0, 1), (0.5, 1.0, 2)):
            about, name = "both ends included", f"values/{kind}/{start}-to-{stop}-in-{count}"
            settings = {"kind": kind, "start": start, "stop": stop, "stages": count}
            expected = interpolated(kind, start, stop, count)
            add(name, "SORA-SCHED-3", "stage_values", about, settings, values=expected)
    for xi0, xi_max, delta, about in (
        (0.1, 0.3, 0.1, "0.1 + 2·0.1 reaches 0.3, though not in binary"),
        (0.0, 1.0, 0.25, "ξ_max is the last stage"),
        (0.1, 0.47, 0.1, "ξ_max lies between two stages"),
        (0.25, 0.25, 0.1, "one stage"),
        (0.0, 0.7, 0.05, "many decimal steps"),
    ):
        settings, name = {"xi0": xi0, "xi_max": xi_max, "delta": delta}, f"algorithm-1/{xi0}-to-{xi_max}-by-{delta}"
        expected = settled([number(value) for value in algorithm_1_values(xi0, xi_max, delta)])
        add(name, "SORA-SCHED-4", "algorithm_1", about, settings, values=expected)
    for r in (0, 1, 3, 8):
        settings = {"module": "layer.0", "out": 3, "in_": 2, "r": r, "alpha": 16.0, "seed": 0}
        s = Fraction(16, max(r, 1))
        scale, B = judged(s, 4 * s / 2**24, "float64"), {"value": np.zeros((3, r))}
        add(f"initial/rank-{r}", "SORA-LINEAR-2", "initial", "s = α/max(r, 1), and B = 0", settings, s=scale, B=B)
    for kind, start in (("cosine", 0.5), ("exp_linear", 0.0)):
        settings = {"kind": kind, "start": start, "stop": 1.0, "stages": 3}
        why = "log 0 has no value" if kind == "exp_linear" else "no schedule has that name"
        name = f"refuse/values/{kind}-from-{start}"
        book.add(name, "SORA-SCHED-3", "stage_values", None, why, settings, must_refuse=why)


def _rates(peak: float, total: int, warmup: int) -> list[Any]:
    """Exactly."""
    return [linear_warmup_decay(number(peak), total, warmup)(t) for t in range(1, total + 1)]


# --- what must be refused


def _refusals(book: VectorFile, dtype: str) -> None:
    case = problem("refuse", dtype, (2,), 2, 3, 3)
    whole, x, dy = case["layer"], case["x"], case["dy"]
    nan, infinite = (np.array([0.5, value, 0.0], dtype) for value in (np.nan, np.inf))

    def wrong(name: str, check: str, capability: str, why: str, arguments: Mapping[str, Any]) -> None:
        book.add(f"refuse/{name}", check, capability, dtype, why, arguments, must_refuse=why)

    shapes = [
        ("x", "x has 2 columns where W0 has 3", whole, x[:, :2]),
        ("A", "A has 2 columns where W0 has 3", whole._replace(A=whole.A[:, :2]), x),
        ("B", "B has 1 row where W0 has 2", whole._replace(B=whole.B[:1]), x),
        ("g", "g has 2 gates where A has 3 rows", whole._replace(g=whole.g[:2]), x),
        ("lone-gate", "g has 1 gate where A has 3 rows; it would broadcast", whole._replace(g=whole.g[:1]), x),
        ("b", "b has 1 entry where W0 has 2 rows; it would broadcast", whole._replace(b=whole.b[:1]), x),
    ]
    for name, why, odd, inputs in shapes:
        wrong(f"shape/{name}", "SORA-LINEAR-1", "forward", why, {"layer": odd, "x": inputs})
    why = "dy has 1 column where W0 has 2 rows"
    wrong("shape/dy", "SORA-LINEAR-3", "gradients", why, {"layer": whole, "x": x, "dy": dy[:, :1]})
    for name, xi in (("negative", -0.5), ("nan", math.nan), ("infinite", math.inf)):
        why = f"ξ is {xi}: finite and at least 0 is meant"
        wrong(f"threshold/{name}", "SORA-PROX-1", "prox", why, {"v": whole.g, "xi": xi})
    for p in (1.0, -0.5):
        settings = {"layer": whole, "x": x, "p": p, "seed": 0}
        why = f"p is {p}: 0 ≤ p < 1 is meant, for 1/(1 − p) is a factor"
        wrong(f"dropout/{p}", "SORA-LINEAR-1.dropout", "training_forward", why, settings)
    for name, gates in (("nan", nan), ("infinite", infinite)):
        odd = whole._replace(g=gates)
        why = f"a gate is {name}: whether it is open has no answer"
        wrong(f"prune/{name}", "SORA-PRUNE-1", "prune", why, {"layer": odd, "x": x})
        wrong(f"ranks/{name}", "SORA-COUNT-1", "ranks", why, {"modules": ["m"], "m": odd})
        wrong(f"count/{name}", "SORA-COUNT-2", "count", why, {"modules": ["m"], "m": odd})
    for name, why in (
        ("again", "a second merge would add the branch twice"),
        ("tied", "the weight is another layer's too, which would change with it"),
        ("dropout", "in training with dropout no one weight equals the branch"),
    ):
        wrong(f"merge/{name}", "SORA-PRUNE-4.refuse", "refuse_merge", why, {"layer": whole, "case": name})
