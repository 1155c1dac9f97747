"""Vectors of LANES floats inside numba code, on any vector unit.

What is emitted. numba compiles Python loops to LLVM instructions. The functions here add what
numba's Python lacks: a type `vector` (LLVM's ``<LANES x float>``), its arithmetic, and a matrix
product whose ROWS x LANES sums stay in registers. LLVM splits a vector into the machine's registers
(LANES is two of them), so the same code runs everywhere::

    b[k, :]    |  register  |  register  |  row of b, read once for all rows of a
    a[k, 0]  * |    sum     |    sum     |  scalar of a, read from memory
    a[k, 1]  * |    sum     |    sum     |
    ...        |            |            |  ROWS pairs of sums, in registers while k runs

Why not a library. The recurrent products are small (50 x 70 times 70 x LANES), come 801 times in
sequence, and have gates between them: a BLAS call per step pays more for the call and for memory
than for arithmetic. LLVM's own loop vectoriser does not keep a tile of sums in registers, and stops
at 256 bits. Measured with ``benchmarks/gru.py --quick`` (AVX2, one thread, events per second of
training): 1,340 with this module, 80 with `product`, `product_add` and `outer_sum` as numba loops
of the same fastmath flags, 167 with ``torch.nn.GRU``.

How to check the instructions. ``inspect_asm()`` of a compiled function shows them, unless it comes
from numba's cache. `tests/models/test_gru.py` compiles `product` and counts its ``vfmadd`` of
vectors.

Private interfaces. numba documents `numba.extending.intrinsic`, `models`, `register_model` and
`lower_builtin`. Not documented are `numba.core.cgutils`, `numba.core.typing.templates` and the
methods of llvmlite's builder that are used below. If an upgrade removes one that is used at import,
`hepflow.models.gru` falls back to stock torch, and `hepflow doctor` reports it; a test proves that
both give the same numbers. A removed builder method is an error when the first batch compiles.

Arrays are one-dimensional float32, offsets count floats. Nothing checks bounds.
"""

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import Parameter, Signature
from typing import Any

from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

_FEATURES = binding.get_host_cpu_features()
_REGISTERS, _WIDTH = (
    (32, 16) if _FEATURES.get("avx512f") else (16, 8) if _FEATURES.get("avx2") else (16, 4)
)
# Two registers per vector: each scalar of a, read from memory, then serves two multiply-adds. With
# one, the reads would limit the speed, at half of what the machine can do.
LANES = 2 * _WIDTH
# ROWS pairs of sums, the pair of b and the scalar fit into the registers.
ROWS = 10 if _REGISTERS == 32 else 5

_F32 = ir.FloatType()
_I32 = ir.IntType(32)
_VECTOR = ir.VectorType(_F32, LANES)
_BITS = ir.VectorType(_I32, LANES)
# fastmath without "nnan" and "ninf": a diverged training must show its NaN
_FAST = ("reassoc", "nsz", "arcp", "contract")


class Vector(types.Type):
    """Numba type of LANES floats in registers."""

    def __init__(self) -> None:
        super().__init__(name="float32_lanes")


vector = Vector()


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, _VECTOR)


