"""Whether CuPy can work here; and if not, why, in one sentence."""

from __future__ import annotations

from typing import Any

from sora_ref.backends import DeviceError

_INSUFFICIENT_DRIVER, _NO_DEVICE = 35, 100  # cudaErrorInsufficientDriver, cudaErrorNoDevice


def require_device(cp: Any) -> None:
    """DeviceError unless there is a driver new enough, a GPU, and CUDA's compiler and BLAS; MemoryError passes.

    cp: CuPy's namespace.
    """
    runtime = cp.cuda.runtime
    driver, built = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    if driver == 0:
        raise DeviceError("there is no NVIDIA driver: expected a machine with a GPU and its driver")
    too_old = (
        f"the driver supports CUDA {_version(driver)} and this CuPy is built for {_version(built)}: "
        f"install a newer driver, or the CuPy for CUDA {driver // 1000}"
    )
    if driver // 1000 < built // 1000:
        raise DeviceError(too_old)
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        if error.status == _INSUFFICIENT_DRIVER:
            raise DeviceError(too_old) from error
        if error.status != _NO_DEVICE:
            raise DeviceError(f"CUDA does not start ({error}): expected a working GPU") from error
        count = 0
    if count == 0:
        raise DeviceError("there is a driver and no GPU: expected one that CUDA_VISIBLE_DEVICES does not hide")
    try:
        ones = cp.ones((2, 2), cp.float32)
        cp.asnumpy(ones @ ones)  # a kernel, which NVRTC compiles, a product by cuBLAS, and a wait for both
    except (ImportError, OSError, RuntimeError) as error:
        raise DeviceError(
            f"CUDA's libraries do not work ({_first_line(error)}): expected those of CUDA {built // 1000}, "
            f"which pip install 'cupy-cuda{built // 1000}x[ctk]' brings"
        ) from error


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
