"""What writing and reading an index must agree on: records, errors, settings, stores, providers."""
