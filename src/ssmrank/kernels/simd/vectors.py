"""Sixteen float32 lanes as one value inside numba functions.

numba leaves vectorisation to LLVM. LLVM does not vectorise loops over several arrays, because it cannot prove that they
do not overlap, and it calls the scalar `exp` where Intel's SVML is missing. The loops of this package are therefore
vectorised explicitly: memory is addressed by plain integers, a value is a vector of 16 floats, and `exp2` is a
polynomial. LLVM lowers the vectors to AVX-512, AVX2, SSE or NEON, whichever the machine has.

Inside an `@njit` function: `load`, `broadcast`, `splat`, `store`, the operators + - * /, `exp2`, `softplus`,
`sigmoid`, `lane_sum`. A product followed by a sum is fused into one instruction where the machine has it.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core.datamodel import models
from numba.core.extending import register_model
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic as _intrinsic

from ssmrank.kernels.simd import LANES
from ssmrank.kernels.simd.compiled import njit

intrinsic: Any = _intrinsic

BYTES = 4 * LANES
"""Size of a vector in memory."""

LOG2_E = 1.4426950408889634
LN_2 = 0.6931471805599453

FLOAT = ir.FloatType()
_INT = ir.IntType(32)
VECTOR = ir.VectorType(FLOAT, LANES)
_INTEGERS = ir.VectorType(_INT, LANES)
_FUSE = ("contract", "nsz")


class Float32x16(types.Type):
    """The numba type of a vector."""

    def __init__(self) -> None:
        super().__init__(name="Float32x16")


float32x16 = Float32x16()


@register_model(Float32x16)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: Any) -> None:
        super().__init__(manager, fe_type, VECTOR)


def constant(value: float) -> Any:
    """A vector of LLVM's with one value in all lanes."""
    return ir.Constant(VECTOR, [float(value)] * LANES)


def _operation(symbol: Any, instruction: str) -> None:
    class _Template(ConcreteTemplate):
        cases = [signature(float32x16, float32x16, float32x16)]  # noqa: RUF012 - numba's own interface

    infer_global(symbol)(_Template)

    @lower_builtin(symbol, float32x16, float32x16)
    def _lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return getattr(builder, instruction)(*args, flags=_FUSE)


for _symbol, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _operation(_symbol, _instruction)


def _unary(builder: Any, name: str, x: Any) -> Any:
    """LLVM's own vector function `llvm.<name>`."""
    full = f"llvm.{name}.v{LANES}f32"
    function = builder.module.globals.get(full)
    if function is None:
        function = ir.Function(builder.module, ir.FunctionType(VECTOR, [VECTOR]), full)
    return builder.call(function, [x])


def _at_least(builder: Any, x: Any, bound: float) -> Any:
    """The larger of both; NaN where x is NaN (llvm.maxnum would hide it)."""
    return builder.select(builder.fcmp_ordered("<", x, constant(bound)), constant(bound), x)


