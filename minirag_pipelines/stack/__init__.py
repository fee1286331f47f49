"""What `minirag up` starts on one machine: PostgreSQL, Chroma, Dagster."""
