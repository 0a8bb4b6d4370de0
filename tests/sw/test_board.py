"""The host's side of a board: frames, the link over a pseudo-terminal, and intaglio run."""

import contextlib
import os
import re
import select
import threading
import tty

import numpy as np
import pytest
from PIL import Image

from intaglio.cli import main
from intaglio.compile import compile_graph
from intaglio.data import encode
from intaglio.spec import link, regs
from intaglio.spec.config import CONFIGS
from intaglio.spec.errors import IntaglioError
from intaglio.spec.link import Command, Request, Response, Status
from intaglio.spec.program import read_value, save_program
from intaglio_sim.board import Board, BoardBackend, SerialLink, open_port
from intaglio_sim.driver import MachineError, RegisterError
from intaglio_sim.executors import BoardSettings, Network, make_executor
from intaglio_sim.golden.registers import GoldenBackend
from intaglio_sim.random_graph import random_graph, random_input

MINI = CONFIGS["mini-8x8"]
MEMORY_BYTES = 64 * 4096
HEADER = 1 + Request.HEADER_BYTES
CHECK = 4


class TwinBoard:
    """The bridge's rules in Python, behind a pseudo-terminal, with the golden machine behind it.

    ``lose`` and ``damage`` hold the numbers (from 0) of the responses that get lost, arrive with a
    flipped bit; ``deaf`` the numbers of the requests that it does not hear; ``noise`` is sent
    before each response.
    """

    def __init__(self, config=MINI, memory_bytes: int = MEMORY_BYTES):
        self.machine = GoldenBackend(config, memory_bytes)
        self.lose, self.damage, self.deaf = set(), set(), set()
        self.noise = b""
        self.requests = self.responses = 0
        self.version = link.LINK_VERSION
        self.last = None
        self._terminal, self._other = os.openpty()
        tty.setraw(self._other)
        self.path = os.ttyname(self._other)
        self._stop, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        os.write(self._wake, b"x")
        self._thread.join()
        for descriptor in (self._terminal, self._other, self._stop, self._wake):
            os.close(descriptor)

    def _serve(self) -> None:
        data = b""
        while True:
            ready, _, _ = select.select([self._terminal, self._stop], [], [])
            if self._stop in ready:
                return
            data += os.read(self._terminal, 4096)
            while len(data) >= HEADER + CHECK:
                payload = int.from_bytes(data[3:5], "little") if data[1] & 1 else 0
                size = HEADER + payload + CHECK
                if len(data) < size:
                    break
                frame, data = data[:size], data[size:]
                self._answer(Request.decode(frame))

    def _answer(self, request: Request) -> None:
        number, self.requests = self.requests, self.requests + 1
        if number in self.deaf:
            return
        write = request.command & 1
        opens = (request.command, request.address) == (Command.WRITE_REGISTER, 0x1000)
        if write and not opens and self.last and self.last[0] == request.sequence:
            status, payload = self.last[1], b""
        else:
            status, payload = self._carry_out(request)
            self.last = (request.sequence, status) if write else None
        frame = bytearray(
            Response(status=status, sequence=request.sequence, payload=payload).encode()
        )
        number, self.responses = self.responses, self.responses + 1
        if number in self.damage:
            frame[len(frame) // 2] ^= 4
        if number not in self.lose:
            os.write(self._terminal, self.noise + bytes(frame))

    def _carry_out(self, request: Request) -> tuple[int, bytes]:
        machine, address = self.machine, request.address
        own = {
            0x1000: self.version,
            0x1004: len(machine.memory),
            0x1008: machine.config.R,
            0x100C: 25_000_000,
            0x1010: int(machine.interrupt),
        }
        try:
            if request.command == Command.READ_REGISTER:
                value = own[address] if address in own else machine.read32(address)
                return Status.OK, value.to_bytes(4, "little")
            if request.command == Command.WRITE_REGISTER:
                if address != 0x1000:
                    machine.write32(address, int.from_bytes(request.payload, "little"))
                return Status.OK, b""
            assert address % machine.config.R == request.length % machine.config.R == 0
            assert address // link.MAX_PAYLOAD == (address + request.length - 1) // link.MAX_PAYLOAD
            if request.command == Command.READ_MEMORY:
                return Status.OK, machine.read_memory(address, request.length)
            assert request.command == Command.WRITE_MEMORY
            machine.write_memory(address, request.payload)
            return Status.OK, b""
        except RegisterError:
            return Status.REFUSED, b""


@pytest.fixture
def board():
    twin = TwinBoard()
    yield twin
    twin.close()


@contextlib.contextmanager
def connected(twin: TwinBoard, timeout_s: float = 0.5):
    """A backend on the twin's port."""
    port = open_port(twin.path, baud=1_000_000, timeout_s=timeout_s)
    try:
        yield BoardBackend(SerialLink(port, name=twin.path, gap_s=0.01), timeout_s=1)
    finally:
        port.close()


def network(seed: int = 3):
    graph = random_graph(seed)
    return graph, random_input(graph, seed), compile_graph(graph, MINI)


# Frames


def test_frames():
    request = Request(command=0x21, sequence=7, length=2, address=0x1234_5678, payload=b"ab")
    frame = request.encode()
    assert frame[:-4].hex() == "c5210702007856341261" + "62"
    assert Request.decode(frame) == request
    response = Response(status=0, sequence=7, payload=b"abc")
    assert response.encode()[:-4].hex() == "5c00070300616263"
    assert Response.decode(response.encode()) == response
    assert len(response.encode()) == Response.frame_bytes(3)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda frame: frame[:8], "a response has at least 9 bytes, not 8"),
        (lambda frame: b"\0" + frame[1:], "a response begins with 0x5c, not 0x00"),
        (lambda frame: frame[:-1] + b"\0", "the check of a response is wrong"),
        (lambda frame: frame[:2] + b"\1" + frame[3:], "the check of a response is wrong"),
    ],
)
def test_damaged_frames(change, text):
    frame = Response(status=0, sequence=2, payload=b"1234").encode()
    with pytest.raises(IntaglioError, match=text):
        Response.decode(change(frame))


