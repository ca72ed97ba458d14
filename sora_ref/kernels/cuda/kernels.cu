// The CUDA kernels.  REAL is float or double; BLOCK, the threads of a block, a power of two.
//
// Every sum has one fixed order: a thread adds what is BLOCK places apart, then the block adds up in a tree.  There are
// no atomics and no warp operations, so results repeat bit for bit, and the same text runs on a CPU with one fiber for
// each thread.  Compiled without contraction to fused multiply-adds, so that every operation rounds once, as written.

typedef long long Size;

// The sum of one value from each thread of the block; every thread gets it.
template <class Number>
__device__ Number block_sum(Number value, Number* scratch) {
    scratch[threadIdx.x] = value;
    __syncthreads();
    for (int half = BLOCK / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) scratch[threadIdx.x] += scratch[threadIdx.x + half];
        __syncthreads();
    }
    Number total = scratch[0];
    __syncthreads();  // before anyone writes into scratch again
    return total;
}

// The largest value; one that is not a number is passed over.
__device__ REAL block_max(REAL value, REAL* scratch) {
    scratch[threadIdx.x] = value;
    __syncthreads();
    for (int half = BLOCK / 2; half > 0; half /= 2) {
        if (threadIdx.x < half && !(scratch[threadIdx.x] >= scratch[threadIdx.x + half])) {
            scratch[threadIdx.x] = scratch[threadIdx.x + half];
        }
        __syncthreads();
    }
    REAL top = scratch[0];
    __syncthreads();
    return top;
}

// y = x·Φ(x) and Φ(x) + x·φ(x), over n elements.
extern "C" __global__ void gelu_forward(const REAL* x, Size n, REAL* y, REAL* derivative) {
    Size i = (Size)blockIdx.x * BLOCK + threadIdx.x;
    if (i >= n) return;
    REAL v = x[i];
    REAL cdf = (REAL)0.5 * (1 + erf(v * (REAL)0.70710678118654757));
    REAL density = exp((REAL)-0.5 * (v * v)) * (REAL)0.3989422804014327;
    y[i] = v * cdf;
    derivative[i] = cdf + v * density;
}

// One row of d elements a block: x̂ = (x − mean)·rstd, y = x̂ ⊙ weight + bias.
extern "C" __global__ void layer_norm_forward(
    const REAL* x, const REAL* weight, const REAL* bias, double eps, Size d, REAL* y, REAL* xhat, REAL* rstd) {
    __shared__ REAL scratch[BLOCK];
    const Size row = (Size)blockIdx.x * d;
    REAL sum = 0;
    for (Size j = threadIdx.x; j < d; j += BLOCK) sum += x[row + j];
    REAL mean = block_sum(sum, scratch) / (REAL)d;
    REAL squares = 0;
    for (Size j = threadIdx.x; j < d; j += BLOCK) {
        REAL centred = x[row + j] - mean;
        squares += centred * centred;
    }
    REAL inverse = 1 / sqrt(block_sum(squares, scratch) / (REAL)d + (REAL)eps);
    for (Size j = threadIdx.x; j < d; j += BLOCK) {
        REAL normal = (x[row + j] - mean) * inverse;
        xhat[row + j] = normal;
        y[row + j] = normal * weight[j] + bias[j];
    }
    if (threadIdx.x == 0) rstd[blockIdx.x] = inverse;
}

// dx = rstd·(dx̂ − mean dx̂ − x̂·mean(dx̂ ⊙ x̂)) with dx̂ = weight ⊙ dy; one row a block.
extern "C" __global__ void layer_norm_backward(
    const REAL* dy, const REAL* xhat, const REAL* rstd, const REAL* weight, Size d, REAL* dx) {
    __shared__ REAL scratch[BLOCK];
    const Size row = (Size)blockIdx.x * d;
    REAL sum = 0, product = 0;
    for (Size j = threadIdx.x; j < d; j += BLOCK) {
        REAL dxhat = dy[row + j] * weight[j];
        sum += dxhat;
        product += dxhat * xhat[row + j];
    }
    REAL mean_d = block_sum(sum, scratch) / (REAL)d;
    REAL mean_dx = block_sum(product, scratch) / (REAL)d;
    for (Size j = threadIdx.x; j < d; j += BLOCK) {
        dx[row + j] = rstd[blockIdx.x] * (dy[row + j] * weight[j] - mean_d - xhat[row + j] * mean_dx);
    }
}

