"""Arrays of z3 terms: a proof calls the very functions of sora_ref, so the code is what is proved and not a copy of it.

An element is an exact real (`REAL`) or a bit pattern of an IEEE 754 format (`F16`, `F32`, `F64`) with rounding to
nearest even.  A `Number` has neither dtype nor shape: a real, or a Python float, rounded once where it meets an array.
A *law* is a function that builds its terms and returns the claim.  Its hypotheses are what it assumes, and what the
functions it calls require: a precondition that asks a symbolic `Truth` for its bool is answered True and recorded.
`prove` accepts a law without a counterexample; `refute` demands one.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from fractions import Fraction
from functools import reduce
from types import SimpleNamespace
from typing import Any

import numpy as np
import z3

from sora_ref.preconditions import require
from sora_ref.prox import soft_threshold

Term = Any  # z3 is untyped
Sort = Any
Law = Callable[..., Term]
Model = dict[str, Any]  # the values of a counterexample, by variable: Fraction, or a NumPy float of the same bits

REAL, F16, F32, F64 = z3.RealSort(), z3.Float16(), z3.Float32(), z3.Float64()
NEAREST_EVEN = z3.RNE()
TIMEOUT_MS = 60_000

_FLOATS: dict[Sort, Any] = {F16: (np.float16, np.uint16), F32: (np.float32, np.uint32), F64: (np.float64, np.uint64)}
_hypotheses: ContextVar[list[Term]] = ContextVar("hypotheses")


# --- theorems -------------------------------------------------------------------------------------------------------


def holds(claim: Any) -> Term:
    """What is claimed, as a term: an array of truths says that all its elements are true."""
    if isinstance(claim, Array):
        return z3.And(*claim.terms)
    return claim.term if isinstance(claim, Truth) else claim


def iff(a: Any, b: Any) -> Term:
    return holds(a) == holds(b)


def implies(a: Any, b: Any) -> Term:
    return z3.Implies(holds(a), holds(b))


def both(*claims: Any) -> Term:
    return z3.And(*map(holds, claims))


def identical(a: Array, b: Array) -> Term:
    """The same bits, all NaNs being one; the same reals."""
    return z3.And(*(p == q for p, q in zip(a.terms, b.terms, strict=True)))


def assume(condition: Any) -> None:
    """A hypothesis of the law being stated."""
    _hypotheses.get().append(holds(condition))


def prove(law: Law, *arguments: Any) -> None:
    """The law holds for all values that satisfy its hypotheses, and some do."""
    claim, given = _state(law, arguments)
    assert _search(given) is not None, f"{law.__name__} is vacuous: no values satisfy {given}"
    found = _search([*given, z3.Not(claim)])
    assert found is None, f"{law.__name__} fails at {found}"


def refute(law: Law, *arguments: Any) -> Model:
    """A counterexample to the law, which satisfies its hypotheses."""
    claim, given = _state(law, arguments)
    found = _search([*given, z3.Not(claim)])
    assert found is not None, f"{law.__name__} holds: expected a counterexample"
    return found


def _state(law: Law, arguments: Sequence[Any]) -> tuple[Term, list[Term]]:
    with _recording() as given:
        return holds(law(*arguments)), given


@contextmanager
def _recording() -> Iterator[list[Term]]:
    given: list[Term] = []
    token = _hypotheses.set(given)
    try:
        yield given
    finally:
        _hypotheses.reset(token)


def _search(conditions: Sequence[Term]) -> Model | None:
    """Values that satisfy all the conditions, or None where there are none; AssertionError where z3 cannot tell."""
    goal = z3.Goal()
    goal.add(*conditions)
    bitwise = bool(z3.Probe("is-qffp")(goal))
    for case in _cases([z3.simplify(z3.And(*conditions))]) if bitwise else [conditions]:
        solver = z3.SolverFor("QF_FP" if bitwise else "QF_NRA")
        solver.set("timeout", TIMEOUT_MS)
        solver.add(*case)
        verdict = solver.check()
        assert verdict != z3.unknown, f"z3 cannot tell: {solver.reason_unknown()}"
        if verdict == z3.sat:
            return _values(solver.model())
    return None


def _cases(conditions: list[Term]) -> Iterator[list[Term]]:
    """The conditions without choices, case by case: where both arms subtract, z3 would have to compare two circuits."""
    if any(z3.is_false(condition) for condition in conditions):
        return
    choice = _choice(conditions)
    if choice is None:
        yield conditions
        return
    for answer in (choice, z3.Not(choice)):
        truth = z3.BoolVal(answer is choice)
        yield from _cases([*(z3.simplify(z3.substitute(c, (choice, truth))) for c in conditions), answer])


def _choice(terms: Sequence[Term]) -> Term | None:
    """The condition of an innermost choice in these terms, itself free of choices."""
    for term in terms:
        found = _choice(term.children())
        if found is not None:
            return found
        if z3.is_app_of(term, z3.Z3_OP_ITE):
            return term.arg(0)
    return None


def _values(model: Any) -> Model:
    return {declared.name(): _value(model[declared]) for declared in model.decls() if declared.arity() == 0}


def _value(term: Term) -> Any:
    if z3.is_fp(term):
        kind, bits = _FLOATS[term.sort()]
        return kind(math.nan) if term.isNaN() else bits(z3.simplify(z3.fpToIEEEBV(term)).as_long()).view(kind)
    return term.as_fraction() if z3.is_rational_value(term) else term


# --- scalars and arrays ---------------------------------------------------------------------------------------------


class Truth:
    """Whether a symbolic number satisfies something."""

    def __init__(self, term: Term) -> None:
        self.term = term

    def __bool__(self) -> bool:
        """True, as a hypothesis; only a precondition may ask, or code could branch and a proof miss the other arm."""
        if sys._getframe(1).f_code is not require.__code__:
            raise TypeError("a symbolic truth has no bool outside of a precondition")
        assume(self.term)
        return True


class _Operators:
    """Arithmetic and comparisons, element by element; what `_combine` makes of them is each class's own."""

    def _combine(self, f: Callable[..., Term], *operands: Any) -> Any:
        raise NotImplementedError

    def __neg__(self) -> Any:
        return self._combine(operator.neg, self)

    def __abs__(self) -> Any:
        return self._combine(_absolute, self)

    def __add__(self, other: Any) -> Any:
        return self._combine(operator.add, self, other)

    def __radd__(self, other: Any) -> Any:
        return self._combine(operator.add, other, self)

    def __sub__(self, other: Any) -> Any:
        return self._combine(operator.sub, self, other)

    def __rsub__(self, other: Any) -> Any:
        return self._combine(operator.sub, other, self)

    def __mul__(self, other: Any) -> Any:
        return self._combine(operator.mul, self, other)

    def __rmul__(self, other: Any) -> Any:
        return self._combine(operator.mul, other, self)

    def __truediv__(self, other: Any) -> Any:
        return self._combine(operator.truediv, self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self._combine(operator.truediv, other, self)

    def __lt__(self, other: Any) -> Any:
        return self._combine(operator.lt, self, other)

    def __le__(self, other: Any) -> Any:
        return self._combine(operator.le, self, other)

    def __gt__(self, other: Any) -> Any:
        return self._combine(operator.gt, self, other)

    def __ge__(self, other: Any) -> Any:
        return self._combine(operator.ge, self, other)

    def __eq__(self, other: object) -> Any:
        return self._combine(_equal, self, other)

    def __ne__(self, other: object) -> Any:
        return self._combine(lambda a, b: z3.Not(_equal(a, b)), self, other)

    __hash__ = None  # type: ignore[assignment]


class Number(_Operators):
    """A learning rate, a threshold, a strength: a real, or a Python float; never of a dtype."""

    def __init__(self, term: Term) -> None:
        self.term = term

    def _combine(self, f: Callable[..., Term], *operands: Any) -> Any:
        if any(isinstance(operand, Array) for operand in operands):
            return NotImplemented
        if self.term.sort() == REAL and operands[-1] is math.inf:
            return f(0, math.inf)  # every real compares with infinity as 0 does
        term = f(*(_scalar(operand, self.term.sort()) for operand in operands))
        return Truth(term) if z3.is_bool(term) else Number(term)

    def __bool__(self) -> bool:
        raise TypeError("a symbolic number has no bool")


class Array(_Operators):
    """Terms of one sort, 0-d or 1-d, with the attributes that the functions of sora_ref look at."""

    device = "z3"

    def __init__(self, terms: Sequence[Term], shape: tuple[int, ...]) -> None:
        self.terms, self.shape, self.ndim, self.dtype = tuple(terms), shape, len(shape), terms[0].sort()

    @property
    def term(self) -> Term:
        """The element of a 0-d array."""
        (term,) = self.terms
        return term

    def _combine(self, f: Callable[..., Term], *operands: Any) -> Any:
        return elementwise(f, *operands)

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        return xp

    def __bool__(self) -> bool:
        raise TypeError("a symbolic array has no bool")


def array(name: str, sort: Sort = REAL, size: int | None = None) -> Array:
    """Free variables: a 0-d array, or one of shape (size,)."""
    if size is None:
        return Array([z3.Const(name, sort)], ())
    return Array([z3.Const(f"{name}{i}", sort) for i in range(size)], (size,))


def number(name: str, sort: Sort = REAL) -> Number:
    """A free variable that is a Python number: a real for reals, a Float64 for every float format."""
    return Number(z3.Const(name, REAL if sort == REAL else F64))


def threshold(name: str, sort: Sort = REAL) -> Number:
    """A number of which `soft_threshold` has required what it requires: a hypothesis for rival maps, too."""
    t = number(name, sort)
    soft_threshold(array("anything", sort), t)
    return t


def constant(values: Any) -> Array:
    """These very values, a 1-d sequence: Fractions, or NumPy floats of one dtype bit for bit."""
    dtype = np.asarray(values).dtype
    if dtype.kind == "O":
        return Array([z3.RealVal(value) for value in values], (len(values),))
    sort, bits = next((sort, bits) for sort, (kind, bits) in _FLOATS.items() if kind == dtype)
    patterns = np.asarray(values).view(bits).tolist()
    return Array([z3.fpBVToFP(z3.BitVecVal(p, 8 * dtype.itemsize), sort) for p in patterns], (len(patterns),))


def evaluate(x: Array) -> list[Any]:
    """The values of an array made of constants alone."""
    return [_value(z3.simplify(term)) for term in x.terms]


def rounding_is_odd(sort: Sort, mode: Term = NEAREST_EVEN) -> Term:
    """What `_scalar` relies on."""
    x = z3.Const("x", F64)
    return z3.fpFPToFP(mode, -x, sort) == -z3.fpFPToFP(mode, x, sort)


def elementwise(f: Callable[..., Term], *operands: Any) -> Array:
    """f of each element; numbers and 0-d arrays meet all of them, and arrays of two dtypes meet nowhere."""
    arrays = [operand for operand in operands if isinstance(operand, Array)]
    sorts = {a.dtype for a in arrays if a.dtype != z3.BoolSort()}
    shapes = {a.shape for a in arrays if a.shape}
    if len(sorts) != 1 or len(shapes) > 1:
        raise TypeError(f"dtypes {sorts} and shapes {shapes}: expected one of each")
    (sort,), shape = sorts, shapes.pop() if shapes else ()
    columns = [_column(operand, sort, math.prod(shape)) for operand in operands]
    return Array([f(*row) for row in zip(*columns, strict=True)], shape)


def _column(operand: Any, sort: Sort, size: int) -> Sequence[Term]:
    if isinstance(operand, Array):
        return operand.terms if operand.shape else operand.terms * size
    return [_scalar(operand, sort)] * size


def _scalar(value: Any, sort: Sort) -> Term:
    """A number as an element: rounded once."""
    if sort == REAL:
        return value.term if isinstance(value, Number) else z3.RealVal(Fraction(value))
    term = value.term if isinstance(value, Number) else z3.FPVal(float(value), F64)
    if sort == F64:
        return term
    if z3.is_app_of(term, z3.Z3_OP_FPA_NEG):  # rounding is odd (proved too): the sign goes outside, where terms meet
        return -_scalar(Number(term.arg(0)), sort)
    return z3.fpFPToFP(NEAREST_EVEN, term, sort)


# --- the namespace: what the array standard says of each function, for one element ------------------------------------


def _equal(a: Term, b: Term) -> Term:
    """IEEE equality: NaN equals nothing, −0 equals +0.  (z3's own == compares bits.)"""
    return z3.fpEQ(a, b) if z3.is_fp(a) else a == b


def _absolute(a: Term) -> Term:
    return z3.fpAbs(a) if z3.is_fp(a) else z3.If(a >= 0, a, -a)


def _sign(a: Term) -> Term:
    zero, one = _scalar(0, a.sort()), _scalar(1, a.sort())
    return z3.If(a > zero, one, z3.If(a < zero, -one, z3.If(_equal(a, zero), zero, a)))


def _clip(a: Term, low: Term, high: Term) -> Term:
    """On a tie the element stays: the standard leaves the sign of a zero open there; array-api-compat does this."""
    return z3.If(a < low, low, z3.If(a > high, high, a))


def _maximum(a: Term, b: Term) -> Term:
    return z3.If(z3.Not(_equal(b, b)), b, z3.If(a < b, b, a))


def _fold(f: Callable[[Term, Term], Term]) -> Callable[[Array], Array]:
    return lambda x: Array([reduce(f, x.terms)], ())


def _lifted(f: Callable[..., Term]) -> Callable[..., Array]:
    return lambda *operands: elementwise(f, *operands)


def _is_dtype(dtype: Sort, kind: str) -> bool:
    assert kind == "real floating"
    return dtype in _FLOATS


def _finfo(dtype: Sort) -> Any:
    return np.finfo(_FLOATS[dtype][0])


xp: Any = SimpleNamespace(
    __name__="symbolic",
    abs=_lifted(_absolute),
    clip=_lifted(_clip),
    finfo=_finfo,
    isdtype=_is_dtype,
    max=_fold(_maximum),
    maximum=_lifted(_maximum),
    sign=_lifted(_sign),
    sum=_fold(operator.add),
    where=_lifted(z3.If),
    zeros_like=_lifted(lambda a: _scalar(0, a.sort())),
)