def test_the_lowest_bit_of_a_command_is_its_payload():
    assert {command for command in Command if command & 1} == {
        Command.WRITE_REGISTER,
        Command.WRITE_MEMORY,
    }


# The link


def test_a_program_on_the_board(board):
    """Every value as the graph has it; a second image needs no second program."""
    graph, x, program = network()
    with connected(board) as backend:
        target = Board(backend, program)
        sent = []
        for image in (x[0], np.flip(x[0], -1).copy()):
            sent.append(-board.requests)
            outcome = target.run(image)
            assert outcome.finished and outcome.counters["instructions"] == program.length - 1
            expected = graph.evaluate(image[None])
            memory = target.read(program.values)
            for name, placement in program.values.items():
                found = read_value(memory, placement, MINI.R)
                assert (found == expected[name][0]).all(), name
            sent[-1] += board.requests
        assert sent[1] < sent[0]
    assert board.machine.runs == 2


def test_what_is_lost_is_sent_again(board):
    """Requests and responses, lost and damaged; a start is carried out once."""
    _, x, program = network()
    board.deaf, board.lose, board.damage = {1, 9}, {3, 40}, {5, 20}
    board.noise = b"\x00\xff"
    with connected(board, timeout_s=0.1) as backend:
        target = Board(backend, program)
        start = regs.register("control").address
        original = board._carry_out

        def lose_the_start(request):
            if (request.command, request.address) == (Command.WRITE_REGISTER, start):
                board.lose.add(board.responses)
            return original(request)

        board._carry_out = lose_the_start
        assert target.run(x[0]).finished
        assert backend.serial.repeated >= 7
    assert board.machine.runs == 1


