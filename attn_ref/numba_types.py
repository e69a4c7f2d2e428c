"""Where numba widens float32 to float64: found by numba's own type inference, without compiling.

    float32 · 0.5 -> float64        float32 / int -> float64        total = 0.0; total += float32 -> float64

A variable has one type in all of a function, the narrowest that holds everything assigned to it, and a literal such as
0.5 is a float64. NumPy's arrays are gentler, so that the same line can differ between Python and numba. Used in
course/11_numba_kernel.
"""

import linecache

import numba
from numba.core import bytecode, compiler, typed_passes, types
from numba.core.compiler_machinery import PassManager
from numba.core.registry import cpu_target
from numba.core.untyped_passes import ExtractByteCode


def widened(kernel, *arguments):
    """The lines in which something of float32 becomes float64.  -> [(line number, source), ...]

    Arguments are those of a call: their types are what counts. An error of numba is raised as it is: TypingError for
    what it cannot type. Lines of functions that the kernel calls are not looked at.
    """
    state = _infer(getattr(kernel, "py_func", kernel), tuple(numba.typeof(x) for x in arguments))
    found = set()
    for expression, signature in state.calltypes.items():
        if signature is None or not hasattr(expression, "list_vars") or not hasattr(expression, "op"):
            continue  # what is stored into an array takes that array's type
        operands = [state.typemap[one.name] for one in expression.list_vars()]
        if types.float64 == _number(signature.return_type) and types.float32 in map(_number, operands):
            found.add(expression.loc.line)
    file = getattr(kernel, "py_func", kernel).__code__.co_filename
    return [(line, linecache.getline(file, line).strip()) for line in sorted(found)]


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
