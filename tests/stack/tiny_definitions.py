"""As little as Dagster can load, for stacks whose pipeline does not matter."""

import dagster as dg


@dg.asset
def nothing() -> None:
    pass


defs = dg.Definitions(assets=[nothing], jobs=[dg.define_asset_job("nothing_job", [nothing])])
