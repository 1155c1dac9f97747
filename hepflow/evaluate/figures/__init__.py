"""Chart data -> SVG, PNG, PDF and CSV. Knows no run."""
