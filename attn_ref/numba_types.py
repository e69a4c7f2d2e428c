"""Where numba widens float32 to float64: found by numba's own type inference, without compiling.

    float32 · 0.5 -> float64        float32 / int -> float64        total = 0.0; total += float32 -> float64

A variable has one type in all of a function, the narrowest that holds everything assigned to it, and a literal such as
0.5 is a float64. NumPy's arrays are gentler, so that the same line can differ between Python and numba. Used in
course/11_numba_kernel.
"""

import linecache

import numba
from numba.core import bytecode, compiler, ir, typed_passes, types
from numba.core.compiler_machinery import PassManager
from numba.core.registry import cpu_target
from numba.core.untyped_passes import ExtractByteCode


def widened(kernel, *arguments):
    """The lines in which something of float32 becomes float64.  -> [(line number, source), ...]

    Arguments are those of a call: their types are what counts. An array of float64 that float32 is stored into counts,
    and so do lines of compiled functions that the kernel calls. An error of numba is raised as it is: TypingError for
    what it cannot type.
    """
    found = set()
    _look_at(getattr(kernel, "py_func", kernel), tuple(numba.typeof(x) for x in arguments), found, set())
    return [(line, linecache.getline(file, line).strip()) for file, line in sorted(found)]


def _look_at(function, argument_types, found, done):
    if (function, argument_types) in done:
        return
    done.add((function, argument_types))
    state = _infer(function, argument_types)
    for one, signature in state.calltypes.items():
        if signature is None:
            continue
        if isinstance(one, (ir.SetItem, ir.StaticSetItem)):
            place, stored = _number(signature.args[0]), _number(signature.args[-1])
            wide = place == types.float64 and stored == types.float32
        else:
            operands = [state.typemap[x.name] for x in one.list_vars()] if hasattr(one, "op") else []
            operands += [kind.this for kind in operands if isinstance(kind, types.BoundFunction)]  # x.astype(...)
            wide = _number(signature.return_type) == types.float64 and types.float32 in map(_number, operands)
            callee = state.typemap[one.func.name] if getattr(one, "op", None) == "call" else None
            if isinstance(callee, types.Dispatcher) and not wide:
                _look_at(callee.dispatcher.py_func, tuple(map(types.unliteral, signature.args)), found, done)
        if wide:
            found.add((function.__code__.co_filename, one.loc.line))


class _TypesOnly(compiler.CompilerBase):
    """numba's pipeline up to the point at which each variable has a type."""

    def define_pipelines(self):
        build, passes = compiler.DefaultPassBuilder, PassManager("types only")
        passes.passes = list(build.define_untyped_pipeline(self.state).passes)
        for one in build.define_typed_pipeline(self.state).passes:
            passes.passes.append(one)
            if one[0] is typed_passes.NopythonTypeInference:
                break
        passes.finalize()
        return [passes]


def _infer(function, argument_types):
    typing, target = cpu_target.typing_context, cpu_target.target_context
    typing.refresh()
    target.refresh()
    library = target.codegen().create_library("types only")
    flags = compiler.Flags()
    flags.nrt = True  # arrays may be made and returned
    pipeline = _TypesOnly(typing, target, library, argument_types, None, flags, {})
    pipeline.state.func_id = bytecode.FunctionIdentity.from_function(function)
    ExtractByteCode().run_pass(pipeline.state)
    pipeline.define_pipelines()[0].run(pipeline.state)
    return pipeline.state


def _number(kind):
    """The type of an array's entries; any other type as it is."""
    return kind.dtype if isinstance(kind, types.Array) else kind
