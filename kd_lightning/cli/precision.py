"""Which half precision is faster than float32, where this process will run."""

from __future__ import annotations

import torch


def fast_precision() -> str | None:
    """Return `bfloat16` where the hardware computes in it, else None: a teacher then stays as it was stored.

    GPUs do from compute capability 8.0 on; CPUs with AVX-512 BF16 or AMX instructions. Elsewhere bfloat16 is
    emulated, and slower.
    """
    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.get_device_capability() >= (8, 0) else None
    native = any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return "bfloat16" if native else None
