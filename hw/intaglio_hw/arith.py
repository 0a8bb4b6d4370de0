"""The arithmetic of :mod:`intaglio.spec.arith` for hardware values.

Same names, same results, exact widths.

Each function returns a combinational expression that is wide enough for every result, so that
nothing is lost where the specification has no bound. Operands are signed Amaranth values (or
``int`` where said so).
"""

from amaranth.hdl import Cat, Const, Mux, Shape, Value, ValueLike, signed, unsigned

from intaglio.spec.arith import CODE_MAX, CODE_MIN

__all__ = ["less", "requantize", "round_shift", "saturate", "wrap"]


def _value(x: ValueLike) -> Value:
    """Return ``x`` as a signed value that holds all of it."""
    x = Value.cast(x)
    return x if x.shape().signed else Cat(x, Const(0, 1)).as_signed()


def _fit(x: ValueLike, shape: Shape) -> Value:
    """Return ``x`` in ``shape``, extended or cut: the caller has shown that it fits."""
    x = Value.cast(x)
    if x.shape().width >= shape.width:
        x = x[: shape.width]
    elif x.shape().signed:
        x = Cat(x, x[-1].replicate(shape.width - x.shape().width))
    else:
        x = Cat(x, Const(0, shape.width - x.shape().width))
    return x.as_signed() if shape.signed else x.as_unsigned()


def less(a: ValueLike, b: ValueLike) -> Value:
    """Return the bit ``a < b``: the sign of an exact difference.

    A comparison operator becomes a carry chain whose carry and overflow leave it for the fabric,
    which on an ECP5 costs more than the chain; a sign is an ordinary output of the adder.
    """
    return (_value(a) - _value(b))[-1]


def round_shift(x: ValueLike, shift: ValueLike) -> Value:
    """Divide by ``2**shift``, to nearest, ties towards +inf: ``floor(x / 2**shift + 1/2)``.

    ``shift`` is an unsigned value or an ``int`` >= 0. The result is as wide as ``x``, and one bit
    more: that of the carry. Instead of adding half of the divisor before the shift, the last bit
    that is shifted out is added after it, which is the same: ``floor(x / 2**s + 1/2) =
    floor((floor(2 * x / 2**s) + 1) / 2)``.
    """
    x = _value(x)
    shift = Value.cast(shift)
    if shift.shape().signed:
        raise TypeError(f"shift must be unsigned, not {shift!r}")
    doubled = Cat(Const(0, 1), x).as_signed()  # width + 1
    shifted = (doubled >> shift)[:].as_signed()
    return _fit((shifted + 1) >> 1, signed(len(x) + 1))


def saturate(x: ValueLike, low: ValueLike = CODE_MIN, high: ValueLike = CODE_MAX) -> Value:
    """Limit ``x`` to ``[low, high]``; never wraps.

    The result is as wide as the wider of the bounds.

    ``low`` and ``high`` are signed values or ``int``. Where ``low > high`` the result is ``high``,
    as in the specification.
    """
    x, low, high = _value(x), _value(low), _value(high)
    shape = signed(max(len(low), len(high)))
    # min(max(x, low), high) with the comparisons side by side.
    above = less(high, x) | less(high, low)
    return _fit(Mux(above, high, Mux(less(x, low), low, x)), shape)


def wrap(x: ValueLike, bits: int) -> Value:
    """Return the signed value of the lowest ``bits`` bits of ``x``, as a register holds it."""
    if bits < 1:
        raise ValueError(f"bits must be at least 1, not {bits}")
    return _fit(_value(x), signed(bits))


def requantize(
    acc: ValueLike,
    multiplier: ValueLike,
    bias: ValueLike,
    shift: ValueLike,
    *,
    residual: ValueLike = 0,
    residual_shift: ValueLike = 0,
    low: ValueLike = CODE_MIN,
    high: ValueLike = CODE_MAX,
) -> Value:
    """Return ``saturate(round_shift(acc * m + b + (residual << r), s), low, high)``.

    One expression, the definition that :class:`intaglio_hw.requantizer.Requantizer` pipelines. No
    sum wraps.
    """
    residual_shift = Value.cast(residual_shift)
    if residual_shift.shape() != unsigned(len(residual_shift)):
        raise TypeError(f"residual_shift must be unsigned, not {residual_shift!r}")
    total = _value(acc) * _value(multiplier) + _value(bias) + (_value(residual) << residual_shift)
    return saturate(round_shift(total, shift), low, high)
