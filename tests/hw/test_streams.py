"""The buffers between streams in both simulators."""

import gc
from collections.abc import Callable

import pytest

from intaglio_hw.streams import Queue, SkidBuffer, TwinBuffer
from intaglio_sim.runner import run_bench


@pytest.mark.parametrize(
    ("make", "depth"),
    [
        pytest.param(lambda: SkidBuffer(shape=12), 2, id="skid"),
        pytest.param(lambda: TwinBuffer(shape=12), 2, id="twin"),
        pytest.param(lambda: Queue(shape=12, depth=3), 3, id="queue-3"),
        pytest.param(lambda: Queue(shape=12, depth=7), 7, id="queue-7"),
    ],
)
@pytest.mark.parametrize("simulator", ["icarus", "verilator"])
def test_streams(
    simulator: str, make: Callable[[], SkidBuffer | TwinBuffer | Queue], depth: int
) -> None:
    component = make()
    result = run_bench(
        component,
        "bench_streams",
        simulator=simulator,
        env={"LATENCY": component.LATENCY, "DEPTH": depth},
    )
    assert len(result.tests) == 11


@pytest.mark.filterwarnings("ignore:.*created but never used")
def test_queue_refuses_depth() -> None:
    with pytest.raises(ValueError, match="depth must be at least 3, not 2"):
        Queue(shape=12, depth=2)
    gc.collect()  # Amaranth warns of the queue that was never used: here, not in the next test