def test_nobody_there(board):
    board.deaf = set(range(100))
    with pytest.raises(IntaglioError, match="no response after 5 attempts"):
        with connected(board, timeout_s=0.02):
            pass
    told = "^/dev/no-such-port: cannot open the serial port: No such file or directory$"
    with pytest.raises(IntaglioError, match=told):
        open_port("/dev/no-such-port", baud=115200, timeout_s=1)


def test_a_port_is_not_shared(board):
    with connected(board):
        with pytest.raises(IntaglioError, match="the serial port: another process has it$"):
            open_port(board.path, baud=115200, timeout_s=1)


def test_another_version_of_the_link(board):
    board.version = 0x0002_0001
    with pytest.raises(IntaglioError, match="link version 2.1, expected 1.0"):
        with connected(board):
            pass


def test_a_register_that_is_refused(board):
    with connected(board) as backend:
        with pytest.raises(RegisterError, match="WRITE_REGISTER of 0x0 was refused"):
            backend.write32(0, 1)


def test_a_program_that_does_not_fit(board):
    _, _, program = network()
    board.machine.memory = board.machine.memory[:4096]
    with connected(board) as backend:
        with pytest.raises(IntaglioError, match=r"the program needs [\d,]+ bytes of memory, the "):
            Board(backend, program)
        with pytest.raises(IntaglioError, match="bytes up to 4,104 do not fit"):
            backend.write_memory(4096, bytes(8))
        with pytest.raises(ValueError, match="must be multiples of 8, not 4, 8"):
            backend.write_memory(4, bytes(8))


def test_a_program_for_another_configuration(board):
    graph = random_graph(3)
    with connected(board) as backend:
        with pytest.raises(IntaglioError, match="the program is for tiny-8x8"):
            Board(backend, compile_graph(graph, CONFIGS["tiny-8x8"]))


def test_a_program_that_stops(board):
    _, x, program = network()
    program.memory[program.program_base : program.program_base + 64] = 255
    with connected(board) as backend:
        with pytest.raises(MachineError, match="stopped with OPCODE .* at instruction 0"):
            Board(backend, program).run(x[0])


# The command


def small_network():
    from intaglio.cli.networks import random_network

    return random_network("deeplab-mini", (16, 24), "1/8", 5)


def test_run_on_board(board, tmp_path, capsys):
    """The command's class map is torch's, byte for byte."""
    module, graph = small_network()
    program = compile_graph(graph, MINI)
    save_program(program, tmp_path / "program.npz")
    pixels = np.random.default_rng(5).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    words = ["run", tmp_path / "program.npz", "--on", "board", "--port", board.path]
    assert main([str(word) for word in [*words, "--input", tmp_path / "photo.png"]]) == 0
    assert "on board" in capsys.readouterr().out
    with Image.open(tmp_path / "photo-classes.png") as picture:
        found = np.asarray(picture)
    torch = make_executor("torch", Network(graph=graph, model=module))
    expected = torch(encode(pixels.transpose(2, 0, 1).copy()))[graph.outputs[0]][0]
    assert found.dtype == np.uint8 and (found == expected).all()


def test_every_value_from_the_board(board):
    graph, x, program = network()
    there = Network(graph=graph, config=MINI, board=BoardSettings(port=board.path, baud=115200))
    found = make_executor("board", there)(x[0])
    expected = graph.evaluate(x)
    assert found.keys() == program.values.keys()
    assert all((found[name] == expected[name][0]).all() for name in found)
    assert there.counters["board"]["instructions"] == program.length - 1


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--on", "board"], "--on board needs --port"),
        (["--on", "golden", "--port", "x"], "--port needs --on board"),
        (["--on", "boards"], "executor 'boards' is unknown; choose from spec, .*, board"),
    ],
)
def test_run_refuses(words, text, tmp_path, capsys):
    assert main(["run", str(tmp_path), "--input", "x.png", *words]) == 1
    assert re.search(text, capsys.readouterr().err)
