# ruff: noqa: ARG001  numba hands an intrinsic types by position and reads their number from the signature
"""Vectors of LANES floats inside numba code, on whatever vector unit the machine has.

LLVM splits a vector into the registers there are, so what is written here runs everywhere. It exists because the loop vectoriser keeps
no tile of sums in registers and stops at 256 bits. Offsets count floats into one-dimensional float32 arrays; nothing is bounds-checked.
"""

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.core.datamodel import models, register_default
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin

_FEATURES = binding.get_host_cpu_features()
_REGISTERS, _WIDTH = (
    (32, 16) if _FEATURES.get("avx512f") else (16, 8) if _FEATURES.get("avx2") else (16, 4)
)
# A vector is a pair of registers, so that in a product one scalar read from memory serves two multiply-adds: with one it would be the reads
# that limit the speed, at half of what the machine can do. ROWS pairs of sums, the pair they come from and the scalar fit the registers.
LANES = 2 * _WIDTH
ROWS = 10 if _REGISTERS == 32 else 5

_F32 = ir.FloatType()
_I32 = ir.IntType(32)
_VECTOR = ir.VectorType(_F32, LANES)
_BITS = ir.VectorType(_I32, LANES)
# NaN and infinities keep their meaning: a diverged training must show it.
_FAST = ("reassoc", "nsz", "arcp", "contract")


class Vector(types.Type):
    """Numba type of LANES floats in a register."""

    def __init__(self) -> None:
        super().__init__(name="float32_lanes")


vector = Vector()


@register_default(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, _VECTOR)


def _register_operator(op: Callable[..., Any], instruction: str, flags: tuple[str, ...]) -> None:
    class _Typing(AbstractTemplate):
        def generic(self, args: tuple[Any, ...], kws: dict[str, Any]) -> Any:
            return (
                signature(vector, vector, vector) if args == (vector, vector) and not kws else None
            )

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return getattr(builder, instruction)(*args, flags=flags)

    infer_global(op)(_Typing)
    lower_builtin(op, Vector, Vector)(lower)


_register_operator(operator.add, "fadd", _FAST)
_register_operator(operator.sub, "fsub", _FAST)
_register_operator(operator.mul, "fmul", _FAST)
# No divisor is infinite here, and only with that promise does LLVM use the reciprocal estimate and one Newton step.
_register_operator(operator.truediv, "fdiv", (*_FAST, "ninf"))


@intrinsic
def load(typingctx: Any, array: Any, offset: Any) -> Any:
    """Read LANES floats."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _load(builder, _pointer(context, builder, sig.args[0], args[0], args[1]))

    return vector(array, types.intp), codegen


@intrinsic
def store(typingctx: Any, array: Any, offset: Any, value: Any) -> Any:
    """Write LANES floats."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _store(builder, args[2], _pointer(context, builder, sig.args[0], args[0], args[1]))
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), codegen


@intrinsic
def splat(typingctx: Any, value: Any) -> Any:
    """The same number LANES times."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _splat(builder, args[0])

    return vector(types.float32), codegen


@intrinsic
def exp(typingctx: Any, x: Any) -> Any:
    """Exponential to 1e-7 relative; the argument is held within ±87, where neither it nor its reciprocal leaves the normal floats."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        def constant(value: float) -> Any:
            return ir.Constant(_VECTOR, [value] * LANES)

        x = args[0]
        for sign, limit in ((">", constant(87.0)), ("<", constant(-87.0))):
            x = builder.select(
                builder.fcmp_ordered(sign, x, limit), limit, x
            )  # in this order NaN passes
        # exp(x) = 2^k exp(f); adding 1.5 * 2^23 rounds k to an integer and leaves it in the low bits of the sum
        shifter = constant(12582912.0)
        shifted = _fma(builder, x, constant(1.4426950408889634), shifter)
        k = builder.fsub(shifted, shifter)
        f = _fma(builder, k, constant(-0.693145751953125), x)
        f = _fma(builder, k, constant(-1.428606765330187e-06), f)
        series = constant(1 / 720)
        for coefficient in (1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0):
            series = _fma(builder, series, f, constant(coefficient))
        exponent = builder.shl(builder.bitcast(shifted, _BITS), ir.Constant(_BITS, [23] * LANES))
        return builder.bitcast(builder.add(builder.bitcast(series, _BITS), exponent), _VECTOR)

    return vector(vector), codegen


def _make_product(*, add: bool) -> Any:
    @intrinsic
    def product(
        typingctx: Any, a: Any, a_offset: Any, b: Any, b_offset: Any, n: Any, c: Any, c_offset: Any
    ) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            a, b, c = (
                _pointer(context, builder, sig.args[i], args[i], args[i + 1]) for i in (0, 2, 5)
            )
            sums = _start_sums(builder, c if add else None, LANES)
            with cgutils.for_range(builder, args[4], intp=args[4].type) as loop:
                start = builder.mul(loop.index, _intp(args[4], ROWS))
                _multiply_add(
                    builder, sums, builder.gep(a, [start]), 1, _row(builder, b, loop.index)
                )
            _write_sums(builder, sums, c, LANES)
            return context.get_dummy_value()

        return types.void(a, types.intp, b, types.intp, types.intp, c, types.intp), codegen

    return product


# c[i, :] (+)= sum_k a[k, i] b[k, :] for ROWS rows i of LANES columns and k < n, all three dense: (a, offset, b, offset, n, c, offset).
product = _make_product(add=False)
product_add = _make_product(add=True)


