"""Atomic files and digests."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from intaglio.spec.files import array_digest, atomic_write, bytes_digest


def test_the_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.bin"
    with atomic_write(path) as file:
        file.write(b"whole")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert list(path.parent.iterdir()) == [path]


def test_text_is_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    with atomic_write(path, "w") as file:
        file.write("\N{MULTIPLICATION SIGN}\n")
    assert path.read_bytes() == b"\xc3\x97\n"


@pytest.mark.parametrize("exception", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_keeps_the_old_content(exception: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    with pytest.raises(exception), atomic_write(path) as file:
        file.write(b"half of the n")
        raise exception
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_names_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as info:
        with atomic_write(path) as file:
            file.write(b"new")
    assert info.value.filename == str(path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError) as info:  # its own name stays
        with atomic_write(path) as file:
            (tmp_path / "other").read_bytes()
    assert info.value.filename == str(tmp_path / "other")


def test_a_killed_writer_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    script = """
        import os, signal, sys
        from intaglio.spec.files import atomic_write
        with atomic_write(sys.argv[1]) as file:
            file.write(b"half of the n")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(path)], env=environment, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    # The next writer is not disturbed by what was left behind.
    with atomic_write(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"


def test_permissions_are_those_of_a_new_file(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a") as file:
        file.write(b"")
    (tmp_path / "b").write_bytes(b"")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_other_modes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mode must be 'w' or 'wb', not 'a'"):
        with atomic_write(tmp_path / "a", "a"):
            pass
    assert not list(tmp_path.iterdir())


def test_bytes_digest() -> None:
    # FIPS 180-2, appendix B.1.
    assert bytes_digest(b"abc") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_array_digest_sees_names_types_shapes_and_contents() -> None:
    base = {"a": np.arange(6, dtype=np.int16).reshape(2, 3), "b": np.zeros(2, np.int8)}
    variants = [
        base,
        {"c": base["a"], "b": base["b"]},
        base | {"a": base["a"].astype(np.int32)},
        base | {"a": base["a"].reshape(3, 2)},
        base | {"a": base["a"] + 1},
        {"a": base["a"]},
    ]
    assert len({array_digest(variant) for variant in variants}) == len(variants)


def test_array_digest_does_not_see_order_and_memory_layout() -> None:
    array = np.arange(6, dtype=np.int16).reshape(2, 3)
    digest = array_digest({"a": array, "b": array})
    assert array_digest({"b": array, "a": array}) == digest
    assert array_digest({"a": np.asfortranarray(array), "b": array}) == digest
    assert array_digest({"a": array.astype(">i2"), "b": array}) == digest
    # Written out once, so that files made elsewhere keep their digests.
    text = hashlib.sha256(b"x <i2 (1,)\n\x02\x01").hexdigest()
    assert array_digest({"x": np.array([0x0102], np.int16)}) == text
