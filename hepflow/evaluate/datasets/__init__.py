"""Two datasets, compared quantity by quantity and by boosted trees: `hepflow compare`."""
