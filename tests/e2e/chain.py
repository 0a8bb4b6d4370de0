"""A tiny run from end to end, for the tests here: the commands, and a data set to train on."""

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from intaglio.cli import main
from intaglio.data import open_dataset

__all__ = ["TINY", "Result", "intaglio", "make_camvid"]

#: The smallest network: at one eighth of the width there are eight channels in each layer.
TINY = ("--channels", "1/8", "--height", 32, "--width", 32, "--batch", 2, "--seed", 3)


@dataclass(frozen=True)
class Result:
    """What a command left: exit status, standard output, standard error."""

    status: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """Value of the JSON object on standard output; fails unless it is all there is."""
        lines = self.out.splitlines()
        assert len(lines) == 1, self.out
        return json.loads(lines[0])

    @property
    def error(self) -> str:
        """Value of the one line that tells the error; fails unless there is exactly one."""
        assert self.status == 1, (self.status, self.err)
        assert "Traceback" not in self.err
        last = self.err.splitlines()[-1]
        assert last.startswith("intaglio: error: "), self.err
        assert self.err.count("intaglio: error: ") == 1
        return last.removeprefix("intaglio: error: ")


def intaglio(*words: object) -> Result:
    """Run the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(word) for word in words])
    return Result(status, out.getvalue(), err.getvalue())


def make_camvid(folder: Path) -> str:
    """Write a few built-in scenes in CamVid's layout; return the data set for ``--data``."""
    for split, count in (("train", 6), ("val", 3)):
        scenes = open_dataset("shapes", split, height=48, width=64)
        lines = []
        for index in range(count):
            sample = scenes[index]
            for kind in (split, f"{split}annot"):
                (folder / kind).mkdir(parents=True, exist_ok=True)
            mask = sample.mask.copy()
            mask[:2] = 11  # void
            Image.fromarray(sample.image).save(folder / split / f"{index}.png")
            Image.fromarray(mask.astype(np.uint8)).save(folder / f"{split}annot" / f"{index}.png")
            lines.append(f"{split}/{index}.png {split}annot/{index}.png\n")
        (folder / f"{split}.txt").write_text("".join(lines))
    return f"camvid:{folder}"