// In place, one row of t scores a block: softmax(scale·scores + bias), bias (·, t) shared by rows_per_bias rows.
// A row of −∞ alone becomes zeros.
extern "C" __global__ void softmax_forward(REAL* scores, const REAL* bias, double scale, Size rows_per_bias, Size t) {
    __shared__ REAL scratch[BLOCK];
    const Size row = (Size)blockIdx.x * t, seen = (Size)blockIdx.x / rows_per_bias * t;
    REAL top = -1 / (REAL)0;  // −∞, which NVRTC has no name for
    for (Size j = threadIdx.x; j < t; j += BLOCK) {
        REAL score = scores[row + j] * (REAL)scale + bias[seen + j];
        scores[row + j] = score;
        if (score > top) top = score;
    }
    top = block_max(top, scratch);
    REAL shift = isfinite(top) ? top : 0, sum = 0;
    for (Size j = threadIdx.x; j < t; j += BLOCK) {
        REAL e = exp(scores[row + j] - shift);
        scores[row + j] = e;
        sum += e;
    }
    REAL total = block_sum(sum, scratch);
    for (Size j = threadIdx.x; j < t; j += BLOCK) scores[row + j] /= total == 0 ? 1 : total;
}

// In place, one row a block: dp becomes p ⊙ (dp − Σ dp ⊙ p)·scale, the gradient at the scores.
extern "C" __global__ void softmax_backward(REAL* dp, const REAL* p, double scale, Size t) {
    __shared__ REAL scratch[BLOCK];
    const Size row = (Size)blockIdx.x * t;
    REAL sum = 0;
    for (Size j = threadIdx.x; j < t; j += BLOCK) sum += dp[row + j] * p[row + j];
    REAL inner = block_sum(sum, scratch);
    for (Size j = threadIdx.x; j < t; j += BLOCK) {
        dp[row + j] = p[row + j] * (dp[row + j] - inner) * (REAL)scale;
    }
}

// u = z ⊙ (s·g) for z (n, r); size is n·r.
extern "C" __global__ void branch_forward(const REAL* z, const REAL* g, double s, Size r, Size size, REAL* u) {
    Size i = (Size)blockIdx.x * BLOCK + threadIdx.x;
    if (i < size) u[i] = z[i] * ((REAL)s * g[i % r]);
}

// One component and CHUNK rows a block, for z (n, r) and q = dy B (n, r): u = z ⊙ (s·g), w = q ⊙ (s·g), and in a row of
// dg (pieces, r) the sum of s·q ⊙ z over these rows.
extern "C" __global__ void branch_backward(
    const REAL* q, const REAL* z, const REAL* g, double s, Size n, Size r, REAL* u, REAL* w, REAL* dg) {
    __shared__ REAL scratch[BLOCK];
    const Size component = blockIdx.x, begin = (Size)blockIdx.y * CHUNK, end = begin + CHUNK < n ? begin + CHUNK : n;
    REAL gate = (REAL)s * g[component], sum = 0;
    for (Size row = begin + threadIdx.x; row < end; row += BLOCK) {
        Size i = row * r + component;
        u[i] = z[i] * gate;
        w[i] = q[i] * gate;
        sum += q[i] * z[i];
    }
    REAL total = block_sum(sum, scratch);
    if (threadIdx.x == 0) dg[(Size)blockIdx.y * r + component] = (REAL)s * total;
}

// The sum over the rows of a (rows, columns) array, one column a thread.
extern "C" __global__ void sum_rows(const REAL* x, Size rows, Size columns, REAL* y) {
    Size column = (Size)blockIdx.x * BLOCK + threadIdx.x;
    if (column >= columns) return;
    REAL sum = 0;
    for (Size row = 0; row < rows; ++row) sum += x[row * columns + column];
    y[column] = sum;
}

// One parameter of an optimiser step; every field has 8 bytes.  Its elements belong to the blocks from `first` on,
// CHUNK of them to each.
struct Update {
    Size first, size;
    const REAL *theta, *grad, *m, *v;
    REAL *new_theta, *new_m, *new_v;
    double beta1, one_minus_beta1, beta2, one_minus_beta2, rate, correction, eps, shrink, amount;
    Size adam, raw, after, threshold, metric;
};

// Which of `count` tables of ascending `first` the block belongs to.
template <class Table>
__device__ Size table_of(const Table* tables, Size count) {
    Size low = 0, high = count - 1;
    while (low < high) {
        Size middle = (low + high + 1) / 2;
        if (tables[middle].first <= (Size)blockIdx.x) low = middle;
        else high = middle - 1;
    }
    return low;
}

// x − clip(x, −a, a): +0 exactly where |x| ≤ a.
__device__ REAL soft_threshold(REAL x, REAL a) {
    REAL clipped = x < -a ? -a : x > a ? a : x;
    return x - clipped;
}

// The released optimiser's three lines, one after the other.
__device__ REAL released_threshold(REAL x, REAL a) {
    if (x > a) x = x - a;
    if (x < -a) x = x + a;
    return fabs(x) < a ? 0 : x;
}

