"""One module a kind of source: it lists the source's items and reads one."""
