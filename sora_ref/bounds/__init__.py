"""How far a floating-point result may lie from the exact one: bounds derived, never chosen (clause SORA-BOUND).

Every entry of every result here is a sum of products of the arguments' entries, such as s·B_oi·g_i·A_ik·x_k.  On its
way into the result a product meets one relative error of at most u for every addition and multiplication, and one more
for every number that is rounded before it is used.  If K is the sum of all those on the longest way, then

    |ŷ − y| ≤ K/(1 − K)·S + (1 + K/(1 − K))·Ω         K = N·u for N roundings in one dtype: γ_N

with S the same sum of the magnitudes (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., §3.1).  Covered
is every evaluation by matrix products, that is, one that sums over one index at a time: in any association of (s, g, A,
B), each sum in any order, and also begun with what another path has given (GEMM's β = 1).

    y   N = 2·in + r + 4      the sum over in, over r, over the frozen path's in; four products; s; b
    dx  N = 2·out + r + 3
    dA  N = out + n + 3       n is the number of rows of x
    dB  N = in + n + 3
    dg  N = in + out + n + 2
    W   N = r + 4             the merged weight; |W0| itself meets one rounding, the last
    dW0 N = n, db N = n − 1

Dropout adds three: 1 − p, its rounding to the dtype, the quotient; it acts on x first, and on dx last.  (One sum over
in and r together, such as a flat einsum makes, is a longer way than any of these, and not covered.)

Ω is what underflow may take, also from s, and from s·g.  It is carried along beside the magnitudes, product by product
(`Underflow`), in every association; only in low precision, where inputs underflow, is it ever large.  Bounds are
evaluated in float64 and inflated by 1 + 2⁻²⁰, which covers that evaluation for any N below 2³².
"""

from sora_ref.bounds.linear import linear_backward_bound, linear_bound
from sora_ref.bounds.merge import merge_bound, unmerge_bound
from sora_ref.bounds.precision import BF16, FP16, TF32, Precision, gamma, precision_of

__all__ = [
    "BF16",
    "FP16",
    "TF32",
    "Precision",
    "gamma",
    "linear_backward_bound",
    "linear_bound",
    "merge_bound",
    "precision_of",
    "unmerge_bound",
]