def fused(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a b + c, rounded once where the machine has fused multiply-add."""
    return builder.fadd(builder.fmul(a, b, flags=_FUSE), c, flags=_FUSE)


def _horner(builder: Any, x: Any, coefficients: tuple[float, ...]) -> Any:
    """The polynomial with these coefficients, highest power first."""
    value = constant(coefficients[0])
    for coefficient in coefficients[1:]:
        value = fused(builder, value, x, constant(coefficient))
    return value


# Of 2^f on [-1/2, 1/2], highest power first: least maximum relative error (2.0e-9) of degree 6 with constant 1, by
# Lawson's reweighted least squares.
_EXP2 = (0.00015353362, 0.001339887445, 0.009618437358, 0.05550332471, 0.2402264791, 0.6931472029, 1.0)

# The first part has so few bits that its products with whole numbers up to 127 are exact.
_LN_2_HIGH = 0.693145751953125
_LN_2_LOW = LN_2 - _LN_2_HIGH

# 2 atanh(s) = s (2 + 2/3 s^2 + ...): the series up to s^17, below 1e-9 of the value at the largest s, which is 1/3.
_ATANH = tuple(2.0 / (2 * k + 1) for k in range(8, -1, -1))


def _power(builder: Any, whole: Any, fraction: Any) -> Any:
    """2^(whole + fraction), the fraction at most 1/2 from 0."""
    # Multiplying by 2^whole is adding to the exponent's bits.
    shift = builder.shl(builder.fptosi(whole, _INTEGERS), ir.Constant(_INTEGERS, [23] * LANES))
    value = builder.bitcast(_horner(builder, fraction, _EXP2), _INTEGERS)
    return builder.bitcast(builder.add(value, shift), VECTOR)


def _exp2(builder: Any, x: Any) -> Any:
    x = _at_least(builder, x, -126.0)
    whole = _unary(builder, "rint", x)
    return _power(builder, whole, builder.fsub(x, whole))


def _exp_minus_abs(builder: Any, x: Any) -> Any:
    """e^-|x|. The multiple of log 2 is subtracted in two parts, so that rounding loses nothing for large x."""
    x = builder.fneg(_unary(builder, "fabs", x))
    x = _at_least(builder, x, -87.0)
    whole = _unary(builder, "rint", builder.fmul(x, constant(LOG2_E)))
    rest = fused(builder, whole, constant(-_LN_2_HIGH), x)
    rest = fused(builder, whole, constant(-_LN_2_LOW), rest)
    return _power(builder, whole, builder.fmul(rest, constant(LOG2_E)))


@intrinsic
def load(typingctx: Any, address: Any) -> Any:
    """The 16 floats at an address."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(builder.inttoptr(args[0], VECTOR.as_pointer()), align=4)

    return float32x16(types.int64), codegen


@intrinsic
def store(typingctx: Any, address: Any, vector: Any) -> Any:
    """Writes 16 floats to an address."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store(args[1], builder.inttoptr(args[0], VECTOR.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, float32x16), codegen


_SHORTS = ir.VectorType(ir.IntType(16), LANES)


def _integers(value: int) -> Any:
    return ir.Constant(_INTEGERS, [value] * LANES)


@intrinsic
def load_bfloat16(typingctx: Any, address: Any) -> Any:
    """The 16 bfloat16 at an address, as float32."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        short = builder.load(builder.inttoptr(args[0], _SHORTS.as_pointer()), align=2)
        return builder.bitcast(builder.shl(builder.zext(short, _INTEGERS), _integers(16)), VECTOR)

    return float32x16(types.int64), codegen


@intrinsic
def store_bfloat16(typingctx: Any, address: Any, vector: Any) -> Any:
    """Writes 16 floats as bfloat16, rounded to the nearest, ties to even; NaN stays NaN."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bits = builder.bitcast(args[1], _INTEGERS)
        odd = builder.and_(builder.lshr(bits, _integers(16)), _integers(1))
        rounded = builder.add(builder.add(bits, odd), _integers(0x7FFF))
        known = builder.fcmp_ordered("==", args[1], args[1])
        chosen = builder.select(known, rounded, builder.or_(bits, _integers(0x400000)))
        short = builder.trunc(builder.lshr(chosen, _integers(16)), _SHORTS)
        builder.store(short, builder.inttoptr(args[0], _SHORTS.as_pointer()), align=2)
        return context.get_dummy_value()

    return types.void(types.int64, float32x16), codegen


def spread(builder: Any, scalar: Any) -> Any:
    """Puts a scalar into all lanes."""
    vector = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), scalar, ir.Constant(_INT, 0))
    return builder.shuffle_vector(vector, ir.Constant(VECTOR, ir.Undefined), ir.Constant(_INTEGERS, [0] * LANES))


@intrinsic
def broadcast(typingctx: Any, address: Any) -> Any:
    """The float at an address in all lanes."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return spread(builder, builder.load(builder.inttoptr(args[0], FLOAT.as_pointer()), align=4))

    return float32x16(types.int64), codegen


@intrinsic
def splat(typingctx: Any, scalar: Any) -> Any:
    """A number in all lanes."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return spread(builder, args[0])

    return float32x16(types.float32), codegen


@intrinsic
def store_scalar(typingctx: Any, address: Any, scalar: Any) -> Any:
    """Writes one float to an address."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store(args[1], builder.inttoptr(args[0], FLOAT.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.float32), codegen


@intrinsic
def load_scalar(typingctx: Any, address: Any) -> Any:
    """The float at an address."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(builder.inttoptr(args[0], FLOAT.as_pointer()), align=4)

    return types.float32(types.int64), codegen


@intrinsic
def load_integer(typingctx: Any, address: Any) -> Any:
    """The 64-bit integer at an address."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(builder.inttoptr(args[0], ir.IntType(64).as_pointer()), align=8)

    return types.int64(types.int64), codegen


@njit
def keep(scratch: Any) -> None:
    """Does nothing. numba frees an array after its last use, so it must be named after the last use of its address."""


@intrinsic
def next_task(typingctx: Any, table: Any) -> Any:
    """The address of the next task's arguments, or 0 if none is left; threads may call it at once.

    The table has 64-bit integers: tasks given out so far, number of tasks, arguments of a task, then the arguments.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        integer = ir.IntType(64)
        pointer = builder.inttoptr(args[0], integer.as_pointer())
        index = builder.atomic_rmw("add", pointer, ir.Constant(integer, 1), "monotonic")
        count = builder.load(builder.gep(pointer, [ir.Constant(integer, 1)]), align=8)
        width = builder.load(builder.gep(pointer, [ir.Constant(integer, 2)]), align=8)
        first = builder.add(args[0], ir.Constant(integer, 24))
        place = builder.add(first, builder.mul(builder.mul(index, width), ir.Constant(integer, 8)))
        return builder.select(builder.icmp_signed("<", index, count), place, ir.Constant(integer, 0))

    return types.int64(types.int64), codegen


def arguments(count: int) -> Any:
    """Makes the function that reads a task's arguments, which are `count` integers, as a tuple; see `compiled.loop`."""

    @intrinsic
    def read(typingctx: Any, task: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
            values = [
                builder.load(builder.gep(pointer, [ir.Constant(ir.IntType(64), index)]), align=8)
                for index in range(count)
            ]
            return context.make_tuple(builder, sig.return_type, values)

        return types.UniTuple(types.int64, count)(types.int64), codegen

    read.count = count
    return read


@intrinsic
def lane_sum(typingctx: Any, vector: Any) -> Any:
    """The sum of the lanes, pairwise."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        value = args[0]
        for half in (8, 4, 2, 1):
            order = [lane + half if lane < half else 0 for lane in range(LANES)]
            moved = builder.shuffle_vector(value, value, ir.Constant(_INTEGERS, order))
            value = builder.fadd(value, moved)
        return builder.extract_element(value, ir.Constant(_INT, 0))

    return types.float32(float32x16), codegen


@intrinsic
def exp2(typingctx: Any, x: Any) -> Any:
    """2^x for x below 128; x under -126 counts as -126 (1.2e-38). Relative error: 2 units in the last place."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _exp2(builder, args[0])

    return float32x16(float32x16), codegen


@intrinsic
def sigmoid(typingctx: Any, x: Any) -> Any:
    """1 / (1 + e^-x), without overflow at either end."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        one = constant(1.0)
        small = _exp_minus_abs(builder, args[0])
        numerator = builder.select(builder.fcmp_ordered(">=", args[0], constant(0.0)), one, small)
        return builder.fdiv(numerator, builder.fadd(one, small))

    return float32x16(float32x16), codegen


@intrinsic
def softplus(typingctx: Any, x: Any) -> Any:
    """log(1 + e^x) with a small relative error at both ends: max(x, 0) + 2 atanh(w / (2 + w)), w = e^-|x|."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        small = _exp_minus_abs(builder, args[0])
        ratio = builder.fdiv(small, builder.fadd(small, constant(2.0)))
        series = _horner(builder, builder.fmul(ratio, ratio), _ATANH)
        return fused(builder, ratio, series, _at_least(builder, args[0], 0.0))

    return float32x16(float32x16), codegen


@intrinsic
def minimum(typingctx: Any, x: Any, y: Any) -> Any:
    """The smaller of both lane by lane; NaN where x is NaN."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", args[0], args[1]), args[1], args[0])

    return float32x16(float32x16, float32x16), codegen


@intrinsic
def maximum(typingctx: Any, x: Any, y: Any) -> Any:
    """The larger of both lane by lane; NaN where x is NaN."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<", args[0], args[1]), args[1], args[0])

    return float32x16(float32x16, float32x16), codegen


@intrinsic
def keep_first(typingctx: Any, x: Any, count: Any) -> Any:
    """The first `count` lanes as they are, zeros in the others."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        count = builder.trunc(args[1], _INT)
        limit = builder.insert_element(ir.Constant(_INTEGERS, ir.Undefined), count, ir.Constant(_INT, 0))
        limit = builder.shuffle_vector(limit, limit, ir.Constant(_INTEGERS, [0] * LANES))
        kept = builder.icmp_signed("<", ir.Constant(_INTEGERS, list(range(LANES))), limit)
        return builder.select(kept, args[0], constant(0.0))

    return float32x16(float32x16, types.int64), codegen
