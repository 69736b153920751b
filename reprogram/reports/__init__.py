"""One page and one table from many runs: collected, grouped into experiments, summarised, drawn."""
