"""Running policies over environments: scores with intervals, episodes kept."""
