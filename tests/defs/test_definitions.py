"""What Dagster sees, materialised on a real instance with its storage in PostgreSQL."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psycopg
import pytest

from minirag_pipelines.definitions import defs
from minirag_pipelines.defs.assets import sources
from minirag_pipelines.defs.partitions import partition_changes, tenants
from minirag_pipelines.defs.resources import Stores
from minirag_pipelines.defs.sensors import tenants_sensor
from tests.workbench import Workbench

pytestmark = [pytest.mark.postgres, pytest.mark.chroma, pytest.mark.dagster]

ASSETS = ["sources", "documents", "chunks", "embeddings", "collection"]


@pytest.fixture
def instance(new_database: str, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    url = new_database.replace("postgresql://", "postgresql+psycopg2://")
    home = tmp_path / "dagster"
    home.mkdir()
    with dg.instance_for_test(
        temp_dir=str(home), overrides={"storage": {"postgres": {"postgres_url": url}}, "telemetry": {"enabled": False}}
    ) as made:
        yield made


def sync(
    instance: dg.DagsterInstance, tenant_id: str, *, raise_on_error: bool = True, **config: bool
) -> dg.JobExecutionResult:
    instance.add_dynamic_partitions("tenants", [tenant_id])
    return dg.execute_job(  # type: ignore[return-value]
        dg.reconstructable(resolved_sync),
        instance=instance,
        run_config={"ops": {"sources": {"config": config}}},
        tags={"dagster/partition": tenant_id},
        raise_on_error=raise_on_error,
    )


def resolved_sync() -> dg.JobDefinition:
    return defs.resolve_job_def("sync")


def metadata(instance: dg.DagsterInstance, asset: str) -> dict[str, object]:
    event = instance.get_latest_materialization_event(dg.AssetKey(asset))
    assert event is not None
    assert event.asset_materialization is not None
    return {name: value.value for name, value in event.asset_materialization.metadata.items()}


def test_the_lineage_is_the_five_assets_in_their_order() -> None:
    graph = defs.resolve_asset_graph()
    parents = {
        key.to_user_string(): [p.to_user_string() for p in graph.get(key).parent_keys]
        for key in graph.get_all_asset_keys()
    }
    assert parents == {asset: ASSETS[max(place - 1, 0) : place] for place, asset in enumerate(ASSETS)}
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert node.group_name == "index"
        assert node.partitions_def == tenants
        assert node.description
        assert node.owners
        assert node.kinds


def test_a_sync_materialises_all_five_for_its_tenant(
    workbench: Workbench, instance: dg.DagsterInstance, environment: None
) -> None:
    workbench.write("ferry.txt", "The night ferry leaves at 22:40.\n")
    result = sync(instance, "acme")
    assert result.success
    assert metadata(instance, "sources")["new"] == 1
    assert metadata(instance, "documents")["parsed"] == 1
    assert metadata(instance, "chunks")["added"] == 1
    assert metadata(instance, "embeddings")["embedded"] == 1
    assert metadata(instance, "collection")["documents"] == 1
    for asset in ASSETS:
        assert instance.get_materialized_partitions(dg.AssetKey(asset)) == {"acme"}
    assert workbench.search("night ferry").hits


def failed_steps(result: dg.JobExecutionResult) -> list[tuple[str | None, str | None]]:
    """Which steps failed, and what each said."""
    failed = [event for event in result.all_events if event.is_step_failure]
    said = [event.step_failure_data.user_failure_data for event in failed]
    return [(event.step_key, one and one.description) for event, one in zip(failed, said, strict=True)]


def test_an_error_of_ours_is_one_sentence_in_dagster(
    workbench: Workbench, instance: dg.DagsterInstance, environment: None
) -> None:
    workbench.folder.rmdir()
    result = sync(instance, "acme", raise_on_error=False)
    assert not result.success
    assert failed_steps(result) == [("collection", "Source 'docs' can't be listed: No such file or directory.")]
    assert metadata(instance, "sources")["problems"] == [
        "docs: No such file or directory. Nothing of it was removed. If it is meant to be empty, sync with --allow-empty."
    ]
    workbench.folder.mkdir()


def test_a_source_that_is_away_keeps_nothing_else_from_being_done(
    workbench: Workbench, instance: dg.DagsterInstance, environment: None
) -> None:
    for name in ("kept", "forgotten"):
        workbench.write(f"{name}.txt", f"The {name} ferry leaves at 22:40.\n")
    sync(instance, "acme")
    workbench.write("late.txt", "The late ferry leaves at 23:50.\n")
    with workbench.writer() as writer:
        workbench.list(writer)
    workbench.forget("forgotten.txt")
    away = workbench.folder.rename(workbench.folder.with_name("away"))
    assert not sync(instance, "acme", raise_on_error=False).success
    done = metadata(instance, "collection")
    assert (done["erased"], done["documents"]) == (1, 1)
    away.rename(workbench.folder)
    assert sync(instance, "acme").success  # nothing of it waits for a next attempt
    assert metadata(instance, "collection")["documents"] == 2


def test_a_model_that_is_away_keeps_nothing_else_from_being_done(
    workbench: Workbench, instance: dg.DagsterInstance, environment: None
) -> None:
    workbench.write("forgotten.txt", "The night ferry leaves at 22:40.\n")
    sync(instance, "acme")
    workbench.forget("forgotten.txt")
    workbench.write("new.txt", "The early ferry leaves at 4:10.\n")
    workbench.provider.refused_models.add("text-embedding-3-small")
    result = sync(instance, "acme", raise_on_error=False)
    assert [step for step, _ in failed_steps(result)] == ["collection"]
    done = metadata(instance, "collection")
    assert (done["erased"], done["documents"]) == (1, 0)


def test_a_run_from_its_failure_is_not_green_while_what_failed_is_not_repeated(
    workbench: Workbench, instance: dg.DagsterInstance, environment: None
) -> None:
    workbench.folder.rmdir()
    run_id = sync(instance, "acme", raise_on_error=False).run_id
    workbench.folder.mkdir()
    for _ in range(2):
        again = dg.execute_job(
            dg.reconstructable(resolved_sync),
            instance=instance,
            reexecution_options=dg.ReexecutionOptions.from_failure(run_id, instance),
            tags={"dagster/partition": "acme"},
            raise_on_error=False,
        )
        assert failed_steps(again) == [
            ("collection", "`sources` failed, and was not run again: re-execute all steps of the run.")
        ]
        run_id = again.run_id


def test_a_run_of_one_asset_fails_where_it_does(
    workbench: Workbench, instance: dg.DagsterInstance, environment: None
) -> None:
    workbench.folder.rmdir()
    instance.add_dynamic_partitions("tenants", ["acme"])
    result = dg.materialize(
        [sources], instance=instance, partition_key="acme", resources={"stores": Stores()}, raise_on_error=False
    )
    assert [step for step, _ in failed_steps(result)] == ["sources"]
    workbench.folder.mkdir()


def test_two_runs_of_a_tenant_never_interleave(
    workbench: Workbench, instance: dg.DagsterInstance, environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minirag_pipelines.defs.resources.WAIT_S", 0.0)
    with workbench.writer():
        result = sync(instance, "acme", raise_on_error=False)
    assert not result.success


def test_dagsters_database_holds_no_content(
    workbench: Workbench, instance: dg.DagsterInstance, environment: None, new_database: str
) -> None:
    marker = f"marker{uuid.uuid4().hex}"
    workbench.write(f"{marker}.txt", f"The {marker} leaves at 22:40.\n")
    workbench.write(f"{marker}.docx", b"no archive")
    sync(instance, "acme")
    with psycopg.connect(new_database) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        for (table,) in tables:
            found = connection.execute(
                f"SELECT count(*) FROM {table} t WHERE t::text LIKE %s", [f"%{marker}%"]
            ).fetchone()
            assert found == (0,), table


@pytest.mark.parametrize(
    ("catalogued", "registered", "in_flight", "add", "remove"),
    [
        ([], [], [], [], []),
        (["b", "a"], [], [], ["a", "b"], []),
        (["a"], ["a", "gone"], [], [], ["gone"]),
        (["a"], ["a", "busy"], ["busy"], [], []),
        (["new"], ["old"], ["other"], ["new"], ["old"]),
    ],
)
def test_partitions_become_equal_to_the_catalog(
    catalogued: list[str], registered: list[str], in_flight: list[str], add: list[str], remove: list[str]
) -> None:
    changes = partition_changes(catalogued, registered, in_flight)
    assert (changes.add, changes.remove) == (add, remove)


def evaluate(instance: dg.DagsterInstance) -> dg.SensorResult | dg.SkipReason:
    with dg.build_sensor_context(instance=instance, resources={"stores": Stores()}) as context:
        return tenants_sensor(context)  # type: ignore[return-value]


def test_the_sensor_registers_tenants(workbench: Workbench, instance: dg.DagsterInstance, environment: None) -> None:
    result = evaluate(instance)
    assert isinstance(result, dg.SensorResult)
    requests = result.dynamic_partitions_requests
    assert requests is not None
    assert [request.partition_keys for request in requests] == [["acme"]]
    instance.add_dynamic_partitions("tenants", ["acme"])
    assert isinstance(evaluate(instance), dg.SkipReason)


def test_a_failed_catalog_read_touches_no_partition(
    instance: dg.DagsterInstance, environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from minirag_pipelines.core.settings import settings

    monkeypatch.setenv("MINIRAG_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    settings.cache_clear()
    instance.add_dynamic_partitions("tenants", ["acme"])
    skipped = evaluate(instance)
    assert isinstance(skipped, dg.SkipReason)
    assert "no partition is touched" in (skipped.skip_message or "")
