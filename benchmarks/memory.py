"""Is memory bounded by the batch? The first sync of a tenant of many small files, beside that of a small tenant.

Prints what the run's process and its workers have held at most, and the ratio of the largest tenant to the smallest,
which may be 1.5. See docs/benchmarks.md.
    .venv/bin/python -m benchmarks.memory [1000 10000]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.material import small_files
from benchmarks.stack import MODELS, PARTS, Stack, Sync, machine, running_stack, work_folder

MOST = 1.5


def first_sync(stack: Stack, folder: Path, files: int) -> Sync:
    """A new tenant of so many small files, synced once."""
    small_files(folder / f"files-{files}", files)
    tenant = f"tenant-{files}"
    stack.add_tenant(tenant, folder / f"files-{files}", MODELS["fake"])
    return stack.sync(tenant)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("files", type=int, nargs="*", default=[1_000, 10_000])
    sizes = arguments.parse_args().files
    print(machine(), flush=True)
    with work_folder() as folder, running_stack("fake", folder) as stack:
        # Loads and compiles everything once, so that no tenant is charged with it.
        first_sync(stack, folder, 10)
        syncs = {}
        for files in sizes:
            syncs[files] = sync = first_sync(stack, folder, files)
            parts = ", ".join(f"{part} {sync.parts[part]:.1f}" for part in PARTS)
            print(
                f"{files:>7,} files  run {sync.run_mib:,.0f} MiB  workers {sync.workers_mib:,.0f} MiB  "
                f"{sync.report['collection']['chunks']:,} chunks  {sync.seconds:.1f} s ({parts})",
                flush=True,
            )
    small, large = syncs[min(sizes)], syncs[max(sizes)]
    for name, ratio in (("run", large.run_mib / small.run_mib), ("workers", large.workers_mib / small.workers_mib)):
        print(f"{name:<8}{ratio:.2f} × ({'within' if ratio <= MOST else 'over'} {MOST})")
    print(f"At the end: {machine()}")


if __name__ == "__main__":
    main()
