"""The figures: each a function from tables to a matplotlib figure, and how they are saved."""
