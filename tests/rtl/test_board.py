"""The board's top in the simulator: host, UART pins, bridge, memory, accelerator, and back."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from intaglio.cli import main
from intaglio.cli.networks import random_network
from intaglio.compile import compile_graph
from intaglio.data import encode, open_dataset
from intaglio.spec import isa
from intaglio.spec.config import CONFIGS
from intaglio.spec.program import read_value, save_program
from intaglio_hw.boards.bitstream import BITSTREAMS
from intaglio_sim.board import Board, BoardBackend, SerialLink, open_port
from intaglio_sim.driver import Driver, RegisterError
from intaglio_sim.executors import Network, make_executor
from intaglio_sim.random_graph import random_graph, random_input
from intaglio_sim.simulated_board import simulated_board

ROOT = Path(__file__).resolve().parents[2]
CAMVID = Path(os.environ.get("INTAGLIO_DATA", ROOT.parent / "shared" / "data")) / "CamVid"


@dataclass(frozen=True)
class Fit:
    """A network that fits in the memory of a board's bitstream, and image sizes with which it does
    not any more.
    """

    board: str
    width: str
    size: tuple[int, int]
    too_large: tuple[tuple[int, int], ...]
    model: str = "deeplab-mini"


FITS = [
    Fit("ulx3s-85f", "1/2", (48, 64), ((56, 64), (48, 72))),
    Fit("icebreaker", "1/8", (24, 32), ((40, 40),)),
]
#: Seconds: a simulation on a busy machine is thousands of times slower than the board.
PATIENCE = 200.0
#: Board -> the smallest accelerator that it is tried with.
SMALLEST = {"ulx3s-85f": CONFIGS["least-8x1"], "icebreaker": CONFIGS["tight-8x1"]}


@contextlib.contextmanager
def connected(path: str):
    port = open_port(path, baud=1_000_000, timeout_s=PATIENCE)
    try:
        yield BoardBackend(SerialLink(port, name=path), timeout_s=10 * PATIENCE)
    finally:
        port.close()


@pytest.mark.rtl
@pytest.mark.parametrize("board", SMALLEST)
def test_host_to_registers_and_memory(board):
    """The smallest accelerator in Icarus: memory through the pins, a program that stops."""
    config = SMALLEST[board]
    with simulated_board(config, memory_bytes=12288, board=board, simulator="icarus") as path:
        with connected(path) as backend:
            assert (backend.memory_bytes, backend.beat_bytes) == (3 * 4096, 8)
            data = bytes(range(16))
            backend.write_memory(8184, data)  # two requests: it crosses a border of transfers
            assert backend.read_memory(8184, 16) == data
            backend.write_memory(4096, b"\xff" * isa.INSTRUCTION_BYTES)
            driver = Driver(backend=backend, config=config)
            driver.start(program_base=4096, program_length=1, memory_bytes=8192)
            assert backend.wait_interrupt()
            assert driver.fields("status") == {"busy": 0, "done": 0, "failed": 1}
            assert driver.read("error") == isa.Error.OPCODE
            with pytest.raises(RegisterError):
                driver.write("identity", 0)
            assert backend.serial.repeated == 0


@pytest.mark.slow
@pytest.mark.rtl
def test_networks_on_the_board():
    """Random networks: every layer as the graph has it; one simulation, several programs."""
    config = CONFIGS["tiny-8x8"]
    with simulated_board(config, memory_bytes=36 * 4096, optimize="-O1") as path:
        with connected(path) as backend:
            for seed in (3, 4):
                graph, x = random_graph(seed), random_input(random_graph(seed), seed)
                board = Board(backend, compile_graph(graph, config))
                board.run(x[0])
                memory = board.read(board.program.values)
                expected = graph.evaluate(x)
                for name, placement in board.program.values.items():
                    found = read_value(memory, placement, config.R)
                    assert (found == expected[name][0]).all(), (seed, name)


def scenes(size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Return name -> image uint8 (H, W, 3): a built-in scene, and one of CamVid where it is."""
    height, width = size
    found = {"scene": open_dataset("shapes", "val", height=height, width=width)[0].image}
    if CAMVID.is_dir():
        dataset = open_dataset(f"camvid:{CAMVID}", "val", height=height, width=width)
        found["camvid"] = dataset[0].image
    return found


@pytest.mark.slow
@pytest.mark.rtl
@pytest.mark.parametrize("fit", FITS, ids=lambda fit: fit.board)
def test_a_class_map_through_the_pins(fit, tmp_path):
    """``intaglio run --on board``: the class map of a real image is PyTorch's, byte for byte."""
    bitstream = BITSTREAMS[fit.board]
    config, memory_bytes = bitstream.config, bitstream.memory_bytes
    module, graph = random_network(fit.model, fit.size, fit.width, 11)
    program = compile_graph(graph, config)
    assert program.memory_bytes <= memory_bytes
    save_program(program, tmp_path / "program.npz")
    torch = make_executor("torch", Network(graph=graph, model=module))
    words = ["run", tmp_path / "program.npz", "--on", "board", "--timeout", PATIENCE]
    images = scenes(fit.size)
    for name, image in images.items():
        Image.fromarray(image).save(tmp_path / f"{name}.png")
        words += ["--input", tmp_path / f"{name}.png"]
    options = {"memory_bytes": memory_bytes, "board": fit.board, "optimize": "-O1"}
    with simulated_board(config, **options) as path:
        assert main([str(word) for word in [*words, "--port", path]]) == 0
    for name, image in images.items():
        with Image.open(tmp_path / f"{name}-classes.png") as picture:
            found = np.asarray(picture)
        expected = torch(encode(image.transpose(2, 0, 1).copy()))[graph.outputs[0]][0]
        assert found.shape == fit.size and (found == expected).all(), name
        assert len(np.unique(found)) >= 3, "a class map of two classes tells little"


@pytest.mark.slow
@pytest.mark.parametrize("fit", FITS, ids=lambda fit: fit.board)
def test_what_does_not_fit(fit):
    """One more row or column of blocks, and the image of the network is too large."""
    bitstream = BITSTREAMS[fit.board]
    for size in fit.too_large:
        _, graph = random_network(fit.model, size, fit.width, 11)
        assert compile_graph(graph, bitstream.config).memory_bytes > bitstream.memory_bytes