@intrinsic
def outer_sum(
    typingctx: Any,
    a: Any,
    a_offset: Any,
    a_step: Any,
    b: Any,
    b_offset: Any,
    n: Any,
    c: Any,
    c_offset: Any,
    c_step: Any,
) -> Any:
    """``c[i, :] += sum_tl a[t, i, l] b[t, l, :]`` for ROWS rows i of LANES columns, LANES lanes l and n steps t, a_step apart."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        a = _pointer(context, builder, sig.args[0], args[0], args[1])
        b = _pointer(context, builder, sig.args[3], args[3], args[4])
        c = _pointer(context, builder, sig.args[6], args[6], args[7])
        n, step = args[5], args[8]
        sums = _start_sums(builder, c, step)
        with cgutils.for_range(builder, n, intp=n.type) as outer:
            a_t = builder.gep(a, [builder.mul(outer.index, args[2])])
            b_t = builder.gep(b, [builder.mul(outer.index, _intp(n, LANES * LANES))])
            with cgutils.for_range(builder, _intp(n, LANES), intp=n.type) as inner:
                _multiply_add(
                    builder,
                    sums,
                    builder.gep(a_t, [inner.index]),
                    LANES,
                    _row(builder, b_t, inner.index),
                )
        _write_sums(builder, sums, c, step)
        return context.get_dummy_value()

    return types.void(
        a, types.intp, types.intp, b, types.intp, types.intp, c, types.intp, types.intp
    ), codegen


@intrinsic
def copy(
    typingctx: Any,
    n: Any,
    source: Any,
    source_offset: Any,
    source_step: Any,
    target: Any,
    target_offset: Any,
    target_step: Any,
) -> Any:
    """Copy n floats between steps; twice the speed of a numba loop, which looks at every index for a negative one."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        source, target = (
            _pointer(context, builder, sig.args[i], args[i], args[i + 1]) for i in (1, 4)
        )
        with cgutils.for_range(builder, args[0], intp=args[0].type) as loop:
            value = builder.load(builder.gep(source, [builder.mul(loop.index, args[3])]))
            builder.store(value, builder.gep(target, [builder.mul(loop.index, args[6])]))
        return context.get_dummy_value()

    return types.void(
        types.intp, source, types.intp, types.intp, target, types.intp, types.intp
    ), codegen


@intrinsic
def transpose(
    typingctx: Any, source: Any, source_offset: Any, target: Any, target_offset: Any
) -> Any:
    """LANES rows of LANES floats, both packed densely, to columns."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        source, target = (
            _pointer(context, builder, sig.args[i], args[i], args[i + 1]) for i in (0, 2)
        )
        half = LANES // 2
        rows = [_load(builder, builder.gep(source, [_I32(i * LANES)])) for i in range(LANES)]
        # Interleaving the upper with the lower half of the rows, log2(LANES) times over, is a transposition.
        masks = [
            ir.Constant(_BITS, [start + i // 2 + LANES * (i % 2) for i in range(LANES)])
            for start in (0, half)
        ]
        for _ in range(LANES.bit_length() - 1):
            rows = [
                builder.shuffle_vector(rows[i // 2], rows[i // 2 + half], masks[i % 2])
                for i in range(LANES)
            ]
        for i, row in enumerate(rows):
            _store(builder, row, builder.gep(target, [_I32(i * LANES)]))
        return context.get_dummy_value()

    return types.void(source, types.intp, target, types.intp), codegen


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, offset: Any) -> Any:
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [offset])


def _row(builder: Any, pointer: Any, index: Any) -> Any:
    return builder.gep(pointer, [builder.mul(index, _intp(index, LANES))])


def _intp(like: Any, value: int) -> Any:
    return ir.Constant(like.type, value)


def _load(builder: Any, pointer: Any) -> Any:
    return builder.load(builder.bitcast(pointer, _VECTOR.as_pointer()), align=4)


def _store(builder: Any, value: Any, pointer: Any) -> None:
    builder.store(value, builder.bitcast(pointer, _VECTOR.as_pointer()), align=4)


def _splat(builder: Any, value: Any) -> Any:
    single = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, _I32(0))
    return builder.shuffle_vector(
        single, ir.Constant(_VECTOR, ir.Undefined), ir.Constant(_BITS, [0] * LANES)
    )


def _step(builder: Any, pointer: Any, row: int, step: Any) -> Any:
    offset = _I32(row * step) if isinstance(step, int) else builder.mul(step, _intp(step, row))
    return builder.gep(pointer, [offset])


def _start_sums(builder: Any, pointer: Any, step: Any) -> list[Any]:
    """Sums in the stack slots that LLVM turns into registers: zero, or what stands in memory."""
    sums = [cgutils.alloca_once(builder, _VECTOR) for _ in range(ROWS)]
    for i, total in enumerate(sums):
        zero = ir.Constant(_VECTOR, [0.0] * LANES)
        builder.store(
            zero if pointer is None else _load(builder, _step(builder, pointer, i, step)), total
        )
    return sums


def _write_sums(builder: Any, sums: list[Any], pointer: Any, step: Any) -> None:
    for i, total in enumerate(sums):
        _store(builder, builder.load(total), _step(builder, pointer, i, step))


def _multiply_add(builder: Any, sums: list[Any], scalars: Any, scalar_step: int, row: Any) -> None:
    vector_b = _load(builder, row)
    for i, total in enumerate(sums):
        scalar = _splat(builder, builder.load(builder.gep(scalars, [_I32(i * scalar_step)])))
        builder.store(_fma(builder, scalar, vector_b, builder.load(total)), total)


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """Multiply-add, fused where the machine can."""
    return builder.fadd(builder.fmul(a, b, flags=("contract",)), c, flags=("contract",))
