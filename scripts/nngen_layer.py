"""One convolution on NNgen, simulated in Verilator; scripts/bench-nngen runs this file.

    nngen_layer.py --kernel 3 --inputs 64 --outputs 64 --size 56 --lanes 1,8 --bus 64 --folder DIR

Needs nngen 1.3 and ``verilator`` on PATH. Int8 codes, bias and scale for each channel, int32 sums,
ReLU, padding to the same size. ``--lanes`` are NNgen's par_ich and par_och; it has
kernel * kernel * par_ich * par_och multipliers, since it unrolls the kernel. The last line of
standard output is a JSON object; every output of the layer is compared with NNgen's own software
evaluation inside the simulation.
"""

import argparse
import json
import math
import os
import re
from pathlib import Path

import nngen as ng
import numpy as np
import veriloggen.thread as vthread
import veriloggen.types.axi as axi
from veriloggen import Module, Not, Seq, simulation

#: Bytes to which NNgen's regions in memory are aligned here.
ALIGNMENT = 4096
#: Words of the memory image in bits, and how many.
WORD, WORDS = 32, 1 << 21


def layer(kernel: int, inputs: int, outputs: int, size: int, dilation: int):
    """Return the operator and its five tensors: input, weight, bias, scale."""
    act = ng.placeholder(ng.int8, shape=(1, size, size, inputs), name="act")
    weight = ng.variable(ng.int8, shape=(outputs, kernel, kernel, inputs), name="weight")
    bias = ng.variable(ng.int32, shape=(outputs,), name="bias")
    scale = ng.variable(ng.int8, shape=(outputs,), name="scale")
    options = {} if dilation == 1 else {"dilation": (1, dilation, dilation, 1)}
    out = ng.conv2d(
        act,
        weight,
        (1, 1, 1, 1),
        bias=bias,
        scale=scale,
        act_func=ng.relu,
        padding="SAME",
        dtype=ng.int8,
        sum_dtype=ng.int32,
        name="conv2d",
        **options,
    )
    return out, act, weight, bias, scale


def run(arguments: argparse.Namespace) -> dict:
    """Generate, simulate and compare; return what was seen."""
    out, act, weight, bias, scale = layer(
        arguments.kernel, arguments.inputs, arguments.outputs, arguments.size, arguments.dilation
    )
    par_ich, par_och = arguments.lanes
    out.attribute(par_ich=par_ich, par_och=par_och, cshamt_out=12)
    target = ng.to_veriloggen([out], "layer", silent=True, config={"maxi_datawidth": arguments.bus})
    rng = np.random.default_rng(1)
    values = {
        "act": rng.integers(-127, 128, act.shape),
        "weight": rng.integers(-127, 128, weight.shape),
        "bias": rng.integers(-5000, 5001, bias.shape),
        "scale": rng.integers(1, 8, scale.shape),
    }
    expected = ng.eval([out], **values)[0]

    tensors = [act, weight, bias, scale, out]
    room = max(math.ceil(t.memory_size / ALIGNMENT) * ALIGNMENT for t in tensors)
    check_address = max(t.addr for t in tensors) + room
    scratch_address = check_address + room
    memory_image = np.zeros(WORDS, np.int64)

    def place(tensor, value, address, lanes):
        width = tensor.dtype.width
        aligned = max(math.ceil(arguments.bus / width), lanes)
        axi.set_memory(memory_image, value, WORD, width, address, aligned)

    place(act, values["act"], act.addr, par_ich)
    place(weight, values["weight"], weight.addr, par_ich)
    place(bias, values["bias"], bias.addr, par_och)
    place(scale, values["scale"], scale.addr, par_och)
    place(out, expected, check_address, par_och)

    bench = Module("test")
    bench.copy_params(target)
    ports = bench.copy_sim_ports(target)
    clock, resetn = ports["CLK"], ports["RESETN"]
    reset = bench.Wire("RST")
    reset.assign(Not(resetn))
    memory = axi.AxiMemoryModel(
        bench,
        "memory",
        clock,
        reset,
        datawidth=arguments.bus,
        mem_addrwidth=23,
        memimg=memory_image,
        memimg_name="memory.img",
        memimg_datawidth=WORD,
        read_delay=arguments.delay,
        write_delay=arguments.delay,
        sleep_interval=arguments.sleep,
    )
    memory.connect(ports, "maxi")
    control = vthread.AXIMLite(bench, "_saxi", clock, reset, noio=True)
    control.connect(ports, "saxi")
    timer = bench.Reg("timer", 32, initval=0)
    Seq(bench, "seq", clock, reset)(timer.inc())
    rows = expected.size // expected.shape[-1]
    channels, stride = expected.shape[-1], out.aligned_shape[-1]
    out_address = out.addr

    def program():
        for _ in range(100):
            pass
        ng.sim.set_global_addrs(control, scratch_address)
        start = timer.value
        ng.sim.start(control)
        ng.sim.wait(control)
        end = timer.value
        print("cycles: %d" % (end - start))  # noqa: UP031 (becomes $display)
        wrong = 0
        for row in range(rows):
            for channel in range(channels):
                found = memory.read_word(row * stride + channel, out_address, 8)
                check = memory.read_word(row * stride + channel, check_address, 8)
                if vthread.verilog.NotEql(found, check):
                    wrong += 1
        print("wrong: %d" % wrong)  # noqa: UP031
        vthread.finish()

    vthread.Thread(bench, "th_ctrl", clock, reset, program).start()
    bench.Instance(
        target,
        "uut",
        params=bench.connect_params(target),
        ports=bench.connect_ports(target),
    )
    simulation.setup_clock(bench, clock, hperiod=5)
    simulation.setup_reset(bench, resetn, bench.make_reset(), period=100, polarity="low")
    text = simulation.Simulator(bench, sim="verilator").run(outputfile="build")
    numbers = dict(re.findall(r"(cycles|wrong):\s*(\d+)", text))
    macs = arguments.size**2 * arguments.kernel**2 * arguments.inputs * arguments.outputs
    multipliers = arguments.kernel**2 * par_ich * par_och
    return {
        "multipliers": multipliers,
        "bus_bytes": arguments.bus // 8,
        "macs": macs,
        "cycles": int(numbers["cycles"]),
        "wrong": int(numbers["wrong"]),
        "nonzero": int(np.count_nonzero(expected)),
        "outputs": int(expected.size),
    }


def main() -> None:
    """Read the arguments, run, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("kernel", "inputs", "outputs", "size"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--dilation", type=int, default=1)
    parser.add_argument("--lanes", type=lambda t: tuple(map(int, t.split(","))), required=True)
    parser.add_argument("--bus", type=int, required=True, help="bits")
    parser.add_argument("--delay", type=int, default=10, help="of the memory, in cycles")
    parser.add_argument("--sleep", type=int, default=0, help="interval of its pauses; 0: none")
    parser.add_argument("--folder", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(arguments.folder)
    try:
        answer = run(arguments)
    except (TypeError, ValueError, NotImplementedError) as error:
        answer = {"refused": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
