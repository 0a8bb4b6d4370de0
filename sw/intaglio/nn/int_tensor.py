"""A tensor of integers that autograd accepts: codes and a power-of-two exponent.

``IntTensor`` is a wrapper subclass. It tells autograd that it is float32, because autograd
differentiates nothing else, but it owns no floating storage: its payload is one or more integer
tensors. Only what autograd itself needs is dispatched; everything else is refused by name.
"""

import abc
import itertools
from collections.abc import Sequence
from typing import Any

import torch

__all__ = ["IntTensor", "Late", "Stamp"]

_INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64)
_DETACH, _ALIAS = torch.ops.aten.detach.default, torch.ops.aten.alias.default
#: A number for every payload that there has been.
_serials = itertools.count(1)


class Stamp:
    """Says whether the integers of some tensors may differ from what they were when it was made.

    They may after an assignment, after writing in place with operators of PyTorch, and where other
    tensors are asked about. Writing through ``.data``, a numpy view or a pointer is not counted:
    whoever does that to a parameter calls :meth:`IntTensor.assign` afterwards, and to a buffer
    ``model.eval()``. The tensors are kept alive, so that no other takes the identity of one.
    """

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self._tensors = tuple(tensors)
        codes = [x.codes if isinstance(x, IntTensor) else x for x in tensors]
        self._serials = [getattr(x, "serial", 0) for x in tensors]
        # Tensors of torch.inference_mode do not count what is written to them.
        self._counted = not any(x.is_inference() for x in codes)
        self._versions = [(x, x._version if self._counted else 0) for x in codes]

    def holds(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Return whether ``tensors`` are the same with the same integers."""
        if not self._counted or len(tensors) != len(self._tensors):
            return False
        for x, kept, serial in zip(tensors, self._tensors, self._serials, strict=True):
            if x is not kept or (serial and x.serial != serial):  # type: ignore[attr-defined]
                return False
        # As long as the serial is the same, so is the tensor of the codes.
        return all(codes._version == version for codes, version in self._versions)


class Late(abc.ABC):
    """Integers that are computed when they are asked for, by ranges of their first axis.

    So the gradient of a large weight, four bytes for each, is not held before a quantiser reads it.
    It keeps alive what it is computed from. ``taps`` are those of a kernel that :meth:`compute`
    returns, where the others are zero.
    """

    def __init__(
        self,
        shape: Sequence[int],
        device: torch.device,
        taps: tuple[slice, slice] | None = None,
    ) -> None:
        self.shape, self.device, self.taps = torch.Size(shape), device, taps

    @abc.abstractmethod
    def compute(self, start: int, stop: int) -> torch.Tensor:
        """Return a range of the first axis, of :attr:`taps` only."""

    def quantizer(
        self, rows: tuple[int, int], shift: int, out: torch.Tensor, **options: Any
    ) -> Any:
        """Return what writes the codes of a range to ``out``, for ``kernels.weight_gradients``; it
        takes no more memory than they do. None where there is no such kernel.

        See :func:`intaglio.nn.kernels.native.weight_gradient_codes` for the options.
        """
        return None

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return a range of the first axis with all taps."""
        return self.whole(self.compute(start, stop))

    def whole(self, live: torch.Tensor) -> torch.Tensor:
        """Return rows of :attr:`compute` with all taps."""
        if self.taps is None:
            return live
        _, C, R, S = self.shape
        out = live.new_zeros((live.shape[0], R, S, C)).permute(0, 3, 1, 2)
        out[:, :, self.taps[0], self.taps[1]] = live
        return out


def _rows(codes: torch.Tensor | Late, start: int, stop: int) -> torch.Tensor:
    return codes.rows(start, stop) if isinstance(codes, Late) else codes[start:stop]


def _sum(terms: Sequence[tuple[torch.Tensor, int]], exponent: int) -> torch.Tensor:
    first, *others = (c.to(torch.int64) << (e - exponent) for c, e in terms)
    return sum(others, first)


class IntTensor(torch.Tensor):
    """Integers ``codes`` that stand for ``codes * 2**exponent``.

    Feature maps are (N, C, H, W) and lie in memory as (N, H, W, C). A gradient that was summed by
    autograd is kept as its terms until a quantiser consumes it, so that a sum costs no pass over
    memory; ``codes`` adds them, exactly.

    Parameters
    ----------
    codes
        int8 (activations, errors), int16 (master weights), int32 or int64 (wide).
    exponent
        Any ``int``.

    Raises
    ------
    TypeError
        ``codes`` are not integers.
    NotImplementedError
        An operation that has no meaning here; the text names it.
    """

    _terms: tuple[tuple[torch.Tensor | Late, int], ...]
    #: Another number for each payload that any tensor has been given.
    serial: int
    #: Name of the value in the graph that is being recorded.
    value_name: str | None = None
    #: Of a master: the shift that its 8-bit codes had last, a guess that never changes a result.
    shift_guess: int | None = None

    @staticmethod
    def __new__(cls, codes: torch.Tensor, exponent: int) -> "IntTensor":
        # Hundreds in a step, of such codes nearly all.
        if type(codes) is torch.Tensor and codes.dtype in _INTEGERS:
            return cls._wrap(((codes, int(exponent)),))
        return cls.from_terms(((codes, exponent),))

    @classmethod
    def _wrap(cls, terms: tuple[tuple[torch.Tensor | Late, int], ...]) -> "IntTensor":
        codes = terms[0][0]
        out = torch.Tensor._make_wrapper_subclass(
            cls, codes.shape, dtype=torch.float32, device=codes.device
        )
        out._terms, out.serial = terms, next(_serials)
        return out

    @classmethod
    def from_terms(cls, terms: Sequence[tuple[torch.Tensor | Late, int]]) -> "IntTensor":
        """Return the exact sum of ``terms`` = (codes, exponent), all of one shape; codes may be
        :class:`Late`.
        """
        codes = terms[0][0]
        shape = codes.shape
        for c, _ in terms:
            if isinstance(c, IntTensor):
                raise TypeError("codes must be a tensor of signed integers, not an IntTensor")
            if not isinstance(c, Late) and c.dtype not in _INTEGERS:
                raise TypeError(f"codes must be a tensor of signed integers, not {c.dtype}")
            if c is not codes and c.shape != shape:
                raise ValueError(f"terms have shapes {tuple(shape)} and {tuple(c.shape)}")
        return cls._wrap(tuple([(c, int(e)) for c, e in terms]))

    def _replace(self, terms: Sequence[tuple[torch.Tensor, int]]) -> None:
        self._terms = tuple([(c, int(e)) for c, e in terms])
        self.serial = next(_serials)

    @property
    def terms(self) -> tuple[tuple[torch.Tensor, int], ...]:
        """Value of the summands, each (codes, exponent)."""
        if any(isinstance(c, Late) for c, _ in self._terms):
            self._terms = tuple((_rows(c, 0, c.shape[0]), e) for c, e in self._terms)
        return self._terms  # type: ignore[return-value]

    @property
    def exponent(self) -> int:
        """Value of the exponent of :attr:`codes`."""
        terms = self._terms
        return terms[0][1] if len(terms) == 1 else min(e for _, e in terms)

    @property
    def codes(self) -> torch.Tensor:
        """Value of the integers; more than one term is added into int64."""
        terms = self._terms
        if len(terms) == 1 and isinstance(terms[0][0], torch.Tensor):  # what it nearly always is
            return terms[0][0]
        terms = self.terms
        if len(terms) > 1:
            terms = ((_sum(terms, self.exponent), self.exponent),)
            self._replace(terms)
        return terms[0][0]

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return a range of the first axis of :attr:`codes`; what is late stays so."""
        if start == 0 and stop == self.shape[0] and len(self._terms) > 1:
            return self.codes
        terms = [(_rows(c, start, stop), e) for c, e in self._terms]
        return terms[0][0] if len(terms) == 1 else _sum(terms, self.exponent)

    def late(self) -> Late | None:
        """Return what computes the codes, if nothing is added to it."""
        codes = self._terms[0][0]
        return codes if len(self._terms) == 1 and isinstance(codes, Late) else None

    def holds(self, other: "IntTensor") -> bool:
        """Return whether the codes of ``other`` are among the terms."""
        return any(c is d for c, _ in self._terms for d, _ in other._terms)

    def assign(self, codes: torch.Tensor, exponent: int) -> None:
        """Replace the payload of a parameter; shape and type stay."""
        old = self.codes
        if codes is not old and (codes.shape != old.shape or codes.dtype != old.dtype):
            raise ValueError(
                f"codes must be {old.dtype} {tuple(old.shape)}, not {codes.dtype} "
                f"{tuple(codes.shape)}"
            )
        self._replace(((codes, exponent),))

    def replace(self, codes: torch.Tensor, exponent: int) -> None:
        """Let a gradient stand for other integers of its shape, of any type."""
        if codes.shape != self.shape:
            raise ValueError(f"codes must be {tuple(self.shape)}, not {tuple(codes.shape)}")
        self._replace(((codes, exponent),))

    def item(self) -> float:
        """Return the value of a tensor of one element as a Python number, for metrics."""
        return int(self.codes.item()) * 2.0**self.exponent

    def to_float(self) -> torch.Tensor:
        """Return a float64 tensor of the values: for tests and reports, never inside a step."""
        return self.codes.to(torch.float64) * 2.0**self.exponent

    def __repr__(self, **_: Any) -> str:
        kinds = "+".join(
            str(getattr(c, "dtype", "late")).removeprefix("torch.") for c, _ in self._terms
        )
        return f"IntTensor(shape={tuple(self.shape)}, codes={kinds}, exponent={self.exponent})"

    def __deepcopy__(self, memo: dict) -> "IntTensor":
        out = IntTensor.from_terms(tuple((c.clone(), e) for c, e in self.terms))
        out.requires_grad_(self.requires_grad)
        if getattr(self, "_is_param", False):
            out._is_param = True  # what nn.Parameter sets on a subclass
        memo[id(self)] = out
        return out

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func is _DETACH or func is _ALIAS:
            return cls._wrap(args[0]._terms)
        aten = torch.ops.aten
        if func is aten.clone.default:
            return cls.from_terms(tuple((c.clone(), e) for c, e in args[0].terms))
        if func is aten.add.Tensor and not kwargs and all(isinstance(a, cls) for a in args):
            return cls.from_terms(args[0]._terms + args[1]._terms)
        if func is aten.add_.Tensor and not kwargs and all(isinstance(a, cls) for a in args):
            args[0]._replace(args[0]._terms + args[1]._terms)  # gradients of two backward passes
            return args[0]
        if func is aten.ones_like.default:  # the gradient that loss.backward() starts from
            return cls(torch.ones_like(args[0].codes), 0)
        if func is aten.new_empty_strided.default:  # a gradient that goes to two leaves is copied
            zero = torch.zeros((), dtype=torch.int64, device=args[0].device)
            return cls(zero.expand(args[1]), 0)
        if func is aten.copy_.default and isinstance(args[1], cls):
            if args[0].codes.dtype == torch.int16:  # load_state_dict
                args[0].assign(args[1].codes.clone(), args[1].exponent)
            else:
                args[0]._replace([(c.clone(), e) for c, e in args[1].terms])
            return args[0]
        # Not TypeError: the operators of Python would turn that into a text without the name.
        raise NotImplementedError(
            f"IntTensor does not support {func}: integers have no such operation here"
        )
