"""A study as one page: data first (`info`, pure and frozen), then figures, then HTML."""
