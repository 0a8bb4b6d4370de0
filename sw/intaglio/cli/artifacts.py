"""Artifacts on disk, and whether they belong together; an error names the command that renews one.

A run folder holds what each command made from what lay there before::

    config.json, checkpoint, curves     train
    model.onnx                          freeze: carries the digest of the checkpoint
    program.npz                         compile: carries the digest of the graph
    accelerator.v                       verilog: carries the digest of the configuration
    verify.json, trace.json             verify: all of these digests
    synth.json                          synth: the digest of the configuration
    report.html                         report
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intaglio.spec.errors import IntaglioError

if TYPE_CHECKING:
    import numpy as np

    from intaglio.spec.graph import Graph
    from intaglio.spec.program import Program

__all__ = [
    "Frozen",
    "find_frozen",
    "metadata_of",
    "open_frozen",
    "open_program",
    "require_run",
]

_PREFIX = "intaglio."


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """A frozen network with what its file says about its origin.

    ``run`` is the run folder it lies in, or None; ``metadata`` has the keys of :func:`metadata_of`
    as text.
    """

    path: Path
    graph: "Graph"
    metadata: dict[str, str]
    run: Path | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Value of the class names; numbers where the file has none."""
        names = json.loads(self.metadata.get("classes", "[]"))
        return tuple(names) or tuple(str(k) for k in range(self.logits[1]))

    @property
    def palette(self) -> "np.ndarray":
        """Value of the colours, uint8 (classes, 3)."""
        import numpy as np

        from intaglio.data.palette import color_map

        colors = json.loads(self.metadata.get("palette", "[]"))
        return np.array(colors, np.uint8) if colors else color_map(len(self.classes))

    @property
    def size(self) -> tuple[int, int]:
        """Value of the input's height and width."""
        shape = self.graph.values[self.graph.inputs[0]].shape
        return shape[2], shape[3]

    @property
    def logits(self) -> tuple[int, ...]:
        """Value of the shape of what the class map is taken from, (N, classes, H, W)."""
        node = next(n for n in self.graph.nodes if n.output == self.graph.outputs[0])
        return self.graph.values[node.inputs[0]].shape


def metadata_of(
    *,
    run_digest: str,
    model: str,
    width: str,
    data: str,
    classes: Sequence[str],
    palette: "np.ndarray",
) -> dict[str, str]:
    """Return what ``freeze`` writes into an ONNX file about its origin."""
    fields = {
        "run_digest": run_digest,
        "model": model,
        "width": width,
        "data": data,
        "classes": json.dumps(list(classes)),
        "palette": json.dumps(palette.tolist()),
    }
    return {_PREFIX + key: value for key, value in fields.items()}


def require_run(path: Path) -> Path:
    """Return ``path`` if it is a run folder with a checkpoint; IntaglioError otherwise."""
    from intaglio.cli.runs import run_digest

    if not path.is_dir():
        raise IntaglioError(f"{path}: no such run folder; 'intaglio train --out {path}' makes it")
    run_digest(path)
    return path


def open_frozen(target: Path) -> Frozen:
    """Open a model: an ONNX file, or the ``model.onnx`` of a run folder.

    Raises
    ------
    IntaglioError
        Missing or broken file; in a run folder also one that was frozen from another checkpoint.
    """
    import onnx

    from intaglio.freeze import read_onnx

    run = None
    path = target
    if not target.exists() and target.suffix != ".onnx":
        require_run(target)
    if target.is_dir():
        run, path = target, target / "model.onnx"
        if not path.is_file():
            require_run(run)
            raise IntaglioError(f"{path}: no such file; 'intaglio freeze {run}' makes it")
    graph = read_onnx(path)
    properties = onnx.load(path).metadata_props
    metadata = {
        item.key.removeprefix(_PREFIX): item.value
        for item in properties
        if item.key.startswith(_PREFIX)
    }
    if run is not None:
        from intaglio.cli.runs import run_digest

        now, then = run_digest(run), metadata.get("run_digest", "")
        if now != then:
            raise IntaglioError(
                f"{path}: frozen from checkpoint {then[:12] or '(unknown)'}, the run has "
                f"{now[:12]} now; renew it with 'intaglio freeze {run}'"
            )
    return Frozen(path=path, graph=graph, metadata=metadata, run=run)


def find_frozen(program: "Program", path: Path) -> Frozen | None:
    """Return the model beside the program file ``path`` if the program was compiled from it."""
    if not (path.parent / "model.onnx").is_file():
        return None
    try:
        frozen = open_frozen(path.parent / "model.onnx")
    except IntaglioError:
        return None
    return frozen if frozen.graph.digest() == program.graph_digest else None


def open_program(path: Path, *, frozen: Frozen | None = None, config: Any = None) -> "Program":
    """Open the program ``path`` and check that it belongs to ``frozen`` and ``config``, if given.

    Raises
    ------
    IntaglioError
        Missing or broken file, another graph, another configuration; names the command that renews
        it.
    """
    from intaglio.spec.program import load_program

    program = load_program(path)
    if frozen is not None and program.graph_digest != frozen.graph.digest():
        raise IntaglioError(
            f"{path}: compiled from graph {program.graph_digest[:12]}, {frozen.path} is "
            f"{frozen.graph.digest()[:12]}; renew it with 'intaglio compile {frozen.path}'"
        )
    if config is not None:
        try:
            program.check_config(config)
        except IntaglioError as error:
            raise IntaglioError(f"{path}: {error}") from error
    return program
