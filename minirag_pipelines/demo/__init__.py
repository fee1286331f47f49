"""Documents for `minirag demo`: the handbook of a ferry company that does not exist, and what makes its files."""
