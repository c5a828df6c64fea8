"""Memory that this rank's training takes."""

import resource

import torch


def memory(device: torch.device) -> dict[str, float]:
    """Metrics in MiB: on a GPU the most that torch held since the last call, on CPU the most that the process ever did."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return {"gpu_memory_mib": peak / 2**20}
    # Linux counts in KiB.
    return {"memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10}
