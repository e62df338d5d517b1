"""Pages, tables and figures; knows no torch."""
