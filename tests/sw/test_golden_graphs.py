"""Compiled networks do not depend on what the buffers hold before."""

import numpy as np
import pytest

from intaglio.compile import compile_graph
from intaglio.spec.config import CONFIGS
from intaglio.spec.isa import Error
from intaglio.spec.program import read_value
from intaglio_sim.golden import GoldenMachine, check_program
from intaglio_sim.random_graph import random_graph, random_input


@pytest.mark.parametrize("config_name", CONFIGS)
@pytest.mark.parametrize("seed", (2, 3))
def test_what_nobody_wrote_does_not_matter(seed: int, config_name: str) -> None:
    config = CONFIGS[config_name]
    graph = random_graph(seed)
    x = random_input(graph, seed)
    expected = graph.evaluate(x)
    program = compile_graph(graph, config)
    report = check_program(program)
    assert report.ok, str(report)
    memories = []
    # Two fills: what nobody has written must not matter.
    for fill in (0x00, 0xA5):
        memory = program.image(x[0])
        result = GoldenMachine(config, fill=fill).run_program(program, memory)
        assert result.error == Error.NONE, result.error_text
        assert result.instructions_executed == program.length - 1
        for name, placement in program.values.items():
            found = read_value(memory, placement, config.R)
            np.testing.assert_array_equal(found, expected[name][0], err_msg=name)
        memories.append(memory)
    # Outside of the values there may be lanes without meaning, but the program is as it was.
    start = program.program_base
    for memory in memories:
        np.testing.assert_array_equal(
            memory[start : start + len(program.instructions)], program.instructions
        )
