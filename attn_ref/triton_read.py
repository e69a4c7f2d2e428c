"""A kernel of one's own, compiled for a GPU that this machine does not have: registers, memory, matrix instructions.

    compiled(kernel, {"x_ptr": "*fp16", "n": "i32"}, BLOCK=128) -> {"registers": ..., "shared_bytes": ..., "ptx": ...}

A number that does not fit into a thread's 255 registers is spilled to its stack, which lies in slow memory. An
interpreting process cannot compile, so the compiler runs in one of its own. Used in course/12_triton_kernel;
`triton_aot` reads the kernels that attention is really computed with.
"""

import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap

SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}  # bytes for one program
MATRIX_INSTRUCTIONS = {"mma.sync": r"\bmma\.sync", "wgmma": r"wgmma\.mma_async", "tcgen05": r"tcgen05\.mma"}
_known = {}  # what was compiled already, by what was asked for
HEAD = "import triton\nimport triton.language as tl\n\n"


def compiled(kernel, types, target=90, num_warps=4, num_stages=3, **constants):
    """Compile a kernel, jitted or plain, for sm_<target>. -> what the compiler made of it, sizes in bytes

    `types` has the type of each argument that is no constant, as Triton writes it: "*fp16" a pointer, "i32" a number.
    """
    return compiled_many([(kernel, types, target, num_warps, num_stages, constants)])[0]


def compiled_many(jobs):
    """Several (kernel, types, target, num_warps, num_stages, constants) by one process. -> a list of dicts"""
    from attn_ref.triton_here import MISSING, NotHere  # here, so that the compiling process need not load torch

    if MISSING:
        raise NotHere(MISSING)
    texts = [json.dumps((_source(kernel), *rest)) for kernel, *rest in jobs]
    if fresh := [text for text in dict.fromkeys(texts) if text not in _known]:
        _known.update(zip(fresh, _in_another_process(fresh), strict=True))
    return [dict(_known[text]) for text in texts]


def _in_another_process(texts):
    settings = os.environ | {"TRITON_INTERPRET": "0"}
    command = [sys.executable, "-m", "attn_ref.triton_read"]
    done = subprocess.run(command, input=f"[{','.join(texts)}]", capture_output=True, text=True, env=settings)
    if done.returncode:
        last = [line for line in done.stderr.strip().splitlines() if line.strip()]
        raise RuntimeError("the kernel does not compile:\n" + "\n".join(last[-12:]))
    return json.loads(done.stdout)


def _source(kernel):
    while hasattr(kernel, "fn"):
        kernel = kernel.fn
    text = textwrap.dedent(inspect.getsource(kernel))
    named = {name: kernel.__globals__.get(name) for name in kernel.__code__.co_names}
    given = [f"{name} = tl.constexpr({x!r})\n" for name, x in named.items() if isinstance(x, (int, float))]
    return "".join(given) + "@triton.jit\n" + text[re.search(r"^def ", text, re.M).start() :]


def read(source, types, target, num_warps, num_stages, constants):
    """Compile the source of one kernel in this process, which must not interpret."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "kernel.py")
        with open(path, "w", encoding="utf-8") as file:
            file.write(HEAD + source)
        space = {"__name__": "kernel"}
        exec(compile(HEAD + source, path, "exec"), space)
        kernel = next(value for value in space.values() if hasattr(value, "arg_names"))
        signature, constexprs, attributes = {}, {}, {}
        for i, name in enumerate(kernel.arg_names):
            if name in constants:
                signature[name], constexprs[i,] = "constexpr", constants[name]
            else:
                signature[name] = types[name]
                if types[name].startswith("*"):
                    attributes[i,] = [["tt.divisibility", 16]]  # tensors begin at multiples of 16 bytes
        options = {"num_warps": num_warps, "num_stages": num_stages}
        made = triton.compile(
            ASTSource(kernel, signature, constexprs, attributes), GPUTarget("cuda", target, 32), options
        )
    return {**usage(made, target), "ptx": made.asm["ptx"]}


def usage(made, target):
    """What a compiled kernel takes of a GPU.  Triton's result -> a dict of numbers, bytes where the name says so"""
    import triton

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    counts = {kind: len(re.findall(pattern, made.asm["ptx"])) for kind, pattern in MATRIX_INSTRUCTIONS.items()}
    return {
        "registers": int(re.search(r"REG:(\d+)", told)[1]),
        "stack_bytes": int(re.search(r"STACK:(\d+)", told)[1]),
        "shared_bytes": made.metadata.shared,
        "shared_limit_bytes": SHARED_LIMIT[target],
        **counts,
    }


if __name__ == "__main__":
    print(json.dumps([read(*job) for job in json.load(sys.stdin)]))
