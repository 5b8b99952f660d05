"""Compile the Triton filters for GPUs that need not be there, and count spilled registers: run by test_filters.py."""

from __future__ import annotations

import itertools
import subprocess
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from nni_nastc.search.triton_filters import BLOCK_ROWS, MAX_TAPS
from nni_nastc.search.triton_kernels import filter_forward, filter_input_gradient, filter_kernel_gradient

KERNELS = (filter_forward, filter_input_gradient, filter_kernel_gradient)
TYPES = {"scale": "*fp32", "shift": "*fp32", "partial": "*fp32", "sizes": "*i32", "dilations": "*i32"}
DATA = ("x", "taps", "filtered", "upper", "gradient")
CONSTANTS = {"NORMALISED": True, "MAX_TAPS": MAX_TAPS, "ROWS": BLOCK_ROWS}
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


def compile_for(capability: int, kernel, data: str, channels: int) -> bytes:
    """Return the machine code of a kernel."""
    constants = {**CONSTANTS, "CHANNELS": channels, "COLUMNS": triton.next_power_of_2(channels)}
    signature = {
        name: "constexpr" if name in constants else TYPES.get(name, data if name in DATA else "i32")
        for name in kernel.arg_names
    }
    source = ASTSource(kernel, signature, constexprs=constants)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"]


if __name__ == "__main__":
    for capability, kernel, data, channels in itertools.product((80, 90), KERNELS, ("*fp32", "*bf16"), (48, 80)):
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(compile_for(capability, kernel, data, channels))
            file.flush()
            usage = subprocess.run([CUOBJDUMP, "-res-usage", file.name], check=True, capture_output=True, text=True)
        (line,) = [line for line in usage.stdout.splitlines() if "REG:" in line]
        spilled = "STACK:0 " not in line or "LOCAL:0 " not in line
        found = "SPILLS" if spilled else "no spills"
        print(f"{capability} {kernel.__name__} {data} {channels}: {found}, {line.strip()}")
