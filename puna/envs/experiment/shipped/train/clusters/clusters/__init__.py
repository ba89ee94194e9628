"""Points, and where they gather."""
