"""What Dagster sees: assets, checks, partitions, sensors, schedules, resources. Only this folder imports dagster."""