// One step of SGD or AdamW, then the gate's threshold, of every parameter.
extern "C" __global__ void update_parameters(const Update* updates, Size count) {
    const Update p = updates[table_of(updates, count)];
    const Size begin = ((Size)blockIdx.x - p.first) * CHUNK, end = begin + CHUNK < p.size ? begin + CHUNK : p.size;
    for (Size i = begin + threadIdx.x; i < end; i += BLOCK) {
        REAL theta = p.theta[i], grad = p.grad[i], amount = (REAL)p.amount;
        if (p.adam) {
            REAL m = (REAL)p.beta1 * p.m[i] + (REAL)p.one_minus_beta1 * grad;
            REAL v = (REAL)p.beta2 * p.v[i] + (REAL)p.one_minus_beta2 * (grad * grad);
            REAL metric = p.raw ? (sqrt(v) + (REAL)p.eps) / (REAL)p.correction
                                : sqrt(v / (REAL)p.correction) + (REAL)p.eps;
            REAL step = (REAL)p.rate * m / metric;
            if (p.after) {
                theta = theta - step;
                theta = theta - (REAL)p.shrink * theta;
            } else {
                theta = theta - (REAL)p.shrink * theta - step;
            }
            if (p.metric) amount = p.metric == 1 && !(v > 0) ? 0 : amount / metric;
            p.new_m[i] = m;
            p.new_v[i] = v;
        } else {
            REAL step = (REAL)p.rate * grad;
            if (p.shrink != 0) step = step + (REAL)p.shrink * theta;
            theta = theta - step;
        }
        if (p.threshold == 1) theta = soft_threshold(theta, amount);
        if (p.threshold == 2) theta = released_threshold(theta, amount);
        p.new_theta[i] = theta;
    }
}

// One parameter's gradient from several microbatches, whose addresses stand in a row of their own.
struct Combined {
    Size first, size;
    REAL* mean;
};

// (Σ over microbatches, in their order)/examples.
extern "C" __global__ void combine(
    const Combined* gradients, Size count, const Size* parts, Size microbatches, double examples) {
    const Size line = table_of(gradients, count);
    const Combined p = gradients[line];
    const Size begin = ((Size)blockIdx.x - p.first) * CHUNK, end = begin + CHUNK < p.size ? begin + CHUNK : p.size;
    for (Size i = begin + threadIdx.x; i < end; i += BLOCK) {
        REAL sum = ((const REAL*)parts[line * microbatches])[i];
        for (Size k = 1; k < microbatches; ++k) sum = sum + ((const REAL*)parts[line * microbatches + k])[i];
        p.mean[i] = sum / (REAL)examples;
    }
}

// One gradient to be clipped; its elements belong to the blocks from `first` on.
struct Gradient {
    Size first, size;
    const REAL* grad;
    REAL* clipped;
};

// The block's share of the squared norm, in double.
extern "C" __global__ void squares(const Gradient* gradients, Size count, double* partial) {
    __shared__ double scratch[BLOCK];
    const Gradient p = gradients[table_of(gradients, count)];
    const Size begin = ((Size)blockIdx.x - p.first) * CHUNK, end = begin + CHUNK < p.size ? begin + CHUNK : p.size;
    double sum = 0;
    for (Size i = begin + threadIdx.x; i < end; i += BLOCK) sum += (double)p.grad[i] * (double)p.grad[i];
    double total = block_sum(sum, scratch);
    if (threadIdx.x == 0) partial[blockIdx.x] = total;
}

// All gradients times min(1, limit/(norm + eps)), and the norm; every block adds up the partial squares for itself.
extern "C" __global__ void clip(
    const Gradient* gradients, Size count, const double* partial, double limit, double eps, double* norm) {
    __shared__ double scratch[BLOCK];
    double sum = 0;
    for (Size k = threadIdx.x; k < (Size)gridDim.x; k += BLOCK) sum += partial[k];
    double length = sqrt(block_sum(sum, scratch)), most = length + eps;
    REAL factor = (REAL)(limit / (most < limit ? limit : most));
    if (blockIdx.x == 0 && threadIdx.x == 0) norm[0] = length;
    const Gradient p = gradients[table_of(gradients, count)];
    const Size begin = ((Size)blockIdx.x - p.first) * CHUNK, end = begin + CHUNK < p.size ? begin + CHUNK : p.size;
    for (Size i = begin + threadIdx.x; i < end; i += BLOCK) p.clipped[i] = p.grad[i] * factor;
}

// The nearest bfloat16 of each element, ties to even, as its 16 bits; NaN stays NaN.
extern "C" __global__ void cast_bf16(const REAL* x, Size n, unsigned short* y) {
    Size i = (Size)blockIdx.x * BLOCK + threadIdx.x;
    if (i >= n) return;
    float value = (float)x[i];
    unsigned bits = __float_as_uint(value);
    y[i] = isnan(value) ? (unsigned short)0x7fff : (unsigned short)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
