// CUDA's words for a C++ compiler: a kernel runs block after block, with one fiber for each thread of a block, so the
// very text that a GPU gets runs on a CPU.  Threads run one at a time between barriers, in an order the caller chooses.

#include <cmath>
#include <cstring>
#include <tuple>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __global__
#define __device__ static
#define __shared__ static

using std::erf;
using std::exp;
using std::fabs;
using std::isfinite;
using std::isnan;
using std::sqrt;

struct Dimensions {
    unsigned x, y, z;
};
static Dimensions threadIdx, blockIdx, blockDim, gridDim;

static unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

struct Fiber {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(1 << 16);
    bool done = false;
    int line = 0;  // of the barrier it waits at
};

static std::vector<Fiber> fibers;
static ucontext_t scheduler;
static unsigned current;
static void (*enter_kernel)();

static void barrier(int line) {
    fibers[current].line = line;
    swapcontext(&fibers[current].context, &scheduler);
    threadIdx = {current, 0, 0};
}
#define __syncthreads() barrier(__LINE__)

static void enter_fiber() {
    enter_kernel();
    fibers[current].done = true;
}

// One block; 1 where its threads did not all meet at the same barrier, and left it unfinished.
static int run_block(unsigned threads, int backwards) {
    fibers = std::vector<Fiber>(threads);
    for (Fiber& fiber : fibers) {
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = fiber.stack.size();
        fiber.context.uc_link = &scheduler;
        makecontext(&fiber.context, enter_fiber, 0);
    }
    while (!fibers[0].done) {
        for (unsigned k = 0; k < threads; ++k) {
            current = backwards ? threads - 1 - k : k;
            threadIdx = {current, 0, 0};
            swapcontext(&scheduler, &fibers[current].context);
        }
        for (const Fiber& fiber : fibers) {
            if (fiber.done != fibers[0].done || (!fiber.done && fiber.line != fibers[0].line)) return 1;
        }
    }
    return 0;
}


static void** arguments;

template <class... Types, std::size_t... places>
static void call(void (*kernel)(Types...), std::index_sequence<places...>) {
    kernel(*static_cast<std::remove_const_t<Types>*>(arguments[places])...);
}

template <class... Types>
static void call(void (*kernel)(Types...)) {
    call(kernel, std::index_sequence_for<Types...>());
}

// `launch_NAME` for each kernel: values by their addresses, as cuLaunchKernel takes them.
#define EXPORT(NAME)                                                                                        \
    extern "C" int launch_##NAME(unsigned x, unsigned y, unsigned threads, int backwards, void** values) { \
        arguments = values;                                                                                 \
        enter_kernel = [] { call(NAME); };                                                                  \
        gridDim = {x, y, 1};                                                                                \
        blockDim = {threads, 1, 1};                                                                         \
        for (unsigned column = 0; column < y; ++column) {                                                   \
            for (unsigned row = 0; row < x; ++row) {                                                        \
                blockIdx = {row, column, 0};                                                                \
                if (run_block(threads, backwards)) return 1;                                                \
            }                                                                                               \
        }                                                                                                   \
        return 0;                                                                                           \
    }
