"""Facts to find in a long text, and to follow from one to the next: `puna env show needles`."""