def _register_operator(op: Callable[..., Any], instruction: str, flags: tuple[str, ...]) -> None:
    """Let ``vector op vector`` compile to one instruction."""

    class _Typing(AbstractTemplate):
        def generic(self, args: tuple[Any, ...], kws: dict[str, Any]) -> Any:
            both = args == (vector, vector) and not kws
            return signature(vector, vector, vector) if both else None

    def lower(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return getattr(builder, instruction)(*args, flags=flags)

    infer_global(op)(_Typing)
    lower_builtin(op, Vector, Vector)(lower)


_register_operator(operator.add, "fadd", _FAST)
_register_operator(operator.sub, "fsub", _FAST)
_register_operator(operator.mul, "fmul", _FAST)
# No divisor is infinite here. Only with that promise does LLVM replace the slow division by the
# reciprocal estimate and one Newton step.
_register_operator(operator.truediv, "fdiv", (*_FAST, "ninf"))


def _emits(arguments: str, result: Any = types.void) -> Callable[[Callable[..., Any]], Any]:
    """Make a function for numba code out of one that emits its instructions.

    In the ``arguments`` of the numba code, an offset follows each array. The decorated function
    receives the builder, and a single pointer for an array and its offset.
    """
    names = ["typingctx", *arguments.split(", ")]
    shown = Signature([Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in names])

    def decorate(emit: Callable[..., Any]) -> Any:
        def typed(_typingctx: Any, *kinds: Any) -> Any:
            def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
                given, values = [], iter(zip(sig.args, args, strict=True))
                for kind, value in values:
                    if isinstance(kind, types.Array):
                        data = context.make_array(kind)(context, builder, value).data
                        given.append(builder.gep(data, [next(values)[1]]))
                    else:
                        given.append(value)
                made = emit(builder, *given)
                return context.get_dummy_value() if result is types.void else made

            plain = (types.intp if isinstance(kind, types.Integer) else kind for kind in kinds)
            return result(*plain), codegen

        typed.__name__, typed.__doc__ = emit.__name__, emit.__doc__
        typed.__signature__ = shown  # type: ignore[attr-defined]  # numba binds calls to it
        return intrinsic(typed)

    return decorate


def _load(builder: Any, source: Any) -> Any:
    """Read LANES floats."""
    return builder.load(builder.bitcast(source, _VECTOR.as_pointer()), align=4)


def _store(builder: Any, target: Any, value: Any) -> None:
    """Write LANES floats."""
    builder.store(value, builder.bitcast(target, _VECTOR.as_pointer()), align=4)


def _splat(builder: Any, value: Any) -> Any:
    """Repeat a float32 LANES times."""
    undefined, zeros = ir.Constant(_VECTOR, ir.Undefined), ir.Constant(_BITS, [0] * LANES)
    single = builder.insert_element(undefined, value, _I32(0))
    return builder.shuffle_vector(single, undefined, zeros)


load = _emits("array, offset", vector)(_load)
store = _emits("array, offset, value")(_store)
splat = _emits("value", vector)(_splat)


@_emits("x", vector)
def exp(builder: Any, x: Any) -> Any:
    """Return the exponential, to 1e-7 relative.

    The argument is limited to ±87: neither the result nor its reciprocal is then denormal.
    """
    for sign, limit in ((">", _constant(87.0)), ("<", _constant(-87.0))):
        # comparisons with NaN are false, so NaN passes through
        x = builder.select(builder.fcmp_ordered(sign, x, limit), limit, x)
    # exp(x) = 2^k exp(f) with k = round(x / ln 2), |f| < ln 2 / 2. Adding 1.5 * 2^23 rounds to an
    # integer, because a float that large has no bits behind the point; k is then in its low bits.
    shifter = _constant(12582912.0)
    shifted = _fma(builder, x, _constant(1.4426950408889634), shifter)
    k = builder.fsub(shifted, shifter)
    # f = x - k ln 2, with ln 2 as a sum of two floats (Cody and Waite): no digits are lost
    f = _fma(builder, k, _constant(-0.693145751953125), x)
    f = _fma(builder, k, _constant(-1.428606765330187e-06), f)
    series = _constant(1 / 720)  # Taylor in Horner's form
    for coefficient in (1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0):
        series = _fma(builder, series, f, _constant(coefficient))
    # times 2^k: add k to the exponent bits, which begin at bit 23
    exponent = builder.shl(builder.bitcast(shifted, _BITS), ir.Constant(_BITS, [23] * LANES))
    return builder.bitcast(builder.add(builder.bitcast(series, _BITS), exponent), _VECTOR)


def _product(*, add: bool) -> Any:
    @_emits("a, a_offset, b, b_offset, n, c, c_offset")
    def product(builder: Any, a: Any, b: Any, n: Any, c: Any) -> None:
        with _sums(builder, c, n.type(LANES), add=add) as sums, _loop(builder, n) as k:
            a_k, b_k = _at(builder, a, k, ROWS), _at(builder, b, k, LANES)
            _multiply_add(builder, sums, a_k, 1, b_k)

    return product


# c[i, :] = or += sum_k a[k, i] b[k, :] for ROWS rows i and k < n, all of them dense
product, product_add = _product(add=False), _product(add=True)


@_emits("a, a_offset, a_step, b, b_offset, n, c, c_offset, c_step")
def outer_sum(builder: Any, a: Any, a_step: Any, b: Any, n: Any, c: Any, c_step: Any) -> None:
    """Add ``sum_tl a[t, i, l] b[t, l, :]`` to ``c[i, :]``, over n steps t and LANES lanes l.

    a_step floats are between two steps of a, c_step between two of the ROWS rows i of c.
    """
    with _sums(builder, c, c_step, add=True) as sums, _loop(builder, n) as t:
        a_t, b_t = _at(builder, a, t, a_step), _at(builder, b, t, LANES * LANES)
        with _loop(builder, n.type(LANES)) as lane:
            a_tl, b_tl = _at(builder, a_t, lane, 1), _at(builder, b_t, lane, LANES)
            _multiply_add(builder, sums, a_tl, LANES, b_tl)


@_emits("n, source, source_offset, source_step, target, target_offset, target_step")
def copy(builder: Any, n: Any, source: Any, source_step: Any, target: Any, to_step: Any) -> None:
    """Copy n floats, at twice the speed of a numba loop, which tests each index for its sign."""
    with _loop(builder, n) as i:
        value = builder.load(_at(builder, source, i, source_step))
        builder.store(value, _at(builder, target, i, to_step))


@_emits("source, source_offset, target, target_offset")
def transpose(builder: Any, source: Any, target: Any) -> None:
    """Transpose LANES dense rows of LANES floats."""
    half = LANES // 2
    rows = [_load(builder, builder.gep(source, [_I32(i * LANES)])) for i in range(LANES)]
    # Interleaving the upper with the lower half of the rows, log2(LANES) times, transposes them:
    #   abcd      aibj      aeim
    #   efgh  ->  ckdl  ->  bfjn
    #   ijkl      emfn      cgko
    #   mnop      gohp      dhlp
    order = [[start + i // 2 + LANES * (i % 2) for i in range(LANES)] for start in (0, half)]
    masks = [ir.Constant(_BITS, positions) for positions in order]
    for _ in range(LANES.bit_length() - 1):
        pairs = ((rows[i // 2], rows[i // 2 + half], masks[i % 2]) for i in range(LANES))
        rows = [builder.shuffle_vector(*pair) for pair in pairs]
    for i, row in enumerate(rows):
        _store(builder, builder.gep(target, [_I32(i * LANES)]), row)


@contextmanager
def _sums(builder: Any, pointer: Any, step: Any, *, add: bool) -> Iterator[list[Any]]:
    """Yield ROWS sums, from zero or (add) from memory, and write them back at the end.

    They are stack slots, which LLVM turns into registers.
    """
    rows = [_at(builder, pointer, step.type(i), step) for i in range(ROWS)]
    sums = [cgutils.alloca_once(builder, _VECTOR) for _ in rows]
    for total, row in zip(sums, rows, strict=True):
        builder.store(_load(builder, row) if add else _constant(0.0), total)
    yield sums
    for total, row in zip(sums, rows, strict=True):
        _store(builder, row, builder.load(total))


def _multiply_add(builder: Any, sums: list[Any], scalars: Any, step: int, row: Any) -> None:
    vector_b = _load(builder, row)
    for i, total in enumerate(sums):
        scalar = _splat(builder, builder.load(builder.gep(scalars, [_I32(i * step)])))
        builder.store(_fma(builder, scalar, vector_b, builder.load(total)), total)


@contextmanager
def _loop(builder: Any, n: Any) -> Iterator[Any]:
    with cgutils.for_range(builder, n, intp=n.type) as loop:
        yield loop.index


def _at(builder: Any, pointer: Any, index: Any, step: Any) -> Any:
    """Return a pointer moved by ``index`` steps; the step is an int or an LLVM value."""
    step = index.type(step) if isinstance(step, int) else step
    return builder.gep(pointer, [builder.mul(index, step)])


def _constant(value: float) -> Any:
    return ir.Constant(_VECTOR, [value] * LANES)


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a b + c, fused where the machine can."""
    return builder.fadd(builder.fmul(a, b, flags=("contract",)), c, flags=("contract",))
