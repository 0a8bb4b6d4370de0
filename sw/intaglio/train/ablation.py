"""The seed paper's ablations: one network, trained once for each variant of the recipe."""

import dataclasses
import fnmatch
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from intaglio.nn import workers
from intaglio.spec.errors import IntaglioError
from intaglio.train.checkpoint import read_json, weights_digest, write_json
from intaglio.train.config import TrainConfig
from intaglio.train.loop import Diverged, load_run, open_datasets, train

__all__ = ["VARIANTS", "Variant", "ablate", "choose_variants"]


@dataclass(frozen=True)
class Variant:
    """What differs from the default recipe; ``name`` is also that of the run folder."""

    name: str
    values: dict[str, Any]


def _variants() -> tuple[Variant, ...]:
    found = [Variant("default", {})]
    for bits in (8, 9, 16):
        for rounding in ("nearest", "stochastic", "diffusion"):
            if (bits, rounding) != (8, "diffusion"):
                values = {"error_bits": bits, "error_rounding": rounding}
                found.append(Variant(f"e2-{bits}-{rounding}", values))
    found += [Variant(f"norm-{norm}", {"norm": norm}) for norm in ("l1", "l1-std", "l2")]
    found += [Variant(f"master-{bits}", {"master_bits": bits}) for bits in (10, 12, 14, 20, 24)]
    # Its own rate: without magnitude the steps of all layers are equally large.
    found.append(Variant("no-magnitude", {"magnitude": False, "rate": ""}))
    return tuple(found)


#: Name -> variant, the default first: E2 in bits and rounding, the norm of batch norm (one of them
#: is the network's own), bits of the masters, and the magnitude of the gradients.
VARIANTS = {variant.name: variant for variant in _variants()}


def choose_variants(patterns: Sequence[str]) -> list[Variant]:
    """Return the default and the variants whose names match one of the shell ``patterns``; all
    without any.

    Raises
    ------
    IntaglioError
        A pattern that matches none.
    """
    for pattern in patterns:
        if not fnmatch.filter(VARIANTS, pattern):
            raise IntaglioError(f"no variant matches {pattern!r}; there are {', '.join(VARIANTS)}")
    return [
        variant
        for name, variant in VARIANTS.items()
        if not patterns
        or name == "default"
        or any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
    ]


def ablate(
    config: TrainConfig,
    variants: Sequence[Variant],
    *,
    out: Path,
    seeds: int = 1,
    progress: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> dict[str, Any]:
    """Train ``config`` under each of ``variants`` and return the table, also in
    ``out/ablation.json``.

    Runs lie in ``out/VARIANT-SEED``, with ``seeds`` seeds from that of ``config`` on; what is
    finished is not trained again, and what was interrupted goes on. A twin is trained with the
    default recipe only. ``options`` are those of :func:`intaglio.train.train`.

    A variant that is this network's default has no row of its own. Each of ``rows`` has ``name``,
    ``values`` (what differs from the default), ``rate``, ``runs`` and their means ``miou``,
    ``pixel_accuracy`` and ``loss``, None where a run diverged. A run has ``seed``, ``miou``,
    ``pixel_accuracy``, ``loss`` (the mean of the last tenth of the steps) and ``digest``, or
    ``diverged``, the reason. ``float`` has the means of the twins, or is None.

    Raises
    ------
    IntaglioError
        What :func:`intaglio.train.train` raises, except for divergence; several workers.
    """
    if workers.launched()[1] > 1:
        raise IntaglioError("ablate runs in one process; give single runs to torchrun")
    if seeds < 1:
        raise IntaglioError(f"seeds must be >= 1, not {seeds}")
    plain = TrainConfig(model=config.model).recipe
    changed = [n for n in plain.names() if getattr(config.recipe, n) != getattr(plain, n)]
    if changed:
        raise IntaglioError(f"{changed[0]} is for the variants to choose, not for the whole table")
    options["datasets"] = open_datasets(config)
    rows, twins = [], []
    for variant in variants:
        same = dataclasses.replace(config, **variant.values).resolved() == config.resolved()
        if variant.values and same:
            continue
        runs = []
        for seed in range(config.seed, config.seed + seeds):
            twin = config.twin and not variant.values
            values = {**variant.values, "seed": seed, "twin": twin}
            one = dataclasses.replace(config, **values)
            progress(f"{variant.name}, seed {seed}")
            run, floats = _run(one, out / f"{variant.name}-{seed}", options)
            runs.append(run)
            twins += floats
        rows.append(
            {
                "name": variant.name,
                "values": {k: v for k, v in variant.values.items() if k != "rate"},
                "rate": dataclasses.replace(config, **variant.values).resolved().rate,
                "runs": runs,
                **_means(runs),
            }
        )
    data = {
        "config": dataclasses.asdict(config.resolved()),
        "seeds": seeds,
        "rows": rows,
        "float": _means(twins) if twins else None,
    }
    write_json(out / "ablation.json", data)
    return data


def _run(
    config: TrainConfig, out: Path, options: dict[str, Any]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the results of one run, and of its twin if it has one."""
    try:
        metrics = _finished(config, out) or train(config, out=out, **options)
    except Diverged as error:
        return {"seed": config.seed, "diverged": str(error)}, []
    run = {"seed": config.seed, **_result(metrics, "", "int"), "digest": metrics["digest"]}
    twin = [_result(metrics, "float_", "float")] if config.twin else []
    return run, twin


def _finished(config: TrainConfig, out: Path) -> dict[str, Any] | None:
    """Return the metrics of a run that is done, if they belong to ``config`` and its weights."""
    if not (out / "metrics.json").exists():
        return None
    model, found = load_run(out)
    metrics: dict[str, Any] = read_json(out / "metrics.json")
    same = found.resolved() == config.resolved()
    fits = metrics.get("digest") == weights_digest(model)
    return metrics if same and fits else None


def _result(metrics: dict[str, Any], prefix: str, curve: str) -> dict[str, Any]:
    losses = metrics["loss"][curve]
    return {
        "miou": metrics[f"{prefix}miou"],
        "pixel_accuracy": metrics[f"{prefix}pixel_accuracy"],
        "loss": statistics.fmean(losses[-max(1, len(losses) // 10) :]),
    }


def _means(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    names = ("miou", "pixel_accuracy", "loss")
    whole = bool(runs) and not any("diverged" in run for run in runs)
    return {name: statistics.fmean(r[name] for r in runs) if whole else None for name in names}
