"""`tenants`, the one partitions definition: a partition a tenant."""

from collections.abc import Iterable
from dataclasses import dataclass

import dagster as dg

tenants = dg.DynamicPartitionsDefinition(name="tenants")


@dataclass(frozen=True)
class PartitionChanges:
    add: list[str]
    remove: list[str]


def partition_changes(
    catalogued: Iterable[str], registered: Iterable[str], in_flight: Iterable[str]
) -> PartitionChanges:
    """What makes the partitions equal to the catalog; with a run in flight, a tenant keeps its partition."""
    wanted, there = set(catalogued), set(registered)
    return PartitionChanges(sorted(wanted - there), sorted(there - wanted - set(in_flight)))
