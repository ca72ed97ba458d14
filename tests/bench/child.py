"""A process that does one side's work when it is told to: a JSON object a line in, one out.

Each side lives in processes of its own, so that neither meets the other's allocator, threads or memory.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
import time
from typing import Any

from job import Job

from sora_ref.run.workers import keep_freed_memory


def serve() -> None:
    """Answer requests until the input ends; Ctrl-C is for the parent, which then ends this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    job: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        match request.pop("do"):
            case "load":
                job = load(Job(**request))
                answer: dict[str, Any] = {}
            case "result":
                answer = job.result()
            case "run":
                began = time.perf_counter()
                job.run()
                answer = {"seconds": time.perf_counter() - began}
            case "peak":
                answer = {"bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
            case "gemm":
                from ours import gemm_rate

                answer = {"rate": gemm_rate(request["workers"])}
            case "demo":
                answer = demo(request["side"])
        print(json.dumps(answer), flush=True)


def load(job: Job) -> Any:
    """The job on its side."""
    if job.side == "ours":
        from ours import Ours

        return Ours(job)
    import torch
    from torch_peer import Compiled, Peft, Torch

    if job.keep_memory:
        keep_freed_memory()
    torch.set_num_threads(job.workers)
    return {"torch": Torch, "compile": Compiled, "peft": Peft}[job.side](job)


def demo(side: str) -> dict[str, Any]:
    """The demonstration's training run on one side."""
    if side == "ours":
        from ours import train_demo
    else:
        import torch
        from torch_peer import train_demo

        torch.set_num_threads(2)
    found: dict[str, Any] = train_demo()
    return found


if __name__ == "__main__":
    serve()
