"""The C driver against its Python twin: the same accesses in the same order, the same outcome."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

import intaglio
from intaglio.compile import compile_graph
from intaglio.report.tables import register_header
from intaglio.spec import regs
from intaglio.spec.config import CONFIGS
from intaglio.spec.errors import IntaglioError
from intaglio_sim.driver import Driver, RegisterError
from intaglio_sim.golden.registers import GoldenBackend
from intaglio_sim.random_graph import random_graph, random_input

SOURCES = Path(intaglio.__file__).parent / "c"
MINI = CONFIGS["mini-8x8"]
BASE = 4096
#: As in intaglio_driver.h.
STATUSES = (
    "OK", "ACCESS", "IDENTITY_BAD", "VERSION_BAD", "CONFIG_BAD", "ARGUMENT", "BUSY",
    "NO_INTERRUPT", "STATE",
)  # fmt: skip

U32 = ctypes.c_uint32
READ = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, U32, ctypes.POINTER(U32))
WRITE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, U32, U32)
WAIT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)


class Device(ctypes.Structure):
    _fields_ = [
        ("read32", READ),
        ("write32", WRITE),
        ("wait_interrupt", WAIT),
        ("context", ctypes.c_void_p),
        ("config", U32),
        ("memory_base", U32),
    ]


class CProgram(ctypes.Structure):
    _fields_ = [(name, U32) for name in ("base", "length", "memory_bytes", "cycle_limit")]


class COutcome(ctypes.Structure):
    _fields_ = [
        ("finished", ctypes.c_int),
        ("error", U32),
        ("error_instruction", U32),
        ("counters", U32 * len(regs.COUNTERS)),
    ]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("c")
    (folder / "intaglio_regs.h").write_text(register_header(), encoding="utf-8")
    strict = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-O1"]
    where = ["-I", str(folder), "-I", str(SOURCES), str(SOURCES / "intaglio_driver.c")]
    target = folder / "driver.so"
    subprocess.run([compiler, *strict, "-fPIC", "-shared", *where, "-o", str(target)], check=True)
    return ctypes.CDLL(str(target))


class Logged(GoldenBackend):
    """A backend that writes down every access."""

    def __init__(self, program, x):
        super().__init__(MINI, BASE + program.memory_bytes)
        self.memory[BASE:] = program.image(x)
        self.log: list[tuple] = []

    def read32(self, address):
        value = super().read32(address)
        self.log.append(("read", address, value))
        return value

    def write32(self, address, value):
        self.log.append(("write", address, value))
        super().write32(address, value)

    def wait_interrupt(self):
        self.log.append(("wait",))
        return super().wait_interrupt()


def run_c(library, backend, program, *, memory_base: int = BASE) -> tuple[str, COutcome]:
    """Run the program with the C driver; return the name of the status, and the outcome."""

    def read(context, address, value):
        try:
            value[0] = backend.read32(address)
        except RegisterError:
            return -1
        return 0

    def write(context, address, value):
        try:
            backend.write32(address, value)
        except RegisterError:
            return -1
        return 0

    device = Device(
        READ(read),
        WRITE(write),
        WAIT(lambda context: not backend.wait_interrupt()),
        None,
        int(MINI.digest()[-8:], 16),
        memory_base,
    )
    description = CProgram(program.program_base, program.length, program.memory_bytes, 0)
    outcome = COutcome()
    status = library.intaglio_run(
        ctypes.byref(device), ctypes.byref(description), ctypes.byref(outcome)
    )
    return STATUSES[status], outcome


def run_python(backend, program):
    return Driver(backend=backend, config=MINI, memory_base=BASE).run(
        instructions=program.instructions.tobytes(),
        program_base=program.program_base,
        memory_bytes=program.memory_bytes,
        load=False,
    )


@pytest.fixture(scope="module")
def program():
    graph = random_graph(3)
    return compile_graph(graph, MINI), random_input(graph, 3)[0]


@pytest.mark.parametrize("broken", [False, True])
def test_the_same_accesses(library, program, broken):
    """A program that ends, and one that stops."""
    program, x = program
    ours, theirs = Logged(program, x), Logged(program, x)
    if broken:
        for backend in (ours, theirs):
            start = BASE + program.program_base + 64
            backend.memory[start : start + 64] = 255
    expected = run_python(ours, program)
    status, outcome = run_c(library, theirs, program)
    assert status == "OK" and theirs.log == ours.log
    assert len(ours.log) == 3 + 9 + 1 + 3 + 2 + len(regs.COUNTERS)
    assert bool(outcome.finished) == expected.finished != broken
    assert (outcome.error, outcome.error_instruction) == (
        int(expected.error),
        expected.error_instruction,
    )
    assert list(outcome.counters) == [expected.counters[name] for name, _ in regs.COUNTERS]
    assert (theirs.memory == ours.memory).all() and theirs.runs == 1


def _break_wait(backend):
    backend.wait_interrupt = lambda: backend.log.append(("wait",))


@pytest.mark.parametrize(
    ("change", "status", "text"),
    [
        (lambda b: b.values.update(identity=1), "IDENTITY_BAD", "identity 0x00000001"),
        (lambda b: b.values.update(version=0x2_0000), "VERSION_BAD", "register map version 2.0"),
        (lambda b: b.values.update(config=5), "CONFIG_BAD", "has configuration"),
        (lambda b: b.values.update(status=1), "BUSY", "the accelerator is busy"),
        (_break_wait, "NO_INTERRUPT", "no interrupt"),
        (lambda b: setattr(b, "_start", lambda: None), "NO_INTERRUPT", "no interrupt"),
        (
            lambda b: setattr(b, "_start", lambda: b.values.update(interrupt_status=1, status=6)),
            "STATE",
            "interrupt .* with status",
        ),
    ],
)
def test_the_same_refusals(library, program, change, status, text):
    program, x = program
    ours, theirs = Logged(program, x), Logged(program, x)
    for backend in (ours, theirs):
        change(backend)
    with pytest.raises(IntaglioError, match=text):
        run_python(ours, program)
    assert run_c(library, theirs, program)[0] == status
    assert theirs.log == ours.log


def test_an_access_that_fails(library, program):
    program, x = program
    backend = Logged(program, x)
    cycle_limit = regs.register("cycle_limit").address
    del backend._by_address[cycle_limit]
    assert run_c(library, backend, program)[0] == "ACCESS"
    assert backend.log[-1] == ("write", cycle_limit, 0)
    assert run_c(library, Logged(program, x), program, memory_base=100)[0] == "ARGUMENT"
