"""The accelerator's configuration."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from intaglio.spec.config import CONFIGS, AcceleratorConfig, load_config
from intaglio.spec.errors import IntaglioError


@pytest.mark.parametrize("name", CONFIGS)
def test_named_configurations(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name]
    assert config.name == name
    assert load_config(name) is config
    path = tmp_path / "config.json"
    path.write_text(config.to_json(), encoding="utf-8")
    assert load_config(path) == config
    assert load_config(str(path)).digest() == config.digest()


def test_derived_values() -> None:
    config = AcceleratorConfig(name="x", R=16, K=8, drain_lanes=4, prm_depth=512)
    assert config.bus_bytes == 16
    assert config.macs_per_cycle == 128
    assert config.chunks_per_vector == 4
    assert config.params_per_vector == 2


def test_digest_is_about_the_machine_not_its_name() -> None:
    config = CONFIGS["mini-8x8"]
    assert dataclasses.replace(config, name="other").digest() == config.digest()
    others = [
        dataclasses.replace(config, **change) for change in ({"K": 16}, {"multiplier": "logic"})
    ]
    assert len({other.digest() for other in others} | {config.digest()}) == 3
    least = CONFIGS["least-8x1"]
    assert dataclasses.replace(least, organization="sequential").digest() != least.digest()


def test_digests_of_programs_that_are_kept() -> None:
    """A field that came later leaves them as they were."""
    assert CONFIGS["mini-8x8"].digest().startswith("5e17c114")
    assert CONFIGS["least-8x1"].digest().startswith("3acdda49")


def test_names_are_of_different_machines() -> None:
    assert len({named.digest() for named in CONFIGS.values()}) == len(CONFIGS)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"R": 12}, "R must be 8, 16 or 32, not 12"),
        ({"K": 12}, "K must be a power of two from 1 to 64, not 12"),
        ({"K": 128}, "K must be a power of two from 1 to 64, not 128"),
        ({"drain_lanes": 16}, r"at most min\(R, K\) = 8, not 16"),
        ({"drain_lanes": 3}, r"drain_lanes must be a power of two of at most .*, not 3"),
        ({"drain_lanes": 0}, r"drain_lanes must be a power of two of at most .*, not 0"),
        ({"ifm_depth": 8}, "ifm_depth must be a power of two from 16 to 65536, not 8"),
        ({"acc_depth": 100}, "acc_depth must be a power of two from 16 to 65536, not 100"),
        ({"vec_depth": 1 << 17}, "vec_depth must be a power of two from 16 to 65536, not 131072"),
        ({"K": 64, "prm_depth": 32}, "prm_depth must be at least K = 64, not 32"),
        ({"K": 64, "wgt_depth": 64}, r"wgt_depth must be at least 2 \* K = 128, not 64"),
        ({"queue_depth": 1}, "queue_depth must be a power of two from 2 to 64, not 1"),
        ({"burst_beats": 3}, "burst_beats must be a power of two from 1 to 256, not 3"),
        ({"R": 32, "burst_beats": 256}, "burst_beats must be at most 4096 / R = 128, not 256"),
        ({"multiplier": "lut"}, "multiplier must be 'dsp' or 'logic', not 'lut'"),
        ({"organization": "none"}, "organization must be 'pipelined' or 'sequential', not 'none'"),
        ({"organization": "sequential"}, "K must be 1 in a sequential machine, not 8"),
        (
            {"organization": "sequential", "K": 1, "drain_lanes": 1, "ifm_depth": 16384},
            "ifm_depth to prm_depth must be at most 16128 together in a sequential machine, not "
            "23808",
        ),
        (
            {"organization": "sequential", "K": 1, "drain_lanes": 1, "acc_depth": 512},
            "acc_depth must be at most 256 in a sequential machine, not 512",
        ),
        ({"name": "../x"}, "name must be letters, digits and dashes, not '../x'"),
        ({"name": ""}, "name must be letters, digits and dashes, not ''"),
    ],
)
def test_what_is_refused(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"{text}$"):
        AcceleratorConfig(**({"name": "x"} | change))


@pytest.mark.parametrize("value", [8.0, "8", True, None])
def test_sizes_are_integers(value: Any) -> None:
    with pytest.raises(TypeError, match=f"R must be an integer, not {value!r}"):
        AcceleratorConfig(name="x", R=value)


def test_frozen_and_keyword_only() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        CONFIGS["mini-8x8"].R = 16  # type: ignore[misc]
    with pytest.raises(TypeError):
        AcceleratorConfig("x")  # type: ignore[misc]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", "config.json: Expecting property name"),
        ("[]", "config.json: not a JSON object"),
        ('{"name": "x", "lanes": 3}', "config.json: unknown field 'lanes'"),
        ('{"R": 8}', "config.json: .*missing 1 required keyword-only argument: 'name'"),
        ('{"name": "x", "R": 9}', "config.json: R must be 8, 16 or 32, not 9"),
        ('{"name": "x", "R": 8.5}', "config.json: R must be an integer, not 8.5"),
    ],
)
def test_broken_files(content: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(IntaglioError, match=text):
        load_config(path)


def test_unknown_name() -> None:
    with pytest.raises(IntaglioError, match="'huge' is neither a file nor one of mini-8x8, tiny"):
        load_config("huge")


def test_json_is_readable() -> None:
    fields = json.loads(CONFIGS["tiny-8x8"].to_json())
    assert fields["name"] == "tiny-8x8"
    assert fields["queue_depth"] == 4
