"""What there is to say of a model, as JSON; `docs/explain.md` says what each key is. A key may be added, none changes
its meaning.
"""

from dataclasses import asdict
from typing import Any

from rnngen.explain.changes import Change
from rnngen.explain.kept import Kept
from rnngen.explain.report import Candidate, Explained, Sweep
from rnngen.explain.scans import Scan
from rnngen.explain.text import total_ms
from rnngen.runtime.memory import EVERY
from rnngen.runtime.plan import Along


def as_record(explained: Explained) -> dict[str, Any]:
    """Times are in microseconds where a key ends in `us`, sizes in bytes; null is what there is not."""
    return {
        "model": explained.model,
        "target": explained.target,
        "card": explained.machine.card if explained.machine else None,
        "dtype": explained.dtype,
        "time": explained.time,
        "scans": [_scan(scan, sweeps, explained.time) for scan, sweeps in explained.scans],
    }


def _scan(scan: Scan, sweeps: tuple[Sweep, ...], time: int | None) -> dict[str, Any]:
    return {
        "layer": scan.layer or None,
        "cell": scan.cell,
        "num_layers": scan.count,
        "hidden": scan.sizes.hidden // scan.directions,
        "heads": scan.sizes.heads // scan.directions,
        "sizes": dict(scan.sizes.others),
        "batch": scan.sizes.batch,
        "both_directions": scan.sizes.both,
        "schedule": scan.schedule,
        "kept": _kept(scan.kept, time),
        "sweeps": {sweep.direction: _sweep(sweep, time) for sweep in sweeps},
    }


def _kept(kept: Kept, time: int | None) -> dict[str, Any]:
    steps, every = kept.every(time) if time else (kept.memory.every or None, None)
    return {
        "chosen": kept.chosen,
        "step_bytes": dict(kept.kinds),
        "states_bytes": kept.states,
        "every_steps": steps,
        "total_bytes": {kind: number * time for kind, number in kept.kinds.items()} | {EVERY: every} if time else None,
    }


def _sweep(sweep: Sweep, time: int | None) -> dict[str, Any]:
    chosen = sweep.chosen
    return {
        "chosen": chosen.name if chosen else None,
        "trouble": sweep.trouble or None,
        "step": {
            "product_operations": sweep.work.products,
            "pointwise_operations": sweep.work.pointwise,
            "read_bytes": sweep.work.read,
            "written_bytes": sweep.work.written,
            "saved_bytes": sweep.work.saved,
            "weight_bytes": sweep.work.weights,
            "state_bytes": sweep.work.states,
        },
        "saved_bytes": sweep.work.saved * time if time else None,
        "floor_us": sweep.floor.time if sweep.floor else None,
        "floor_by": sweep.floor.by if sweep.floor else None,
        "schedules": [_candidate(candidate, time) for candidate in sweep.candidates],
        "changes": [_change(change) for change in sweep.changes],
    }


def _candidate(candidate: Candidate, time: int | None) -> dict[str, Any]:
    plan = candidate.plan
    return {
        "name": candidate.name,
        "chosen": bool(candidate.mark),
        "reason": candidate.reason,
        "step_us": plan.time if plan else None,
        "total_ms": total_ms(plan, time) if plan and time else None,
        "constants": dict(plan.constants) if plan else None,
        "options": dict(plan.options) if plan else None,
        "footprint": asdict(plan.footprint) if plan and plan.footprint else None,
        "along": _along(plan.along, time) if plan and plan.along else None,
    }


def _along(along: Along, time: int | None) -> dict[str, Any]:
    return {
        "most_stretches": along.most,
        "stretches": along.stretches(time) if time else None,
        "steps": along.steps(time) if time else None,
        "launches": along.launches(time) if time else None,
    }


def _change(change: Change) -> dict[str, Any]:
    return {
        "quantity": change.quantity,
        "value": change.value,
        "schedule": change.chosen.schedule or None,
        "step_us": change.chosen.time if change.chosen.schedule else None,
        "faster": change.faster,
    }
